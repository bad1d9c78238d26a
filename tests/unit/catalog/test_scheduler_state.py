"""The state of the schedule on disk: kept through kills, read from earlier releases, told when it is damaged."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backup.catalog.scheduler_state import FILE, ScheduleFile, ScheduleState
from backup.errors import StoreError
from backup.storage.staged_file import staged_name

ZONE = ZoneInfo("Europe/Berlin")
NOW = datetime(2025, 10, 2, 12, 0, tzinfo=UTC)
JOBS = {"daily": "0 2 * * *", "weekly": "0 3 * * 0", "monitor": "0 */6 * * *"}


@pytest.fixture
def file(tmp_path: Path) -> ScheduleFile:
    (tmp_path / "state").mkdir()
    return ScheduleFile(tmp_path)


def test_what_was_written_is_read_again(file: ScheduleFile) -> None:
    assert file.read(NOW) == ScheduleState()
    state = ScheduleState(since=NOW).counted(JOBS, NOW, ZONE).noted(NOW, "x")
    file.write(state)
    assert set(state.jobs) == set(JOBS) and file.read(NOW) == state
    assert state.counted(JOBS, NOW + timedelta(hours=1), ZONE) == state
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_a_job_that_was_off_counts_from_when_it_is_on_again() -> None:
    state = ScheduleState().counted(JOBS, NOW - timedelta(days=3), ZONE)
    off = state.counted(JOBS | {"daily": ""}, NOW - timedelta(days=2), ZONE)
    assert "daily" not in off.jobs
    assert off.counted(JOBS, NOW, ZONE).jobs["daily"].until == NOW


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\0" * 4096,
        b"[]",
        b'{"version": 2, "jobs": {}}',
        b'{"version": 1, "jobs": {"daily": 7}}',
        b"9" * 5000,
    ],
    ids=["empty", "cut", "zeros", "list", "newer", "wrong", "number"],
)
def test_a_state_that_cannot_be_understood_starts_anew_and_says_so(file: ScheduleFile, damage: bytes) -> None:
    file.path.write_bytes(damage)
    state = file.read(NOW)
    assert state.jobs == {} and "could not be read" in state.notes[0].text
    assert {job.until for job in state.counted(JOBS, NOW, ZONE).jobs.values()} == {NOW}
    assert state.recent(NOW + timedelta(minutes=1)) and not state.recent(NOW + timedelta(days=3))


@pytest.mark.parametrize("kind", ["link", "directory", "huge"])
def test_something_else_of_that_name_is_not_followed(file: ScheduleFile, tmp_path: Path, kind: str) -> None:
    if kind == "link":
        (tmp_path / "other").write_text("mine")
        file.path.symlink_to(tmp_path / "other")
    elif kind == "directory":
        file.path.mkdir()
    else:
        with file.path.open("wb") as huge:
            huge.truncate(2 << 20)
    state = file.read(NOW).counted(JOBS, NOW, ZONE)
    file.write(state)
    assert state.notes and file.read(NOW) == state
    assert kind != "link" or (tmp_path / "other").read_text() == "mine"


def test_a_disk_that_fails_is_no_empty_state(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StoreError):
        ScheduleFile(tmp_path).read(NOW)


def test_what_a_killed_writer_left_is_no_obstacle(file: ScheduleFile) -> None:
    (file.path.parent / staged_name(FILE)).write_text("half")
    file.write(ScheduleState().counted(JOBS, NOW, ZONE))
    assert set(file.read(NOW).jobs) == set(JOBS)


def test_a_state_from_the_future_is_told() -> None:
    state = ScheduleState().counted(JOBS, NOW.replace(year=2035), ZONE).counted(JOBS, NOW, ZONE)
    assert {job.until for job in state.jobs.values()} == {NOW}
    assert len(state.recent(NOW)) == 3 and all("the clock jumped" in note.text for note in state.notes)


def test_the_file_of_an_earlier_release_is_read(file: ScheduleFile) -> None:
    """As release 1.0 wrote it: one job whose slot was served, one whose run died together with the machine."""
    served = {
        "cron": "0 2 * * *",
        "zone": "Europe/Berlin",
        "until": "2025-10-02T00:00:00Z",
        "slot": "2025-10-02T00:00:00Z",
        "slots": 1,
        "trigger": "catch-up",
        "begun": "2025-10-02T00:00:01Z",
        "ended": "2025-10-02T00:03:00Z",
        "exit_code": 0,
        "reason": "the service was not running",
        "crashed": False,
        "before": "2025-10-01T00:00:00Z",
        "tries": 0,
    }
    died = served | {"cron": "0 */6 * * *", "ended": None, "exit_code": None, "before": "2025-10-01T22:00:00Z"}
    notes = [{"at": "2025-10-02T00:00:00Z", "text": "x"}]
    file.path.write_text(json.dumps({"version": 1, "jobs": {"daily": served, "monitor": died}, "notes": notes}))
    state = file.read(NOW)
    assert state.counted({job: JOBS[job] for job in state.jobs}, NOW, ZONE) == state
    assert [note.text for note in state.notes] == ["x"]
    daily, monitor = state.jobs["daily"], state.jobs["monitor"]
    assert (daily.until, daily.reason) == (datetime(2025, 10, 2, tzinfo=UTC), "the service was not running")
    assert monitor.until == datetime(2025, 10, 1, 22, tzinfo=UTC)


def test_a_job_runs_once_at_a_time(file: ScheduleFile) -> None:
    with file.running("daily") as mine:
        assert mine and file.is_running("daily") and not file.is_running("weekly")
        with file.running("daily") as second:
            assert not second
    assert not file.is_running("daily")
