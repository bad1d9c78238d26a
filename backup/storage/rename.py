"""Renaming without taking a name from what has it, also on file systems that know neither hard links nor the flag."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

NO_REPLACE: Final = 1
EXCHANGE: Final = 2
# What file systems say that have no hard links, or no more of one file.
NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_HERE: Final = -100
# What a file system says that does not know the flag.
_UNABLE: Final = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def renameat2(source: int, old: bytes, target: int, new: bytes, flags: int) -> bool:
    """Rename from one open directory to another; False where the file system does not know the flag. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(source, old, target, new, flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number))


def rename_new(old: Path, new: Path) -> None:
    """Give a file a name that nothing has. FileExistsError for one that is taken, by a broken link too.

    In one step where the file system knows how; elsewhere it is looked for first.
    """
    if renameat2(_HERE, os.fsencode(old), _HERE, os.fsencode(new), NO_REPLACE):
        return
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
    old.rename(new)
