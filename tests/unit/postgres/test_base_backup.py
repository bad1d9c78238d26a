"""A base backup is compared with the server's manifest while it streams by."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile

import pytest

from backup.errors import DumpFailed
from backup.postgres.base_backup import BaseReader

LABEL = b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nSTART TIMELINE: 1\n"
FILES = {"backup_label": LABEL, "base/1/1234": b"rows" * 5000, "global/pg_control": b"control"}


def manifest(files: dict[str, bytes]) -> bytes:
    """What the server would send for these files."""
    listed = [
        {
            "Path": name,
            "Size": len(data),
            "Checksum-Algorithm": "SHA256",
            "Checksum": hashlib.sha256(data).hexdigest(),
        }
        for name, data in files.items()
    ]
    ranges = [{"Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000120"}]
    inner = json.dumps({"PostgreSQL-Backup-Manifest-Version": 2, "Files": listed, "WAL-Ranges": ranges})
    body = f"{inner[:-1]},\n".encode()
    return body + f'"Manifest-Checksum": "{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


def packed(files: dict[str, bytes]) -> bytes:
    """A tar of them, in this order."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


def read(data: bytes, piece: int = 700) -> BaseReader:
    """A reader that was fed with it."""
    reader = BaseReader()
    for start in range(0, len(data), piece):
        reader.feed(data[start : start + piece])
    return reader


def test_a_whole_one_says_where_its_wal_begins_and_ends() -> None:
    content = read(packed(FILES | {"backup_manifest": manifest(FILES)})).finish()
    assert (content.timeline, content.start, content.end) == (1, "0/2000028", "0/2000120")
    assert (content.files, content.bytes) == (3, sum(map(len, FILES.values())))


def test_what_the_server_needs_of_its_manifest_has_no_sums() -> None:
    content = read(packed(FILES | {"backup_manifest": manifest(FILES)})).finish()
    body, _, last = content.manifest.rstrip(b"\n}").rpartition(b"\n")
    digest = hashlib.sha256(body + b"\n").hexdigest()
    assert last.decode() == f'"Manifest-Checksum": "{digest}"'
    whole, kept = json.loads(manifest(FILES)), json.loads(content.manifest)
    assert next(iter(kept)) == "PostgreSQL-Backup-Manifest-Version" and kept["WAL-Ranges"] == whole["WAL-Ranges"]
    assert kept["Files"] == [{"Path": name, "Size": len(data)} for name, data in FILES.items()]


def changed(length: int, *blocks: int) -> bytes:
    """An incremental file: of so many blocks, these."""
    head = struct.pack(f"<3I{len(blocks)}I", 0xD3AE1F0D, len(blocks), length, *blocks)
    return head.ljust(8192 if blocks else 12, b"\0") + bytes(8192 * len(blocks))


def test_of_an_incremental_one_it_is_known_what_is_taken_from_the_one_before() -> None:
    label = LABEL + b"INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n"
    files = {
        "backup_label": label,
        "base/5/INCREMENTAL.100": changed(4, 0, 2),
        "base/5/INCREMENTAL.101": changed(4, 3, 2, 1, 0),
        "base/5/INCREMENTAL.102.7": changed(3),
        "base/5/INCREMENTAL.103_vm": changed(3),
        "global/INCREMENTAL.104": changed(6, 5, 3),
        "base/5/105": b"page",
        # It grew while it was read.
        "base/5/INCREMENTAL.106": changed(1, 0, 7),
    }
    content = read(packed(files | {"backup_manifest": manifest(files)})).finish()
    assert content.parent == "0/1000028"
    assert content.taken == {(5, 100, 0): 3, (5, 102, 7): 2, (0, 104, 0): 4}
    assert content.lengths == {(5, 100, 0): 4, (5, 101, 0): 4, (5, 102, 7): 3, (0, 104, 0): 6, (5, 106, 0): 8}


@pytest.mark.parametrize("data", [b"", b"\0" * 12, changed(4, 1, 2)[:16]])
def test_an_incremental_file_that_makes_no_sense_is_refused(data: bytes) -> None:
    files = FILES | {"base/5/INCREMENTAL.100": data}
    with pytest.raises(DumpFailed, match="is no incremental file"):
        read(packed(files | {"backup_manifest": manifest(files)})).finish()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (FILES, "ends before its manifest"),
        (FILES | {"base/1/1234": b"Rows" * 5000, "backup_manifest": manifest(FILES)}, "not what the server sent"),
        (FILES | {"base/1/1234": b"rows", "backup_manifest": manifest(FILES)}, "4 bytes instead of 20000"),
        (
            {name: FILES[name] for name in ("backup_label", "global/pg_control")}
            | {"backup_manifest": manifest(FILES)},
            "base/1/1234 is missing",
        ),
        (FILES | {"more": b"", "backup_manifest": manifest(FILES)}, "more is not in its manifest"),
        (
            {name: FILES[name] for name in ("base/1/1234",)}
            | {"backup_manifest": manifest({"base/1/1234": FILES["base/1/1234"]})},
            "no backup_label",
        ),
        (FILES | {"backup_manifest": manifest(FILES).replace(b"/2000120", b"/2000121")}, "its manifest is damaged"),
    ],
)
def test_anything_else_is_refused(files: dict[str, bytes], said: str) -> None:
    with pytest.raises(DumpFailed, match=said):
        read(packed(files)).finish()


def test_one_that_breaks_off_is_refused() -> None:
    whole = packed(FILES | {"backup_manifest": manifest(FILES)})
    for end in (0, 300, 600, len(whole) // 2):
        with pytest.raises(DumpFailed, match="not whole"):
            read(whole[:end]).finish()


def test_what_cannot_be_read_holds_nobody_up() -> None:
    reader = BaseReader()
    for _ in range(50):
        reader.feed(b"\xff" * (1 << 20))
    with pytest.raises(DumpFailed, match="not whole"):
        reader.finish()
    reader.abandon()
