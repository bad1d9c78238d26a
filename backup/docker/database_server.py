"""The database's own container, running or not, and the mount that holds its data: stopped, started, worked on."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, get_args

from backup.docker.container import Container, DataPlace, MountKind, described, mount_source
from backup.docker.engine import Engine, SpoolMount, require_subpaths
from backup.docker.helper import Helper
from backup.docker.translate_errors import Gone, engine_errors
from backup.errors import ConfigError
from backup.formatting import printable

# A server that writes its last checkpoint may take longer than the ten seconds that an engine gives by itself.
_STOPPING: Final = 120
# Any other signal makes a server wait for all its clients, or leave its data unclean.
_FAST: Final = ("SIGINT", "INT", "2")
_TASK: Final = "com.docker.swarm.task.id"
_LOGICAL: Final = "Leave out --physical: then the one database is restored, and its container runs on."
_CAPABILITIES: Final = ["CHOWN", "DAC_OVERRIDE", "FOWNER"]


def place_of(engine: Engine, container: Container) -> DataPlace:
    """Where the data of a database's container lie; ConfigError, with the reason, where they cannot be exchanged."""
    with engine_errors(f"container {container.shown}"):
        facts = engine.api.inspect_container(container.id)
    for reason in _unfit(facts):
        raise ConfigError(f"the database's container {printable(container.name)} {reason}", _LOGICAL)
    pgdata = PurePosixPath(container.pgdata)
    holding = [each for each in container.mounts if pgdata.is_relative_to(str(each["Destination"]))]
    mount = max(holding, key=lambda each: len(str(each["Destination"])), default=None)
    if mount is None or mount["Type"] not in get_args(MountKind) or not mount.get("RW"):
        raise ConfigError(
            f"the data of {printable(container.name)}, {printable(str(pgdata))}, lie on no volume and no folder of the"
            " host that can be written to",
            _LOGICAL,
        )
    within = [str(each["Destination"]) for each in container.mounts if each is not mount]
    if inner := [each for each in within if PurePosixPath(each).is_relative_to(pgdata) and not each.endswith(".conf")]:
        raise ConfigError(
            f"{printable(inner[0])} is mounted within the data of {printable(container.name)}, and cannot be renamed",
            _LOGICAL,
        )
    return DataPlace(
        container=container.id,
        name=container.name,
        image_id=container.image_id,
        kind=mount["Type"],
        source=mount_source(mount),
        target=str(mount["Destination"]),
        pgdata=str(pgdata),
    )


def _unfit(facts: Mapping[str, Any]) -> list[str]:
    """Why this container must not be stopped and started by us, in words; nothing where it may be."""
    host, config = facts.get("HostConfig") or {}, facts["Config"]
    found = []
    if host.get("AutoRemove"):
        found.append("is removed by the engine when it stops (`--rm`)")
    if (config.get("Labels") or {}).get(_TASK):
        found.append("is a task of Docker Swarm, which starts another one in its place when it stops")
    if (signal := str(config.get("StopSignal") or "SIGTERM")) not in _FAST:
        found.append(f"is stopped by {printable(signal)}, not SIGINT: PostgreSQL then waits for all its clients")
    return found


class DatabaseServer:
    """What is done to the container at `place` and to its data; `labels` are those of our helpers."""

    def __init__(self, engine: Engine, place: DataPlace, labels: Mapping[str, str]) -> None:
        self.engine, self.place, self._labels = engine, place, labels

    def container(self) -> Container:
        """The container, also when Compose has made it anew under its name. EngineError when it is gone."""
        with engine_errors(f"the database's container {printable(self.place.name)}"):
            with contextlib.suppress(Gone), engine_errors("its id"):
                return described(self.engine.api.inspect_container(self.place.container))
            return described(self.engine.api.inspect_container(self.place.name))

    def stop(self) -> None:
        """Stop it, and wait until it has stopped; nothing to do where it does not run."""
        container = self.container()
        with engine_errors(f"stopping {printable(container.name)}"):
            self.engine.api.stop(container.id, timeout=max(container.stop_seconds, _STOPPING))

    def start(self) -> None:
        """Start it; nothing to do where it runs."""
        container = self.container()
        with engine_errors(f"starting {printable(container.name)}"):
            self.engine.api.start(container.id)

    def sweep(self) -> None:
        """Remove helpers that dead runs left at work on the data. Only under the lock."""
        wanted = [f"{name}={value}" for name, value in self._labels.items()]
        with engine_errors("leftover helpers"):
            left = self.engine.api.containers(all=True, filters={"label": wanted})
        for each in left:
            Helper(self.engine.api, each["Id"], "the database's data").close()

    def folder(self, name: str, target: str) -> SpoolMount:
        """How a helper mounts one folder within the data, and nothing beside it. ConfigError on an old engine."""
        place = self.place
        below = posixpath.relpath(posixpath.join(place.pgdata, name), place.target)
        if place.kind == "bind":
            return SpoolMount(target=target, source=posixpath.join(place.source, below), type="bind")
        require_subpaths(self.engine, f"one folder of {printable(place.source)} alone", _LOGICAL)
        return SpoolMount(target=target, source=place.source, type=place.kind, subpath=below)

    def run(self, script: str, words: Sequence[str]) -> tuple[int, list[str], str]:
        """Run a shell script in the data folder, in a helper of its image: exit code, its lines, its last words."""
        place = self.place
        # After an upgrade its own may be gone.
        image = self.engine.image(place.image_id) or self.container().image_id
        with engine_errors(f"a helper on the data of {printable(place.name)}"):
            helper = Helper.start(
                self.engine.api,
                image,
                ["sh", "-c", script, place.pgdata, *words],
                self._labels,
                cap_add=_CAPABILITIES,
                network_mode="none",
                mounts=[SpoolMount(target=place.target, source=place.source, type=place.kind)],
            )
        try:
            lines = list(helper.lines())
            return helper.wait(), lines, helper.errors()
        finally:
            helper.close()
