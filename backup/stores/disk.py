"""What the disk says, in our words."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from backup.errors import NoSpace, StoreError


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an OSError about the backup volume into a StoreError that names `path` and the remedy."""
    try:
        yield
    except OSError as error:
        raise translated(error, path) from error


def translated(error: OSError, path: Path) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"the backup volume is full: {path.name} could not be written; earlier sets are untouched",
            "Free space in the volume (see `list`), or give it a larger disk.",
        )
    reason = error.strerror or str(error)
    hints = {
        errno.EROFS: "Mount the backup volume read-write; of a container, only what is mounted can be written.",
        errno.EACCES: "The backup volume must belong to the user this container runs as.",
        errno.EIO: "The disk reports errors: check the kernel log, and take a backup to another disk now.",
    }
    return StoreError(f"{path}: {reason}", hints.get(error.errno or 0, ""))


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    with storing(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def free_space(directory: Path) -> int:
    """Bytes that an unprivileged user may still write where `directory` lies."""
    return room(directory)[0]


def room(directory: Path) -> tuple[int, int]:
    """(free for an unprivileged user, total) bytes of the disk where `directory` lies."""
    with storing(directory):
        found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def file_size(path: Path) -> int | None:
    """The bytes of what has that name, which may be a link; None where there is nothing."""
    with contextlib.suppress(OSError):
        return path.lstat().st_size
    return None


def file_inode(path: Path) -> int | None:
    """The number of what has that name; None where there is nothing."""
    with contextlib.suppress(OSError):
        return path.lstat().st_ino
    return None
