"""What a store says of an object, and the proof that it is what was sent."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from backup.errors import IntegrityError
from backup.storage.remote import Entry

SHA256: Final = "sha256"
TOKEN: Final = "upload"  # noqa: S105 - the name of a field
_ARCHIVES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})


@dataclass(frozen=True)
class Sent:
    """What was sent: the checksum and the ETag that the store must give for it. `token` is of this upload alone."""

    size: int
    sha256: str
    checksum: str
    etag: str
    token: str


def entry_of(key: str, head: Mapping[str, Any]) -> Entry:
    """An object as HeadObject tells it."""
    metadata: Mapping[str, str] = head.get("Metadata") or {}
    checksum = str(head.get("ChecksumSHA256") or "")
    # That of an object in one part is the SHA-256 of its bytes; of several, that of their parts', with their number.
    whole = _hex(checksum) if checksum and "-" not in checksum + _etag(head) else metadata.get(SHA256, "")
    kind = str(head.get("StorageClass") or "STANDARD")
    return Entry(
        key=key,
        size=int(head["ContentLength"]),
        modified=_utc(head["LastModified"]),
        sha256=whole,
        checksum=f"sha256:{checksum}" if checksum else f"etag:{_etag(head)}",
        storage_class=kind,
        archived=bool(head.get("ArchiveStatus")) or (kind in _ARCHIVES and not _restored(head)),
        metadata=dict(metadata),
    )


def listed(key: str, item: Mapping[str, Any]) -> Entry:
    """An object as a listing tells it."""
    kind = str(item.get("StorageClass") or "STANDARD")
    return Entry(key, int(item["Size"]), _utc(item["LastModified"]), storage_class=kind, archived=kind in _ARCHIVES)


def require(key: str, head: Mapping[str, Any], sent: Sent, read: Callable[[], Iterator[bytes]]) -> Entry:
    """The object as it is now, if it is what was sent; else IntegrityError.

    By the SHA-256 that the store keeps; by the MD5 in its ETag where it keeps none; where that is something else (a
    KMS key makes it so), by reading every byte back.
    """
    entry = entry_of(key, head)
    checksum = str(head.get("ChecksumSHA256") or "")
    if entry.size != sent.size:
        raise _differs(key, f"it has {entry.size} bytes of {sent.size}")
    # Some stores leave out the number of parts, or keep the checksum of all bytes where others compose it.
    whole = base64.b64encode(bytes.fromhex(sent.sha256)).decode()
    if checksum and sent.checksum and checksum not in (sent.checksum, sent.checksum.partition("-")[0], whole):
        raise _differs(key, f"its SHA-256 is {checksum} and not {sent.checksum}")
    if not (checksum and sent.checksum) and _etag(head) != sent.etag:
        digest = hashlib.sha256()
        for block in read():
            digest.update(block)
        if digest.hexdigest() != sent.sha256:
            raise _differs(key, "its bytes are others")
    if entry.sha256 not in ("", sent.sha256):
        raise _differs(key, "it is noted with another SHA-256")
    return replace(entry, sha256=sent.sha256)


def _differs(key: str, how: str) -> IntegrityError:
    return IntegrityError(
        f"{key} was sent, but what the store holds is something else: {how}",
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
