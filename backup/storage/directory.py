"""Durable files in a directory: staged beside their final name, read back from the disk, then renamed.

The order is the whole point: write → fsync → read back from the disk and compare → rename → fsync the directory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from backup.errors import StoreError
from backup.storage.filesystem import statuses_of, store_error, storing, sync_directory
from backup.storage.rename import rename_new
from backup.storage.staged_file import FileIdentity, Sealed, StagedFile, Taker, file_identity


class LocalStore:
    """The directory of one tier: staging, publishing, reading and removing regular files by name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def stage(self, name: str, taker: Taker | None = None) -> StagedFile:
        """Begin to write `name`; nothing appears under that name before `publish`. See StagedFile."""
        with storing(self.directory):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return StagedFile(self.directory, name, taker)

    def publish(self, files: Sequence[Sealed]) -> None:
        """Give sealed files their final names, durably. An existing name is never overwritten."""
        for file in files:
            final = self.directory / file.name
            with storing(final):
                try:
                    rename_new(file.path, final)
                except FileExistsError:
                    taken = f"{final} exists already and was not overwritten; this run was not published"
                    raise StoreError(taken) from None
        sync_directory(self.directory)

    def put(self, name: str, data: bytes) -> None:
        """Stage, seal and publish a small file in one step."""
        with self.stage(name) as staged:
            staged.write(data)
            staged.seal()
            self.publish([staged])

    def names(self, *, foreign: bool = False) -> list[str]:
        """Names of the regular files here, sorted; `foreign`: also of links, directories and pipes, never ours."""
        return sorted(name for name, regular in self.listing().items() if foreign or regular)

    def listing(self) -> dict[str, bool]:
        """All names here, each with whether it is that of a regular file."""
        try:
            with os.scandir(self.directory) as entries:
                return {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise store_error(error, self.directory) from error

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

    def identity(self, name: str) -> FileIdentity:
        """Which file lies under a name."""
        return file_identity(statuses_of(self.directory, [name])[name])

    def remove(self, name: str) -> None:
        """Remove a name if it is there."""
        path = self.directory / name
        with storing(path):
            path.unlink(missing_ok=True)

    def remove_all(self, names: Iterable[str]) -> None:
        """Remove several names, in their order."""
        for name in names:
            self.remove(name)
