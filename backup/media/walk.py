"""A tree that may be in use, as it is found and read: its entries in order, its files in chunks.

The walk goes by directory descriptors and follows no link, so nothing swapped in meanwhile can lead outside.
What cannot be read raises MediaFailed; what is no longer there, or no longer the same kind of file, raises EntryLost.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import re
import stat
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from backup.errors import MediaFailed
from backup.formatting import printable
from backup.media.directories import FOLDER, OPEN_LEVELS, Inode, OpenLevel, identity
from backup.media.reserved_names import is_of_a_restore
from backup.media.tar_writer import ZEROS, DataRegion, data_regions

_LISTED = 1000
_CHUNK = len(ZEROS)
# No kernel's time stamps are coarser: one older than this moves with the next write.
_TICK_NS = 20_000_000
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
REPLACED = "replaced while read"
BY_PATTERN = "matches a pattern of what is left out"
OF_A_RESTORE = "kept by a restore"
_NOTHING: Mapping[int, str] = {}
_GONE = {errno.ENOENT: "vanished", errno.ESTALE: "vanished"}
# What opening says when another kind of file has taken the name since it was looked at.
SWAPPED = dict.fromkeys((errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.EINVAL), REPLACED) | _GONE
_NO_ATTRIBUTES = (errno.ENOTSUP, errno.ENODATA)
_HINTS = {
    errno.EACCES: "Give the backup container the capability DAC_READ_SEARCH in docker-compose.backup.yml.",
    errno.EIO: "The disk reports errors: check the kernel log.",
    errno.ENOENT: "Mount the volume into the backup container in docker-compose.backup.yml.",
    errno.ENOTDIR: "Name the directory where the volume is mounted.",
}


@dataclass(frozen=True)
class Change:
    """What happened to one entry. `path` is relative to the volume and printable."""

    path: str
    what: str


class EntryLost(Exception):  # noqa: N818 - not an error
    """An entry is gone or another kind of file by now; the text says which."""


class Listed:
    """Changes counted, the first 1000 kept."""

    def __init__(self) -> None:
        self.first: list[Change] = []
        self.total = 0

    def add(self, path: bytes, what: str) -> None:
        self.total += 1
        if len(self.first) < _LISTED:
            self.first.append(Change(_shown(path), what))


class WalkEntry(NamedTuple):
    """One thing found, valid until the next is asked for."""

    path: bytes  # relative to the root, empty for the root
    name: bytes
    stat: os.stat_result
    folder: int  # descriptor: the directory it lies in, or a directory itself


@dataclass(slots=True)
class _Level(OpenLevel):
    names: list[bytes]
    left_out: frozenset[bytes]


def _shown(path: bytes) -> str:
    return printable(os.fsdecode(path)) or "."


def is_recent(found: os.stat_result) -> bool:
    """Whether its time stamps are so young that a further change may leave them as they are."""
    return abs(time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns)) < _TICK_NS


@contextlib.contextmanager
def reading(path: bytes, lost: Mapping[int, str]) -> Iterator[None]:
    """Turn an OSError about `path` into EntryLost if `lost` has words for its number, else into MediaFailed."""
    try:
        yield
    except OSError as error:
        raise unreadable(error, path, lost) from error


def unreadable(error: OSError, path: bytes, lost: Mapping[int, str]) -> EntryLost | MediaFailed:
    """What `reading` raises; for what is done with every file, where a context manager takes longer than the call."""
    number = error.errno or 0
    if number in lost:
        return EntryLost(lost[number])
    reason = error.strerror or str(error)
    return MediaFailed(f"{_shown(path)} cannot be read: {reason}", _HINTS.get(number, ""))


def open_below(name: bytes, folder: int, flags: int) -> int:
    """A descriptor for `name` in the open directory `folder`, access time spared where allowed. Raises OSError."""
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=folder)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
        return os.open(name, flags, dir_fd=folder)  # only the owner may spare the access time


def _patterns(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(fnmatch.translate, patterns))) if patterns else None


Scope = Literal["all", "directories", "none"]


def _all(path: bytes, found: os.stat_result) -> Scope:
    return "all"


class Walk:
    """Entries of a tree: a directory before its content, names in byte order. One use.

    `wanted` says, by a directory's path and what was found of it, what is looked at of what lies in it.
    """

    def __init__(
        self,
        root: Path,
        excludes: Sequence[str],
        forbidden: frozenset[Inode],
        changed: Listed,
        wanted: Callable[[bytes, os.stat_result], Scope] = _all,
    ) -> None:
        self.changed, self._wanted = changed, wanted
        # What patterns, or we, leave out: each by its highest name.
        self.skipped = Listed()
        # Directories of which not all that was listed could be looked at.
        self.unfinished: set[bytes] = set()
        self._root, self._forbidden = os.fsencode(root), forbidden
        self._names = _patterns([pattern for pattern in excludes if "/" not in pattern])
        self._paths = _patterns([pattern.strip("/") for pattern in excludes if "/" in pattern])
        self._levels: list[_Level] = []
        self._prefix = b""

    def entries(self) -> Generator[WalkEntry, None, None]:
        """The entries. Close it if it is left early; entries hold until the next one is asked for."""
        try:
            with reading(self._root, _NOTHING):
                fd = os.open(self._root, FOLDER & ~os.O_NOFOLLOW)
            yield self._descend(b"", b"", fd)
            while self._levels:
                level = self._levels[-1]
                if not level.names:
                    self._ascend()
                elif entry := self._look(level, level.names.pop()):
                    yield entry
        finally:
            for level in self._levels:
                level.close()

    def full(self, path: bytes) -> bytes:
        """`path` as messages name it."""
        return self._root + b"/" + path if path else self._root

    def _look(self, level: _Level, name: bytes) -> WalkEntry | None:
        path, folder = self._prefix + name, level.fd
        try:
            asked = name in level.left_out or self._paths or not self._prefix
            if asked and (why := self._left_out(name, path, level)):
                self.skipped.add(path, why)
                return None
            try:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode):
                    return WalkEntry(path, name, found, folder)
                fd = open_below(name, folder, FOLDER)
            except OSError as error:
                raise unreadable(error, self.full(path), SWAPPED) from error
            return self._descend(name, path, fd)
        except EntryLost as lost:
            self.changed.add(path, str(lost))
            return None

    def _left_out(self, name: bytes, path: bytes, level: _Level) -> str:
        """Why this is not archived; empty if it is."""
        if name in level.left_out:
            return BY_PATTERN
        if self._paths and self._paths.match(os.fsdecode(path)):
            return BY_PATTERN
        if self._prefix:
            return ""
        with reading(self.full(path), SWAPPED):
            return OF_A_RESTORE if is_of_a_restore(name, level.fd) else ""

    def _descend(self, name: bytes, path: bytes, fd: int) -> WalkEntry:
        try:
            with reading(self.full(path), _GONE if path else _NOTHING):
                # Looked at before it is listed: what comes meanwhile shows as a change.
                found = os.fstat(fd)
                listed = self._names_in(fd, path, found)
                names = sorted(map(os.fsencode, listed), reverse=True)
                if not os.fstat(fd).st_nlink:  # removed by now, which the C library lists as empty
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if identity(found) in self._forbidden:
                raise MediaFailed(
                    f"{_shown(self.full(path))} is where backups are stored: they would be archived into themselves",
                    "Mount the backup volume outside of this volume, or exclude that directory.",
                )
        except BaseException:
            os.close(fd)
            raise
        if len(self._levels) >= OPEN_LEVELS:
            self._levels[-1].close()
        matched = filter(self._names.match, listed) if self._names else ()
        self._levels.append(_Level(name, identity(found), fd, names, frozenset(map(os.fsencode, matched))))
        self._prefix = path + b"/" if path else b""
        return WalkEntry(path, name, found, fd)

    def _names_in(self, fd: int, path: bytes, found: os.stat_result) -> list[str]:
        which = self._wanted(path, found)
        if which == "all":
            return os.listdir(fd)
        if which == "none":
            return []
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]

    def _ascend(self) -> None:
        left = self._levels.pop()
        self._prefix = self._prefix[: -len(left.name) - 1]
        try:
            if self._levels and self._levels[-1].fd < 0:
                self._reopen(left.fd)
        finally:
            left.close()

    def _reopen(self, child: int) -> None:
        level = self._levels[-1]
        with contextlib.suppress(EntryLost), reading(self.full(self._prefix), _GONE):
            level.fd = os.open(b"..", FOLDER, dir_fd=child)
            if identity(os.fstat(level.fd)) == level.identity:
                return
        # A directory below was moved elsewhere meanwhile: go on from the nearest one above that is still open.
        level.close()
        while self._levels[-1].fd < 0:
            if self._levels[-1].names:
                self.changed.add(self._prefix[:-1], "moved while read")
                self.unfinished.add(self._prefix[:-1])
            self._prefix = self._prefix[: -len(self._levels.pop().name) - 1]


class OpenFile:
    """One file or directory being read. `path` is as messages name it."""

    __slots__ = ("_cut", "_fd", "_path", "_progress")

    def __init__(self, fd: int, path: bytes, progress: Callable[[int], None]) -> None:
        self._fd, self._path, self._progress = fd, path, progress
        self._cut = False

    def settled(self) -> os.stat_result:
        """Its state, taken when a further write is sure to change the time stamps."""
        self._cut = False
        found = self._look()
        if 0 <= time.time_ns() - found.st_ctime_ns < _TICK_NS:
            time.sleep(_TICK_NS / 1e9)
            found = self._look()
        return found

    def _look(self) -> os.stat_result:
        try:
            return os.fstat(self._fd)
        except OSError as error:
            raise unreadable(error, self._path, _GONE) from error

    def attributes(self) -> dict[bytes, bytes]:
        """User attributes and ACLs; empty where the file system has none."""
        found: dict[bytes, bytes] = {}
        try:
            for name in os.listxattr(self._fd):
                if name.startswith(("user.", "system.posix_acl_")):
                    found[os.fsencode(name)] = os.getxattr(self._fd, name)
        except OSError as error:
            if error.errno not in _NO_ATTRIBUTES:
                raise unreadable(error, self._path, _NOTHING) from error
        return found

    def regions(self, size: int) -> tuple[DataRegion, ...]:
        """Where its data lies."""
        with reading(self._path, _NOTHING):
            return data_regions(self._fd, size)

    def whole(self, size: int) -> bytes:
        """The first `size` bytes, zeros for what is no longer there."""
        data = b""
        if 0 < size <= _CHUNK:
            data = self._read(size, 0)
            self._progress(len(data))
        return data if len(data) == size else b"".join((data, *self.chunks(len(data), size - len(data))))

    def chunks(self, start: int, length: int) -> Iterator[bytes]:
        """Exactly `length` bytes from `start`, each chunk a fresh object; zeros for what is no longer there."""
        end = start + length
        while start < end:
            count = min(_CHUNK, end - start)
            chunk = b"" if self._cut else self._read(count, start)
            self._cut = not chunk
            self._progress(len(chunk))
            yield chunk or ZEROS[:count]
            start += len(chunk) or count

    def _read(self, count: int, start: int) -> bytes:
        try:
            return os.pread(self._fd, count, start)
        except OSError as error:
            if error.errno == errno.ESTALE:
                return b""
            raise unreadable(error, self._path, _NOTHING) from error

    def difference(self, before: os.stat_result) -> str:
        """What happened to it since `before` was taken and its content read; empty if nothing."""
        try:
            after = self._look()
        except EntryLost as lost:
            return f"{lost} while read"
        if after.st_size > before.st_size:
            return "grew while read"
        if after.st_size < before.st_size or self._cut:
            return "shrank while read"
        same = (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
        return "" if same else "rewritten while read" if after.st_nlink else "removed while read"
