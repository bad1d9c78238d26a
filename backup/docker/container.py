"""A container as the engine describes it, reduced to what is used. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit

from backup.formatting import printable

PROJECT: Final = "com.docker.compose.project"
SERVICE_LABEL: Final = "com.docker.compose.service"
# `name:condition:restart`, by commas.
_DEPENDS: Final = "com.docker.compose.depends_on"
HEALTHY: Final = "service_healthy"

_PGDATA: Final = "/var/lib/postgresql/data"
_GRACE: Final = 10
_PORT: Final = 5432
# How applications name their database, field by field, when it is not one URL; the first that names a host counts.
_FAMILIES: Final = (
    ("DB_HOST", "DB_PORT", "DB_USER", "DB_PASSWORD", "DB_NAME"),
    ("POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"),
    ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"),
)


@dataclass(frozen=True)
class Address:
    """A database as an application's own settings name it; what they do not say is empty."""

    host: str
    port: int = _PORT
    user: str = ""
    password: str = field(default="", repr=False)
    name: str = ""


MountKind = Literal["volume", "bind"]


@dataclass(frozen=True)
class DataPlace:
    """A database's container by id and name, its image, and its data folder `pgdata` on the mount at `target`."""

    container: str
    name: str
    image_id: str
    kind: MountKind
    source: str
    target: str
    pgdata: str


@dataclass(frozen=True)
class Container:
    """A container as `inspect` shows it, reduced to what is used.

    `health` as its health check says (empty without one), `started` as the engine writes it; `stop_seconds` is what it
    may take to stop; `depends_on` the services that Compose starts before it, each with the condition. `cores`: how
    many it may keep busy, rounded up; 0 where that is not limited.
    """

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
    health: str = ""
    stop_seconds: int = _GRACE
    depends_on: Mapping[str, str] = field(default_factory=dict)
    started: str = ""
    cores: int = 0

    @property
    def shown(self) -> str:
        """Name, service and image, safe to print."""
        service = f", service {self.service}" if self.service else ""
        return printable(f"{self.name} ({self.image}{service}, {self.status})")

    @property
    def pgdata(self) -> str:
        """Where a database's container keeps its data, inside."""
        return self.environment.get("PGDATA") or _PGDATA

    @property
    def names(self) -> frozenset[str]:
        """What other containers call it."""
        return frozenset({self.name, self.service, *self.aliases}) - {""}

    @property
    def database(self) -> Address | None:
        """Where its application finds its database, by its environment; None where that does not say."""
        return database_address(self.environment)


def database_address(environment: Mapping[str, str]) -> Address | None:
    """The database that an application's settings name: a URL, or host, port, user, password and name."""
    if url := environment.get("DATABASE_URL", ""):
        return _from_url(url)
    for family in _FAMILIES:
        host, port, user, password, name = (environment.get(each, "") for each in family)
        if host:
            return Address(host, int(port) if port.isdecimal() else _PORT, user, password, name)
    return None


def _from_url(url: str) -> Address | None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    # Such as postgres, postgresql, postgis, pgsql, postgresql+psycopg.
    if not host or not parts.scheme.startswith(("postg", "pgsql")):
        return None
    user, password = (unquote(part or "") for part in (parts.username, parts.password))
    return Address(unquote(host), port or _PORT, user, password, unquote(parts.path.lstrip("/")))


def start_order(containers: Sequence[Container]) -> list[list[Container]]:
    """Groups to be started one after the other: each container behind those of its project that it needs."""
    groups, left = list[list[Container]](), list(containers)
    while left:
        ready = [each for each in left if not _needed(each, left)]
        # A circle, which Compose would refuse: all at once then.
        groups.append(ready or left)
        done = {each.id for each in groups[-1]}
        left = [each for each in left if each.id not in done]
    return groups


def needed_by(containers: Sequence[Container], wanted: Collection[str]) -> list[Container]:
    """Those called so, and all that they need, directly or not."""
    found = [each for each in containers if not each.names.isdisjoint(wanted)]
    for each in found:
        known = {other.id for other in found}
        found += [other for other in _needed(each, containers) if other.id not in known]
    return found


def _needed(container: Container, others: Sequence[Container]) -> list[Container]:
    """What it depends on, by Compose's word or its own database's address."""
    needs = {*container.depends_on, *([container.database.host] if container.database else [])}
    return [other for other in others if other is not container and not other.names.isdisjoint(needs)]


def mount_source(mount: Mapping[str, Any]) -> str:
    """What tells a mount from others: the volume's name, or the directory of the host."""
    return str(mount.get("Name") or mount.get("Source") or "")


def mounts_overlap(one: Mapping[str, Any], other: str) -> bool:
    """Whether a mount is of this source, or, of two directories of the host, one lies within the other."""
    mine = mount_source(one)
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
        service=labels.get(SERVICE_LABEL, ""),
        image=config.get("Image", ""),
        image_id=facts["Image"],
        running=bool(facts["State"].get("Running")),
        status="paused" if facts["State"].get("Paused") else facts["State"].get("Status", "unknown"),
        environment=dict(entry.partition("=")[::2] for entry in config.get("Env") or []),
        addresses={name: net.get("IPAddress", "") for name, net in networks.items() if net.get("IPAddress")},
        aliases=frozenset(alias for net in networks.values() for alias in net.get("Aliases") or ()),
        mounts=tuple(facts.get("Mounts") or ()),
        health=(facts["State"].get("Health") or {}).get("Status", "").replace("none", ""),
        stop_seconds=_GRACE if config.get("StopTimeout") is None else int(config["StopTimeout"]),
        depends_on=_dependencies(labels.get(_DEPENDS, "")),
        started=str(facts["State"].get("StartedAt", "")),
        cores=_cores(facts.get("HostConfig") or {}),
    )


def _cores(limits: Mapping[str, Any]) -> int:
    """What `--cpus`, the older quota, and `--cpuset-cpus` such as 0-2,4 leave."""
    share = (limits.get("NanoCpus") or 0) / 1e9
    if quota := limits.get("CpuQuota") or 0:
        share = quota / (limits.get("CpuPeriod") or 100_000)
    spans = [each.partition("-") for each in str(limits.get("CpusetCpus") or "").split(",") if each]
    pinned = sum(int(last or first) - int(first) + 1 for first, _, last in spans)
    return min(filter(None, (math.ceil(share), pinned)), default=0)


def _dependencies(label: str) -> dict[str, str]:
    entries = (entry.split(":") for entry in label.split(",") if entry)
    return {entry[0]: entry[1] if len(entry) > 1 else "" for entry in entries}


def listing(containers: Sequence[Container]) -> str:
    """One line a container, for the end of a message."""
    return "".join(f"\n  - {c.shown}" for c in containers) or " none"
