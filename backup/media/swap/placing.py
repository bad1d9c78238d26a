"""What `single` is made of: the note of how far it has come, and one place that is given its new state or its old one.

Of each place number, `new` in the open `folder` has what is to come until it is live, and `before` what was live.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from typing import Any, Final

from backup.errors import RestoreFailed
from backup.media.branch import FOLDER
from backup.media.case_folding import one_name, other_spelling
from backup.media.swap.directories import exists, opened
from backup.storage.rename import EXCHANGE, NO_LINKS, NO_REPLACE, renameat2

NOTE: Final = "places.json"
NEW: Final = "new"
BEFORE: Final = "before"
CHANGED: Final = "was changed after a restore that was cut short, and stays; what was there before that is kept"


def put_in(top: int, folder: int, number: int, place: bytes) -> None:
    """Give a place its new state, in one step; what was there is kept. Raises OSError, RestoreFailed."""
    own = str(number).encode()
    require_own_name(top, place)
    with _above(top, place) as (parent, name), opened(NEW, folder) as new:
        if exists(name, parent):
            if renameat2(new, own, parent, name, EXCHANGE):
                _keep(folder, own)
            else:
                _replace(folder, own, parent, name)
        elif not renameat2(new, own, parent, name, NO_REPLACE):
            os.rename(own, name, src_dir_fd=new, dst_dir_fd=parent)
        os.fsync(parent)
        os.fsync(new)


def require_own_name(top: int, place: bytes) -> None:
    """RestoreFailed where what is at a place, or above it, is called otherwise: it is something else of the archive,
    or may be. Raises OSError."""
    names = place.split(b"/")
    fd = os.dup(top)
    try:
        for end, name in enumerate(names, 1):
            if other := other_spelling(name, fd):
                raise one_name(b"/".join(names[:end]), other)
            if end == len(names) or not exists(name, fd):
                return
            below = os.open(name, FOLDER, dir_fd=fd)
            os.close(fd)
            fd = below
    finally:
        os.close(fd)


def take_back(top: int, folder: int, number: int, place: bytes, inode: object) -> str:
    """Give a place its old state again, whatever was done of it; what was done, in words that end before the folder's
    name, or nothing. CHANGED: what somebody has put there since, stays. Raises OSError."""
    own = str(number).encode()
    coming = identity(str(number), NEW, folder)
    try:
        with _above(top, place) as (parent, name), opened(NEW, folder) as new, opened(BEFORE, folder) as before:
            live = _inode(name, parent)
            old = new if coming not in (None, inode) else before if _inode(own, before) not in (None, inode) else None
            if live == inode and old is None:
                os.rename(name, own, src_dir_fd=parent, dst_dir_fd=new)
            elif live == inode and old is not None:
                if not renameat2(old, own, parent, name, EXCHANGE):
                    os.rename(name, own, src_dir_fd=parent, dst_dir_fd=new)
                    os.rename(own, name, src_dir_fd=old, dst_dir_fd=parent)
            elif live is None and coming == inode and old is not None:
                # Where it takes two steps, only the first was done.
                os.rename(own, name, src_dir_fd=old, dst_dir_fd=parent)
            else:
                return "" if inode in (coming, _inode(own, before)) else CHANGED
            os.fsync(parent)
    except (FileNotFoundError, NotADirectoryError):
        return "" if coming == inode else CHANGED
    return "is as it was before a restore that was cut short; what was live meanwhile is kept"


def _keep(folder: int, own: bytes) -> None:
    """What was exchanged with the new one lies where that was."""
    with opened(NEW, folder) as new, opened(BEFORE, folder) as before:
        os.rename(own, own, src_dir_fd=new, dst_dir_fd=before)
        os.fsync(before)


def _replace(folder: int, own: bytes, parent: int, name: bytes) -> None:
    """Where the file system cannot exchange: a file that can be linked is replaced in one step all the same, all else
    in two."""
    with opened(NEW, folder) as new, opened(BEFORE, folder) as before:
        if not _linked(name, parent, own, before):
            os.rename(name, own, src_dir_fd=parent, dst_dir_fd=before)
        os.fsync(before)
        os.rename(own, name, src_dir_fd=new, dst_dir_fd=parent)


def _linked(name: bytes, parent: int, own: bytes, before: int) -> bool:
    if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        return False
    try:
        os.link(name, own, src_dir_fd=parent, dst_dir_fd=before, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return False
    return True


@contextlib.contextmanager
def _above(top: int, place: bytes) -> Iterator[tuple[int, bytes]]:
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


def _inode(name: bytes, folder: int) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino
    return None


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
