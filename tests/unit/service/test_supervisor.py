"""The scheduler is looked after: what it writes, too."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from backup.service.supervisor import Family, Scheduler, written
from tests.support.faults import eventually

ENDLESS = "while :; do echo x; done >/dev/null"
CHILD = "(for i in $(seq 7000); do echo x; done) >/dev/null; touch done; exec sleep 60"


def test_a_scheduler_that_writes_without_end_is_ended() -> None:
    scheduler = Scheduler(Family(), ["sh", "-c", ENDLESS], os.environ)
    scheduler.start(0.0)
    pid = scheduler.pid
    try:
        said = eventually(lambda: scheduler.tend(5.0))
        assert said.startswith("the scheduler has written ") and said.endswith(" lines within 5 s and is ended")
        assert eventually(lambda: "ended with code -9" in scheduler.tend(6.0)) and scheduler.state() == "dead"
    finally:
        if scheduler.pid == pid:
            os.kill(pid, signal.SIGKILL)


def test_what_its_children_have_written_is_not_its_own(tmp_path: Path) -> None:
    family = Family()
    child = family.spawn(["sh", "-c", f"cd {tmp_path}; {CHILD}"])
    try:
        eventually((tmp_path / "done").exists)
        count = written(child.pid)
        assert count is not None and count < 100
    finally:
        child.kill()
        child.wait()
    assert written(child.pid) is None
