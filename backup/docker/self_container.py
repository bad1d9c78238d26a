"""Which container this process runs in, and how its volumes are mounted elsewhere."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from docker.types import Mount

from backup.docker.container import Container, source
from backup.errors import ConfigError

_OWN_ID: Final = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) ")

SpoolMount = Mount


def spool_mount(own: Container | None, local: Path, inside: PurePosixPath) -> SpoolMount:
    """How a helper mounts the directory that is `local` here: the same volume, or the same host directory.

    Read-only: a pipe can be written to all the same, but a client that finds it gone makes no file in its place.
    """
    if own is None:
        return Mount(target=str(inside), source=str(local), type="bind", read_only=True)
    if found := _mounted(own, local, str(inside), writable=False):
        return found
    raise ConfigError(
        f"no volume is mounted at {local}, so helper containers cannot hand over the dump",
        "Mount `backup_spool:/spool` as docker-compose.backup.yml does, or set DB_HOST for the network way.",
    )


def same_mount(own: Container, directory: Path, *, writable: bool) -> SpoolMount:
    """How another container mounts what our own has at `directory` or above it, at the same place."""
    for place in (directory, *directory.parents):
        if found := _mounted(own, place, str(place), writable=writable):
            return found
    raise ConfigError(
        f"nothing is mounted at {directory}", "Mount it in the backup service, as docker-compose.backup.yml does."
    )


def _mounted(own: Container, place: Path, target: str, *, writable: bool) -> SpoolMount | None:
    """What our own container has at exactly `place`, for another one at `target`."""
    for mount in own.mounts:
        if mount.get("Destination") == str(place):
            return Mount(target=target, source=source(mount), type=mount["Type"], read_only=not writable)
    return None


def own_ids() -> Iterator[str]:
    """Ids under which this process's container may be known; none on a plain host."""
    if not (Path("/.dockerenv").exists() or os.environ.get("container")):
        return
    with contextlib.suppress(OSError):
        if match := _OWN_ID.search(Path("/proc/self/mountinfo").read_text()):
            yield match[1]
    yield socket.gethostname()
