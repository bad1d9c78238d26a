"""What `single` is made of: the note of how far it has come, and renames of single names below open directories."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
from collections.abc import Iterator
from typing import Any, Final

from backup.errors import RestoreFailed
from backup.sources.branch import FOLDER
from backup.trees.places import opened

NOTE: Final = "places.json"
NOREPLACE: Final = 1
EXCHANGE: Final = 2
# What a file system says that cannot exchange two names in one step.
_UNABLE: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


@contextlib.contextmanager
def above(top: int, place: bytes) -> Iterator[tuple[int, bytes]]:
    """The directory that a place is in, open, and its name there. No link is followed."""
    *names, last = place.split(b"/")
    fd = os.dup(top)
    try:
        for name in names:
            below = os.open(name, FOLDER, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd, last
    finally:
        os.close(fd)


def rename(source: int, old: bytes, target: int, new: bytes, flags: int) -> bool:
    """renameat2; False where the file system does not know the flag. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(source, old, target, new, flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number))


def identity(name: str, side: str, folder: int) -> int | None:
    """The inode of `name` in a directory of `folder`; None if it is not there."""
    with opened(side, folder) as fd, contextlib.suppress(FileNotFoundError):
        return os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
    return None


def listed(side: str, folder: int) -> list[str]:
    """What is in a directory of `folder`; nothing if there is none."""
    with contextlib.suppress(FileNotFoundError), opened(side, folder) as fd:
        return os.listdir(fd)
    return []


def read_note(folder: int) -> dict[str, Any] | None:
    """What is noted in the open `folder`; None without a note."""
    try:
        fd = os.open(NOTE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        data = file.read()
    try:
        found: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise RestoreFailed(
            "the note of a single restore is damaged; nothing was moved", "Look at it by hand."
        ) from error
    return found


def write_note(folder: int, note: dict[str, Any]) -> None:
    """Note it, durably."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(f"{NOTE}.new", flags, 0o600, dir_fd=folder)
    with os.fdopen(fd, "wb") as file:
        file.write(json.dumps(note).encode())
        file.flush()
        os.fsync(fd)
    os.rename(f"{NOTE}.new", NOTE, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)
