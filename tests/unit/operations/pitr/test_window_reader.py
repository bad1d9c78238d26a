"""The window of a backup volume, from files as the stream and the bases leave them, whole and damaged."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backup.catalog.wal_archive import ArchivedServer, WalArchive
from backup.config.loader import Settings
from backup.model.wal import SegmentId, WindowProof
from backup.monitoring.window import Window
from backup.operations.pitr.base import prune
from backup.operations.pitr.window_reader import read_window
from tests.support.windows import SIZE, a_base, a_stream, on_disk

NOW = datetime(2026, 11, 28, 16, tzinfo=UTC)
HOUR = timedelta(hours=1)
BASE = a_base(5, NOW - 3 * HOUR, size=2000)
WHOLE = {5: NOW - 2 * HOUR, 6: NOW - HOUR, 7: NOW - HOUR / 2}


def read(root: Path, **given: str) -> Window:
    return read_window(Settings(BACKUP_PITR="on", **given), root, NOW)  # type: ignore[arg-type]


def test_nothing_is_there(tmp_path: Path) -> None:
    seen = read(tmp_path)
    assert (seen.spans, seen.bases, seen.stream, seen.segments, seen.problems) == ((), (), None, 0, ())


def test_what_is_there(tmp_path: Path) -> None:
    stream = a_stream(8, NOW - timedelta(seconds=1), NOW)
    on_disk(tmp_path, [BASE], WHOLE, stream)
    seen = read(tmp_path)
    assert (seen.start, seen.end, seen.live, seen.base) == (BASE.ended, stream.level, True, BASE)
    assert (seen.segments, seen.segment_bytes, seen.stream, seen.problems) == (3, 6 + SIZE, stream, ())
    assert seen.begun and (seen.keep.days, seen.max_lag.seconds, seen.base_age) == (7, 300, timedelta(hours=36))


def test_bases_do_not_renew_since_when_wal_is_received(tmp_path: Path) -> None:
    archive = on_disk(tmp_path, [BASE], WHOLE)
    assert read(tmp_path).since is None
    archive.note_server(ArchivedServer(service="db"))
    first = read(tmp_path)
    then = (NOW - timedelta(days=20)).timestamp()
    for path in (archive.server_file, archive.bases.directory):
        os.utime(path, (then, then))
    (archive.bases.directory / "another").touch()
    archive.note_server(ArchivedServer(service="db"))
    seen = read(tmp_path)
    assert first.since and seen.since == NOW - timedelta(days=20) and seen.begun != seen.since


def test_a_cluster_of_which_nothing_is_left_has_proven_nothing(tmp_path: Path) -> None:
    archive = on_disk(tmp_path, [BASE], WHOLE)
    old = WalArchive(tmp_path, "99")
    old.prepare()
    proof = WindowProof(tried=NOW, base="b", moment=NOW, problem="a page is damaged")
    old.keep_proof(proof)
    assert read(tmp_path).proof is None
    archive.keep_proof(proof)
    assert read(tmp_path).proof == proof


def test_without_a_stream_it_ends_with_the_newest_segment(tmp_path: Path) -> None:
    on_disk(tmp_path, [BASE], WHOLE)
    seen = read(tmp_path)
    assert (seen.end, seen.live) == (WHOLE[6], False), "of one that waits to be packed nothing is known"


@pytest.mark.parametrize("partial", [6, 7, 8])
def test_segments_that_ended_since_the_look_break_nothing(tmp_path: Path, partial: int) -> None:
    on_disk(tmp_path, [BASE], WHOLE, a_stream(partial, NOW - HOUR, NOW))
    seen = read(tmp_path)
    assert (seen.live, seen.end) == (True, NOW - HOUR)


def test_a_part_that_holds_no_whole_second_is_none(tmp_path: Path) -> None:
    tenth = timedelta(milliseconds=100)
    short = a_base(9, NOW + 3 * tenth, size=100)
    on_disk(tmp_path, [BASE, short], WHOLE | {9: NOW + 8 * tenth}, a_stream(12, NOW + HOUR, NOW + HOUR))
    seen = read(tmp_path)
    assert (len(seen.spans), seen.start, seen.end) == (1, BASE.ended, WHOLE[7])


@pytest.mark.parametrize("partial", [4, 9])
def test_a_stream_elsewhere_does_not_carry_on(tmp_path: Path, partial: int) -> None:
    on_disk(tmp_path, [BASE], WHOLE, a_stream(partial, NOW, NOW))
    assert not read(tmp_path).live


def test_a_missing_segment_breaks_it(tmp_path: Path) -> None:
    archive = on_disk(tmp_path, [BASE], WHOLE, a_stream(8, NOW, NOW))
    (archive.segments.directory / f"{SegmentId(1, 6).name(SIZE)}.gz").unlink()
    seen = read(tmp_path)
    assert (seen.end, seen.live) == (WHOLE[5], False)


def test_a_record_that_is_torn_is_none(tmp_path: Path) -> None:
    archive = on_disk(tmp_path, [BASE], WHOLE, a_stream(8, NOW, NOW))
    records = archive.directory / "segments.jsonl"
    records.write_bytes(records.read_bytes()[:-20])
    assert read(tmp_path).end == WHOLE[5]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1}', "\x00" * 100])
def test_a_base_whose_record_is_damaged_is_told_and_does_not_count(tmp_path: Path, text: str) -> None:
    archive = on_disk(tmp_path, [BASE], WHOLE)
    (archive.bases.directory / f"{BASE.id}.json").write_text(text)
    (archive.bases.directory / "no\x1b[31mname.json").write_text(text)
    seen = read(tmp_path)
    assert (seen.spans, seen.bases) == ((), ())
    assert [each.level for each in seen.problems] == ["warn", "warn"]
    assert BASE.id in seen.problems[0].text and "\x1b" not in seen.problems[1].text


@pytest.mark.parametrize(
    ("field", "value"), [("start", "x"), ("end", "0/"), ("size", 0), ("size", 3 << 20), ("start", "\x1b[31m")]
)
def test_a_base_whose_record_is_nonsense_is_told_and_does_not_count(tmp_path: Path, field: str, value: object) -> None:
    on_disk(tmp_path, [BASE.model_copy(update={field: value})], WHOLE)
    (problem,) = (seen := read(tmp_path)).problems
    assert BASE.id in problem.text and "\x1b" not in problem.text and seen.bases == ()


def test_a_base_whose_file_is_not_there_whole_does_not_count(tmp_path: Path) -> None:
    archive = on_disk(tmp_path, [BASE], WHOLE)
    file = archive.bases.directory / BASE.artifact.file
    os.truncate(file, 1999)
    assert f"{BASE.id} does not count" in read(tmp_path).problems[0].text
    file.unlink()
    seen = read(tmp_path)
    assert f"{BASE.id} does not count" in seen.problems[0].text and seen.spans == ()


def test_a_base_that_builds_on_a_missing_one_is_told_and_gives_no_moment(tmp_path: Path) -> None:
    step = a_base(6, NOW - 2 * HOUR, size=100).model_copy(update={"parent": BASE.id})
    archive = on_disk(tmp_path, [BASE, step], WHOLE)
    assert read(tmp_path).spans[0].bases == (BASE, step)
    (archive.bases.directory / f"{BASE.id}.json").unlink()
    seen = read(tmp_path)
    (problem,) = seen.problems
    assert seen.spans == () and f"{step.id} does not count: {BASE.id}, which it builds on" in problem.text
    assert "`base --full`" in problem.hint


@pytest.mark.parametrize("text", ["", "[]", '{"looked": "2026-11-28T16:00:00Z", "state": "streaming", "size": 5}'])
def test_a_state_that_is_damaged_is_told(tmp_path: Path, text: str) -> None:
    on_disk(tmp_path, [BASE], WHOLE, a_stream(8, NOW, NOW))
    (tmp_path / "state" / "wal.json").write_text(text)
    seen = read(tmp_path)
    assert (len(seen.problems), seen.stream, seen.end) == (1, None, WHOLE[6])


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    archive = on_disk(tmp_path, [BASE], WHOLE)
    for file in archive.segments.directory.iterdir():
        file.unlink()
    archive.segments.directory.rmdir()
    archive.segments.directory.write_text("no folder")
    seen = read(tmp_path)
    assert "cannot be listed" in seen.problems[0].text and seen.spans == ()


def test_another_schedule_has_another_limit(tmp_path: Path) -> None:
    assert read(tmp_path, BACKUP_PITR_BASE="0 1 * * 0").base_age == timedelta(days=10.5)
    assert read(tmp_path, BACKUP_PITR_BASE="off").base_age is None


@pytest.mark.parametrize(("cron", "kept"), [("0 1 * * *", 8), ("0 1 * * 0", 2), ("off", 1)])
def test_one_base_more_is_kept_than_is_taken_in_those_days(tmp_path: Path, cron: str, kept: int) -> None:
    assert read(tmp_path, BACKUP_PITR_BASE=cron).kept == kept


def test_no_wal_is_read(tmp_path: Path) -> None:
    """Only names, sizes and records."""
    archive = on_disk(tmp_path, [BASE], WHOLE, a_stream(8, NOW, NOW))
    pipe = archive.segments.directory / f"{SegmentId(1, 5).name(SIZE)}.gz"
    before = read(tmp_path)
    pipe.chmod(0)
    for name in (archive.stream.directory).iterdir():
        name.chmod(0)
    (archive.bases.directory / BASE.artifact.file).chmod(0)
    assert read(tmp_path) == before


def test_a_slot_on_a_server_that_is_not_the_database_any_more_is_told(tmp_path: Path) -> None:
    """Nobody else would: it holds WAL on that server's disk."""
    archive = on_disk(tmp_path, [BASE], WHOLE, a_stream(8, NOW, NOW))
    before = WalArchive(tmp_path, "7300000000000000001")
    before.prepare()
    before.note_server(ArchivedServer(service="old-db", slot="obcms_backup_wal_x"))
    assert read(tmp_path).problems == (), "which service the database is now is not known yet"
    archive.note_server(ArchivedServer(service="db", slot="obcms_backup_wal_x"))
    (problem,) = read(tmp_path).problems
    assert problem.level == "warn" and "server of old-db, which is not the database any more" in problem.text
    assert "SELECT pg_drop_replication_slot('obcms_backup_wal_x');" in problem.hint
    # A new cluster in the same service, and one without a slot.
    before.note_server(ArchivedServer(service="db", slot="obcms_backup_wal_x"))
    assert read(tmp_path).problems == ()
    before.note_server(ArchivedServer(service="old-db"))
    assert read(tmp_path).problems == ()
    # Until nothing of it would be kept.
    before.note_server(ArchivedServer(service="old-db", slot="obcms_backup_wal_x"))
    context = SimpleNamespace(clock=lambda: NOW, days=7, catalog=SimpleNamespace(root=tmp_path))
    prune(cast(Any, context), archive)
    assert before.server() is None and read(tmp_path).problems == ()


def test_a_stream_that_nothing_is_written_down_of_is_stale(tmp_path: Path) -> None:
    """As where the volume is full, or the process that receives is gone without a word."""
    said = a_stream(8, NOW - timedelta(seconds=62), NOW - timedelta(seconds=61))
    on_disk(tmp_path, [BASE], WHOLE, said)
    seen = read(tmp_path)
    assert seen.stream and (seen.stream.state, seen.live, seen.end) == ("stale", False, said.level)
