"""The first set with new definitions is drilled by the service: once, and never beside another run."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import pytest

from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.errors import LockHeld
from backup.model.backup_set import LoadTest, StoredSet
from backup.model.run import Outcome, Run
from backup.operations import runs
from backup.operations.drill.run import NEW
from backup.service.followup_jobs import DrillQueue, drill_due
from backup.storage import lock
from tests.support.facts import NOW, UTC_ZONE, a_run, a_set
from tests.unit.monitoring.health.test_proofs import REFUSED, defined, found

WELL = LoadTest(tried=NOW)


def drilled(stored: StoredSet, outcome: Outcome = Outcome.FAILED) -> Run:
    return a_run(1, outcome, operation="drill", set=stored.id)


def test_once_for_all_sets_with_the_same_definitions() -> None:
    first, second = found(defined(a_set(9)), test=WELL), found(defined(a_set(1)), test=WELL)
    assert drill_due([first], []) == first and drill_due([first, second], []) == second
    assert drill_due([found(first, proof=""), second], []) is None
    assert drill_due([found(first, proof="table x differs"), second], []) is None
    other = defined(a_set(0), "c" * 64)
    assert drill_due([found(first, proof=""), second, other], []) == other
    assert drill_due([a_set(1)], []) is None and drill_due([], []) is None, "it does not say what its definitions are"


def test_what_could_not_be_drilled_is_left_to_the_schedule() -> None:
    first, second = defined(a_set(9)), defined(a_set(1))
    assert drill_due([first, second], [drilled(first)]) is None
    assert drill_due([first, second], [drilled(first, Outcome.INTERRUPTED)]) == second, "it gave way"


def test_after_rows_that_did_not_load_the_next_set_is_drilled() -> None:
    bad = found(defined(a_set(9)), proof=REFUSED)
    assert drill_due([bad, defined(a_set(20))], []) is None, "an older one is not"
    newer = defined(a_set(1))
    assert drill_due([bad, newer], [drilled(bad)]) == newer
    assert drill_due([found(newer, proof=REFUSED), bad], [drilled(bad), drilled(newer)]) is None


@pytest.fixture
def queue(tmp_path: Path) -> tuple[DrillQueue, list[tuple[str, ...]]]:
    started: list[tuple[str, ...]] = []

    def spawn(words: tuple[str, ...]) -> subprocess.Popen[bytes]:
        started.append(words)
        return subprocess.Popen([sys.executable, "-c", ""])

    catalog = Catalog(tmp_path, UTC_ZONE)
    return DrillQueue(catalog, Records(tmp_path / "state" / "runs"), spawn, tmp_path / "state" / "lock"), started


def test_never_beside_another_run_and_not_for_ever(
    queue: tuple[DrillQueue, list[tuple[str, ...]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drills, started = queue
    stored = defined(a_set(1))
    monkeypatch.setattr("backup.service.followup_jobs.drill_due", lambda *_: stored)
    drills.tick(1, busy=True)
    with lock.hold(tmp_path / "state" / "lock", "create daily", "run-1"):
        drills.tick(100, busy=False)
    assert not started
    for steady in range(200, 900, 100):
        drills.tick(steady, busy=False)
        assert drills._child is None or drills._child.wait(20) == 0
    assert started == [("drill", stored.id, "--trigger", NEW)] * 3


def test_a_lock_that_cannot_be_read_ends_no_look(
    queue: tuple[DrillQueue, list[tuple[str, ...]]], tmp_path: Path
) -> None:
    drills, started = queue
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "state" / "lock").symlink_to("elsewhere")
    drills.tick(100, busy=False)
    assert not started


@pytest.mark.parametrize("yielding", [True, False])
def test_every_run_goes_before_it_and_before_no_other_drill(tmp_path: Path, yielding: bool) -> None:
    """Whoever wants the lock asks its holder to end, also without `--wait`."""
    context, begun, over = _Context(tmp_path), threading.Event(), threading.Event()
    asked = tmp_path / "state" / "restore-first"

    def drill() -> None:
        run = Run(id="r1", operation="drill", set="daily_x", started=NOW)
        with runs.locked(context, run, 0, yielding=yielding):
            begun.set()
            while not (asked.exists() or over.wait(0.02)):
                pass

    thread = threading.Thread(target=drill, daemon=True)
    thread.start()
    assert begun.wait(10)
    create = Run(id="r2", operation="create", tier="daily", started=NOW)
    with contextlib.nullcontext() if yielding else pytest.raises(LockHeld), runs.locked(context, create, 0):
        assert asked.read_text().startswith("create daily\n")
    assert asked.exists() is yielding
    over.set()
    thread.join(10)


class _Context:
    """What runs work with, as far as the lock is concerned."""

    def __init__(self, root: Path) -> None:
        self.catalog, self.records, self.lock = Catalog(root, UTC_ZONE), Records(root), root / "state" / "lock"

    @staticmethod
    def clock() -> datetime:
        return NOW
