"""A stream cut into parts of exact size, the checksums of the whole that follow, and the proof that a store holds it.

Pure.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from backup.errors import IntegrityError, RemoteFailed
from backup.formatting import printable, size
from backup.storage.remote import RemoteObject

# The bytes of a part, in the pieces that they came in: joining them would copy all that is sent.
Data = tuple[memoryview, ...]

_MIB: Final = 1 << 20
_PART: Final = 12 * _MIB
# 10,000 of these are 335 GB.
_LARGEST: Final = 32 * _MIB
# All parts that are being sent at one time.
_BUDGET: Final = 48 * _MIB
_MOST_PARTS: Final = 10_000
_LARGEST_OBJECT: Final = _LARGEST * _MOST_PARTS

# Fields of an object's own metadata.
SHA256: Final = "sha256"
TOKEN: Final = "upload"  # noqa: S105 - the name of a field
_ARCHIVES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})


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

    `total`: of the whole, at most; without one it is a small object.
    """
    if total is None:
        return _PART
    if total > _LARGEST_OBJECT:
        raise RemoteFailed(
            f"{size(total)} is more than one object can hold ({size(_LARGEST_OBJECT)})",
            "A folder on another disk (BACKUP_COPY_DIR) takes files of any size.",
        )
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
            f"{printable(self._key)} was not sent: what was read ({self.size} bytes so far) is not what was stored",
            "It changed while it was read, or the disk returns other bytes: run `verify`.",
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


@dataclass(frozen=True)
class Sent:
    """What was sent: the checksum and the ETag that the store must give for it. `token` is of this upload alone."""

    size: int
    sha256: str
    checksum: str
    etag: str
    token: str


def entry_of(key: str, head: Mapping[str, Any]) -> RemoteObject:
    """An object as HeadObject tells it."""
    metadata: Mapping[str, str] = head.get("Metadata") or {}
    checksum = str(head.get("ChecksumSHA256") or "")
    # That of an object in one part is the SHA-256 of its bytes; of several, that of their parts', with their number.
    whole = _hex(checksum) if checksum and "-" not in checksum + _etag(head) else metadata.get(SHA256, "")
    kind = str(head.get("StorageClass") or "STANDARD")
    return RemoteObject(
        key=key,
        size=int(head["ContentLength"]),
        modified=_utc(head["LastModified"]),
        sha256=whole,
        checksum=f"sha256:{checksum}" if checksum else f"etag:{_etag(head)}",
        storage_class=kind,
        archived=bool(head.get("ArchiveStatus")) or (kind in _ARCHIVES and not _restored(head)),
        metadata=dict(metadata),
    )


def listed_object(key: str, item: Mapping[str, Any]) -> RemoteObject:
    """An object as a listing tells it."""
    kind = str(item.get("StorageClass") or "STANDARD")
    return RemoteObject(
        key, int(item["Size"]), _utc(item["LastModified"]), storage_class=kind, archived=kind in _ARCHIVES
    )


def require_sent(key: str, head: Mapping[str, Any], sent: Sent, read: Callable[[], Iterator[bytes]]) -> RemoteObject:
    """The object as it is now, if it is what was sent; else IntegrityError.

    By the SHA-256 that the store keeps; by the MD5 in its ETag where it keeps none; where that is something else (a
    KMS key makes it so), by reading every byte back.
    """
    entry = entry_of(key, head)
    checksum = str(head.get("ChecksumSHA256") or "")
    if entry.size != sent.size:
        raise _differs(key, f"it has {entry.size} bytes of {sent.size}")
    # Some stores leave out the number of parts, or keep the checksum of all bytes where others compose it.
    whole = base64_of(bytes.fromhex(sent.sha256))
    if checksum and sent.checksum and checksum not in (sent.checksum, sent.checksum.partition("-")[0], whole):
        raise _differs(key, f"its SHA-256 is {checksum} and not {sent.checksum}")
    if not (checksum and sent.checksum) and _etag(head) != sent.etag:
        digest = hashlib.sha256()
        for block in read():
            digest.update(block)
        if digest.hexdigest() != sent.sha256:
            raise _differs(key, "its bytes differ")
    if entry.sha256 not in ("", sent.sha256):
        raise _differs(key, "it is stored with another SHA-256")
    return replace(entry, sha256=sent.sha256)


def _differs(key: str, how: str) -> IntegrityError:
    return IntegrityError(
        f"{key} was sent, but the store holds something else: {how}",
        "The store, a proxy or the connection changes data; `upload` sends it again.",
    )


def _etag(head: Mapping[str, Any]) -> str:
    return str(head.get("ETag") or "").strip('"')


def _hex(checksum: str) -> str:
    return base64.b64decode(checksum).hex()


def _restored(head: Mapping[str, Any]) -> bool:
    return 'ongoing-request="false"' in str(head.get("Restore") or "")


def _utc(moment: datetime) -> datetime:
    # Some stores list milliseconds, and tell seconds of the object itself.
    return moment.astimezone(UTC).replace(microsecond=0)
