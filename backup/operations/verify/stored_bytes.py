"""Stored bytes on their way to a judgement: read once, hashed as they lie, unpacked beside the caller's thread."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Final

from backup.errors import IntegrityError
from backup.pipeline import age, gzip
from backup.pipeline.chunks import Put, aside
from backup.progress import Progress
from backup.storage.directory import LocalStore
from backup.storage.filesystem import storing

_BLOCK: Final = 1 << 20
_AHEAD: Final = 4


class Stored:
    """One stored file, read from the disk once. `size` and `sha256` are those of the bytes read so far.

    `identity` names the file with the key that opens it, if it is encrypted.

    `plain_size` is what they unpacked to; `failed`: the disk did not give them all.
    """

    def __init__(self, store: LocalStore, name: str, progress: Progress, identity: Path | None = None) -> None:
        self.name = name
        self.size = 0
        self.plain_size = 0
        self.failed = False
        self._identity = identity
        self._told = 0
        self._progress = progress
        self._hash = hashlib.sha256()
        self._blocks = self._read(store)
        self._reading: Generator[bytes, None, None] | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 in hex."""
        return self._hash.hexdigest()

    def content(
        self, *, packed: bool = True, single: bool = True, parts: Sequence[tuple[int, int]] = ()
    ) -> Generator[bytes, None, None]:
        """What the file holds. StoreError when the disk fails, IntegrityError for what is not whole, KeyMissing.

        `parts`: the packed and the plain size of those that it is unpacked in.
        """
        return self._taken(self._content(packed, single, parts))

    def raw(self) -> Generator[bytes, None, None]:
        """The bytes as they are stored. StoreError when the disk fails."""
        return self._taken(self._raw())

    def decrypted(self) -> Generator[bytes, None, None]:
        """The stored bytes, or what they are decrypted to; not unpacked. StoreError, IntegrityError, KeyMissing."""
        with contextlib.closing(age.decrypted_chunks(self._rest(), self._identity)) as pieces:
            yield from pieces

    def drain(self) -> None:
        """Read what is left, so that `size` and `sha256` are those of the whole file. StoreError."""
        self._leave()
        with contextlib.closing(read_ahead(self._rest())) as waiting:
            for _ in waiting:
                self._tell()
        self._tell()

    def close(self) -> None:
        """Close the file, if it was left early."""
        self._leave()
        self._blocks.close()

    def _content(self, packed: bool, single: bool, parts: Sequence[tuple[int, int]]) -> Generator[bytes, None, None]:
        try:
            with contextlib.closing(read_ahead(self._opened(packed, single, parts))) as waiting:
                for piece in waiting:
                    self.plain_size += len(piece)
                    self._tell()
                    yield piece
        except gzip.DAMAGED as error:
            raise IntegrityError(f"{self.name} cannot be unpacked: {error}") from error
        self._tell()

    def _raw(self) -> Generator[bytes, None, None]:
        with contextlib.closing(read_ahead(self._rest())) as waiting:
            for block in waiting:
                self._tell()
                yield block

    def _taken(self, pieces: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
        self._reading = pieces
        return pieces

    def _leave(self) -> None:
        # Whoever took the bytes may have stopped in their midst: a thread still reads, and only one may.
        if self._reading is not None:
            self._reading.close()

    def _opened(self, packed: bool, single: bool, parts: Sequence[tuple[int, int]]) -> Generator[bytes, None, None]:
        # Closed by name: an error holds on to what is behind it, which would go on reading beside `drain`.
        with contextlib.closing(age.decrypted_chunks(self._rest(), self._identity)) as blocks:
            unpacked = gzip.unpack_parts(blocks, parts) if parts else gzip.unpack(blocks, single=single)
            yield from unpacked if packed else blocks

    def _rest(self) -> Generator[bytes, None, None]:
        # Not `yield from`: closing this must leave the file open for `drain`.
        for block in self._blocks:  # noqa: UP028
            yield block

    def _read(self, store: LocalStore) -> Generator[bytes, None, None]:
        self.failed = True
        descriptor = store.open(self.name)
        try:
            # The disk is asked, not what is left in memory of the writing.
            with contextlib.suppress(OSError):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            while True:
                with storing(store.directory / self.name):
                    block = os.read(descriptor, _BLOCK)
                if not block:
                    break
                self._hash.update(block)
                self.size += len(block)
                yield block
        finally:
            os.close(descriptor)
        self.failed = False

    def _tell(self) -> None:
        size = self.size
        self._progress.advance(size - self._told)
        self._told = size


def read_ahead(items: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """`items` made by a thread of their own, a few ahead of the caller; their error is raised here. Close it."""

    def make(put: Put, stopped: threading.Event) -> None:
        with contextlib.closing(items):
            for item in items:
                put(item)
                if stopped.is_set():
                    return

    yield from aside(make, "reading", _AHEAD)
