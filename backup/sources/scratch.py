"""Scratch databases on the live server, to prove sets where there is no engine to start a server with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from backup.errors import BackupError
from backup.log import logger
from backup.sources.clients import Clients
from backup.sources.places import Place, Restored, Wanted, created, lines, literal, quoted, script
from backup.text import printable

_PREFIX: Final = "obcms_drill_"


@dataclass(frozen=True)
class Scratch:
    """`connect` gives the clients for a database of the live server; its roles are those that a set is loaded with.

    `sweeper` is a name as runs have it, in which `sweep` works: what it leaves when it is killed is swept as theirs is.
    """

    connect: Callable[[str], Clients]
    instance: str
    version: str
    sweeper: str

    way = "a scratch database on the live server"

    @contextlib.contextmanager
    def prepare(self, wanted: Wanted, run: str) -> Iterator[Place]:
        """See Places."""
        maintenance, name = self.connect("postgres"), f"{_PREFIX}{self.instance}_{run}"
        try:
            mark = f"COMMENT ON DATABASE {quoted(name)} IS {literal(self._mark)};"
            script(maintenance, [created(name, wanted.locale), mark], run)
            yield Restored(self.connect(name), self.version, maintenance, "")
        finally:
            try:
                self._drop(maintenance, name, run)
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
        for name in names:
            self._drop(maintenance, name, self.sweeper)
        return len(names)

    @property
    def _mark(self) -> str:
        return f"scratch database of a backup drill, {self.instance}; may be dropped"

    @staticmethod
    def _drop(maintenance: Clients, name: str, run: str) -> None:
        logger.debug("dropping {}", name)
        # Its own session may have lost its client a moment ago, or somebody looks into it.
        script(maintenance, [f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE);"], run)
