"""Where a set is restored to prove it: a throw-away server of the set's own image, or a scratch database.

Neither knows how to end a session or to rename a database.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from backup.database import Login
from backup.database.session import UNLIMITED
from backup.engine import LABEL, LABEL_ROLE, LABEL_RUN, Engine, SpoolMount
from backup.engine.servers import start_server
from backup.errors import EngineError, IntegrityError, NoSpace
from backup.manifest import Locale
from backup.sources.clients import Clients, HelperClients, sweep_spool
from backup.sources.roles import Roles
from backup.text import printable, size

ROLE: Final = "server"
STRICT: Final = ("--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1")
# Safe on a live server: nobody uses that database before a later commit, that of the exchange with the old one, which
# is synchronous; WAL is flushed in its order, so all of the load is durable before. How much memory an index build may
# take is left to the server: its operator knows what else runs there.
LOAD_OPTIONS: Final = "-c synchronous_commit=off"
_SPARE: Final = 256 << 20
# Indexes and their builds: what is restored has been seen at up to the size of the original, and a little more.
_ROOM: Final = 1.3


@dataclass(frozen=True)
class Wanted:
    """What is to be restored: the database's name, locale and size in bytes, its server's first role, all roles."""

    name: str
    locale: Locale | None
    bytes: int
    bootstrap: str
    roles: str


class Place(Protocol):
    """A database that is ready to be loaded into."""

    @property
    def clients(self) -> Clients:
        """For the database that was made."""

    @property
    def server_version(self) -> str:
        """The server's version."""

    def settle(self, run: str) -> None:
        """Apply the settings of the database itself, after its content was judged."""


class Places(Protocol):
    """Makes places."""

    @property
    def way(self) -> str:
        """How it is done, for messages."""

    def prepare(self, wanted: Wanted, run: str) -> contextlib.AbstractContextManager[Place]:
        """A new database, removed when the body ends. BackupError when there can be none."""

    def sweep(self) -> int:
        """Remove what dead drills left; how many. Only under the lock."""


def script(clients: Clients, statements: Sequence[str], run: str, options: str = "") -> None:
    """Run SQL strictly; LoadFailed with what the server said."""
    with clients.feed("psql", STRICT, run, options) as load:
        load.write(UNLIMITED)
        for statement in statements:
            load.write(statement.encode(errors="surrogateescape") + b"\n")
        load.finish()


def lines(clients: Clients, query: str, run: str) -> list[bytes]:
    """The output lines of a query, unaligned, tuples only."""
    found = bytearray()
    with clients.run("psql", ("-XqAt", "--set=ON_ERROR_STOP=1", f"--command={query}"), run) as output:
        for chunk in output.chunks():
            found += chunk
            if len(found) > 64 << 20:
                raise IntegrityError("the restored database answers with more than was asked for")
    return bytes(found).splitlines()


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal, whatever standard_conforming_strings says."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def created(name: str, locale: Locale | None) -> str:
    """The statement that makes a database like the dumped one."""
    clause = f" {locale.clause(literal)}" if locale else ""
    return f"CREATE DATABASE {quoted(name)} TEMPLATE template0{clause};"


@dataclass(frozen=True)
class Restored:
    """A place. `settings` are run in the maintenance database."""

    clients: Clients
    server_version: str
    maintenance: Clients
    settings: str

    def settle(self, run: str) -> None:
        """See Place."""
        if self.settings:
            script(self.maintenance, [self.settings], run)


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
            server = start_server(self.engine, self.image, bootstrap, labels)
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
                return made

            maintenance = clients("template1" if wanted.name == "postgres" else "postgres")
            listed = Roles.parse(wanted.roles)
            replaced = ["DROP DATABASE postgres;"] if wanted.name == "postgres" else []
            made = [created(wanted.name, wanted.locale), *listed.for_new_cluster(bootstrap)]
            script(maintenance, [*replaced, *made], run)
            settings = "\n".join(listed.database_settings(wanted.name, wanted.name))
            yield Restored(clients(wanted.name), server.version(), maintenance, settings)
        finally:
            # By its label, so also when a signal came before there was a name for it.
            with contextlib.suppress(EngineError):
                self.engine.sweep_helpers(self.instance, run)

    def sweep(self) -> int:
        """See Places."""
        return self.engine.sweep_helpers(self.instance) + sweep_spool(self.spool, self.instance)
