"""File system calls that more than one module needs: syncing, free space, and what the disk says, in our words."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from backup.errors import NoSpace, StoreError

# What the kernel calls the kinds of file systems that are memory.
MEMORY = frozenset({"tmpfs", "ramfs"})
ON_A_DISK: Final = "Mount a volume on a disk there."
# Bytes of the record of a run.
_RECORD: Final = 4096


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an OSError about the backup volume into a StoreError that names `path` and the remedy."""
    try:
        yield
    except OSError as error:
        raise store_error(error, path) from error


def store_error(error: OSError, path: Path) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"the backup volume is full{_exhausted(error, path)}: {path.name} could not be written;"
            " earlier sets are untouched",
            NoSpace.remedy,
        )
    reason = error.strerror or str(error)
    hints = {
        errno.EROFS: "Mount the backup volume read-write; in a container only mounted folders can be written.",
        errno.EACCES: "The backup volume must belong to the user this container runs as.",
        errno.EIO: "The disk reports errors: check the kernel log, and take a backup to another disk now.",
    }
    return StoreError(f"{path}: {reason}", hints.get(error.errno or 0, ""))


def _exhausted(error: OSError, path: Path) -> str:
    """Name what has run out if it is not the bytes: the quota, or the inodes of a file system that counts them."""
    if error.errno == errno.EDQUOT:
        return " (its quota is used up)"
    with contextlib.suppress(OSError):
        found = os.statvfs(path if path.is_dir() else path.parent)
        if found.f_files and not found.f_favail and found.f_bavail:
            return " (no inodes are left)"
    return ""


def try_write(root: Path) -> None:
    """Raise StoreError unless the backup volume takes what the record of a run needs: a file, and bytes in it."""
    directory = next((each for each in (root / "state" / "runs", root / "state") if each.is_dir()), root)
    with storing(directory), TemporaryFile(dir=directory) as file:
        file.write(b"\0" * _RECORD)
        file.flush()


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
    return disk_space(directory)[0]


def disk_space(directory: Path) -> tuple[int, int]:
    """(free for an unprivileged user, total) bytes of the disk where `directory` lies."""
    with storing(directory):
        found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def in_memory(directory: Path) -> str:
    """Why what lies in `directory` does not last, and empty where it lies on a disk, or that cannot be told."""
    with contextlib.suppress(OSError):
        if (kind := _file_system(directory)) in MEMORY:
            return f"{directory} is memory ({kind}): its content is lost when its container or machine stops"
    return ""


def _file_system(directory: Path) -> str:
    """The kind of file system that holds `directory`, as the kernel calls it; empty where its mount is not seen."""
    device = directory.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == wanted:
            return source.split()[0]
    return ""


def statuses_of(directory: Path, names: Iterable[str]) -> dict[str, os.stat_result | None]:
    """What the disk says of what has these names, which may be links; None where there is nothing."""
    found: dict[str, os.stat_result | None] = {}
    before = f"{directory}/"
    for name in names:
        try:
            found[name] = os.lstat(before + name)
        except OSError:
            found[name] = None
    return found
