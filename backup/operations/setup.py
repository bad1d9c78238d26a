"""An overlay for a Compose project: the plan from what its containers say, and that as a Compose file.

Which container is the database, which volumes are media, who writes to them: it refuses to guess between several.
Names come from labels and may be anything: what is not plain is quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from backup.docker.container import Container, listing, mount_source
from backup.errors import ConfigError
from backup.formatting import printable

_SERVERS: Final = re.compile(r"(?:.*/)?(?:postgres|postgis|pgvector|timescaledb)[^/]*")
_DECLARED: Final = ("POSTGRES_PASSWORD", "POSTGRES_PASSWORD_FILE", "POSTGRES_USER", "POSTGRES_DB")
# What holds nothing that a restore would need, or brings a backup of its own.
_AROUND: Final = re.compile(
    r"(?:^|[^a-z])(?:redis|valkey|memcached|rabbitmq|elasticsearch|opensearch|minio|nginx|traefik|caddy|haproxy|pgbouncer"
    r"|pgadmin|mailpit|mailhog|prometheus|grafana|loki)(?:[^a-z]|$)"
)
_STATIC: Final = frozenset({"static", "staticfiles", "static_root", "assets"})
_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")
_LOCAL: Final = ("/var/run", "/run", "/tmp", "/proc", "/sys", "/dev", "/etc")  # noqa: S108 - read, not written

# Of the file: what needs no quotes, and its fixed parts.
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_+.-]+)*")
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_IMAGE: Final = re.compile(r"[a-z0-9][A-Za-z0-9._/:-]*")
_DEFAULT_IMAGE: Final = "obcms-backup:latest"
_HEAD: Final = """\
# The backup sidecar for the Compose project {project}, made by `setup` from what its containers say. Check it, then
# lay it over the project's own file, from that one's folder:
#
#   docker compose -f docker-compose.yml -f docker-compose.backup.yml up -d {service}
#   docker compose -f docker-compose.yml -f docker-compose.backup.yml run --rm {service} doctor
#
# Every other setting has a default; README.md and docker-compose.backup.yml of the backup sidecar name them all.

services:
  {service}:
    image: ${{OBCMS_BACKUP_IMAGE:-{image}}}
    restart: unless-stopped
    networks:
      - {network}
    environment:
      TZ: {zone}
      DB_SERVICE: {database}
"""
_TAIL: Final = """\
      - backup_spool:/spool
      # The engine, to run pg_dump beside the database. Access to it is as good as root on this machine.
      - ${DOCKER_SOCKET:-/var/run/docker.sock}:/var/run/docker.sock
    init: false
    stop_grace_period: 40s
    cap_drop: [ALL]
    cap_add: [DAC_READ_SEARCH]
    security_opt: ["no-new-privileges:true"]
    read_only: true
    tmpfs:
      - /tmp:size=16m,noexec,nosuid,nodev
      - /run:size=1m,noexec,nosuid,nodev
    mem_limit: 1g
    pids_limit: 256
    logging:
      driver: json-file
      options:
        max-size: 10m
        max-file: "5"

volumes:
"""
_SPOOL: Final = """\
  # Memory, not disk: pipes between the helper containers and the sidecar.
  backup_spool:
    driver: local
    driver_opts:
      type: tmpfs
      device: tmpfs
      o: "size=1m,mode=0700"
"""


@dataclass(frozen=True)
class ComposeNames:
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
        f"which project is to be backed up? Those with a running PostgreSQL server:{shown}",
        "Name it: --project NAME." if likely else "Start it first: docker compose up -d.",
    )


def plan(
    project: str,
    containers: Sequence[Container],
    names: ComposeNames,
    ours: Sequence[Container],
    service: str,
    image: str,
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
    sure = [c for c in running if _SERVERS.fullmatch(c.image.partition("@")[0]) or "PGDATA" in c.environment]
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


def _media(application: Sequence[Container], database: Container, names: ComposeNames) -> list[Media]:
    spared = {mount_source(mount) for mount in database.mounts}
    found: dict[str, Media] = {}
    for container in application:
        for mount in container.mounts:
            where = mount_source(mount)
            if mount.get("RW") and where and where not in spared and not _local(where):
                found[where] = _one(found.get(where), container, str(mount.get("Destination")), mount["Type"], names)
    return list(_distinct(sorted(found.values(), key=lambda each: each.source)))


def _one(before: Media | None, container: Container, inside: str, kind: str, names: ComposeNames) -> Media:
    mount = next(m for m in container.mounts if str(m.get("Destination")) == inside)
    where, writer = mount_source(mount), container.service or container.name
    folder = PurePosixPath(inside).name
    left_out = ""
    if _around(container):
        left_out = f"of {writer}, which is not an application"
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


def overlay(plan: Plan) -> str:
    """The whole file."""
    return "".join([_head(plan), *_environment(plan), *_mounts(plan), _TAIL, *_volumes(plan), _SPOOL, *_networks(plan)])


def _head(plan: Plan) -> str:
    return _HEAD.format(
        project=printable(plan.project),
        service=plan.service,
        image=plan.image if _IMAGE.fullmatch(plan.image) else _DEFAULT_IMAGE,
        network=_quoted(plan.network_key) if plan.network_key else "backup_network",
        zone=_zone(plan.zone),
        database=_quoted(plan.database.service or plan.database.name),
    )


def _zone(zone: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_+/-]+", zone):
        return f"${{TZ:-{zone}}}"
    return "${TZ:-UTC} # not set in the project: zone of schedules, file names and logs"


def _environment(plan: Plan) -> Iterator[str]:
    if not any(name in plan.database.environment for name in ("POSTGRES_PASSWORD", "POSTGRES_PASSWORD_FILE")):
        yield "      # The database's container does not say its password: set it, or DB_PASSWORD_FILE.\n"
        yield "      # DB_PASSWORD: ${POSTGRES_PASSWORD}\n"
    if plan.stop:
        stop = _quoted(",".join(plan.stop))
        yield f"      BACKUP_RESTORE_STOP: {stop} # stopped while a restore swaps: they write to the media\n"
    if not _taken(plan):
        yield "      BACKUP_ALLOW_EMPTY: none # no volume of the application was found\n"


def _mounts(plan: Plan) -> Iterator[str]:
    yield "    volumes:\n      - obcms_backups:/backups\n"
    for each in plan.media:
        if each.left_out:
            yield f"      # left out: {printable(each.source)}, {printable(each.left_out)}\n"
        elif each.bind:
            target = f"target: /volumes/{each.name}, read_only: true"
            yield f"      - {{type: bind, source: {_quoted(each.source)}, {target}}}\n"
        else:
            yield f"      - {_key(each)}:/volumes/{each.name}:ro\n"


def _volumes(plan: Plan) -> Iterator[str]:
    yield "  # Exactly this name: `down`, another folder or a renamed project must not lose the backups.\n"
    yield f"  obcms_backups:\n    name: {_quoted(f'{plan.project}_backups')}\n"
    for each in _taken(plan):
        if not each.key and not each.bind:
            yield f"  {_key(each)}:\n    external: true\n    name: {_quoted(each.source)}\n"


def _networks(plan: Plan) -> Iterator[str]:
    if not plan.network_key:
        yield f"\nnetworks:\n  backup_network:\n    external: true\n    name: {_quoted(plan.network)}\n"


def _taken(plan: Plan) -> list[Media]:
    return [each for each in plan.media if not each.left_out]


def _key(media: Media) -> str:
    """What the file calls the volume. Compose's own names need no quotes."""
    return media.key or f"backed_up_{media.name}".replace(".", "_").lower()


def _quoted(text: str) -> str:
    """`text` as a YAML scalar in which Compose replaces nothing."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return json.dumps(text).replace("$", "$$")
