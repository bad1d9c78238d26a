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
from backup.errors import EngineError, NoSpace
from backup.formatting import printable, size
from backup.model.manifest import Locale, Preload
from backup.postgres import Login
from backup.postgres.clients import Clients, HelperClients, sweep_spool
from backup.postgres.dump.adaptation import Adaptation
from backup.postgres.preload import preloading
from backup.postgres.psql import literal, quoted, script
from backup.postgres.roles import Roles
from backup.postgres.session_settings import Standing
from backup.postgres.settling import settle

ROLE: Final = "server"
# Safe on a live server: nobody uses that database before a later commit, that of the exchange with the old one, which
# is synchronous; WAL is flushed in its order, so all of the load is durable before. How much memory an index build may
# take is left to the server: its operator knows what else runs there.
LOAD_OPTIONS: Final = "-c synchronous_commit=off"
_SPARE: Final = 256 << 20
# Indexes and their builds: what is restored has been seen at up to the size of the original, and a little more.
_ROOM: Final = 1.3


@dataclass(frozen=True)
class Wanted:
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


class Place(Protocol):
    """A database that is ready to be loaded into."""

    @property
    def clients(self) -> Clients:
        """For the database that was made."""

    @property
    def server_version(self) -> str:
        """The server's version."""

    @property
    def ours(self) -> bool:
        """Whether all may be done there: a server of our own."""

    @property
    def adaptation(self) -> Adaptation:
        """How a dump is loaded there."""

    @property
    def notes(self) -> Sequence[str]:
        """What is not as it was where the set was taken, and says nothing against the set."""

    def for_roles(self, names: Sequence[str], run: str) -> Place:
        """The same with these roles, entered by the first, where the server is ours."""

    def settle(self, run: str) -> list[str]:
        """Apply the settings of the database itself, after its content was judged; those refused, in words."""

    def renew(self, run: str) -> None:
        """Let the database be as it was made: empty."""


class Places(Protocol):
    """Makes places."""

    @property
    def way(self) -> str:
        """How it is done, for messages."""

    def prepare(self, wanted: Wanted, run: str) -> contextlib.AbstractContextManager[Place]:
        """A new database, removed when the body ends. BackupError when there can be none."""

    def sweep(self) -> int:
        """Remove what dead drills left; how many. Only under the lock."""


def created(name: str, locale: Locale | None) -> str:
    """The statement that makes a database like the dumped one."""
    clause = f" {locale.clause(literal)}" if locale else ""
    return f"CREATE DATABASE {quoted(name)} TEMPLATE template0{clause};"


def dropped(name: str) -> str:
    """The statement that drops it, on a server of our own: elsewhere it may have to wait (`database/admin.py`)."""
    return f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE);"


def _in_place(tablespace: str) -> str:
    """The statement that makes a tablespace within the server's own data: its real directory is not there."""
    return f"SET allow_in_place_tablespaces = on; CREATE TABLESPACE {quoted(tablespace)} LOCATION '';"


def _made(role: str) -> str:
    """The statement that makes a role, unless there is one."""
    there = f"SELECT FROM pg_roles WHERE rolname = {literal(role)}"  # noqa: S608 - a literal
    return f"SELECT {literal(f'CREATE ROLE {quoted(role)} SUPERUSER LOGIN')} WHERE NOT EXISTS ({there}) \\gexec"


@dataclass(frozen=True)
class Restored:
    """A place. `settings` are run in the maintenance database; `made` is how the database was made, there.

    `emptied` removes it first, where `made` does not.
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
        """See Place. Some objects can only belong to a superuser."""
        if not self.ours or not names:
            return self
        script(self.maintenance, [_made(name) for name in names], run)
        return replace(self, clients=self.clients.entering(names[0]))

    def settle(self, run: str) -> list[str]:
        """See Place."""
        return settle(self.maintenance, self.settings, run) if self.settings else []

    def renew(self, run: str) -> None:
        """See Place."""
        self.emptied()
        script(self.maintenance, self.made, run)


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
    def prepare(self, wanted: Wanted, run: str) -> Iterator[Place]:
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
                    f" {size(free)} are free; it was not begun, so that the live database does not run out of space",
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
            notes = settle(maintenance, [*replaced, made, *places, *listed.for_new_cluster(bootstrap)], run)
            yield Restored(
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
