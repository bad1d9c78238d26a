"""The service takes a base backup when the WAL needs one, and keeps what receives the WAL running."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.catalog.wal_archive import StreamFile
from backup.model.run import Outcome, Run
from backup.model.wal import Stream
from backup.service.followup_jobs import BaseQueue, base_due
from backup.service.supervisor import LastingProcess
from tests.support.facts import NOW, UTC_ZONE, a_run

WANTED = Stream(looked=NOW, state="streaming", wants_base="there is none")


def ended(minutes: float, outcome: Outcome) -> Run:
    """A base backup that ended so long ago."""
    return a_run(1, outcome, operation="base").model_copy(update={"ended": NOW - timedelta(minutes=minutes)})


def test_a_base_is_due_when_one_is_wanted_and_none_has_just_failed() -> None:
    assert base_due(WANTED, list, NOW)
    assert not base_due(WANTED.model_copy(update={"wants_base": ""}), list, NOW)
    assert not base_due(WANTED, list, NOW + timedelta(seconds=31)), "nobody receives any more"
    assert not base_due(WANTED, lambda: [ended(9, Outcome.FAILED)], NOW)
    assert base_due(WANTED, lambda: [ended(11, Outcome.FAILED)], NOW)
    assert base_due(WANTED, lambda: [ended(20, Outcome.FAILED), ended(1, Outcome.SUCCESS)], NOW), "there is a new gap"
    assert not base_due(WANTED, lambda: [ended(0, Outcome.SUCCESS)], NOW), "it was wanted before there was one"


def test_it_is_started_once(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    started: list[tuple[str, ...]] = []

    def spawn(words: tuple[str, ...]) -> subprocess.Popen[bytes]:
        started.append(words)
        return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    queue = BaseQueue(Catalog(tmp_path, UTC_ZONE), Records(tmp_path / "state" / "runs"), spawn, clock=lambda: NOW)
    queue.tick(0.0, busy=False)
    assert not started
    StreamFile(tmp_path).write(WANTED)
    queue.tick(10.0, busy=True)
    queue.tick(20.0, busy=False)
    queue.tick(30.0, busy=False)
    assert started == [("base", "--trigger", "window")]
    child = queue._child
    assert child
    assert queue.active
    child.communicate()
    assert not queue.active


def test_what_receives_is_started_again_each_time_later() -> None:
    begun: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        begun.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        return begun[-1]

    receiver = LastingProcess(start, "receives the WAL")
    assert receiver.pid == 0
    receiver.tend(0.0)
    receiver.tend(1.0)
    assert [child.pid for child in begun] == [receiver.pid]
    starts = []
    for second in range(2, 40):
        if begun[-1].poll() is None:
            begun[-1].communicate()
        count = len(begun)
        receiver.tend(float(second))
        if len(begun) > count:
            starts.append(second)
    begun[-1].communicate()
    assert starts == [4, 9, 18, 35]
