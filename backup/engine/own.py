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

from backup.containers import Container
from backup.errors import ConfigError

_OWN_ID: Final = re.compile(r"/containers/([0-9a-f]{64})/(?:hostname|hosts|resolv\.conf) ")

SpoolMount = Mount


def spool_mount(own: Container | None, local: Path, inside: PurePosixPath) -> SpoolMount:
    """How a helper mounts the directory that is `local` here: the same volume, or the same host directory.

    Read-only: a pipe can be written to all the same, but a client that finds it gone makes no file in its place.
    """
    if own is None:
        return Mount(target=str(inside), source=str(local), type="bind", read_only=True)
    for mount in own.mounts:
        if mount.get("Destination") == str(local):
            source = mount["Name"] if mount["Type"] == "volume" else mount["Source"]
            return Mount(target=str(inside), source=source, type=mount["Type"], read_only=True)
    raise ConfigError(
        f"no volume is mounted at {local}, so helper containers cannot hand over the dump",
        "Mount `backup_spool:/spool` as docker-compose.backup.yml does, or set DB_HOST for the network way.",
    )


def same_mount(own: Container, directory: Path, *, writable: bool) -> SpoolMount:
    """How another container mounts what our own has at `directory` or above it, at the same place."""
    places = sorted((directory, *directory.parents), key=lambda path: -len(path.parts))
    for place in places:
        for mount in own.mounts:
            if mount.get("Destination") == str(place):
                source = mount["Name"] if mount["Type"] == "volume" else mount["Source"]
                return Mount(target=str(place), source=source, type=mount["Type"], read_only=not writable)
    raise ConfigError(
        f"nothing is mounted at {directory}", "Mount it in the backup service, as docker-compose.backup.yml does."
    )


def own_ids() -> Iterator[str]:
    """Ids under which this process's container may be known; none on a plain host."""
    if not (Path("/.dockerenv").exists() or os.environ.get("container")):
        return
    with contextlib.suppress(OSError):
        if match := _OWN_ID.search(Path("/proc/self/mountinfo").read_text()):
            yield match[1]
    yield socket.gethostname()
