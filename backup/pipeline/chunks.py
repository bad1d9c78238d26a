"""Where the bytes of an archive come from: what is read piece by piece, or what somebody else hands over in chunks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Source(Protocol):
    """Where an archive's bytes come from."""

    def read(self, count: int, /) -> bytes:
        """The next `count` bytes; fewer only at the end."""


class Chunks:
    """A Source of chunks of any size."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._rest = iter(chunks), memoryview(b"")

    def read(self, count: int, /) -> bytes:
        """See Source."""
        if len(self._rest) >= count:
            piece, self._rest = bytes(self._rest[:count]), self._rest[count:]
            return piece
        pieces: list[memoryview] = []
        while count and (self._rest or self._more()):
            part, self._rest = self._rest[:count], self._rest[count:]
            pieces.append(part)
            count -= len(part)
        return b"".join(pieces)

    def _more(self) -> bool:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._rest = memoryview(chunk)
        return True
