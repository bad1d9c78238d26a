"""A container as the engine describes it, reduced to what is used. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from backup.text import printable

PROJECT: Final = "com.docker.compose.project"
SERVICE: Final = "com.docker.compose.service"


_PGDATA: Final = "/var/lib/postgresql/data"


@dataclass(frozen=True)
class Container:
    """A container as `inspect` shows it, reduced to what is used."""

    id: str
    name: str
    project: str
    service: str
    image: str
    image_id: str
    running: bool
    status: str
    environment: Mapping[str, str]
    addresses: Mapping[str, str]
    aliases: frozenset[str]
    mounts: tuple[Mapping[str, Any], ...]

    @property
    def shown(self) -> str:
        """Name, service and image, safe to print."""
        service = f", service {self.service}" if self.service else ""
        return printable(f"{self.name} ({self.image}{service}, {self.status})")

    @property
    def pgdata(self) -> str:
        """Where a database's container keeps its data, inside."""
        return self.environment.get("PGDATA") or _PGDATA


def source(mount: Mapping[str, Any]) -> str:
    """What tells a mount from others: the volume's name, or the directory of the host."""
    return str(mount.get("Name") or mount.get("Source") or "")


def overlap(one: Mapping[str, Any], other: str) -> bool:
    """Whether a mount is of this source, or, of two directories of the host, one lies within the other."""
    mine = source(one)
    if mine == other:
        return True
    paths = PurePosixPath(mine), PurePosixPath(other)
    if not all(path.is_absolute() for path in paths):
        return False
    return paths[0].is_relative_to(paths[1]) or paths[1].is_relative_to(paths[0])


def described(facts: Mapping[str, Any]) -> Container:
    """A container from what the engine's `inspect` says."""
    config, networks = facts["Config"], facts["NetworkSettings"].get("Networks") or {}
    labels = config.get("Labels") or {}
    return Container(
        id=facts["Id"],
        name=facts["Name"].removeprefix("/"),
        project=labels.get(PROJECT, ""),
        service=labels.get(SERVICE, ""),
        image=config.get("Image", ""),
        image_id=facts["Image"],
        running=bool(facts["State"].get("Running")),
        status="paused" if facts["State"].get("Paused") else facts["State"].get("Status", "unknown"),
        environment=dict(entry.partition("=")[::2] for entry in config.get("Env") or []),
        addresses={name: net.get("IPAddress", "") for name, net in networks.items() if net.get("IPAddress")},
        aliases=frozenset(alias for net in networks.values() for alias in net.get("Aliases") or ()),
        mounts=tuple(facts.get("Mounts") or ()),
    )


def listing(containers: Sequence[Container]) -> str:
    """One line a container, for the end of a message."""
    return "".join(f"\n  - {c.shown}" for c in containers) or " none"
