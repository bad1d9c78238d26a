"""A stream cut into parts of exact size, and the checksums of the whole that follow from those of its parts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backup.errors import IntegrityError, RemoteFailed
from backup.formatting import printable, size

# The bytes of a part, in the pieces that they came in: joining them would copy all that is sent.
Data = tuple[memoryview, ...]

_MIB: Final = 1 << 20
_PART: Final = 12 * _MIB
# 10,000 of these are 168 GB, and 335 GB.
_UNKNOWN: Final = 16 * _MIB
_LARGEST: Final = 32 * _MIB
# All parts that are being sent at one time.
_BUDGET: Final = 48 * _MIB
_MOST_PARTS: Final = 10_000
LARGEST_OBJECT: Final = _LARGEST * _MOST_PARTS


@dataclass(frozen=True)
class Part:
    """A part that the store has accepted. `etag` in its words; `md5` only where it keeps no SHA-256."""

    number: int
    size: int
    sha256: bytes
    etag: str
    md5: bytes = b""


def part_size(total: int | None) -> int:
    """All parts but the last have one size, which some stores require. RemoteFailed for what can never fit.

    A stream of unknown length gets larger parts: 10,000 of them are all that a store takes.
    """
    if total is None:
        return _UNKNOWN
    if total > LARGEST_OBJECT:
        raise RemoteFailed(f"{size(total)} is more than one object of ours can hold ({size(LARGEST_OBJECT)})")
    needed = -(-total // _MOST_PARTS)
    return max(_PART, -(-needed // _MIB) * _MIB)


class Cut:
    """Parts of `length` bytes, the last one shorter; each with whether it is the last.

    IntegrityError before the last part when size or SHA-256 of the whole are not those that were required.
    """

    def __init__(self, key: str, chunks: Iterable[bytes], length: int, size: int | None, sha256: str) -> None:
        self._key, self._chunks, self._length = key, chunks, length
        self._required = (size, sha256.lower())
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """SHA-256 of all the chunks that were taken, in hex."""
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[tuple[Data, bool]]:
        held: list[memoryview] = []
        room = self._length
        for chunk in self._chunks:
            self._hash.update(chunk)
            self.size += len(chunk)
            if self._required[0] is not None and self.size > self._required[0]:
                raise self._differs()
            view = memoryview(chunk)
            while view:
                if not room:
                    yield tuple(held), False
                    held, room = [], self._length
                taken = view[:room]
                held.append(taken)
                room -= len(taken)
                view = view[len(taken) :]
        size, sha256 = self._required
        if (size is not None and size != self.size) or (sha256 and sha256 != self.sha256):
            raise self._differs()
        yield tuple(held), True

    def _differs(self) -> IntegrityError:
        return IntegrityError(
            f"{printable(self._key)} was not sent: what was read ({self.size} bytes so far) is not what it should be",
            "It was changed while it was read, or the disk returns other bytes: `verify` tells.",
        )


def at_once(length: int, parallel: int) -> int:
    """How many parts of a length may be in memory on their way."""
    return max(1, min(parallel, _BUDGET // length))


def length(data: Data) -> int:
    """How many bytes that are."""
    return sum(len(piece) for piece in data)


def sha256_of(data: Data) -> bytes:
    """Their SHA-256."""
    return _digest(hashlib.sha256(), data)


def md5_of(data: Data) -> bytes:
    """Their MD5: what other stores give as an ETag."""
    return _digest(hashlib.md5(usedforsecurity=False), data)


def _digest(hashing: Any, data: Data) -> bytes:
    for piece in data:
        hashing.update(piece)
    digest: bytes = hashing.digest()
    return digest


def base64_of(digest: bytes) -> str:
    """A digest as headers have it."""
    return base64.b64encode(digest).decode()


def composite(parts: Sequence[Part]) -> str:
    """The checksum that a store which keeps SHA-256 must give for these parts; empty unless each has one."""
    if not all(part.sha256 for part in parts):
        return ""
    return f"{base64_of(hashlib.sha256(b''.join(part.sha256 for part in parts)).digest())}-{len(parts)}"


def composite_etag(parts: Sequence[Part]) -> str:
    """The ETag that other stores give."""
    joined = b"".join(part.md5 for part in parts)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"
