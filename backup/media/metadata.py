"""Everything about an inode besides its content: mode, owners, time, user attributes and ACLs, read and set exactly."""

from __future__ import annotations

import errno
import functools
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from backup.formatting import printable
from backup.media.tar_writer import NO_ATTRIBUTES

_ACL: Final = b"system.posix_acl_"
_STORED: Final = (b"user.", _ACL)
_SHOWN: Final = 120
_ABSENT: Final = (errno.ENOTSUP, errno.ENODATA)
_OUT_OF_RANGE: Final = (errno.EINVAL, errno.ERANGE, errno.EOVERFLOW)
# What file systems say that cannot hold a value; then, also of an attribute that is too long for them.
_REFUSED: Final = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, *_OUT_OF_RANGE)
_NO_ATTRIBUTE: Final = (*_REFUSED, errno.E2BIG, errno.ENOSPC, errno.EDQUOT)
# What every file system can hold: the last second of 31 bits. And the coarsest unit of any, FAT's.
_LATEST_NS: Final = (2**31 - 1) * 10**9
_COARSEST_NS: Final = 2 * 10**9
_SET_IDS: Final = stat.S_ISUID | stat.S_ISGID
_CHOWN, _FOWNER, _FSETID = 0, 3, 4

OWNERS = "owners were left as they are: this process may not change them, or the file system does not store them"
SET_IDS = "set-user-ID and set-group-ID bits were left out, since they or the owners could not be set"
MODES = "modes are the nearest that this file system can store"
ATTRIBUTES = "attributes were left out: this file system does not support them, or not so long ones"
TIMES = "times are the nearest that this file system can store"
FOREIGN = "attributes other than the user's and ACLs were left out"


class Notes:
    """What could not be set as it was: of how many, and the first of them. `path`: what is at work, below the root."""

    def __init__(self) -> None:
        self.path = b""
        self._found: dict[str, tuple[int, bytes]] = {}

    def add(self, what: str) -> None:
        """Of what is at work."""
        count, first = self._found.get(what, (0, self.path))
        self._found[what] = count + 1, first

    @property
    def lines(self) -> tuple[str, ...]:
        """One for each kind, for people."""
        return tuple(f"{what} ({_such(*found)})" for what, found in sorted(self._found.items()))


def _such(count: int, first: bytes) -> str:
    name = printable(os.fsdecode(first[-_SHOWN:])) or "the volume's root"
    return f"{name} and {count - 1:,} more" if count > 1 else name


class Metadata(NamedTuple):
    """`mode` without the kind; `mtime_ns` nanoseconds since 1970; `attributes` user attributes and ACLs by name."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    attributes: Mapping[bytes, bytes] = NO_ATTRIBUTES


def read_metadata(fd: int) -> Metadata:
    """What an open file or directory has now. Raises OSError."""
    found = os.fstat(fd)
    attributes = {name: os.getxattr(fd, name) for name in _names(fd)}
    return Metadata(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns, attributes)


def apply_metadata(fd: int, wanted: Metadata, notes: Notes) -> None:
    """Give an open file or directory exactly this, also no other attributes. Raises OSError.

    What a process without any privilege cannot set, or the file system does not take, becomes the nearest that there
    is, and is added to `notes`. A process that should have a capability and has not fails.
    """
    _apply_attributes(fd, wanted.attributes, notes)
    found = os.fstat(fd)  # a new file has most of it already
    owned = (found.st_uid, found.st_gid) == (wanted.uid, wanted.gid) or _apply_owners(
        lambda uid, gid: os.fchown(fd, uid, gid), lambda: os.fstat(fd), wanted, notes
    )
    # After the owners: changing those takes the set-ID bits away. Never for another owner than they were given for.
    if wanted.mode & _SET_IDS or stat.S_IMODE(found.st_mode) != wanted.mode:
        _apply_mode(fd, wanted.mode, wanted.mode if owned else wanted.mode & ~_SET_IDS, notes)
    _apply_time(lambda time: os.utime(fd, ns=(time, time)), lambda: os.fstat(fd), wanted.mtime_ns, notes)


def apply_to_link(name: bytes, folder: int, wanted: Metadata, notes: Notes) -> None:
    """Give a symbolic link in the open directory `folder` its owners and time. Raises OSError."""
    _apply_owners(
        lambda uid, gid: os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False),
        lambda: os.stat(name, dir_fd=folder, follow_symlinks=False),
        wanted,
        notes,
    )
    _apply_time(
        lambda time: os.utime(name, ns=(time, time), dir_fd=folder, follow_symlinks=False),
        lambda: os.stat(name, dir_fd=folder, follow_symlinks=False),
        wanted.mtime_ns,
        notes,
    )


def _apply_owners(
    change: Callable[[int, int], None], look: Callable[[], os.stat_result], wanted: Metadata, notes: Notes
) -> bool:
    """Set the owners, or one of them; whether both are as wanted."""
    owners = (wanted.uid, wanted.gid)
    if not os.geteuid():
        if _taken(lambda: change(*owners), _CHOWN):
            return True
        for uid, gid in ((wanted.uid, -1), (-1, wanted.gid)):
            _taken(lambda uid=uid, gid=gid: change(uid, gid), _CHOWN)  # type: ignore[misc]
    found = look()
    if (found.st_uid, found.st_gid) == owners:
        return True
    notes.add(OWNERS)
    return False


def _apply_mode(fd: int, wanted: int, nearest: int, notes: Notes) -> None:
    _taken(lambda: os.fchmod(fd, nearest), _FOWNER)
    there = stat.S_IMODE(os.fstat(fd).st_mode)
    if (there ^ nearest) & _SET_IDS and not os.geteuid() and not _has(_FSETID):  # dropped without a word
        raise PermissionError(errno.EPERM, "the capability FSETID is missing")
    if (there ^ wanted) & _SET_IDS:
        notes.add(SET_IDS)
    if (there ^ wanted) & ~_SET_IDS:
        notes.add(MODES)


def _apply_time(change: Callable[[int], None], look: Callable[[], os.stat_result], wanted: int, notes: Notes) -> None:
    """Set the time, or the nearest one. Most kernels bring it into range without a word; some file systems refuse."""
    if not _taken(lambda: change(wanted), _FOWNER):
        _taken(lambda: change(min(max(wanted, 0), _LATEST_NS)), _FOWNER)
    if abs(look().st_mtime_ns - wanted) > _COARSEST_NS:
        notes.add(TIMES)


def _taken(change: Callable[[], None], capability: int) -> bool:
    """Whether the file system takes a change. Raises OSError where the lack of this capability is the reason."""
    try:
        change()
    except OSError as error:
        if error.errno not in _REFUSED or (error.errno == errno.EPERM and not os.geteuid() and not _has(capability)):
            raise
        return False
    return True


@functools.cache
def _has(capability: int) -> bool:
    # What cannot be asked is taken for given: then the file system is the reason.
    status = Path("/proc/self/status").read_bytes()
    found = re.search(rb"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is None or bool(int(found[1], 16) >> capability & 1)


def _names(fd: int) -> list[bytes]:
    try:
        return [name for name in map(os.fsencode, os.listxattr(fd)) if name.startswith(_STORED)]
    except OSError as error:
        if error.errno in _ABSENT:
            return []
        raise


def _apply_attributes(fd: int, wanted: Mapping[bytes, bytes], notes: Notes) -> None:
    for name in _names(fd):  # such as an ACL that the directory above hands down
        if name not in wanted:
            os.removexattr(fd, name)
    for name, value in wanted.items():
        if not name.startswith(_STORED):
            notes.add(FOREIGN)
            continue
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTE:
                raise
            notes.add(ATTRIBUTES)
