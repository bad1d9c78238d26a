"""Everything about an inode besides its content: mode, owners, time, user attributes and ACLs, read and set exactly."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_ACL: Final = b"system.posix_acl_"
_STORED: Final = (b"user.", _ACL)
_ABSENT: Final = (errno.ENOTSUP, errno.ENODATA)
_SET_IDS: Final = stat.S_ISUID | stat.S_ISGID

OWNERS = "owners were left as they are: this process may not change them"
SET_IDS = "set-user-ID and set-group-ID bits were left out: this process may not set them"
ATTRIBUTES = "attributes were left out: this file system does not have them"
FOREIGN = "attributes other than the user's and ACLs were left out"


@dataclass(frozen=True)
class Metadata:
    """`mode` without the kind; `mtime_ns` nanoseconds since 1970; `attributes` user attributes and ACLs by name."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    attributes: Mapping[bytes, bytes] = field(default_factory=dict)


def read(fd: int) -> Metadata:
    """What an open file or directory has now. Raises OSError."""
    found = os.fstat(fd)
    attributes = {name: os.getxattr(fd, name) for name in _names(fd)}
    return Metadata(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns, attributes)


def apply(fd: int, wanted: Metadata, notes: set[str]) -> None:
    """Give an open file or directory exactly this, also no other attributes. Raises OSError.

    What a process without any privilege, or a file system without attributes, cannot do is added to `notes` instead.
    """
    _apply_attributes(fd, wanted.attributes, notes)
    if _may_chown():
        os.fchown(fd, wanted.uid, wanted.gid)
    elif (os.fstat(fd).st_uid, os.fstat(fd).st_gid) != (wanted.uid, wanted.gid):
        notes.add(OWNERS)
    # After the owners: changing those takes the set-ID bits away.
    os.fchmod(fd, wanted.mode)
    if wanted.mode & _SET_IDS and stat.S_IMODE(os.fstat(fd).st_mode) != wanted.mode:
        if not os.geteuid():  # the kernel drops the bit without a word
            raise PermissionError(errno.EPERM, "the capability FSETID is missing")
        notes.add(SET_IDS)
    os.utime(fd, ns=(wanted.mtime_ns, wanted.mtime_ns))


def apply_to_link(name: bytes, folder: int, wanted: Metadata, notes: set[str]) -> None:
    """Give a symbolic link in the open directory `folder` its owners and time. Raises OSError."""
    if _may_chown():
        os.chown(name, wanted.uid, wanted.gid, dir_fd=folder, follow_symlinks=False)
    elif (os.geteuid(), os.getegid()) != (wanted.uid, wanted.gid):
        notes.add(OWNERS)
    os.utime(name, ns=(wanted.mtime_ns, wanted.mtime_ns), dir_fd=folder, follow_symlinks=False)


def _may_chown() -> bool:
    return os.geteuid() == 0


def _names(fd: int) -> list[bytes]:
    try:
        return [name for name in map(os.fsencode, os.listxattr(fd)) if name.startswith(_STORED)]
    except OSError as error:
        if error.errno in _ABSENT:
            return []
        raise


def _apply_attributes(fd: int, wanted: Mapping[bytes, bytes], notes: set[str]) -> None:
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
            if error.errno != errno.ENOTSUP:
                raise
            notes.add(ATTRIBUTES)
