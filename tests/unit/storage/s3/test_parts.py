"""Checksums of a whole that follow from its parts, and what an object is believed by."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest

from backup.errors import IntegrityError, RemoteFailed
from backup.storage.s3.parts import Part, Sent, composite, composite_etag, part_size, require_sent

DATA = (b"first part", b"second")
WHOLE = b"".join(DATA)
PARTS = [Part(n, len(d), hashlib.sha256(d).digest(), "e", hashlib.md5(d).digest()) for n, d in enumerate(DATA, 1)]  # noqa: S324
# Half of them sent before the store had shown that it keeps no SHA-256.
MIXED = [PARTS[0], Part(2, PARTS[1].size, b"", "e", PARTS[1].md5)]


def head(**changes: Any) -> dict[str, Any]:
    """What the store says of the object."""
    return {"ContentLength": len(WHOLE), "LastModified": datetime(2026, 1, 1, tzinfo=UTC), **changes}


def proven(parts: list[Part], told: dict[str, Any], stored: bytes = WHOLE) -> list[str]:
    """What had to be done to believe it; IntegrityError if it is not believed."""
    read: list[str] = []

    def back() -> Any:
        read.append("read back")
        yield stored

    sent = Sent(len(WHOLE), hashlib.sha256(WHOLE).hexdigest(), composite(parts), composite_etag(parts), "t")
    assert require_sent("k", told, sent, back).sha256 == sent.sha256
    return read


def test_a_checksum_of_the_store_is_compared_when_all_parts_have_one() -> None:
    assert proven(PARTS, head(ChecksumSHA256=composite(PARTS))) == []
    with pytest.raises(IntegrityError):
        proven(PARTS, head(ChecksumSHA256="another-2", ETag=composite_etag(PARTS)))


def test_otherwise_the_etag_is_or_every_byte_is_read() -> None:
    assert composite(MIXED) == ""
    for told in ({}, {"ChecksumSHA256": composite(PARTS)}):
        assert proven(MIXED, head(ETag=composite_etag(MIXED), **told)) == []
        assert proven(MIXED, head(ETag="of a KMS key", **told)) == ["read back"]
        with pytest.raises(IntegrityError):
            proven(MIXED, head(ETag="of a KMS key", **told), stored=WHOLE[::-1])


@pytest.mark.parametrize("total", [0, 1, 120_000 << 20, (120_000 << 20) + 1, 168_000_000_000, 320_000 << 20])
def test_no_object_has_more_parts_than_a_store_takes_nor_larger_ones_than_memory_has_room_for(total: int) -> None:
    length = part_size(total)
    assert -(-total // length) <= 10_000 and 12 << 20 <= length <= 32 << 20


def test_what_can_never_fit_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(RemoteFailed, match="more than one object can hold") as caught:
        part_size((320_000 << 20) + 1)
    assert "BACKUP_COPY_DIR" in caught.value.hint
