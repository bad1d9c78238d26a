"""Which container is the database, which volumes are media, who writes to them. Refuses to guess between several."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from backup.docker.container import Container, listing, source
from backup.errors import ConfigError
from backup.formatting import printable

_IMAGES: Final = re.compile(r"(?:.*/)?(?:postgres|postgis|pgvector|timescaledb)[^/]*")
_DECLARED: Final = ("POSTGRES_PASSWORD", "POSTGRES_PASSWORD_FILE", "POSTGRES_USER", "POSTGRES_DB")
# What holds nothing that a restore would need, or brings a backup of its own.
_AROUND: Final = re.compile(
    r"(?:^|[^a-z])(?:redis|valkey|memcached|rabbitmq|elasticsearch|opensearch|minio|nginx|traefik|caddy|haproxy|pgbouncer"
    r"|pgadmin|mailpit|mailhog|prometheus|grafana|loki)(?:[^a-z]|$)"
)
_STATIC: Final = frozenset({"static", "staticfiles", "static_root", "assets"})
_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")
_LOCAL: Final = ("/var/run", "/run", "/tmp", "/proc", "/sys", "/dev", "/etc")  # noqa: S108 - read, not written


@dataclass(frozen=True)
class Names:
    """What Compose calls volumes and networks, by the engine's name; what is not there is no Compose project's."""

    volumes: Mapping[str, str]
    networks: Mapping[str, str]


@dataclass(frozen=True)
class Media:
    """One volume: `key` is Compose's name, empty for a volume or folder (`bind`) from elsewhere."""

    name: str
    source: str
    key: str
    bind: bool
    writers: tuple[str, ...]
    left_out: str = ""


@dataclass(frozen=True)
class Plan:
    """What the overlay is made of. `network_key` is empty for a network from elsewhere."""

    project: str
    database: Container
    network: str
    network_key: str
    media: tuple[Media, ...]
    stop: tuple[str, ...]
    zone: str
    service: str
    image: str


def project_of(containers: Sequence[Container], wanted: str) -> str:
    """The project to back up: the one that is named, or the only one with a database."""
    found = sorted({c.project for c in containers if c.project})
    if wanted:
        if wanted not in found:
            shown = "".join(f"\n  - {printable(name)}" for name in found) or " none"
            raise ConfigError(
                f"no container belongs to the Compose project {printable(wanted)!r}; projects here:{shown}",
                "`docker compose ls -a` shows them. Start yours first: docker compose up -d.",
            )
        return wanted
    likely = [name for name in found if _databases([c for c in containers if c.project == name])]
    if len(likely) == 1:
        return likely[0]
    shown = "".join(f"\n  - {printable(name)}" for name in likely) or " none"
    raise ConfigError(
        f"which project is to be backed up? Those with a PostgreSQL server that is running:{shown}",
        "Name it: --project NAME." if likely else "Start it first: docker compose up -d.",
    )


def plan(
    project: str, containers: Sequence[Container], names: Names, ours: Sequence[Container], service: str, image: str
) -> Plan:
    """The plan for `containers`, which are the project's but for `ours`; `service` names the database's."""
    database = _database(project, containers, service)
    servers = {c.id for c in containers if c.image_id == database.image_id}
    application = [c for c in containers if c.id not in servers]
    media = tuple(_media(application, database, names))
    taken = {c.service for c in containers} - {c.service for c in ours}
    network = _network(database, application)
    return Plan(
        project=project,
        database=database,
        network=network,
        network_key=names.networks.get(network, ""),
        media=media,
        stop=tuple(sorted({who for each in media if not each.left_out for who in each.writers})),
        zone=next((zone for c in [*application, database] if (zone := c.environment.get("TZ"))), ""),
        service="obcms-backup" if "backup" in taken else "backup",
        image=image,
    )


def _databases(containers: Iterable[Container]) -> list[Container]:
    running = [c for c in containers if c.running]
    # The official image sets PGDATA; POSTGRES_* are often given to the application, too.
    sure = [c for c in running if _IMAGES.fullmatch(c.image.partition("@")[0]) or "PGDATA" in c.environment]
    return sure or [c for c in running if any(name in c.environment for name in _DECLARED) and not _around(c)]


def _database(project: str, containers: Sequence[Container], service: str) -> Container:
    if service:
        found = [c for c in containers if service in (c.service, c.name) and c.running]
    else:
        found = _preferred(_databases(containers), containers)
    services = {c.service or c.name for c in found}
    if len(found) == 1:
        return found[0]
    if not found:
        what = f"service {printable(service)!r}" if service else "PostgreSQL server"
        raise ConfigError(
            f"no {what} is running in the project {printable(project)}; its containers:{listing(containers)}",
            "Start it (docker compose up -d), or name the database's service: --service NAME.",
        )
    raise ConfigError(
        f"several containers of the project {printable(project)} could be the database:{listing(found)}",
        "Name its service: --service NAME." if len(services) > 1 else "Only one container of a service can be it.",
    )


def _preferred(found: list[Container], containers: Sequence[Container]) -> list[Container]:
    """Of several servers, such as replicas, the one that the application's settings name, or else its `depends_on`."""
    servers = {each.id for each in found}
    others = [each for each in containers if each.id not in servers]
    addressed = {each.database.host for each in others if each.database}
    for names in (addressed, {name for each in others for name in each.depends_on}):
        named = [each for each in found if not each.names.isdisjoint(names)]
        if len(named) == 1:
            return named
    return found


def _media(application: Sequence[Container], database: Container, names: Names) -> list[Media]:
    spared = {source(mount) for mount in database.mounts}
    found: dict[str, Media] = {}
    for container in application:
        for mount in container.mounts:
            where = source(mount)
            if mount.get("RW") and where and where not in spared and not _local(where):
                found[where] = _one(found.get(where), container, str(mount.get("Destination")), mount["Type"], names)
    return list(_distinct(sorted(found.values(), key=lambda each: each.source)))


def _one(before: Media | None, container: Container, inside: str, kind: str, names: Names) -> Media:
    mount = next(m for m in container.mounts if str(m.get("Destination")) == inside)
    where, writer = source(mount), container.service or container.name
    folder = PurePosixPath(inside).name
    left_out = ""
    if _around(container):
        left_out = f"of {writer}, which is no application"
    elif folder in _STATIC:
        left_out = "static files, which the application makes itself"
    if before and not before.left_out:
        left_out = ""
    writers = {writer, *(before.writers if before else ())}
    name = before.name if before else _NAME.sub("_", folder).strip("._-")[:64] or "media"
    return Media(name, where, names.volumes.get(where, ""), kind == "bind", tuple(sorted(writers)), left_out)


def _distinct(media: Iterable[Media]) -> Iterable[Media]:
    """Two archives of one name would be one: the later ones are called by their volume, then by number."""
    taken: set[str] = set()
    for each in media:
        name, number = each.name, 1
        if name in taken and each.key:
            name = _NAME.sub("_", each.key)[:60]
        while name in taken:
            number += 1
            name = f"{each.name[:60]}_{number}"
        taken.add(name)
        yield Media(name, each.source, each.key, each.bind, each.writers, each.left_out)


def _network(database: Container, application: Sequence[Container]) -> str:
    """The network of the database that most of the application is on."""
    if not database.addresses:
        raise ConfigError(
            f"the database {database.shown} is on no network that another container can join",
            "Give its service a network of the project.",
        )
    return max(sorted(database.addresses), key=lambda name: sum(name in c.addresses for c in application))


def _around(container: Container) -> bool:
    image = container.image.partition("@")[0].rpartition("/")[2]
    return any(_AROUND.search(text) for text in (image, container.service))


def _local(path: str) -> bool:
    """A folder of the machine itself: sockets, settings, clocks."""
    return any(path == each or path.startswith(f"{each}/") for each in _LOCAL)
