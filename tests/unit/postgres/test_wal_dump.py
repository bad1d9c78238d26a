"""WAL was read to where it was received, or it is not whole."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from backup.errors import IntegrityError
from backup.postgres import wal_dump

SIZE = 16 << 20
FILE = "000000010000000000000003"


@pytest.mark.parametrize(
    ("said", "reached"),
    [
        # 15, and later ones.
        ("error in WAL record at 0/3016078: invalid record length at 0/30160A0: wanted 24, got 0", 0x30160A0),
        (
            "error in WAL record at 0/3FFFF70: invalid magic number 0000 in log segment " + FILE + ", offset 16384",
            0x3FFFF70,
        ),
        (
            "error in WAL record at 0/3003F70: invalid magic number 0000 in log segment " + FILE + ", offset 16384",
            0x3004000,
        ),
        (
            "error in WAL record at 0/3003F70: invalid magic number 0000 in WAL segment "
            + FILE
            + ", LSN 0/3004000, offset 16384",
            0x3004000,
        ),
        # What was read from a damaged record is not where the reading ended.
        (
            "error in WAL record at 0/3016078: record with incorrect prev-link 400000/3016040 at 0/30160A0",
            0x30160A0,
        ),
        (
            f"error in WAL record at 0/3003F70: unexpected pageaddr 40/3004000 in log segment {FILE}, offset 16384",
            0x3004000,
        ),
        (
            "error in WAL record at 0/3003F70: unexpected pageaddr 40/3004000 in WAL segment "
            + FILE
            + ", LSN 0/3004000, offset 16384",
            0x3004000,
        ),
        ("error in WAL record at 0/3016078: contrecord is requested by 40/30160A0", 0x3016078),
        (
            "error in WAL record at 0/3016078: invalid record length at 0/30160A0: expected at least 24, got 0",
            0x30160A0,
        ),
        (f"error in WAL record at 0/2FFFF70: invalid magic number 0000 in log segment {FILE}, offset 0", 0x3000000),
        (f'could not find file "{FILE}": No such file or directory', 0x3000000),
        ("could not find a valid record after 0/2000100", 0x2000100),
        ("", 0),
    ],
)
def test_wal_is_whole_when_it_was_read_to_where_it_was_received(said: str, reached: int) -> None:
    wal_dump.require_whole(said, SIZE, reached)
    with pytest.raises(IntegrityError, match="cannot be read beyond"):
        wal_dump.require_whole(said, SIZE, reached + 1)


END = f"error in WAL record at 0/3003F70: invalid magic number 0000 in WAL segment {FILE}, LSN 0/3004000, offset 16384"
LAST = "rmgr: Heap        len (rec/tot):     54/   {}, tx: 738, lsn: 0/{}, prev 0/3003F38, desc: INSERT at 0/3004000"


@pytest.mark.parametrize(
    ("length", "place", "until", "whole"),
    [
        # The record behind it has a length that leads beyond its page, although all records were whole.
        (100, "3003F00", 0x3003F70, False),
        (100, "3003F00", 0x3003F68, True),
        # Whole pages may end within a record.
        (100, "3003F00", 0x3004000, True),
        # Over the beginnings of pages: the second one of 24 bytes, that of a segment of 40.
        (8192, "3001F00", 0x3003F18, True),
        (8192, "3001F00", 0x3003F20, False),
        (8192, "2FFFF00", 0x3001F28, True),
        (8192, "2FFFF00", 0x3001F30, False),
        (256, "3003E00", 0x3003F00, True),
    ],
)
def test_a_record_whose_length_is_damaged_is_not_the_end(length: int, place: str, until: int, *, whole: bool) -> None:
    said = f"{END}\n{LAST.format(length, place)}\n"
    if whole:
        wal_dump.require_whole(said, SIZE, until)
    else:
        with pytest.raises(IntegrityError, match="cannot be read beyond"):
            wal_dump.require_whole(said, SIZE, until)


def read(script: str, folder: Path, until: int, program: str = "") -> None:
    """Run a script on the WAL in a folder, with a pg_waldump that is this program."""
    (folder / "pg_waldump").write_text(f"#!/bin/sh\n{program}\n")
    (folder / "pg_waldump").chmod(0o700)
    (folder / "wal").mkdir(exist_ok=True)
    name, size = wal_dump.file_behind(1, until, SIZE)
    assert name == FILE
    words = [str(folder / "out"), str(folder / "wal"), "1", "0/2000028", "0/2000028", name, size]
    subprocess.run(["sh", "-c", script, *words], check=True, env={"PATH": f"{folder}:{os.environ['PATH']}"})


@pytest.mark.parametrize("script", [wal_dump.COMMITS, wal_dump.DELETIONS])
@pytest.mark.parametrize("until", [0x3000000, 0x2000001])
def test_behind_the_last_file_there_is_one_for_as_long_as_it_is_read(script: str, until: int, tmp_path: Path) -> None:
    """pg_waldump would wait for it. It may take the size of a segment from it."""
    read(script, tmp_path, until, f'od -An -tu4 -j32 -N4 "{tmp_path}/wal/{FILE}" >>"{tmp_path}/seen"')
    assert (tmp_path / "seen").read_text().split() == [str(SIZE)] * 2
    assert not list((tmp_path / "wal").iterdir())


@pytest.mark.parametrize("script", [wal_dump.COMMITS, wal_dump.DELETIONS])
def test_a_file_that_is_there_is_left_as_it_is(script: str, tmp_path: Path) -> None:
    (tmp_path / "wal").mkdir()
    (tmp_path / "wal" / FILE).write_text("WAL")
    read(script, tmp_path, 3 << 24)
    assert (tmp_path / "wal" / FILE).read_text() == "WAL"
