"""WAL and base backups in the backup volume."""

from __future__ import annotations

import os
import struct
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup.catalog.wal_archive import StreamFile, WalArchive, clusters
from backup.errors import IntegrityError, StoreError
from backup.model.wal import UNKNOWN, SegmentId, Stream
from backup.operations.pitr.segments import Packer
from tests.unit.model.test_wal import base

SIZE = 1 << 20
SYSTEM = "7713695199303512095"
LEVEL = datetime(2026, 11, 28, 3, tzinfo=UTC)


def segment(number: int, *, system: str = SYSTEM) -> bytes:
    """A segment whose first page is as a server writes it."""
    page = struct.pack("<HHIQIIQII", 0xD116, 2, 1, number * SIZE, 0, 0, int(system), SIZE, 8192)
    return page + bytes([number]) * (SIZE - len(page))


@pytest.fixture
def archive(tmp_path: Path) -> WalArchive:
    """An empty one."""
    made = WalArchive(tmp_path, SYSTEM)
    made.prepare()
    return made


def receive(archive: WalArchive, *numbers: int, data: bytes = b"") -> list[str]:
    """Write segments as a receiver does; their names."""
    names = [SegmentId(1, number).name(SIZE) for number in numbers]
    for name, number in zip(names, numbers, strict=True):
        (archive.stream.directory / name).write_bytes(data or segment(number))
    return names


def test_whole_segments_are_packed_and_the_newest_stays(archive: WalArchive) -> None:
    names = receive(archive, 3, 4, 5)
    (archive.stream.directory / f"{SegmentId(1, 6).name(SIZE)}.partial").write_bytes(bytes(SIZE))
    packer = Packer(archive, SIZE)
    assert packer.pack(60) == 3
    assert [each.name for each in archive.list_segments()] == names
    assert archive.waiting() == names[-1:]
    assert packer.pack(60) == 0
    assert Packer(archive, SIZE).pack(60) == 0
    assert set(archive.received(SIZE).whole) == {SegmentId(1, number) for number in (3, 4, 5)}


def test_a_segment_that_is_not_whole_waits(archive: WalArchive) -> None:
    receive(archive, 3, data=segment(3)[:-1])
    assert Packer(archive, SIZE).pack(60) == 0
    assert archive.received(SIZE).whole == {}


@pytest.mark.parametrize(("data", "said"), [(segment(4), "another one"), (bytes(SIZE), "not that of a WAL segment")])
def test_what_is_not_the_segment_of_its_name_is_not_kept(archive: WalArchive, data: bytes, said: str) -> None:
    receive(archive, 3, data=data)
    with pytest.raises(IntegrityError, match=said):
        Packer(archive, SIZE).pack(60)
    receive(archive, 3, data=segment(3, system="12"))
    with pytest.raises(IntegrityError, match="another one"):
        Packer(archive, SIZE).pack(60)
    assert archive.list_segments() == []


def test_a_gap_keeps_what_was_received_of_its_segment(archive: WalArchive) -> None:
    receive(archive, 3)
    (archive.stream.directory / f"{SegmentId(1, 4).name(SIZE)}.partial").write_bytes(segment(4))
    packer = Packer(archive, SIZE)
    packer.break_off(LEVEL)
    assert archive.stream.names() == []
    received = archive.received(SIZE)
    assert (received.whole[SegmentId(1, 3)], received.broken[SegmentId(1, 4)]) == (LEVEL, LEVEL)
    assert set(received.whole) == {SegmentId(1, 3)}
    assert set(received.broken) == {SegmentId(1, 4)}
    # It may come whole later, where the server had it still.
    receive(archive, 4)
    assert packer.pack(60) == 1
    assert set(archive.received(SIZE).whole) == {SegmentId(1, 3), SegmentId(1, 4)}


def test_a_record_that_was_torn_is_none_and_its_segment_is_packed_again(archive: WalArchive) -> None:
    names = receive(archive, 3, 4)
    Packer(archive, SIZE).pack(60)
    records = archive.directory / "segments.jsonl"
    records.write_bytes(records.read_bytes()[:-30])
    assert [each.name for each in archive.list_segments()] == names[:1]
    assert Packer(archive, SIZE).pack(60) == 1
    assert [each.name for each in archive.list_segments()] == names


def test_a_record_whose_file_is_gone_is_none(archive: WalArchive) -> None:
    names = receive(archive, 3, 4)
    Packer(archive, SIZE).pack(60)
    (archive.segments.directory / f"{names[0]}.gz").unlink()
    assert [each.name for each in archive.list_segments()] == names[1:]


def test_removed_segments_leave_neither_file_nor_record(archive: WalArchive) -> None:
    receive(archive, 3, 4, 5)
    Packer(archive, SIZE).pack(60)
    archive.remove_segments(archive.list_segments()[:2])
    assert [each.name for each in archive.list_segments()] == [SegmentId(1, 5).name(SIZE)]
    assert archive.segments.names() == [f"{SegmentId(1, 5).name(SIZE)}.gz"]


def test_bases_are_listed_by_age_and_damaged_records_left_out(archive: WalArchive) -> None:
    for number in (5, 3):
        each = base(number, number)
        each = each.model_copy(update={"artifact": each.artifact.model_copy(update={"file": f"b{number}.tar.gz"})})
        with archive.bases.stage(each.artifact.file) as staged:
            staged.write(b"x")
            staged.seal()
            archive.keep_base(each, staged)
    archive.bases.put("b9.json", b"{")
    assert [each.id for each in archive.list_bases()] == ["b3", "b5"]
    archive.remove_base(archive.list_bases()[0])
    assert [each.id for each in archive.list_bases()] == ["b5"]


def test_what_the_next_base_needs_of_one_goes_with_it(archive: WalArchive) -> None:
    each = base(5, 5)
    with archive.bases.stage(each.artifact.file) as staged:
        staged.write(b"x")
        staged.seal()
        archive.keep_base(each, staged, b"{}")
    assert archive.manifest(each) == b"{}" and archive.list_bases() == [each]
    archive.remove_base(each)
    assert archive.manifest(each) == b"" and archive.bases.names() == []


def test_what_is_set_aside_is_no_archive(archive: WalArchive) -> None:
    receive(archive, 3)
    assert [each.system_identifier for each in clusters(archive.root)] == [SYSTEM]
    archive.set_aside(datetime(2026, 11, 28, tzinfo=UTC))
    assert clusters(archive.root) == []
    archive.remove_aside(datetime(2026, 11, 27, tzinfo=UTC))
    assert len(list((archive.root / "wal").iterdir())) == 1
    archive.remove_aside(datetime(2026, 11, 29, tzinfo=UTC))
    assert list((archive.root / "wal").iterdir()) == []
    assert clusters(archive.root / "nowhere") == []
    for name in ("..", "x", "1/2", ""):
        with pytest.raises(StoreError, match="not a system identifier"):
            WalArchive(archive.root, name)


def test_what_is_said_of_the_stream(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    file = StreamFile(tmp_path)
    assert file.read() is None
    said = Stream(looked=datetime.now(UTC), state="streaming", received="0/10", current="0/30")
    file.write(said)
    assert file.read() == said
    assert said.behind == 32
    (tmp_path / "state" / "wal.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        file.read()


def test_names_that_are_packed_while_somebody_looks_are_not_missed(archive: WalArchive) -> None:
    receive(archive, 3, 4)
    packer = Packer(archive, SIZE)

    class Looking(WalArchive):
        def list_segments(self) -> list[object]:  # type: ignore[override]
            found = WalArchive.list_segments(self)
            packer.pack(60)
            return list(found)

    looking = Looking(archive.root, SYSTEM)
    assert len(looking.received(SIZE).whole) == 2


def test_the_moment_of_a_segment_is_what_is_known_of_its_end(archive: WalArchive) -> None:
    """Not that of its file: old WAL may come late."""
    receive(archive, 3, 4)
    assert set(archive.received(SIZE).whole.values()) == {UNKNOWN}
    Packer(archive, SIZE).pack(60, lambda end: LEVEL if end > 4 * SIZE else UNKNOWN)
    assert archive.received(SIZE).whole == {SegmentId(1, 3): UNKNOWN, SegmentId(1, 4): LEVEL}


def test_what_a_full_disk_cut_short_gets_its_size_again(archive: WalArchive) -> None:
    names = [f"{SegmentId(1, number).name(SIZE)}.partial" for number in (3, 4, 5)]
    for name, data in zip(names, (segment(3)[:5000], b"", segment(5)), strict=True):
        (archive.stream.directory / name).write_bytes(data)
    Packer(archive, SIZE).mend()
    found = [(archive.stream.directory / name).read_bytes() for name in names]
    assert found == [segment(3)[:5000].ljust(SIZE, b"\0"), b"", segment(5)]


def test_the_last_segment_of_an_older_timeline_is_kept(archive: WalArchive) -> None:
    name = SegmentId(1, 4).name(SIZE)
    (archive.stream.directory / f"{name}.partial").write_bytes(segment(4))
    (archive.stream.directory / f"{SegmentId(2, 4).name(SIZE)}.partial").write_bytes(bytes(SIZE))
    Packer(archive, SIZE).close_timelines(2, LEVEL)
    assert archive.received(SIZE).broken == {SegmentId(1, 4): LEVEL}
    assert archive.partials() == [f"{SegmentId(2, 4).name(SIZE)}.partial"]


def test_one_that_was_only_begun_is_no_segment(archive: WalArchive) -> None:
    (archive.stream.directory / f"{SegmentId(1, 4).name(SIZE)}.partial").write_bytes(bytes(SIZE))
    Packer(archive, SIZE).break_off(LEVEL)
    assert (archive.stream.names(), archive.list_segments()) == ([], [])


def test_what_was_cut_short_does_not_count(archive: WalArchive) -> None:
    names = receive(archive, 3, 4)
    Packer(archive, SIZE).pack(60)
    path = archive.segments.directory / f"{names[1]}.gz"
    os.truncate(path, path.stat().st_size - 1)
    assert [each.name for each in WalArchive(archive.root, SYSTEM).list_segments()] == names[:1]
    each = base(5, 5)
    with archive.bases.stage(each.artifact.file) as staged:
        staged.write(b"x" * each.artifact.stored_size)
        staged.seal()
        archive.keep_base(each, staged)
    assert archive.list_bases() == [each]
    os.truncate(archive.bases.directory / each.artifact.file, 0)
    assert archive.list_bases() == []
