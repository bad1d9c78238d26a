"""A directory tree as a PAX tar stream in one sequential pass, with every file's SHA-256 from the same read.

The tree may be in use. What changes under the reader is read again when small, else listed in the report; what cannot
be read fails the run. The walk goes by directory descriptors and follows no link, so nothing swapped in meanwhile can
lead outside. Memory holds one directory's names per level and the inodes with several names, no more.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import os
import re
import stat
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backup.errors import MediaFailed
from backup.sources.tarstream import (
    BLOCK,
    Gathered,
    IndexEntry,
    Member,
    Region,
    Sink,
    data_regions,
    ending,
    header,
    index_line,
    padding,
    parse_index,
)
from backup.text import printable

__all__ = [
    "DEFAULT_EXCLUDES",
    "Change",
    "IndexEntry",
    "MediaReport",
    "Sink",
    "TreeSize",
    "archive",
    "measure",
    "parse_index",
]

DEFAULT_EXCLUDES: tuple[str, ...] = ("*.pyc", "__pycache__", ".DS_Store")

_Identity = tuple[int, int]
_LISTED = 1000
_WHOLE = 4 << 20
_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)
_ATTEMPTS = 3
# Far below the usual limit of 1024 descriptors; a deeper tree is climbed out of by `..`.
_OPEN_LEVELS = 64
# No kernel's time stamps are coarser: one older than this moves with the next write.
_TICK_NS = 20_000_000
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_REPLACED = "replaced while read"
_NOTHING: Mapping[int, str] = {}
_GONE = {errno.ENOENT: "vanished", errno.ESTALE: "vanished"}
# What opening says when another kind of file has taken the name since it was looked at.
_SWAPPED = dict.fromkeys((errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.EINVAL), _REPLACED) | _GONE
_NOT_STORED = {stat.S_IFSOCK: "socket skipped", stat.S_IFIFO: "FIFO skipped"}
_NO_ATTRIBUTES = dict.fromkeys((errno.ENOTSUP, errno.ENODATA), "no attributes")
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


@dataclass(frozen=True)
class TreeSize:
    """Regular files, each inode once, and the bytes of content an archive of them stores."""

    files: int
    bytes: int


@dataclass(frozen=True)
class MediaReport:
    """What an archive holds. `files` have content, `hard_links` are further names of those, `links` are symbolic;
    `bytes` is stored content. `changed` and `skipped` are the first 1000; their totals count all."""

    files: int
    directories: int
    links: int
    hard_links: int
    bytes: int
    changed: tuple[Change, ...]
    skipped: tuple[Change, ...]
    changed_total: int
    skipped_total: int


def measure(root: Path, excludes: Sequence[str], forbidden: frozenset[tuple[int, int]] = frozenset()) -> TreeSize:
    """What `archive` would store, from a walk that opens no file. Raises MediaFailed as `archive` does."""
    seen: set[_Identity] = set()
    files = size = 0
    with contextlib.closing(_Walk(root, excludes, forbidden, _Listed()).entries()) as entries:
        for found in (entry.stat for entry in entries if stat.S_ISREG(entry.stat.st_mode)):
            if found.st_nlink > 1 and _identity(found) in seen:
                continue
            if found.st_nlink > 1:
                seen.add(_identity(found))
            files, size = files + 1, size + min(found.st_size, found.st_blocks * BLOCK)
    return TreeSize(files, size)


def _no_progress(count: int) -> None:
    pass


def archive(
    root: Path,
    name: str,
    sink: Sink,
    index: Sink,
    *,
    excludes: Sequence[str] = DEFAULT_EXCLUDES,
    forbidden: frozenset[tuple[int, int]] = frozenset(),
    progress: Callable[[int], None] = _no_progress,
) -> MediaReport:
    """Write the tree at `root` to `sink` as a tar stream rooted at `<name>/`, and a line per file to `index`.

    `excludes` are fnmatch patterns for base names or, with a `/`, for paths relative to the root; nothing below an
    excluded directory is looked at. `forbidden` names directories, as (st_dev, st_ino), that must not be met.
    `progress` gets the bytes of content read since its last call, 0 as a sign of life within holes.
    Raises MediaFailed if the root or anything in it cannot be read, and whatever the sinks raise.
    """
    if name in ("", ".", "..") or "/" in name:
        raise ValueError(f"not a folder's name: {name!r}")
    walk = _Walk(root, excludes, forbidden, _Listed())
    return _Archiver(name, walk, sink, index, progress).run()


class _Lost(Exception):  # noqa: N818 - what happened to an entry, not an error
    pass


class _Listed:
    def __init__(self) -> None:
        self.first: list[Change] = []
        self.total = 0

    def add(self, path: bytes, what: str) -> None:
        self.total += 1
        if len(self.first) < _LISTED:
            self.first.append(Change(_shown(path), what))


@dataclass(frozen=True, slots=True)
class _Entry:
    path: bytes  # relative to the root, empty for the root
    name: bytes
    stat: os.stat_result
    folder: int  # descriptor: the directory it lies in, or a directory itself


@dataclass(slots=True)
class _Level:
    name: bytes
    identity: _Identity
    names: list[bytes]
    fd: int  # -1 when closed to spare descriptors


def _shown(path: bytes) -> str:
    return printable(os.fsdecode(path)) or "."


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _reading(path: bytes, lost: Mapping[int, str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        if number in lost:
            raise _Lost(lost[number]) from error
        reason = error.strerror or str(error)
        raise MediaFailed(f"{_shown(path)} cannot be read: {reason}", _HINTS.get(number, "")) from error


def _open(name: bytes, folder: int, flags: int) -> int:
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=folder)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
        return os.open(name, flags, dir_fd=folder)  # only the owner may spare the access time


def _patterns(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, patterns)) or "(?!)")


class _Walk:
    """Entries of a tree: a directory before its content, names in byte order. One use."""

    def __init__(self, root: Path, excludes: Sequence[str], forbidden: frozenset[_Identity], changed: _Listed) -> None:
        self.changed = changed
        self._root, self._forbidden = os.fsencode(root), forbidden
        self._names = _patterns([pattern for pattern in excludes if "/" not in pattern])
        self._paths = _patterns([pattern.strip("/") for pattern in excludes if "/" in pattern])
        self._levels: list[_Level] = []
        self._prefix = b""

    def entries(self) -> Generator[_Entry, None, None]:
        """The entries. Close it if it is left early; entries hold until the next one is asked for."""
        try:
            with _reading(self._root, _NOTHING):
                fd = os.open(self._root, _FOLDER & ~os.O_NOFOLLOW)
            yield self._descend(b"", b"", fd)
            while self._levels:
                if not self._levels[-1].names:
                    self._ascend()
                elif entry := self._look(self._levels[-1].names.pop()):
                    yield entry
        finally:
            for level in self._levels:
                self._close(level)

    def full(self, path: bytes) -> bytes:
        """`path` as messages name it."""
        return self._root + b"/" + path if path else self._root

    def _look(self, name: bytes) -> _Entry | None:
        path = self._prefix + name
        if self._names.match(os.fsdecode(name)) or self._paths.match(os.fsdecode(path)):
            return None
        folder = self._levels[-1].fd
        try:
            with _reading(self.full(path), _SWAPPED):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode):
                    return _Entry(path, name, found, folder)
                fd = _open(name, folder, _FOLDER)
            return self._descend(name, path, fd)
        except _Lost as lost:
            self.changed.add(path, str(lost))
            return None

    def _descend(self, name: bytes, path: bytes, fd: int) -> _Entry:
        try:
            with _reading(self.full(path), _GONE if path else _NOTHING):
                names = sorted(map(os.fsencode, os.listdir(fd)), reverse=True)
                found = os.fstat(fd)
                if not found.st_nlink:  # removed by now, which the C library lists as empty
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if _identity(found) in self._forbidden:
                raise MediaFailed(
                    f"{_shown(self.full(path))} is where backups are stored: they would be archived into themselves",
                    "Mount the backup volume outside of this volume, or exclude that directory.",
                )
        except BaseException:
            os.close(fd)
            raise
        if len(self._levels) >= _OPEN_LEVELS:
            self._close(self._levels[-1])
        self._levels.append(_Level(name, _identity(found), names, fd))
        self._prefix = path + b"/" if path else b""
        return _Entry(path, name, found, fd)

    def _ascend(self) -> None:
        left = self._levels.pop()
        self._prefix = self._prefix[: -len(left.name) - 1]
        try:
            if self._levels and self._levels[-1].fd < 0:
                self._reopen(left.fd)
        finally:
            self._close(left)

    def _reopen(self, child: int) -> None:
        level = self._levels[-1]
        with contextlib.suppress(_Lost), _reading(self.full(self._prefix), _GONE):
            level.fd = os.open(b"..", _FOLDER, dir_fd=child)
            if _identity(os.fstat(level.fd)) == level.identity:
                return
        # A directory below was moved elsewhere meanwhile: go on from the nearest one above that is still open.
        self._close(level)
        while self._levels[-1].fd < 0:
            if self._levels[-1].names:
                self.changed.add(self._prefix[:-1], "moved while read")
            self._prefix = self._prefix[: -len(self._levels.pop().name) - 1]

    @staticmethod
    def _close(level: _Level) -> None:
        if level.fd >= 0:
            os.close(level.fd)
        level.fd = -1


class _OpenFile:
    """One file or directory being read. `path` is as messages name it."""

    def __init__(self, fd: int, path: bytes, progress: Callable[[int], None]) -> None:
        self._fd, self._path, self._progress = fd, path, progress
        self._cut = False

    def settled(self) -> os.stat_result:
        """Its state, taken when a further write is sure to change the time stamps."""
        with _reading(self._path, _GONE):
            found = os.fstat(self._fd)
            if 0 <= time.time_ns() - found.st_ctime_ns < _TICK_NS:
                time.sleep(_TICK_NS / 1e9)
                found = os.fstat(self._fd)
        self._cut = False
        return found

    def attributes(self) -> dict[bytes, bytes]:
        """User attributes and ACLs; empty where the file system has none."""
        found: dict[bytes, bytes] = {}
        with contextlib.suppress(_Lost), _reading(self._path, _NO_ATTRIBUTES):
            for name in os.listxattr(self._fd):
                if name.startswith(("user.", "system.posix_acl_")):
                    found[os.fsencode(name)] = os.getxattr(self._fd, name)
        return found

    def regions(self, size: int) -> tuple[Region, ...]:
        """Where its data lies."""
        with _reading(self._path, _NOTHING):
            return data_regions(self._fd, size)

    def chunks(self, start: int, length: int) -> Iterator[bytes]:
        """Exactly `length` bytes from `start`, each chunk a fresh object; zeros for what is no longer there."""
        end = start + length
        while start < end:
            count = min(_CHUNK, end - start)
            with _reading(self._path, _NOTHING):
                chunk = b"" if self._cut else self._read(count, start)
            self._cut = not chunk
            self._progress(len(chunk))
            yield chunk or _ZEROS[:count]
            start += len(chunk) or count

    def _read(self, count: int, start: int) -> bytes:
        try:
            return os.pread(self._fd, count, start)
        except OSError as error:
            if error.errno == errno.ESTALE:
                return b""
            raise

    def difference(self, before: os.stat_result) -> str:
        """What happened to it since `before` was taken and its content read; empty if nothing."""
        try:
            with _reading(self._path, _GONE):
                after = os.fstat(self._fd)
        except _Lost as lost:
            return f"{lost} while read"
        if after.st_size > before.st_size:
            return "grew while read"
        if after.st_size < before.st_size or self._cut:
            return "shrank while read"
        same = (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
        return "" if same else "rewritten while read" if after.st_nlink else "removed while read"


@dataclass(frozen=True, slots=True)
class _Stored:
    path: bytes
    sha256: str
    size: int
    mtime_ns: int


class _Archiver:
    def __init__(self, name: str, walk: _Walk, sink: Sink, index: Sink, progress: Callable[[int], None]) -> None:
        self._name, self._walk, self._progress = os.fsencode(name), walk, progress
        self._tar, self._index = Gathered(sink), Gathered(index)
        self._changed, self._skipped = walk.changed, _Listed()
        self._counts: Counter[bytes] = Counter()
        self._bytes = 0
        self._linked: dict[_Identity, _Stored] = {}

    def run(self) -> MediaReport:
        with contextlib.closing(self._walk.entries()) as entries:
            for entry in entries:
                try:
                    self._add(entry, self._name + b"/" + entry.path)
                except _Lost as lost:
                    self._changed.add(entry.path, str(lost))
        self._tar.write(ending(self._tar.count))
        self._tar.flush()
        self._index.flush()
        return self._report()

    def _report(self) -> MediaReport:
        return MediaReport(
            files=self._counts[tarfile.REGTYPE],
            directories=self._counts[tarfile.DIRTYPE],
            links=self._counts[tarfile.SYMTYPE],
            hard_links=self._counts[tarfile.LNKTYPE],
            bytes=self._bytes,
            changed=tuple(self._changed.first),
            skipped=tuple(self._skipped.first),
            changed_total=self._changed.total,
            skipped_total=self._skipped.total,
        )

    def _add(self, entry: _Entry, path: bytes) -> None:
        mode = entry.stat.st_mode
        if stat.S_ISDIR(mode):
            attributes = self._opened(entry.folder, entry).attributes()
            self._begin(Member(path.rstrip(b"/") + b"/", tarfile.DIRTYPE, entry.stat, attributes=attributes))
        elif stat.S_ISLNK(mode):
            with _reading(self._walk.full(entry.path), _SWAPPED):
                target = os.readlink(entry.name, dir_fd=entry.folder)
            self._begin(Member(path, tarfile.SYMTYPE, entry.stat, target=target))
        elif stat.S_ISREG(mode):
            self._add_file(entry, path)
        else:
            self._skipped.add(entry.path, _NOT_STORED.get(stat.S_IFMT(mode), "device skipped"))

    def _opened(self, fd: int, entry: _Entry) -> _OpenFile:
        return _OpenFile(fd, self._walk.full(entry.path), self._progress)

    def _begin(self, member: Member) -> None:
        self._counts[member.kind] += 1
        self._tar.write(header(member))

    def _add_file(self, entry: _Entry, path: bytes) -> None:
        first = self._linked.get(_identity(entry.stat)) if entry.stat.st_nlink > 1 else None
        if first and (first.size, first.mtime_ns) == (entry.stat.st_size, entry.stat.st_mtime_ns):
            self._begin(Member(path, tarfile.LNKTYPE, entry.stat, target=first.path))
            self._index.write(index_line(first.sha256, first.size, path))
            return
        if first:  # changed between its names, or its number was given to a new file
            self._changed.add(entry.path, "rewritten while read")
        with _reading(self._walk.full(entry.path), _SWAPPED):
            fd = _open(entry.name, entry.folder, _FILE)
        try:
            self._add_content(self._opened(fd, entry), entry, path)
        finally:
            os.close(fd)

    def _add_content(self, source: _OpenFile, entry: _Entry, path: bytes) -> None:
        before = source.settled()
        if not stat.S_ISREG(before.st_mode):
            raise _Lost(_REPLACED)
        if _identity(before) != _identity(entry.stat):
            self._changed.add(entry.path, _REPLACED)
        member = Member(path, tarfile.REGTYPE, before, before.st_size, attributes=source.attributes())
        sparse = before.st_blocks * BLOCK < before.st_size
        store = self._stream if sparse or before.st_size > _WHOLE else self._store_whole
        stored, what = store(source, member)
        if what:
            self._changed.add(entry.path, what)
        if before.st_nlink > 1:
            self._linked[_identity(before)] = stored
        self._index.write(index_line(stored.sha256, stored.size, path))

    def _store_whole(self, source: _OpenFile, member: Member) -> tuple[_Stored, str]:
        before, attempt = member.stat, 1
        while True:
            data = b"".join(source.chunks(0, before.st_size))
            what = source.difference(before)
            if not what or attempt == _ATTEMPTS:
                break
            before, attempt = source.settled(), attempt + 1
            if before.st_size > _WHOLE:
                return self._stream(source, replace(member, stat=before, size=before.st_size))
        self._begin(replace(member, stat=before, size=len(data)))
        self._tar.write(data)
        self._tar.write(padding(len(data)))
        self._bytes += len(data)
        return _Stored(member.path, hashlib.sha256(data).hexdigest(), len(data), before.st_mtime_ns), what

    def _stream(self, source: _OpenFile, member: Member) -> tuple[_Stored, str]:
        everywhere = ((0, member.size),)
        regions = source.regions(member.size) if member.stat.st_blocks * BLOCK < member.size else everywhere
        self._begin(member if regions == everywhere else replace(member, regions=regions))
        digest, position = hashlib.sha256(), 0
        for start, length in (*regions, (member.size, 0)):
            self._hash_hole(digest, start - position)
            for chunk in source.chunks(start, length):
                digest.update(chunk)
                self._tar.write(chunk)
            position = start + length
        stored = sum(length for _, length in regions)
        self._tar.write(padding(stored))
        self._bytes += stored
        what = source.difference(member.stat)
        return _Stored(member.path, digest.hexdigest(), member.size, member.stat.st_mtime_ns), what

    def _hash_hole(self, digest: hashlib._Hash, length: int) -> None:
        while length:
            count = min(length, len(_ZEROS))
            digest.update(_ZEROS[:count])
            self._progress(0)
            length -= count
