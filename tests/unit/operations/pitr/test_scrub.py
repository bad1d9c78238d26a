"""Damage of base backups and WAL that comes after they were written is found within a week."""

from __future__ import annotations

import os
from collections import Counter
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backup.catalog.wal_archive import WalArchive
from backup.model.manifest import Artifact
from backup.model.wal import Base, Segment, SegmentId
from backup.operations.pitr import base as base_module
from backup.operations.pitr.scrub import EVERY, Turn, due, scrub, scrub_share
from backup.operations.verify.stored_bytes import Stored
from backup.progress import Silent
from backup.storage.artifact_writer import ArtifactWriter
from tests.support.facts import NOW
from tests.support.windows import SIZE, SYSTEM, a_base, an_artifact

DAY = timedelta(days=1)
FILES = [an_artifact("segment", f"{number:03}.gz", 5) for number in range(40)]
FILES.append(an_artifact("base", "20261101T020000Z.tar.gz", 300))


@pytest.mark.parametrize("hours", [1, 24, 60])
@pytest.mark.parametrize("files", [FILES, FILES[:3], FILES[-1:]])
def test_each_file_is_read_once_a_week_however_often_somebody_comes_by(hours: int, files: list[Artifact]) -> None:
    turn, read, weeks = Turn(until=NOW), Counter[str](), 6
    for number in range(1, weeks * 168 // hours + 1):
        found, turn = due(files, turn, NOW + number * timedelta(hours=hours))
        read.update(each.file for each in found)
        assert len(found) <= len({each.file for each in found}) <= len(files)
    assert set(read) == {each.file for each in files}
    assert all(weeks - 1 <= count <= weeks + 1 for count in read.values()), read


def test_a_night_reads_its_share_and_a_month_of_absence_all_of_it_once() -> None:
    small = FILES[:-1]
    first, turn = due(small, Turn(until=NOW), NOW + DAY)
    second, _ = due(small, turn, NOW + 2 * DAY)
    assert (len(first), len(second)) == (6, 6) and not {each.file for each in first} & {each.file for each in second}
    found, _ = due(small, turn, NOW + 30 * DAY)
    assert sorted(each.file for each in found) == [each.file for each in small]


@pytest.mark.parametrize("size", [1, 50, 500])
@pytest.mark.parametrize("kept", [9, 15])
def test_what_comes_meanwhile_keeps_nothing_from_its_turn(kept: int, size: int) -> None:
    """New WAL comes as fast as a share is read, and is called as what is read next."""
    turn, there, read, unread = Turn(until=NOW), dict[str, tuple[int, Artifact]](), set[str](), list[str]()
    for day in range(1, 80):
        new = [an_artifact("segment", f"{number:024X}.gz", 5) for number in range(20 * day, 20 * day + 20)]
        new.append(an_artifact("base", f"{NOW + day * DAY:%Y%m%dT%H%M%SZ}.tar.gz", size))
        there |= {each.file: (day, each) for each in new}
        found, turn = due([each for _, each in there.values()], turn, NOW + day * DAY)
        read |= {each.file for each in found}
        gone = [name for name, (made, _) in there.items() if day - made >= kept]
        # Until then there is more each day, so a round takes longer.
        unread += [name for name in gone if name not in read and there[name][0] > 20]
        there = {name: each for name, each in there.items() if name not in gone}
    assert unread == []


def test_a_clock_that_was_wrong_silences_nothing() -> None:
    ahead = Turn(until=NOW + 3650 * DAY)
    found, turn = due(FILES, ahead, NOW)
    assert found == [] and turn.until == NOW
    assert due(FILES, turn, NOW + DAY)[0]
    assert due([], Turn(until=NOW), NOW + DAY) == ([], Turn(until=NOW + DAY))


def kept(root: Path) -> tuple[WalArchive, Base, list[Segment]]:
    """A base and three segments, packed."""
    archive = WalArchive(root, SYSTEM)
    archive.prepare()
    with ArtifactWriter(archive.bases, "20261101T020000Z.tar.gz", "base") as writer:
        writer.write(os.urandom(5000))
        own = {"id": "20261101T020000Z", "artifact": writer.finish()}
        base = a_base(1, NOW - 5 * DAY).model_copy(update=own)
        archive.keep_base(base, writer.staged, b"manifest")
    segments = []
    for number in range(1, 4):
        name = SegmentId(1, number).name(SIZE)
        with ArtifactWriter(archive.segments, f"{name}.gz", "segment", name) as writer:
            writer.write(os.urandom(900))
            segments.append(Segment(name=name, artifact=writer.finish(), received=NOW))
        archive.keep(segments[-1], writer.staged)
    return archive, base, segments


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_what_has_rotted_is_told_and_counts_for_nothing(tmp_path: Path) -> None:
    archive, base, segments = kept(tmp_path)
    assert scrub(archive, Silent()) == [] and archive.list_bases() == [base]
    damage(archive.bases.directory / base.artifact.file)
    damage(archive.segments.directory / segments[1].artifact.file)
    # The oldest base that is needed is older than what is kept.
    os.utime(archive.bases.directory / base.artifact.file, times=(0, (NOW - 8 * DAY).timestamp()))
    (archive.segments.directory / segments[2].artifact.file).chmod(0o600)
    told = scrub(archive, Silent())
    assert len(told) == 2 and all("is not as it was written, and was set aside" in each for each in told)
    assert archive.list_bases() == [] and archive.list_segments() == [segments[0], segments[2]]
    assert len(scrub(archive, Silent())) == 2, "neither counts yet"
    # Its record stays with it, for a person to look at; both go as many days later as moments are kept.
    archive.sweep_bases()
    assert sorted(archive.bases.names()) == [f"{base.id}.json", f"{base.id}.manifest", f"{base.id}.tar.gz.damaged"]
    context = cast(Any, SimpleNamespace(clock=lambda: NOW, days=7, catalog=SimpleNamespace(root=tmp_path)))
    base_module.prune(context, archive)
    assert len(archive.bases.names()) == 3
    for store in (archive.bases, archive.segments):
        for name in store.names():
            os.utime(store.directory / name, times=(0, (NOW - 8 * DAY).timestamp()))
    assert base_module.prune(context, archive) == 2
    assert archive.bases.names() == [] and len(archive.segments.names()) == 2


def test_what_the_disk_does_not_give_is_told_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, base, _ = kept(tmp_path)
    path, real = archive.bases.directory / base.artifact.file, os.read

    def read(descriptor: int, count: int) -> bytes:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == path:
            raise OSError(5, "Input/output error")
        return real(descriptor, count)

    assert scrub_share(archive, Silent(), NOW) == []
    monkeypatch.setattr(os, "read", read)
    (told,) = scrub(archive, Silent())
    assert "cannot be read" in told and archive.list_bases() == [base]
    # A night's share that could not be read is not done, though the night may have reached it at any time.
    nights = [scrub_share(archive, Silent(), NOW + night * DAY) for night in range(1, 15)]
    assert all(map(bool, nights[7:])) and archive.list_bases() == [base]
    monkeypatch.undo()
    assert scrub_share(archive, Silent(), NOW + 15 * DAY) == []
    assert [scrub_share(archive, Silent(), NOW + (15 + night) * DAY) for night in range(1, 8)] == [[]] * 7


def test_a_share_is_read_each_night_from_the_day_on_that_all_was_just_written(tmp_path: Path) -> None:
    archive, base, segments = kept(tmp_path)
    damage(archive.bases.directory / base.artifact.file)
    assert scrub_share(archive, Silent(), NOW) == []
    found = [each for night in range(1, 8) for each in scrub_share(archive, Silent(), NOW + night * DAY)]
    assert len(found) == 1 and base.artifact.file in found[0]
    # What is said of the turn may be damaged: then a new round begins.
    (archive.directory / "scrub.json").write_bytes(b"{")
    assert scrub_share(archive, Silent(), NOW + 8 * DAY) == []
    damage(archive.segments.directory / segments[0].artifact.file)
    assert scrub_share(archive, Silent(), NOW + 8 * DAY + EVERY)


def test_a_base_that_was_put_back_from_elsewhere_stays(tmp_path: Path) -> None:
    """As by an operator who has fetched it from the bucket: what was damaged may go, and nothing of the good one."""
    archive, base, _ = kept(tmp_path)
    path = archive.bases.directory / base.artifact.file
    good = path.read_bytes()
    damage(path)
    assert len(scrub(archive, Silent())) == 1
    path.write_bytes(good)
    os.utime(path.with_name(path.name + ".damaged"), times=(0, (NOW - 8 * DAY).timestamp()))
    (archive.bases.directory / "notes.damaged").write_bytes(b"somebody's")
    (archive.bases.directory / "notes.json").write_bytes(b"somebody's")
    assert archive.remove_damaged(NOW - 7 * DAY) == 1
    assert archive.list_bases() == [base]
    assert {"notes.damaged", "notes.json", f"{base.id}.manifest"} <= set(archive.bases.names())


def test_what_was_written_anew_under_its_name_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a segment of a timeline that is left once more, further on; the receiver's process waits for no lock."""
    archive, _, segments = kept(tmp_path)
    real = Stored.drain

    def drain(source: Stored) -> None:
        if source.name == segments[0].artifact.file:
            with ArtifactWriter(archive.segments, source.name, "segment", segments[0].name) as writer:
                writer.write(os.urandom(900))
                archive.keep(Segment(name=segments[0].name, artifact=writer.finish(), received=NOW), writer.staged)
        real(source)

    monkeypatch.setattr(Stored, "drain", drain)
    assert scrub(archive, Silent()) == []
    assert [each.name for each in archive.list_segments()] == [each.name for each in segments]


def test_a_turn_that_the_disk_does_not_give_ends_no_base_backup(tmp_path: Path) -> None:
    archive, _, _ = kept(tmp_path)
    (archive.directory / "scrub.json").write_bytes(bytes(65 << 20))
    assert scrub_share(archive, Silent(), NOW) == []


def test_all_are_good_only_if_all_count(tmp_path: Path) -> None:
    archive, base, segments = kept(tmp_path)
    assert scrub(archive, Silent()) == []
    for file in (archive.bases.directory / base.artifact.file, archive.segments.directory / segments[1].artifact.file):
        os.truncate(file, 100)
    told = scrub(WalArchive(tmp_path, SYSTEM), Silent())
    assert told == [
        f"{name} does not count: its file is not there as it was written" for name in (segments[1].name, base.id)
    ]


def test_what_is_read_well_the_second_time_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cable or memory may fail once; what is set aside is removed later."""
    archive, base, _ = kept(tmp_path)
    path, real, reads = archive.bases.directory / base.artifact.file, os.read, Counter[Path]()

    def read(descriptor: int, count: int) -> bytes:
        file = Path(f"/proc/self/fd/{descriptor}").readlink()
        reads[file] += 1
        data = real(descriptor, count)
        return b"x" + data[1:] if file == path and reads[file] == 1 else data

    monkeypatch.setattr(os, "read", read)
    (told,) = scrub(archive, Silent())
    assert "was read as something else once" in told and archive.list_bases() == [base]
