"""The WAL of a recovery is taken from wherever it lies at that moment, and is what it is called."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from backup.catalog.wal_archive import WalArchive
from backup.errors import IntegrityError
from backup.model.wal import Base, Received, SegmentId, lsn_text
from backup.operations.pitr.segments import Packer
from backup.operations.pitr.wal_files import SegmentFiles, needed, received_to, unpacked_base
from backup.progress import Silent
from backup.storage.artifact_writer import ArtifactWriter
from tests.unit.model.test_wal import at, stream, whole
from tests.unit.model.test_wal import base as any_base

SIZE = 1 << 20


def segment(number: int, system: int = 1, timeline: int = 1) -> bytes:
    """A segment with a first page."""
    head = struct.pack("<HHIQIIQII", 0xD116, 2, timeline, number * SIZE, 0, 0, system, SIZE, 8192)
    return head + bytes([number]) * (SIZE - len(head))


def name(number: int) -> str:
    return SegmentId(1, number).name(SIZE)


@pytest.fixture
def archive(tmp_path: Path) -> WalArchive:
    made = WalArchive(tmp_path, "1")
    made.prepare()
    return made


@pytest.fixture
def unpacked(archive: WalArchive) -> Callable[..., dict[str, bytes]]:
    """What the tar of segments holds, by name."""
    base = any_base(2, 2).model_copy(update={"size": SIZE, "start": lsn_text(2 * SIZE + 40)})

    def read(*numbers: int, live: SegmentId | None = None) -> dict[str, bytes]:
        files = SegmentFiles(archive, base, None, Silent(), live)
        tar = io.BytesIO(b"".join(files.as_tar([SegmentId(1, number) for number in numbers])))
        with tarfile.open(fileobj=tar) as found:
            return {each.name: file.read() for each in found if (file := found.extractfile(each))}

    return read


def put(archive: WalArchive, file: str, data: bytes) -> None:
    (archive.stream.directory / file).write_bytes(data)


def test_packed_whole_and_partial_ones_come_under_their_own_names(
    archive: WalArchive, unpacked: Callable[..., dict[str, bytes]]
) -> None:
    put(archive, name(2), segment(2))
    put(archive, name(3), segment(3))
    Packer(archive, SIZE).pack(60)
    assert not (archive.stream.directory / name(2)).exists()
    put(archive, name(4), segment(4))
    put(archive, f"{name(5)}.partial", segment(5))
    assert unpacked(2, 3, 4, 5) == {name(number): segment(number) for number in (2, 3, 4, 5)}


def test_of_a_timeline_that_came_back_what_is_received_again_counts_once_it_is_level(
    archive: WalArchive, unpacked: Callable[..., dict[str, bytes]]
) -> None:
    early = segment(2)[:-100] + bytes(100)
    put(archive, f"{name(2)}.partial", early)
    Packer(archive, SIZE).close_timelines(2, at(0))
    put(archive, f"{name(2)}.partial", segment(2))
    assert unpacked(2) == {name(2): early}
    assert unpacked(2, live=SegmentId(2, 2)) == {name(2): early}
    assert unpacked(2, live=SegmentId(1, 2)) == {name(2): segment(2)}
    # Ended again meanwhile.
    (archive.stream.directory / f"{name(2)}.partial").unlink()
    assert unpacked(2, live=SegmentId(1, 2)) == {name(2): early}


def test_one_that_was_only_begun_is_zeros(archive: WalArchive, unpacked: Callable[..., dict[str, bytes]]) -> None:
    put(archive, f"{name(2)}.partial", bytes(SIZE))
    assert unpacked(2) == {name(2): bytes(SIZE)}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (segment(3), "another place or cluster"),
        (segment(2, system=2), "another place or cluster"),
        (segment(2, timeline=2), "another place or cluster"),
        (segment(2)[:-1], f"has {SIZE - 1} bytes"),
        (segment(2) + b"x", f"has {SIZE + 1} bytes"),
        (b"x" * SIZE, "is damaged"),
    ],
)
def test_what_is_not_that_segment_is_refused(
    archive: WalArchive, unpacked: Callable[..., dict[str, bytes]], data: bytes, said: str
) -> None:
    put(archive, f"{name(2)}.partial", data)
    with pytest.raises(IntegrityError, match=said) as refused:
        unpacked(2)
    assert "Ask for an earlier moment" in refused.value.hint


def test_one_that_is_gone_is_told(unpacked: Callable[..., dict[str, bytes]]) -> None:
    with pytest.raises(IntegrityError, match=f"{name(2)} is gone"):
        unpacked(2)


def begun(place: int) -> Received:
    """Two whole segments, and a stream that has come to a place of the next one, which has a file from then on."""
    within = stream(4, 4.5).model_copy(update={"received": lsn_text(place), "size": 16 << 20})
    return Received(whole(range(2, 4)), within, partial=SegmentId(1, 4) if place % (16 << 20) else None)


def test_a_segment_of_which_nothing_has_come_is_not_asked_for() -> None:
    base, size = any_base(2, 2), 16 << 20
    numbers: Callable[[Base, Received], list[int]] = lambda base, received: [  # noqa: E731
        each.number for each in needed(base, received)
    ]
    assert numbers(base, begun(4 * size + 1)) == [2, 3, 4]
    assert numbers(base, begun(4 * size)) == [2, 3]
    seen = Received(whole(range(2, 4)), begun(4 * size).stream, partial=SegmentId(1, 4))
    assert numbers(base, seen) == [2, 3, 4], "it came behind the last look"
    assert received_to(seen, SegmentId(1, 4), size) == 4 * size
    broken = Received(whole(range(2, 4)), None, {SegmentId(1, 4): at(4)})
    assert numbers(base, broken) == [2, 3, 4]
    assert received_to(broken, SegmentId(1, 4), size) == 4 * size
    assert received_to(begun(4 * size + 1), SegmentId(1, 4), size) == 4 * size + 1
    assert received_to(begun(4 * size), SegmentId(1, 3), size) == 4 * size


def test_of_a_damaged_base_it_is_said_how_an_older_one_is_used(archive: WalArchive) -> None:
    with ArtifactWriter(archive.bases, "b.tar.gz", "base") as writer:
        writer.write(b"base" * 1000)
        found = any_base(2, 2).model_copy(update={"artifact": writer.finish()})
        archive.keep_base(found, writer.staged)
    path = archive.bases.directory / "b.tar.gz"
    assert b"".join(unpacked_base(archive, found, None, Silent())) == b"base" * 1000
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="is damaged") as caught:
        list(unpacked_base(archive, found, None, Silent()))
    assert f"Move {path} elsewhere" in caught.value.hint
    path.unlink()
    assert archive.list_bases() == []
