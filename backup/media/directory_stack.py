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
from backup.media.directories import FOLDER, OPEN_LEVELS, OpenLevel, descend, identity
from backup.media.metadata import Metadata, Notes


@dataclass(slots=True)
class _Level(OpenLevel):
    wanted: Metadata | None
    path: bytes = b""  # as notes name it


class Branch:
    """The branch that starts at the open directory `fd`, which it takes over. `notes` gets what could not be set."""

    def __init__(self, fd: int, notes: Notes) -> None:
        self._levels = [_Level(b"", identity(os.fstat(fd)), fd, None)]
        self._notes = notes
        self._place: list[bytes] = []

    def close(self) -> None:
        """Close every descriptor; what was not left stays as it is."""
        for level in self._levels:
            level.close()

    def note_root(self, wanted: Metadata) -> None:
        """Note what the target itself gets in the end."""
        if self._levels[0].wanted:
            raise FileExistsError(errno.EEXIST, "root")
        self._levels[0].wanted = wanted

    def move_to(self, names: Sequence[bytes]) -> int:
        """Go to that directory below the target; its descriptor, open until the next call. Raises OSError."""
        if names == self._place:
            return self._levels[-1].fd
        common = 0
        while common < min(len(names), len(self._levels) - 1) and names[common] == self._levels[common + 1].name:
            common += 1
        while len(self._levels) - 1 > common:
            self._leave()
        for name in names[common:]:
            self._enter(name, None)
        self._place = list(names)
        return self._levels[-1].fd

    def make(self, name: bytes, folder: int, wanted: Metadata) -> None:
        """Make a new directory in the one `move_to` gave, and enter it."""
        os.mkdir(name, 0o700, dir_fd=folder)
        self._enter(name, wanted)
        self._levels[-1].path = self._notes.path
        self._place.append(name)

    def open(self, names: Sequence[bytes]) -> int:
        """Open that directory below the target, with a descriptor of its own. Raises OSError."""
        return descend(self._levels[0].fd, names)

    def finish(self) -> None:
        """Leave every directory. Raises OSError."""
        self.move_to(())
        self._notes.path = b""
        if wanted := self._levels[0].wanted:
            metadata.apply_metadata(self._levels[0].fd, wanted, self._notes)

    def _enter(self, name: bytes, wanted: Metadata | None) -> None:
        fd = os.open(name, FOLDER, dir_fd=self._levels[-1].fd)
        level = _Level(name, identity(os.fstat(fd)), fd, wanted)
        if len(self._levels) >= OPEN_LEVELS:
            self._levels[-1].close()
        self._levels.append(level)
        # Come back to, after it was left: its time is about to change.
        level.wanted = wanted or metadata.read_metadata(fd)

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
                metadata.apply_metadata(level.fd, level.wanted, self._notes)
                self._notes.path = now
        finally:
            level.close()
