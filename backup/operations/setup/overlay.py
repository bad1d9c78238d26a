"""The plan as a Compose file. Names come from labels and may be anything: what is not plain is quoted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from backup.formatting import printable
from backup.operations.setup.find import Media, Plan

_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_+.-]+)*")
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_IMAGE: Final = re.compile(r"[a-z0-9][A-Za-z0-9._/:-]*")
_DEFAULT_IMAGE: Final = "obcms-backup:latest"
_HEAD: Final = """\
# The backup sidecar for the Compose project {project}, made by `setup` from what its containers say. Look it over, then
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
    return "${TZ:-UTC} # none is set in the project: schedules, file names and logs are in this one"


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
