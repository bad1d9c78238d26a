"""What is not the application's in the root of a volume, known by more than its name: what a restore keeps there, and
what the file system does. Whatever else is called so is archived, exchanged and left alone as all other files are.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Final

from backup.media.directories import FOLDER, closed_after

PREFIX: Final = ".obcms-restore-"
# All that a restore of a set, or of single paths, puts directly in its directory. Empty: it was killed just then.
_MADE: Final = {"new", "old", "before", "state", "state.new", "state.discarding", "places.json", "places.json.new"}
# Of these, at least one is whole in a directory of ours that somebody has put something into.
_TELLING: Final = ({"new", "old"}, {"new", "before"}, {"state.discarding"}, {"places.json"})
# What was moved up by a removal that was killed.
_REMOVED: Final = re.compile(r"[0-9a-f]{16}-[0-9]+")
_LOST_FOUND: Final = b"lost+found"
# That of ext2, ext3 and ext4, which alone make one.
_LOST_FOUND_INODE: Final = 11


def is_of_a_restore(name: bytes, root: int) -> bool:
    """Whether `name` in the open root of a volume is a directory that a restore made. Raises OSError."""
    if not name.startswith(PREFIX.encode()):
        return False
    try:
        fd = os.open(name, FOLDER, dir_fd=root)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
            return False
        # Whom it lets in is told without entering it.
        return error.errno == errno.EACCES and is_private(os.stat(name, dir_fd=root, follow_symlinks=False))
    with closed_after(fd):
        return is_made_by_a_restore(fd)


def is_made_by_a_restore(folder: int) -> bool:
    """Whether an open directory of such a name is ours alone, with what a restore makes in it, or nothing.

    What somebody has put there besides does not make it another's.
    """
    names, others = set(os.listdir(folder)), strays(folder)
    return is_private(os.fstat(folder)) and (not others or any(telling <= names for telling in _TELLING))


def is_ours(name: str) -> bool:
    """Whether a restore gives that name to what it puts directly in its directory."""
    return name in _MADE or bool(_REMOVED.fullmatch(name))


def strays(folder: int) -> list[str]:
    """What somebody else has put directly into the open directory of a restore, by name."""
    return sorted(name for name in os.listdir(folder) if not is_ours(name))


def is_of_the_file_system(name: bytes, root: int) -> bool:
    """Whether `name` is called as what file systems make in their root, and is that in the open root of a volume."""
    if name != _LOST_FOUND:
        return False
    try:
        found = os.stat(name, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_ino == _LOST_FOUND_INODE


def is_private(found: os.stat_result) -> bool:
    """Whether what was found belongs to us, and lets nobody else in."""
    return found.st_uid in (0, os.geteuid()) and not stat.S_IMODE(found.st_mode) & 0o077
