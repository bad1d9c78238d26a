"""The open directories from the root of a tree down to where an extraction is, with few descriptors.

No link is followed: each name is opened below the directory that is open already. A directory gets its owners, mode
and time when it is left, so after all that lies in it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

from backup.media import metadata
from backup.media.directories import FOLDER, OPEN_LEVELS, Identity, identity
from backup.media.metadata import Metadata, Notes


@dataclass(slots=True)
class _Level:
    name: bytes
    identity: Identity
    fd: int  # -1 when closed to spare descriptors
    wanted: Metadata | None
    path: bytes = b""  # as notes name it


class Branch:
    """The branch that starts at the open directory `fd`, which it takes over. `notes` gets what could not be set."""

    def __init__(self, fd: int, notes: Notes) -> None:
        self._levels = [_Level(b"", identity(os.fstat(fd)), fd, None)]
        self._notes = notes

    def close(self) -> None:
        """Close every descriptor; what was not left stays as it is."""
        for level in self._levels:
            _close(level)

    def root(self, wanted: Metadata) -> None:
        """What the target itself gets in the end."""
        if self._levels[0].wanted:
            raise FileExistsError(errno.EEXIST, "root")
        self._levels[0].wanted = wanted

    def folder(self, names: Sequence[bytes]) -> int:
        """A descriptor for that directory below the target, until the next call. Raises OSError."""
        common = 0
        while common < min(len(names), len(self._levels) - 1) and names[common] == self._levels[common + 1].name:
            common += 1
        while len(self._levels) - 1 > common:
            self._leave()
        for name in names[common:]:
            self._enter(name, None)
        return self._levels[-1].fd

    def make(self, name: bytes, folder: int, wanted: Metadata) -> None:
        """A new directory in the one `folder` gave; entered."""
        os.mkdir(name, 0o700, dir_fd=folder)
        self._enter(name, wanted)
        self._levels[-1].path = self._notes.path

    def opened(self, names: Sequence[bytes]) -> int:
        """A descriptor of its own for that directory. Raises OSError."""
        fd = os.dup(self._levels[0].fd)
        for name in names:
            above, fd = fd, -1
            try:
                fd = os.open(name, FOLDER, dir_fd=above)
            finally:
                os.close(above)
        return fd

    def finish(self) -> None:
        """Leave every directory. Raises OSError."""
        self.folder(())
        self._notes.path = b""
        if wanted := self._levels[0].wanted:
            metadata.apply(self._levels[0].fd, wanted, self._notes)

    def _enter(self, name: bytes, wanted: Metadata | None) -> None:
        fd = os.open(name, FOLDER, dir_fd=self._levels[-1].fd)
        level = _Level(name, identity(os.fstat(fd)), fd, wanted)
        if len(self._levels) >= OPEN_LEVELS:
            _close(self._levels[-1])
        self._levels.append(level)
        # Come back to, after it was left: its time is about to change.
        level.wanted = wanted or metadata.read(fd)

    def _leave(self) -> None:
        level = self._levels.pop()
        above = self._levels[-1]
        try:
            if above.fd < 0:  # before the mode is set, which may forbid it
                above.fd = os.open(b"..", FOLDER, dir_fd=level.fd)
                if identity(os.fstat(above.fd)) != above.identity:
                    raise OSError(errno.ESTALE, "somebody moves directories within the staging area")
            if level.wanted:
                now, self._notes.path = self._notes.path, level.path
                metadata.apply(level.fd, level.wanted, self._notes)
                self._notes.path = now
        finally:
            _close(level)


def _close(level: _Level) -> None:
    if level.fd >= 0:
        os.close(level.fd)
    level.fd = -1
