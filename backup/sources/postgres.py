"""The database: its identity, its dump, and the roles and database-level settings a dump does not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from backup import database
from backup.database import Facts, Login
from backup.database.server import at_work, major
from backup.errors import BackupError, DumpFailed
from backup.log import logger
from backup.manifest import DatabasePart
from backup.sources.clients import Clients, application
from backup.stream.filters import DumpReader
from backup.stream.pipeline import ArtifactWriter

DUMP_OPTIONS: Final = ("--format=plain", "--clean", "--if-exists", "--no-sync")
# Values are written alike whatever the database, the role or the server is set to, so that dumps can be compared.
DUMP_SESSION: Final = "-c timezone=UTC -c bytea_output=hex -c quote_all_identifiers=off"
# --no-sync: the client writes into a pipe; the bytes are synced where they end up.
_ROLES_OPTIONS: Final = ("--roles-only", "--no-sync", "--encoding=UTF8")


@dataclass(frozen=True)
class PostgresSource:
    """One database. `image` and `image_id` are those of its container, empty over the network.

    `lock_timeout`, `patience`: seconds for which a dump may wait for a lock, and any session may do nothing.
    `scratch` drops what dead drills left on the server.
    """

    login: Login
    clients: Clients
    instance: str
    lock_timeout: int
    patience: int
    image: str = ""
    image_id: str = ""
    scratch: Callable[[], int] = lambda: 0

    def inspect(self) -> Facts:
        """What the server says of the database; refuses poolers and clients of another version."""
        facts = database.inspect(self.login)
        self.clients.check(facts.major)
        return facts

    def loading(self, name: str, run: str) -> Clients:
        """Clients of the server's version for a database that `run` fills: an index may take as long as it works."""
        self.clients.check(major(self.login))
        made = self.clients.named(name)
        made.busy = self._at_work(name, run)
        return made

    def _at_work(self, name: str, run: str, locks: float = 0.0) -> Callable[[], bool]:
        return lambda: at_work(self.login, name, application(self.instance, run), self.patience, locks)

    def _dumping(self, run: str) -> Callable[[], bool]:
        """Whether a dump is at work. It waits for locks no longer than it is allowed to: then it ends by itself."""
        return self._at_work(self.login.name, run, self.lock_timeout + self.patience)

    def sweep(self) -> int:
        """End what dead runs left: helpers, pipes, and sessions on the server. Only under the lock."""
        count = self.clients.sweep() + database.end_sessions(self.login, application(self.instance))
        try:
            return count + self.scratch()
        except BackupError as error:
            # A database more is no reason to make no backup.
            logger.warning("scratch databases of drills that died could not be looked for: {}", error.message)
            return count

    def dump(self, facts: Facts, writer: ArtifactWriter, run: str, progress: Callable[[int], None]) -> DatabasePart:
        """Write the whole dump to `writer`; DumpFailed unless client and content both say it is whole."""
        options = (*DUMP_OPTIONS, f"--lock-wait-timeout={self.lock_timeout * 1000}")
        reader = DumpReader()
        with self.clients.run("pg_dump", options, run, DUMP_SESSION, self._dumping(run)) as output:
            # How long it may say nothing is judged there; whoever watches the disks is told that they do not hang.
            for chunk in output.chunks(lambda: progress(0)):
                writer.write(chunk)
                reader.feed(chunk)
                progress(len(chunk))
        reader.check_whole()
        _same_major(facts, reader.client_version)
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
        )

    def roles(self, facts: Facts, writer: ArtifactWriter, run: str) -> None:
        """Write roles and memberships, then the database-level settings, as SQL for psql."""
        # By default it asks `postgres` or `template1`, which an ordinary user may not enter.
        options: tuple[str, ...] = (*_ROLES_OPTIONS, f"--database={database.name_only(facts.name)}")
        if not facts.superuser:
            options = (*options, "--no-role-passwords")
        reader = DumpReader()
        with self.clients.run("pg_dumpall", options, run, busy=self._dumping(run)) as output:
            for chunk in output.chunks():
                writer.write(chunk)
                reader.feed(chunk)
        reader.check_whole()
        writer.write("\n".join(["-- Settings of the database itself", *facts.settings, ""]).encode())


def _same_major(facts: Facts, client_version: str) -> None:
    if client_version.split(".")[0].split(" ")[0] != str(facts.major):
        raise DumpFailed(
            f"pg_dump {client_version or 'of unknown version'} wrote the dump of a PostgreSQL {facts.major} server;"
            " such a dump may not load there again, and was not published",
            "Is another pg_dump first in the PATH of the database's image?",
        )
