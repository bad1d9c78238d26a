"""Scratch databases on the live server, to prove sets where there is no engine to start a server with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from backup.errors import BackupError, DropDelayed, EngineError
from backup.formatting import printable
from backup.logging import logger
from backup.postgres import Login
from backup.postgres.admin import AGAIN, PATIENCE, drop
from backup.postgres.clients import Clients
from backup.postgres.dump.adaptation import Adaptation
from backup.postgres.psql import lines, literal, quoted, script
from backup.postgres.scratch_place import Place, Restored, Wanted, created
from backup.postgres.server import find
from backup.postgres.server_dependencies import ONE_DATABASE

_PREFIX: Final = "obcms_drill_"


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
    def prepare(self, wanted: Wanted, run: str) -> Iterator[Place]:
        """See Places."""
        maintenance, name = self.connect("postgres"), f"{_PREFIX}{self.instance}_{run}"
        try:
            mark = f"COMMENT ON DATABASE {quoted(name)} IS {literal(self._mark)};"
            self._require(wanted.tablespaces, maintenance, run)
            made = [created(name, wanted.locale), mark]
            script(maintenance, made, run)
            waiting = {each: schema for each, (_, schema) in ONE_DATABASE.items() if each in wanted.versions}
            notes = [f"{each} was not tried: it can be in one database only" for each in waiting]
            how = Adaptation(versions=wanted.versions, waiting=waiting)
            yield Restored(
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
        names = [line.decode() for line in lines(maintenance, query, self.sweeper)]
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
        there = lines(maintenance, "SELECT spcname FROM pg_tablespace", run) if tablespaces else []
        if missing := [name for name in tablespaces if name.encode() not in there]:
            raise EngineError(
                f"the live server has no tablespace {printable(', '.join(missing))}, so a scratch database on it cannot"
                " show whether the set loads as it is; nothing is said of the set",
                "With the Docker socket a throw-away server is used, which gets the tablespaces of the set.",
            )

    @property
    def _mark(self) -> str:
        return f"scratch database of a backup drill, {self.instance}; may be dropped"

    def _drop(self, name: str, patience: float) -> None:
        logger.debug("dropping {}", name)
        if found := find(self.login, name):
            drop(self.login, found.oid, name, patience=patience)
