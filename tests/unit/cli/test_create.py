"""The command that makes sets: a snapshot that the schedule starts is skipped where another run is at work."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup import logging
from backup.catalog.scheduler_state import ScheduleFile, ScheduleState
from backup.cli import main
from backup.errors import LockHeld
from backup.model.manifest import Tier
from backup.model.run import Outcome
from backup.model.schedule import JobState
from backup.operations.create import media
from backup.operations.jobs import runs_of
from backup.operations.preemption import ask
from backup.storage import lock
from tests.support.increments import Stack

SNAPSHOT = ["create", "snapshot"]


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    made = Stack(tmp_path)
    (made.media / "a").write_bytes(b"a")
    made.night()
    monkeypatch.setenv("BACKUP_DIR", str(made.root))
    monkeypatch.setenv("BACKUP_VOLUMES_DIR", str(tmp_path / "volumes"))
    monkeypatch.setenv("BACKUP_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("BACKUP_MEDIA", "incremental")
    monkeypatch.setenv("BACKUP_MEDIA_EVERY", "15m")
    (tmp_path / "spool").mkdir()
    umask = os.umask(0o077)
    yield made
    # The commands set it for the whole process, and this one has other tests to run.
    os.umask(umask)
    logging._runs.clear()
    logging._ended.clear()
    logging.setup_logging(UTC)


def snapshots(stack: Stack) -> list[Outcome]:
    return [run.outcome for run in stack.app().records.readable() if run.tier == Tier.SNAPSHOT]


def test_one_is_skipped_while_another_run_is_at_work(stack: Stack) -> None:
    with lock.hold(stack.app().lock, "drill daily", "r", wait=0):
        assert main([*SNAPSHOT, "--scheduled"]) == 0
        # Who asks for one is told.
        assert main(SNAPSHOT) == LockHeld.exit_code
    assert snapshots(stack) == []


def test_one_that_gives_way_is_left_to_the_next_slot(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    (stack.media / "b").write_bytes(b"b")
    archive = media.archive_increment

    def asked(*given: object) -> None:
        ask(stack.root, "create daily")
        threading.Event().wait(30)
        archive(*given)  # type: ignore[arg-type]

    now = datetime.now(UTC)
    state = JobState(cron="7-59/15 * * * *", zone="UTC", until=now - timedelta(minutes=20))
    ScheduleFile(stack.root).write(ScheduleState(since=now, jobs={"snapshot": state}))
    monkeypatch.setattr("backup.operations.create.run.archive_increment", asked)
    assert main([*SNAPSHOT, "--scheduled"]) == 0
    (run,) = (run for run in stack.app().records.readable() if run.tier == Tier.SNAPSHOT)
    assert (run.outcome, run.message) == (Outcome.INTERRUPTED, "create daily was to go first")
    assert (run.trigger, run.slot, runs_of("snapshot", [run])) == ("schedule", None, [run])
    monkeypatch.undo()


def test_one_is_of_the_media_and_needs_incremental_sets(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    (stack.media / "b").write_bytes(b"b")
    assert main(SNAPSHOT) == 0
    assert snapshots(stack) == [Outcome.SUCCESS]
    for words in (["--only", "database"], ["--full"], ["--at", "1 hour ago"]):
        assert main([*SNAPSHOT, *words]) == 2
    monkeypatch.setenv("BACKUP_MEDIA", "full")
    monkeypatch.setenv("BACKUP_MEDIA_EVERY", "off")
    assert main(SNAPSHOT) == 10
    assert len(snapshots(stack)) == 1
