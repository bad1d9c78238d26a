"""Run records survive kills and full disks, and never read as health when they are damaged."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup.catalog.run_records import Records
from backup.errors import NoSpace, StoreError
from backup.model.run import Outcome, Run, new_run_id

NOW = datetime(2025, 10, 20, 2, 0, tzinfo=UTC)


def run(number: int = 0, **facts: object) -> Run:
    started = NOW + timedelta(seconds=number)
    return Run(id=new_run_id(started), operation="create", tier="daily", started=started).model_copy(update=facts)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "state" / "runs")


def finish(records: Records, one: Run, **facts: object) -> Run:
    done = one.model_copy(update={"outcome": Outcome.SUCCESS, "ended": NOW, **facts})
    records.end(done)
    return done


def test_a_run_is_known_from_its_beginning(records: Records) -> None:
    one = run()
    records.begin(one)
    assert records.all() == [one]
    done = finish(records, one, message="mit Ümläuten und \U0001f4be", seconds={"total": 1.5})
    assert records.all() == [done]


def test_newest_first(records: Records) -> None:
    for number in (2, 0, 1):
        records.begin(run(number))
    assert [one.started.second for one in records.all()] == [2, 1, 0]


def test_newest_first_also_within_a_second(records: Records) -> None:
    made = [run(started=NOW + timedelta(microseconds=n)) for n in range(20)]
    for one in made:
        records.begin(one)
    assert records.all() == made[::-1]


def test_an_unfinished_run_is_marked_crashed_but_not_ones_own(records: Records) -> None:
    dead, alive, done = run(0), run(1), run(2)
    for one in (dead, alive, done):
        records.begin(one)
    finish(records, done)
    assert [one.id for one in records.mark_crashed(NOW, alive=lambda run: run.id == alive.id)] == [dead.id]
    outcomes = {one.id: one.outcome for one in records.all()}
    assert outcomes == {dead.id: Outcome.CRASHED, alive.id: Outcome.RUNNING, done.id: Outcome.SUCCESS}
    crashed = next(one for one in records.all() if one.id == dead.id)
    assert crashed.exit_code == 137 and "killed" in crashed.message and crashed.ended == NOW
    assert records.mark_crashed(NOW, alive=lambda run: run.id == alive.id) == []


def test_a_run_that_ends_between_two_looks_has_ended(records: Records) -> None:
    """It is read as running, ends, and lets go of its lock before anybody looks there."""
    one, dead = run(0), run(1)
    for each in (one, dead):
        records.begin(each)

    def gone(asked: Run) -> bool:
        if asked == one:
            finish(records, one)
        return False

    seen = records.all(gone)
    assert [each.outcome for each in seen] == [Outcome.CRASHED, Outcome.SUCCESS]
    assert seen[0].ended is None and "killed" in seen[0].message
    one = run(2)
    records.begin(one)
    assert [each.id for each in records.mark_crashed(NOW, gone)] == [dead.id]


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 100, b"[]", b'{"id": "x"}', b"\xff"])
def test_a_damaged_record_is_an_error_that_names_it(records: Records, damage: bytes, tmp_path: Path) -> None:
    one = run()
    records.begin(one)
    (tmp_path / "state" / "runs" / f"{one.id}.json").write_bytes(damage)
    with pytest.raises(StoreError, match=f"{one.id}.*damaged") as caught:
        records.all()
    assert "away" in caught.value.hint


def test_foreign_things_are_ignored_and_kept(records: Records, tmp_path: Path) -> None:
    records.begin(run())
    folder = tmp_path / "state" / "runs"
    (folder / "note.txt").write_text("mine")
    (folder / "link.json").symlink_to(folder / "note.txt")
    (folder / "dir.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    assert len(records.all()) == 1
    records.mark_crashed(NOW)
    assert {p.name for p in folder.iterdir()} >= {"note.txt", "link.json", "dir.json", "pipe.json"}


def test_the_oldest_go_when_there_are_too_many(records: Records, tmp_path: Path) -> None:
    folder = tmp_path / "state/runs"
    folder.mkdir(parents=True)
    for number in range(502):
        one = run(number)
        (folder / f"{one.id}.json").write_text(one.model_dump_json())
    one = run(502)
    records.begin(one)
    finish(records, one)
    kept = records.all()
    assert len(kept) == 100 and kept[0].id == one.id and min(k.started for k in kept) == NOW + timedelta(seconds=403)


def test_frequent_runs_do_not_push_out_others(records: Records, tmp_path: Path) -> None:
    folder = tmp_path / "state/runs"
    folder.mkdir(parents=True)
    for number in range(600):
        one = run(number) if number == 7 else run(number).model_copy(update={"operation": "monitor", "tier": ""})
        (folder / f"{one.id}.json").write_text(one.model_dump_json())
    finish(records, run(601))
    kept = [each for each in records.all() if each.operation != "monitor"]
    assert [each.started for each in kept] == [run(601).started, run(7).started] and len(records.all()) == 102


def test_a_kill_while_a_record_begins_leaves_nothing_that_stops_the_next_run(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> int:
        raise KeyboardInterrupt  # as close to SIGKILL as one process gets: no handler of ours knows it

    for name in ("write", "pwrite", "fsync", "ftruncate"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, killed)
            patch.setattr(Path, "unlink", lambda *_, **__: None)
            try:
                records.begin(run())
            except KeyboardInterrupt:
                pass
        assert all(one.outcome in (Outcome.RUNNING, Outcome.CRASHED) for one in records.all())
        records.mark_crashed(NOW)


def test_no_record_is_left_when_the_disk_is_full_at_the_beginning(
    records: Records, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("write", "pwrite"):
        monkeypatch.setattr(os, name, full)
    with pytest.raises(NoSpace, match="full"):
        records.begin(run())
    assert records.all() == [] and list((tmp_path / "state/runs").iterdir()) == []


def test_the_end_is_recorded_in_place(records: Records, tmp_path: Path) -> None:
    """The same blocks, written over: what a full disk still allows. Even for the longest of messages."""
    one = run()
    records.begin(one)
    (path,) = (tmp_path / "state/runs").iterdir()
    before = path.stat()
    assert before.st_blocks * 512 >= 8192
    records.end(finish(records, one, outcome=Outcome.FAILED, message="Ü\n" * 100_000, hint="h" * 100_000))
    assert path.stat().st_ino == before.st_ino and path.stat().st_size <= before.st_size
    (kept,) = records.all()
    assert kept.outcome is Outcome.FAILED and kept.message.startswith("Ü\nÜ") and kept.message.endswith("…")


def test_private_from_the_first_instant(records: Records, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        records.begin(run())
    finally:
        os.umask(before)
    (path,) = (tmp_path / "state/runs").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700


def test_a_damaged_record_does_not_stop_crash_marking(records: Records, tmp_path: Path) -> None:
    dead, damaged = run(0), run(1)
    for one in (dead, damaged):
        records.begin(one)
    broken = tmp_path / "state" / "runs" / f"{damaged.id}.json"
    broken.write_bytes(b"{")
    assert records.unfinished()
    assert [one.id for one in records.mark_crashed(NOW)] == [dead.id]
    assert not records.unfinished() and broken.read_bytes() == b"{"
    with pytest.raises(StoreError, match="damaged"):
        records.all()


def test_an_end_without_a_beginning_is_a_record(records: Records) -> None:
    records.begin(run(0))
    done = finish(records, run(1), outcome=Outcome.FAILED, message="the disk was full", only="media")
    assert records.all()[0] == done


def test_an_end_that_finds_no_room_leaves_no_damaged_record(
    records: Records, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    records.begin(run(0))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NoSpace):
        finish(records, run(1))
    assert len(records.all()) == 1 and len(list((tmp_path / "state/runs").iterdir())) == 1
    with pytest.raises(NoSpace):
        finish(records, run(0), id=records.all()[0].id)
    assert len(records.all()) == 1


def test_a_run_beside_appears_whole_and_what_a_kill_left_of_it_goes(tmp_path: Path) -> None:
    records, one, seen = Records(tmp_path), run(), []
    real = os.pwrite

    def looked(descriptor: int, data: bytes, offset: int) -> int:
        seen.append(records.all())
        return real(descriptor, data, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.pwrite", looked)
        records.begin_beside(one)
    assert seen == [[]] and records.all() == [one]
    left, young = tmp_path / ".20200101T000000Z-aaaaaa.json.new", tmp_path / ".20200101T000001Z-aaaaaa.json.new"
    left.touch()
    young.touch()
    os.utime(left, (0, 0))
    records.mark_crashed(NOW, lambda each: True)
    assert not left.exists() and young.exists() and len(records.all()) == 1
