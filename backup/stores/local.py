"""Durable files in a directory: staged beside their final name, read back from the disk, then renamed.

The order is the whole point: write → fsync → drop from the page cache → read back and compare → rename →
fsync the directory. A failing fsync fails the run and is not tried again, because a second one may
report success for pages the kernel has already thrown away.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import queue
import stat
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from backup.errors import IntegrityError, NoSpace, StoreError

STAGED_SUFFIX = ".partial"
_BLOCK = 1 << 20
# Large enough for the disk to stream, small enough to leave little for the end.
_PIECE = 32 << 20


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an OSError about the backup volume into a StoreError that names `path` and the remedy."""
    try:
        yield
    except OSError as error:
        raise _translated(error, path) from error


def _translated(error: OSError, path: Path) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"the backup volume is full: {path.name} could not be written; earlier sets are untouched",
            "Free space in the volume (see `list`), or give it a larger disk.",
        )
    reason = error.strerror or str(error)
    hints = {
        errno.EROFS: "Mount the backup volume read-write.",
        errno.EACCES: "The backup volume must belong to the user this container runs as.",
        errno.EIO: "The disk reports errors: check the kernel log, and take a backup to another disk now.",
    }
    return StoreError(f"{path}: {reason}", hints.get(error.errno or 0, ""))


def staged_name(name: str) -> str:
    """The name under which `name` is written until it is whole."""
    return f".{name}{STAGED_SUFFIX}"


class StagedFile:
    """A file being written beside its final name. `write`, then `seal`, then `LocalStore.publish`.

    Left without `seal`, by error or by kill, it is removed (at once, or by the next sweep).
    Hash and size are those of the bytes given to `write`; `seal` proves the disk returns the same.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.path = directory / staged_name(name)
        self.size = 0
        self._hash = hashlib.sha256()
        with storing(self.path):
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self.inode = os.fstat(self._fd).st_ino
        self._read_back = _ReadBack(self._fd, self.path)

    def __enter__(self) -> StagedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    @property
    def sha256(self) -> str:
        """SHA-256 of what was written so far, in hex."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> int:
        """Append all of `data`; StoreError or NoSpace when the disk does not take it."""
        view = memoryview(data)
        with storing(self.path):
            while view:
                view = view[os.write(self._fd, view) :]
        self._hash.update(data)
        self.size += len(data)
        self._read_back.written(self.size)
        return len(data)

    def seal(self) -> None:
        """Flush to the disk, read back from it and compare; IntegrityError when it returns other bytes."""
        with storing(self.path):
            size, digest = self._read_back.finish()
        if (size, digest) != (self.size, self.sha256):
            raise IntegrityError(
                f"{self.name}: the disk returned {size} bytes that differ from the {self.size} written;"
                " the file was thrown away, earlier sets are untouched",
                "The disk or its driver is failing: check the kernel log, and back up to another disk.",
            )
        with storing(self.path):
            self.close()

    def discard(self) -> None:
        """Throw the file away. A disk that does not even allow that leaves it to the next sweep."""
        for step in (self.close, self.path.unlink):
            with contextlib.suppress(OSError):
                step()

    def close(self) -> None:
        """Close the file; harmless when done twice."""
        self._read_back.stop()
        if self._fd >= 0:
            descriptor, self._fd = self._fd, -1
            os.close(descriptor)


class _ReadBack:
    """Syncs a growing file and hashes what the disk returns, past the page cache where the file system lets us.

    Large files are read back piece by piece in a thread while the next piece is written, so that the end of the run
    has only the last piece to wait for. An error of the disk in the thread is raised by `finish`.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._fd, self._path = descriptor, path
        self._hash = hashlib.sha256()
        self._done = self._sent = 0
        self._error: OSError | None = None
        self._ends: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def written(self, size: int) -> None:
        """The file has grown to `size` bytes."""
        if size - self._sent < _PIECE:
            return
        # Reading past the cache goes by whole pages.
        self._sent = size - size % mmap.PAGESIZE
        self._ends.put(self._sent)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="read-back", daemon=True)
            self._thread.start()

    def finish(self) -> tuple[int, str]:
        """(size, SHA-256 in hex) of the whole file, as the disk returns it; OSError when the disk fails."""
        self.stop()
        if self._error:
            raise self._error
        os.fsync(self._fd)
        self._read(None)
        return self._done, self._hash.hexdigest()

    def stop(self) -> None:
        """End the thread after what it has been given."""
        if self._thread:
            self._ends.put(-1)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (end := self._ends.get()) >= 0:
            if self._error is None:
                try:
                    os.fdatasync(self._fd)
                    self._read(end)
                except OSError as error:
                    self._error = error

    def _read(self, end: int | None) -> None:
        """Hash from where it stopped to `end`, or to the end of the file."""
        os.posix_fadvise(self._fd, 0, end or 0, os.POSIX_FADV_DONTNEED)
        descriptor = _uncached(self._path)
        # Whole pages of its own: such reads need aligned memory.
        view = memoryview(mmap.mmap(-1, _BLOCK))
        try:
            while count := os.preadv(descriptor, [view[: _BLOCK if end is None else end - self._done]], self._done):
                self._hash.update(view[:count])
                self._done += count
        finally:
            os.close(descriptor)


def _uncached(path: Path) -> int:
    """A descriptor that reads from the disk itself; of the ordinary kind where the file system has no other."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    with storing(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class LocalStore:
    """The directory of one tier: staging, publishing, reading and removing regular files by name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def stage(self, name: str) -> StagedFile:
        """Begin to write `name`; nothing appears under that name before `publish`."""
        with storing(self.directory):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return StagedFile(self.directory, name)

    def publish(self, files: list[StagedFile]) -> None:
        """Give sealed files their final names, durably. An existing name is never overwritten."""
        for file in files:
            final = self.directory / file.name
            with storing(final):
                if os.path.lexists(final):
                    raise StoreError(f"{final} exists already and was not overwritten; this run was not published")
                file.path.rename(final)
        sync_directory(self.directory)

    def put(self, name: str, data: bytes) -> None:
        """Stage, seal and publish a small file in one step."""
        with self.stage(name) as staged:
            staged.write(data)
            staged.seal()
            self.publish([staged])

    def names(self, *, foreign: bool = False) -> list[str]:
        """Names of the regular files here, sorted; `foreign`: also of links, directories and pipes, never ours."""
        try:
            with os.scandir(self.directory) as entries:
                return sorted(entry.name for entry in entries if foreign or entry.is_file(follow_symlinks=False))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _translated(error, self.directory) from error

    def open(self, name: str) -> int:
        """A descriptor for reading the regular file `name`; NotADirectory, links and pipes are refused."""
        path = self.directory / name
        with storing(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise StoreError(f"{path} is not a regular file")
        return descriptor

    def read(self, name: str, limit: int = 64 << 20) -> bytes:
        """A small file whole; StoreError above `limit` bytes."""
        descriptor = self.open(name)
        with os.fdopen(descriptor, "rb") as file, storing(self.directory / name):
            data = file.read(limit + 1)
        if len(data) > limit:
            raise StoreError(f"{self.directory / name} is larger than {limit} bytes and was not read")
        return data

    def remove(self, name: str) -> None:
        """Remove a name if it is there."""
        path = self.directory / name
        with storing(path):
            path.unlink(missing_ok=True)

    def remove_all(self, names: Iterable[str]) -> None:
        """Remove several names, in their order."""
        for name in names:
            self.remove(name)
