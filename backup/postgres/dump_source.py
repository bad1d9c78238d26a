"""The database: its identity, its dump, and the roles and database-level settings a dump does not hold."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from backup.errors import BackupError, DumpFailed
from backup.logging import logger
from backup.model.manifest import DatabasePart
from backup.model.snapshot import DumpSnapshot
from backup.postgres.admin import drop_remains
from backup.postgres.clients import Clients, application
from backup.postgres.dump.contents import Cutter
from backup.postgres.dump.definitions import Definitions, kinship
from backup.postgres.dump.dump_reader import DumpReader
from backup.postgres.dump.money import with_setting
from backup.postgres.inspect import DatabaseFacts, end_sessions, inspect
from backup.postgres.replication import held_snapshot
from backup.postgres.server import is_at_work, standing
from backup.postgres.session import Login, connected, name_only
from backup.postgres.session_settings import DUMP, connection_options
from backup.postgres.wal_slot import drop_slot, slot_name
from backup.storage.artifact_writer import ArtifactWriter

# From this version on a dump can have what the planner knows of tables.
_STATISTICS: Final = 18
_DUMP_OPTIONS: Final = ("--format=plain", "--clean", "--if-exists", "--no-sync")
DUMP_SESSION: Final = connection_options(DUMP)
# --no-sync: the client writes into a pipe; the bytes are synced where they end up.
_ROLES_OPTIONS: Final = ("--roles-only", "--no-sync", "--encoding=UTF8")


@dataclass(frozen=True)
class PostgresSource:
    """One database. `image` and `image_id` are those of its container, empty over the network.

    `lock_timeout`, `patience`: seconds for which a dump may wait for a lock, and any session may do nothing.
    `scratch` drops what dead drills left on the server. `in_wal`: a dump notes its place in the WAL. `slot`: the server
    is to keep WAL for us.
    """

    login: Login
    clients: Clients
    instance: str
    lock_timeout: int
    patience: int
    image: str = ""
    image_id: str = ""
    scratch: Callable[[], int] = lambda: 0
    in_wal: bool = False
    slot: bool = False

    def inspect(self) -> DatabaseFacts:
        """What the server says of the database; refuses poolers and clients of another version."""
        facts = inspect(self.login)
        self.clients.check(facts.standing)
        return facts

    def loading(self, name: str, run: str) -> Clients:
        """Clients of the server's version for a database that `run` fills: an index may take as long as it works."""
        self.clients.check(standing(self.login))
        made = self.clients.named(name)
        made.busy = self._at_work(name, run)
        return made

    def _at_work(self, name: str, run: str, locks: float = 0.0) -> Callable[[], bool]:
        return lambda: is_at_work(self.login, name, application(self.instance, run), self.patience, locks)

    def _dumping(self, run: str) -> Callable[[], bool]:
        """Whether a dump is at work. It waits for locks no longer than it is allowed to: then it ends by itself."""
        return self._at_work(self.login.name, run, self.lock_timeout + self.patience)

    def sweep(self) -> int:
        """End what dead runs left: helpers, pipes, and sessions on the server. Only under the lock.

        A slot that is not wanted any more is dropped: nobody would move it on.
        """
        count = self.clients.sweep()
        with connected(self.login, "sweep") as connection:
            count += end_sessions(connection, application(self.instance))
            count += 0 if self.slot else drop_slot(connection, slot_name(self.instance))
        try:
            count += len(drop_remains(self.login))
        except BackupError as error:
            logger.warning("{} {}", error.message, error.hint)
        try:
            return count + self.scratch()
        except BackupError as error:
            # A database more is no reason to make no backup.
            logger.warning("scratch databases of killed drills could not be looked up: {}", error.message)
            return count

    def dump(
        self,
        facts: DatabaseFacts,
        writer: ArtifactWriter,
        run: str,
        progress: Callable[[int], None],
        definitions: Definitions,
    ) -> tuple[DatabasePart, Cutter | None]:
        """Write the whole dump to `writer`; DumpFailed unless client and content both say it is whole.

        What it defines is kept in `definitions`. The cutter knows its parts; an encrypted dump has none.
        """
        options = self._options(facts)
        reader = DumpReader(definitions, telling_rows=False)
        cutter = None if writer.encrypted else Cutter(reader, writer)
        with held_snapshot(self.login) if self.in_wal else contextlib.nullcontext() as held:
            told = [f"--snapshot={held.name}"] if held else []
            with self.clients.run("pg_dump", (*options, *told), run, DUMP_SESSION, self._dumping(run)) as output:
                # How long it may say nothing is judged there; whoever watches the disks is told that they do not hang.
                for chunk in with_setting(output.chunks(lambda: progress(0))):
                    reader.feed(chunk)
                    (cutter or writer).write(chunk)
                    progress(len(chunk))
            seen = held.seen() if held else None
        (cutter or reader).finish()
        reader.check_whole()
        _same_major(facts, reader.client_version)
        return self._part(facts, options, reader, definitions, seen), cutter

    def _part(
        self,
        facts: DatabaseFacts,
        options: Sequence[str],
        reader: DumpReader,
        definitions: Definitions,
        seen: DumpSnapshot | None,
    ) -> DatabasePart:
        return DatabasePart(
            name=facts.name,
            oid=facts.oid,
            system_identifier=facts.system_identifier,
            server_version=facts.server_version,
            image=self.image,
            image_id=self.image_id,
            size=facts.size,
            client_version=reader.client_version,
            command=("pg_dump", *options),
            rows=reader.rows,
            large_objects=reader.large_objects,
            not_carried=facts.not_carried,
            locale=facts.locale,
            bootstrap=facts.bootstrap,
            extensions=tuple(reader.extensions),
            cautions=facts.cautions,
            preload=facts.dependencies.preloaded,
            versions=dict(facts.dependencies.versions),
            tablespaces=facts.dependencies.tablespaces,
            definitions=definitions.sha256,
            environment=facts.environment,
            search_path=facts.search_path,
            found_by_path=dict(facts.found_by_path),
            children=kinship(definitions.script) if definitions.script is not None else None,
            snapshot=seen,
        )

    def _options(self, facts: DatabaseFacts) -> tuple[str, ...]:
        chosen = dump_options(facts.locale.encoding, statistics=facts.major >= _STATISTICS)
        return (*chosen, f"--lock-wait-timeout={self.lock_timeout * 1000}")

    def roles(self, facts: DatabaseFacts, run: str, waiting: Callable[[], None]) -> str:
        """Read roles and memberships, then the database-level settings, as SQL for psql, also while `run` dumps.

        `waiting` is called several times a second while nothing comes.
        """
        # By default it asks `postgres` or `template1`, which an ordinary user may not enter.
        options: tuple[str, ...] = (*_ROLES_OPTIONS, f"--database={name_only(facts.name)}")
        if not facts.superuser:
            options = (*options, "--no-role-passwords")
        reader, text = DumpReader(), bytearray()
        with self.clients.run("pg_dumpall", options, run, DUMP_SESSION, self._dumping(run), part="2.") as output:
            for chunk in output.chunks(waiting):
                text += chunk
                reader.feed(chunk)
        reader.check_whole()
        text += "\n".join(["-- Settings of the database itself", *facts.settings, ""]).encode()
        return text.decode(errors="surrogateescape")


def dump_options(encoding: str, *, statistics: bool) -> tuple[str, ...]:
    """How a database is dumped whose text is to be written in this encoding; as the session has it if none is named.

    Its own holds all of its text: another one that a role is set to may not. `statistics`: with those of the planner.
    """
    planner = ("--statistics",) if statistics else ()
    return (*_DUMP_OPTIONS, *planner, *([f"--encoding={encoding}"] if encoding else []))


def _same_major(facts: DatabaseFacts, client_version: str) -> None:
    if client_version.split(".")[0].split(" ")[0] != str(facts.major):
        raise DumpFailed(
            f"pg_dump {client_version or 'of unknown version'} wrote the dump of a PostgreSQL {facts.major} server;"
            " such a dump may not load there again, and was not published",
            "Is another pg_dump first in the PATH of the database's image?",
        )
