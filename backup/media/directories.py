"""Directories by descriptors: opened below one another, told apart, emptied. No link is followed."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Far below the usual limit of 1024 descriptors; a deeper tree is climbed out of by `..`.
OPEN_LEVELS: Final = 64

Inode = tuple[int, int]


def identity(found: os.stat_result) -> Inode:
    """What tells an inode from all others."""
    return found.st_dev, found.st_ino


@dataclass(slots=True)
class OpenLevel:
    """A directory on the way down a tree. `fd` is -1 when it was closed to spare descriptors."""

    name: bytes
    identity: Inode
    fd: int

    def close(self) -> None:
        """Close the descriptor; harmless when done twice."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


@contextlib.contextmanager
def closed_after(fd: int) -> Iterator[int]:
    """An open descriptor, closed at the end of the body."""
    try:
        yield fd
    finally:
        os.close(fd)


def open_directory(name: bytes | str, folder: int) -> contextlib.AbstractContextManager[int]:
    """Open a directory in `folder` for the body; its descriptor. Raises OSError."""
    return closed_after(os.open(name, FOLDER, dir_fd=folder))


def descend(folder: int, names: Iterable[bytes]) -> int:
    """Open the directory that `names` lead to from the open `folder`; a descriptor of its own. Raises OSError."""
    fd = os.dup(folder)
    for name in names:
        with closed_after(fd):
            below = os.open(name, FOLDER, dir_fd=fd)
        fd = below
    return fd


def exists(name: bytes, folder: int) -> bool:
    """Whether anything has that name, a broken link too. Raises OSError."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def remove_all(folder: int, *, but: Callable[[str], bool] = lambda name: False) -> None:
    """Remove what is in the open directory `folder`, but the names of which `but` says so. Raises OSError.

    A directory within a directory is first moved up into `folder`, so two descriptors are enough at any depth, and what
    a kill leaves is removed by the next call.
    """
    token, number = os.fsencode(secrets.token_hex(8)), 0
    while names := [os.fsencode(name) for name in os.listdir(folder) if not but(name)]:
        for name in names:
            if not _is_directory(name, folder):
                os.unlink(name, dir_fd=folder)
                continue
            with open_directory(name, folder) as fd:
                for inner in map(os.fsencode, os.listdir(fd)):
                    if _is_directory(inner, fd):
                        number += 1
                        os.rename(inner, b"%s-%d" % (token, number), src_dir_fd=fd, dst_dir_fd=folder)
                    else:
                        os.unlink(inner, dir_fd=fd)
            os.rmdir(name, dir_fd=folder)


def _is_directory(name: bytes, folder: int) -> bool:
    if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return False
    if os.geteuid():  # whoever has no privileges must first allow himself to change what he owns
        os.chmod(name, 0o700, dir_fd=folder)
    return True
