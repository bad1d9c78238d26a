"""Where a set is restored to prove it: a throw-away server of the set's own image, or a scratch database.

Neither knows how to end a session or to rename a database.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from backup.docker.engine import LABEL, LABEL_ROLE, LABEL_RUN, Engine, SpoolMount
from backup.docker.throwaway_server import start_server
from backup.errors import BackupError, DropDelayed, EngineError, NoSpace
from backup.formatting import printable, size
from backup.logging import logger
from backup.model.manifest import Locale, Preload
from backup.postgres.admin import AGAIN, PATIENCE, drop
from backup.postgres.clients import Clients, HelperClients, sweep_spool
from backup.postgres.dump.adaptation import Adaptation
from backup.postgres.dump.statements import quoted
from backup.postgres.preload_libraries import preloading
from backup.postgres.psql import literal, query_lines, script, try_settings
from backup.postgres.roles import Roles
from backup.postgres.server import find_database
from backup.postgres.server_dependencies import ONE_DATABASE
from backup.postgres.session import Login
from backup.postgres.session_settings import Standing

ROLE: Final = "server"
# Safe on a live server: nobody uses that database before a later commit, that of the exchange with the old one, which
# is synchronous; WAL is flushed in its order, so all of the load is durable before. How much memory an index build may
# take is left to the server: its operator knows what else runs there.
LOAD_OPTIONS: Final = "-c synchronous_commit=off"
_SPARE: Final = 256 << 20
# Indexes and their builds: what is restored has been seen at up to the size of the original, and a little more.
_ROOM: Final = 1.3
_PREFIX: Final = "obcms_drill_"


@dataclass(frozen=True)
class WantedDatabase:
    """What is to be restored: the database's name, locale and size in bytes, its server's first role, all roles.

    `preload` and `tablespaces` as in DatabasePart; `versions` of its extensions, empty where they are not known.
    """

    name: str
    locale: Locale | None
    bytes: int
    bootstrap: str
    roles: str
    preload: Preload = Preload()
    tablespaces: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """A database that is ready to be loaded into.

    `clients` are for it, `maintenance` for another one of its server, where `settings` are run and `made`, which is how
    it was made; `emptied` removes it first, where `made` does not. `adaptation` is how a dump is loaded there, `notes`
    what is not as it was where the set was taken, and says nothing against the set. `ours`: all may be done there, for
    it is a server of our own.
    """

    clients: Clients
    server_version: str
    maintenance: Clients
    made: Sequence[str]
    settings: Sequence[str] = ()
    adaptation: Adaptation = Adaptation()
    notes: Sequence[str] = ()
    ours: bool = True
    emptied: Callable[[], None] = lambda: None

    def for_roles(self, names: Sequence[str], run: str) -> Place:
        """The same with these roles, entered by the first, where the server is ours."""
        if not self.ours or not names:
            return self
        # Some objects can only belong to a superuser.
        script(self.maintenance, [_made(name) for name in names], run)
        return replace(self, clients=self.clients.entering(names[0]))

    def settle(self, run: str) -> list[str]:
        """Apply the settings of the database itself, after its content was judged; those refused, in words."""
        return try_settings(self.maintenance, self.settings, run) if self.settings else []

    def renew(self, run: str) -> None:
        """Let the database be as it was made: empty."""
        self.emptied()
        script(self.maintenance, self.made, run)


class Places(Protocol):
    """Makes places."""

    @property
    def way(self) -> str:
        """How it is done, for messages."""

    def prepare(self, wanted: WantedDatabase, run: str) -> contextlib.AbstractContextManager[Place]:
        """A new database, removed when the body ends. BackupError when there can be none."""

    def sweep(self) -> int:
        """Remove what dead drills left; how many. Only under the lock."""


def created(name: str, locale: Locale | None) -> str:
    """The statement that makes a database like the dumped one."""
    clause = f" {locale.clause(literal)}" if locale else ""
    return f"CREATE DATABASE {quoted(name)} TEMPLATE template0{clause};"


def dropped(name: str) -> str:
    """The statement that drops it, on a server of our own: elsewhere it may have to wait (`postgres/admin.py`)."""
    return f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE);"


def _in_place(tablespace: str) -> str:
    """The statement that makes a tablespace within the server's own data: its real directory is not there."""
    return f"SET allow_in_place_tablespaces = on; CREATE TABLESPACE {quoted(tablespace)} LOCATION '';"


def _made(role: str) -> str:
    """The statement that makes a role, unless there is one."""
    there = f"SELECT FROM pg_roles WHERE rolname = {literal(role)}"  # noqa: S608 - a literal
    return f"SELECT {literal(f'CREATE ROLE {quoted(role)} SUPERUSER LOGIN')} WHERE NOT EXISTS ({there}) \\gexec"


@dataclass(frozen=True)
class ThrowAway:
    """Servers in containers of `image` (an id, `shown` as its name), which nothing but our helpers can reach."""

    engine: Engine
    image: str
    shown: str
    spool: Path
    mount: SpoolMount
    instance: str
    stall: float

    @property
    def way(self) -> str:
        """How it is done, for messages."""
        return f"a throw-away server of {printable(self.shown)} without a network"

    @contextlib.contextmanager
    def prepare(self, wanted: WantedDatabase, run: str) -> Iterator[Place]:
        """See Places."""
        labels = {LABEL: self.instance, LABEL_RUN: run, LABEL_ROLE: ROLE}
        bootstrap = wanted.bootstrap or "obcms_backup_drill"
        try:
            more = preloading(wanted.preload, wanted.name)
            server = start_server(self.engine, self.image, bootstrap, labels, more)
            server.wait()
            free = server.free()
            needed = int(wanted.bytes * _ROOM) + _SPARE
            if free < needed:
                raise NoSpace(
                    f"a drill of this set takes about {size(needed)} where the engine keeps its volumes, and"
                    f" {size(free)} are free; it was not started, so that the live database does not run out of"
                    " space",
                    "Free space there (`docker system df` shows what is used), then run this again.",
                )

            def clients(database: str) -> HelperClients:
                login = Login("127.0.0.1", 5432, bootstrap, database)
                made = HelperClients(
                    self.engine, server.container, login, self.spool, self.mount, self.instance, self.stall
                )
                made.busy = server.answers
                made.check(Standing.superuser(server.major()))
                return made

            maintenance = clients("template1" if wanted.name == "postgres" else "postgres")
            listed = Roles.parse(wanted.roles)
            replaced = ["DROP DATABASE postgres;"] if wanted.name == "postgres" else []
            places = [_in_place(name) for name in wanted.tablespaces]
            made = created(wanted.name, wanted.locale)
            notes = try_settings(maintenance, [*replaced, made, *places, *listed.for_new_cluster(bootstrap)], run)
            yield Place(
                clients(wanted.name),
                server.version(),
                maintenance,
                [dropped(wanted.name), made],
                listed.database_settings(wanted.name, wanted.name),
                Adaptation(versions=wanted.versions),
                notes,
            )
        finally:
            # By its label, so also when a signal came before there was a name for it.
            with contextlib.suppress(EngineError):
                self.engine.sweep_helpers(self.instance, run)

    def sweep(self) -> int:
        """See Places."""
        return self.engine.sweep_helpers(self.instance) + sweep_spool(self.spool, self.instance)


@dataclass(frozen=True)
class Scratch:
    """`connect` gives the clients for a database of the live server; its roles are those that a set is loaded with.
    `login` is of that server, too. `patience`: seconds for which the server may let a drop wait.

    `sweeper` is a name as runs have it, in which `sweep` works: what it leaves when it is killed is swept as theirs is.
    """

    connect: Callable[[str], Clients]
    login: Login
    instance: str
    version: str
    sweeper: str
    patience: float = PATIENCE

    way = "a scratch database on the live server"

    @contextlib.contextmanager
    def prepare(self, wanted: WantedDatabase, run: str) -> Iterator[Place]:
        """See Places."""
        maintenance, name = self.connect("postgres"), f"{_PREFIX}{self.instance}_{run}"
        try:
            mark = f"COMMENT ON DATABASE {quoted(name)} IS {literal(self._mark)};"
            self._require(wanted.tablespaces, maintenance, run)
            made = [created(name, wanted.locale), mark]
            script(maintenance, made, run)
            waiting = {each: schema for each, (_, schema) in ONE_DATABASE.items() if each in wanted.versions}
            notes = [f"{each} was not tried: it works in one database only" for each in waiting]
            how = Adaptation(versions=wanted.versions, waiting=waiting)
            yield Place(
                self.connect(name),
                self.version,
                maintenance,
                made,
                adaptation=how,
                notes=notes,
                ours=False,
                emptied=lambda: self._drop(name, self.patience),
            )
        finally:
            try:
                self._drop(name, self.patience)
            except BackupError as error:
                # What was found out counts. The next run sweeps it.
                logger.warning("the scratch database {} could not be removed: {}", printable(name), error.message)

    def sweep(self) -> int:
        """See Places. A database that is not marked as ours, or is not named by our own random name, is left alone."""
        maintenance, prefix = self.connect("postgres"), f"{_PREFIX}{self.instance}_"
        # Between its creation and its mark a drill may have been killed: then the name alone tells.
        query = (
            f"SELECT datname FROM pg_database WHERE starts_with(datname, {literal(prefix)})"  # noqa: S608 - literals
            f" AND coalesce(shobj_description(oid, 'pg_database'), {literal(self._mark)}) = {literal(self._mark)}"
        )
        names = [line.decode() for line in query_lines(maintenance, query, self.sweeper)]
        count = 0
        for name in names:
            try:
                self._drop(name, AGAIN)
                count += 1
            except DropDelayed as error:
                logger.warning("{} {}", error.message, error.hint)
        return count

    @staticmethod
    def _require(tablespaces: Sequence[str], maintenance: Clients, run: str) -> None:
        there = query_lines(maintenance, "SELECT spcname FROM pg_tablespace", run) if tablespaces else []
        if missing := [name for name in tablespaces if name.encode() not in there]:
            raise EngineError(
                f"the live server has no tablespace {printable(', '.join(missing))}, so a scratch database on it"
                " cannot show whether the set loads; the set was not judged",
                "With the Docker socket a throw-away server is used, which gets the tablespaces of the set.",
            )

    @property
    def _mark(self) -> str:
        return f"scratch database of a backup drill, {self.instance}; may be dropped"

    def _drop(self, name: str, patience: float) -> None:
        logger.debug("dropping {}", name)
        if found := find_database(self.login, name):
            drop(self.login, found.oid, name, patience=patience)
