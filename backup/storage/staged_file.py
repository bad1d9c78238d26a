"""A file on its way: written past the page cache, synced, and read back from the disk while it grows.

A failing fsync fails the run and is not tried again, because a second one may report success for pages the kernel
has already thrown away. Going past the page cache is what makes it fast: the kernel's own write-back took three
times as long for the same bytes, and a backup would push everybody else's pages out of memory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol

from backup.errors import IntegrityError
from backup.pipeline.chunks import aside
from backup.pipeline.gzip import crc32
from backup.storage.filesystem import storing

STAGED_SUFFIX = ".partial"
_BLOCK = 1 << 20
_GATHERED = 4 << 20
# Large enough for the disk to stream, small enough for what is read back never to be far behind.
_PIECE = 16 << 20
# Blocks that wait for a taker.
_AHEAD = 4

# Takes what the disk returns, in blocks that stay as they are until the next is asked for. May leave some.
Taker = Callable[[Iterator[memoryview]], object]
# Inode, bytes, and when it was written, in ns; zeros for none.
FileIdentity = tuple[int, int, int]


def staged_name(name: str) -> str:
    """The name under which `name` is written until it is whole."""
    return f".{name}{STAGED_SUFFIX}"


def bare_name(name: str) -> str:
    """The name that what is staged as `name` is to get; also that of a hidden file without its dot."""
    return name.removeprefix(".").removesuffix(STAGED_SUFFIX)


class Sealed(Protocol):
    """A file that is whole and on the disk, and has only to get its name."""

    @property
    def name(self) -> str:
        """The name that it gets."""

    @property
    def path(self) -> Path:
        """Where it lies until then, on the same file system."""

    @property
    def inode(self) -> int:
        """Its inode, by which it is known to be ours."""


class StagedFile:
    """A file being written beside its final name. `write`, then `seal`, then `LocalStore.publish`.

    Left without `seal`, by error or by kill, it is removed (at once, or by the next sweep).
    `seal` proves that the disk returns what was written, and has the SHA-256 of that. `taker` is given the same, in a
    thread of its own where the file is large; what that raises, `seal` raises.
    """

    def __init__(self, directory: Path, name: str, taker: Taker | None = None) -> None:
        self.name = name
        self.path = directory / staged_name(name)
        self.size = 0
        # What the disk has, in hex, and which file it is; once it is sealed.
        self.sha256 = ""
        self.identity: FileIdentity = (0, 0, 0)
        # Of what was written: with it, and not with a second SHA-256, is compared what the disk returns.
        self._crc32 = 0
        self._gathered = self._flushed = 0
        self._buffer: memoryview | None = None
        with storing(self.path):
            self._fd = _open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            self.inode = os.fstat(self._fd).st_ino
            self._read_back = _ReadBack(self._fd, self.path, taker)

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(self, data: bytes) -> int:
        """Append all of `data`; StoreError or NoSpace when the disk does not take it."""
        self._crc32 = crc32(data, self._crc32)
        self.size += len(data)
        view = memoryview(data)
        while view:
            if self._buffer is None:
                # Whole pages of its own: writing past the page cache needs aligned memory.
                self._buffer = memoryview(mmap.mmap(-1, _GATHERED))
            count = min(len(view), _GATHERED - self._gathered)
            self._buffer[self._gathered : self._gathered + count] = view[:count]
            self._gathered += count
            view = view[count:]
            if self._gathered == _GATHERED:
                self.flush()
        return len(data)

    def seal(self) -> None:
        """Flush to the disk, read back from it and compare; IntegrityError when it returns other bytes."""
        self.flush()
        with storing(self.path):
            size, checksum, self.sha256 = self._read_back.finish()
        if (size, checksum) != (self.size, self._crc32):
            raise IntegrityError(
                f"{self.name}: the disk returned {size} bytes that differ from the {self.size} written; the file was"
                " discarded, earlier sets are untouched",
                "The disk or its driver is failing: check the kernel log, and back up to another disk.",
            )
        with storing(self.path):
            self.identity = file_identity(os.fstat(self._fd))
            self.close()

    def flush(self) -> None:
        """Write what was gathered. Only whole pages can go past the page cache; the rest goes the ordinary way."""
        if self._buffer is None:
            return
        view = self._buffer[: self._gathered]
        self._gathered = 0
        with storing(self.path):
            while view:
                if len(view) % mmap.PAGESIZE:
                    _cached(self._fd)
                try:
                    count = os.write(self._fd, view)
                except OSError as error:
                    if error.errno != errno.EINVAL or not _cached(self._fd):
                        raise
                else:
                    view = view[count:]
                    self._flushed += count
        self._read_back.written(self._flushed)

    def discard(self) -> None:
        """Throw the file away. A disk that does not even allow that leaves it to the next sweep."""
        for step in (self.close, self.path.unlink):
            with contextlib.suppress(OSError):
                step()

    def close(self) -> None:
        """Close the file; harmless when done twice."""
        if self._fd >= 0:
            self._read_back.close()
            self._buffer = None
            descriptor, self._fd = self._fd, -1
            os.close(descriptor)


class _ReadBack:
    """Syncs a growing file and hashes what the disk returns, through a descriptor of its own.

    Large files are read back piece by piece in a thread while the next piece is written, so that the end of the run
    has only the last piece to wait for; one more reads ahead of a taker. An error in a thread is raised by `finish`.
    Small ones are worth no thread.
    """

    def __init__(self, descriptor: int, path: Path, taker: Taker | None) -> None:
        self._fd, self._taker = descriptor, taker
        self._reader = _open(path, os.O_RDONLY)
        self._hash = hashlib.sha256()
        self._done = self._sent = self._crc32 = 0
        self._error: BaseException | None = None
        self._buffers = deque[memoryview]()
        # How far the file has grown; None when all of it is there.
        self._ends: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._closed = False
        self._thread: threading.Thread | None = None

    def written(self, size: int) -> None:
        """The file has grown to `size` bytes."""
        if size - self._sent < _PIECE:
            return
        self._sent = size
        self._ends.put(size)
        if self._thread is None:
            blocks = aside(self._read_ahead, "read-ahead", _AHEAD) if self._taker else self._blocks()
            self._thread = threading.Thread(target=self._work, args=(blocks,), name="read-back", daemon=True)
            self._thread.start()

    def finish(self) -> tuple[int, int, str]:
        """(size, CRC-32, SHA-256 in hex) of the whole file, as the disk returns it; OSError when the disk fails."""
        self._ends.put(None)
        if self._thread:
            self._thread.join()
        else:
            # Past the page cache, each page of the buffer takes one of memory, however few bytes there are.
            _cached(self._reader)
            self._work(self._blocks())
        if self._error:
            raise self._error
        return self._done, self._crc32, self._hash.hexdigest()

    def close(self) -> None:
        """End the thread, which reads no further, and close the file."""
        self._closed = True
        self._ends.put(None)
        # One that could not be started has no identifier.
        if self._thread and self._thread.ident:
            self._thread.join()
        self._buffers.clear()
        os.close(self._reader)

    def _work(self, given: Generator[memoryview, None, None]) -> None:
        with contextlib.closing(given) as blocks:
            for take in (self._taker, _rest) if self._taker else (_rest,):
                try:
                    take(blocks)
                except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                    self._error = self._error or error
                    self._closed = True

    def _read_ahead(self, put: Callable[[memoryview], None], stopped: threading.Event) -> None:
        for block in self._blocks():
            if stopped.is_set():
                return
            put(block)

    def _blocks(self) -> Generator[memoryview, None, None]:
        """What the disk returns, as far as was told; its error is kept, for a taker words it anew."""
        # One is being filled, one was given, the others wait.
        self._buffers.extend(memoryview(mmap.mmap(-1, _BLOCK)) for _ in range(_AHEAD + 2 if self._taker else 1))
        try:
            while True:
                end = self._ends.get()
                if self._closed:
                    return
                os.fsync(self._fd) if end is None else os.fdatasync(self._fd)
                # For the disk to be asked where nothing goes past the page cache, it is dropped from that.
                os.posix_fadvise(self._reader, self._done, 0, os.POSIX_FADV_DONTNEED)
                yield from self._grown(end)
                os.posix_fadvise(self._reader, 0, self._done, os.POSIX_FADV_DONTNEED)
                if end is None:
                    return
        except OSError as error:
            self._error = error
            raise

    def _grown(self, end: int | None) -> Generator[memoryview, None, None]:
        """From where it stopped to `end`, or to the end of the file."""
        while not self._closed and (block := self._next(_BLOCK if end is None else min(_BLOCK, end - self._done))):
            self._hash.update(block)
            self._crc32 = crc32(block, self._crc32)
            self._done += len(block)
            self._buffers.rotate()
            yield block

    def _next(self, most: int) -> memoryview:
        buffer = self._buffers[0][:most]
        try:
            return buffer[: os.preadv(self._reader, [buffer], self._done)]
        except OSError as error:
            if error.errno != errno.EINVAL or not _cached(self._reader):
                raise
            return self._next(most)


def _rest(blocks: Iterator[memoryview]) -> None:
    for _ in blocks:
        pass


def file_identity(status: os.stat_result | None) -> FileIdentity:
    """By which a file is known to be the very same, not written since."""
    return (status.st_ino, status.st_size, status.st_mtime_ns) if status else (0, 0, 0)


def _open(path: Path, flags: int) -> int:
    """A descriptor that writes past the page cache; of the ordinary kind where the file system has no other."""
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT, 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    # Some file systems refuse only after they have made the file.
    return os.open(path, flags & ~os.O_EXCL, 0o600)


def _cached(descriptor: int) -> bool:
    """Let a descriptor write the ordinary way from now on; whether it did not already."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return bool(flags & os.O_DIRECT)
