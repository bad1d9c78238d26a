"""The application's containers: which write to a volume, stopping and starting exactly those, commands inside."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from backup.containers import Container, overlap
from backup.engine import Engine
from backup.engine.asking import Gone, asking
from backup.engine.command import Command
from backup.errors import ConfigError
from backup.text import printable


class Application:
    """The containers of one Compose project, but for our own. `database` are the names of the database's."""

    def __init__(self, engine: Engine, project: str, own: Container | None, database: Collection[str] = ()) -> None:
        self._engine, self._project, self._own, self._database = engine, project, own, set(database)

    def running(self, services: Collection[str], sources: Collection[str]) -> list[Container]:
        """Running containers of these services; where none is named, those that may write to one of `sources`.

        Those of `docker compose run` too, after the others. The database is not stopped for a folder that holds its
        files and the media.
        """
        listed = self._engine.containers(self._project) + self._engine.containers(self._project, oneoff=True)
        found = [c for c in listed if c.running and not self._ours(c)]
        if services:
            return [c for c in found if c.service in services or c.name in services]
        found = [c for c in found if self._database.isdisjoint({c.service, c.name, *c.aliases})]
        return [c for c in found if any(m.get("RW") and overlap(m, each) for m in c.mounts for each in sources)]

    def require(self, services: Collection[str]) -> None:
        """ConfigError unless the project has a container, running or not, of each of them."""
        here = {name for c in self._engine.containers(self._project) for name in (c.service, c.name)}
        if unknown := set(services) - here:
            raise ConfigError(
                f"BACKUP_RESTORE_STOP names {printable(', '.join(sorted(unknown)))}, which the project"
                f" {printable(self._project)} has no container of",
                "Name services as `docker compose ps -a` shows them.",
            )

    def stop(self, container: Container) -> None:
        """Stop it as `docker stop` does, by its own signal and within its own time."""
        with asking(f"stopping {printable(container.name)}"):
            grace = self._engine.api.inspect_container(container.id)["Config"].get("StopTimeout") or 10
            self._engine.api.stop(container.id, timeout=grace)

    def start(self, identifier: str, name: str) -> bool:
        """Start a stopped container; False when it is no longer there, by its id nor by its name.

        One that runs is left alone. Compose may have made it anew under its name meanwhile.
        """
        for known in (identifier, name):
            with contextlib.suppress(Gone), asking(f"starting {printable(name)}"):
                self._engine.api.start(known)
                return True
        return False

    def command(self, container: Container, command: str) -> Command:
        """A shell command to be run inside a running container."""
        return Command(self._engine.api, container.id, command, f"a command in {printable(container.name)}")

    def _ours(self, container: Container) -> bool:
        return self._own is not None and (container.id == self._own.id or container.image_id == self._own.image_id)
