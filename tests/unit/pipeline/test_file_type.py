"""Files of every kind, under names that say something else; each is told by its bytes or refused with a remedy."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.errors import IntegrityError
from backup.pipeline.file_type import HEAD, Content, FileKind, is_tar, recognise

SQL = b"--\n-- PostgreSQL database dump\n--\n\nSET statement_timeout = 0;\n"
CUSTOM = b"PGDMP\x01\x0e\x00\x04\x08\x01" + bytes(range(256))


def archive(format: int = tarfile.PAX_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=format) as made:
        member = tarfile.TarInfo("media/a")
        member.size = 3
        made.addfile(member, io.BytesIO(b"abc"))
    return target.getvalue()


def old_archive() -> bytes:
    """A header as it was before `ustar`: no magic, only a checksum."""
    block = bytearray(archive(tarfile.USTAR_FORMAT))
    block[257:265] = bytes(8)
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block[:512]))[0]  # type: ignore[attr-defined]
    return bytes(block)


KNOWN = {
    "sql": (SQL, FileKind.SQL),
    "custom": (CUSTOM, FileKind.CUSTOM),
    "pax": (archive(), FileKind.TAR),
    "gnu": (archive(tarfile.GNU_FORMAT), FileKind.TAR),
    "ustar": (archive(tarfile.USTAR_FORMAT), FileKind.TAR),
    "before ustar": (old_archive(), FileKind.TAR),
}


@pytest.mark.parametrize("case", KNOWN)
def test_known_content_is_told_as_it_is_and_packed(case: str) -> None:
    data, kind = KNOWN[case]
    assert recognise(data) == Content(kind, packed=False)
    assert recognise(gzip.compress(data)[:HEAD]) == Content(kind, packed=True)


@pytest.mark.long
def test_only_the_beginning_of_a_large_file_is_needed() -> None:
    data = SQL + os.urandom(1 << 20)
    assert recognise(data[:HEAD]).kind is recognise(gzip.compress(data)[:HEAD]).kind is FileKind.SQL
    assert recognise(gzip.compress(SQL + bytes(80 << 20))[:HEAD]).kind is FileKind.SQL


def test_what_gnu_tar_writes_is_told(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    done = subprocess.run(["tar", "-cz", "-C", tmp_path, "media"], capture_output=True, check=True)
    assert recognise(done.stdout) == Content(FileKind.TAR, packed=True)


def zipped() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as made:
        made.writestr("a", "b")
    return target.getvalue()


REFUSED = {
    "empty": (b"", "empty", "another"),
    "web page": (b"\n<!DOCTYPE html><html>", "web page", "Download"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(600), "neither a dump nor an archive", "tar archives"),
    "random": (bytes(range(255, 0, -1)) * 4, "neither a dump nor an archive", "tar archives"),
    "zeros": (bytes(2048), "neither a dump nor an archive", "tar archives"),
    "other sql": (b"SELECT 1;\n", "text, but not a dump", "pg_dump"),
    "gzip of nothing": (gzip.compress(b""), "empty or truncated", "another"),
    "gzip of random": (gzip.compress(bytes(range(255, 0, -1)) * 4), "inside gzip", "tar archives"),
    "gzip cut": (gzip.compress(SQL)[:9], "truncated", "another"),
    "gzip damaged": (b"\x1f\x8b\x08\xff" + b"\xff" * 60, "damaged", "another"),
    "gzip twice": (gzip.compress(gzip.compress(SQL)), "twice", "gunzip"),
    "zip": (zipped(), "packed with zip", "unzip"),
    "xz": (lzma.compress(SQL), "packed with xz", "unxz"),
    "bzip2": (bz2.compress(SQL), "packed with bzip2", "bunzip2"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(40), "packed with zstd", "unzstd"),
    "xz in gzip": (gzip.compress(lzma.compress(SQL)), "inside gzip is packed with xz", "unxz"),
    "cluster": (SQL.replace(b"database dump", b"database cluster dump"), "whole server", "by hand"),
    "cluster packed": (gzip.compress(b"--\n-- PostgreSQL database cluster dump\n--\n"), "whole server", "by hand"),
    "second half": (SQL[5:], "text, but not a dump", "pg_dump"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused_with_a_remedy(case: str) -> None:
    data, message, hint = REFUSED[case]
    with pytest.raises(IntegrityError) as caught:
        recognise(data)
    assert message in caught.value.message and hint in caught.value.hint


@given(st.binary(max_size=2000), st.sampled_from([b"", b"\x1f\x8b\x08", b"--\n-- Postgre", b"PGDM", archive()[:400]]))
def test_no_bytes_make_it_fail_otherwise(data: bytes, before: bytes) -> None:
    try:
        recognise(before + data)
    except IntegrityError as error:
        assert error.hint


@given(st.integers(0, 511), st.integers(0, 7))
def test_one_flipped_bit_of_a_header_makes_it_no_archive(at: int, bit: int) -> None:
    block = bytearray(archive(tarfile.USTAR_FORMAT)[:512])
    block[at] ^= 1 << bit
    # The checksum ends with a NUL and a space that nobody reads.
    assert not is_tar(bytes(block)) or 148 <= at < 156
