"""The scheduler is looked after: what it writes, too."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.errors import BackupError
from backup.service.supervisor import Family, Supercronic, scan
from tests.support.faults import eventually


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family()
    yield family
    for process in family.members(scan()):
        os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: family.reap(scan(), 0.0) or not family.members(scan()))


def script(place: Path, text: str) -> str:
    path = place / "supercronic"
    path.write_text(text)
    path.chmod(0o700)
    return str(path)


def test_a_scheduler_that_is_not_there_is_named(tmp_path: Path, family: Family) -> None:
    with pytest.raises(BackupError, match="/nowhere/supercronic is not installed"):
        Supercronic(family, tmp_path, "/nowhere/supercronic", os.environ, as_json=False)


def test_a_scheduler_that_hangs_is_ended_and_shown_until_it_wakes_us(tmp_path: Path, family: Family) -> None:
    scheduler = Supercronic(
        family, tmp_path, script(tmp_path, "#!/bin/sh\nexec sleep 1000\n"), os.environ, as_json=True
    )
    scheduler.start(1000.0)
    assert scheduler.tend(1140.0) == "" and scheduler.state() == "alive"
    assert scheduler.tend(1160.0) == "supercronic has been silent for 160 s and is ended"
    assert eventually(lambda: "ended with code -9" in scheduler.tend(1161.0)) and scheduler.state() == "dead"
    assert scheduler.tend(1170.0) == "supercronic runs again"
    assert scheduler.tend(1171.0) == "" and scheduler.state() == "stopped"
    scheduler.heard(1180.0)
    assert scheduler.tend(1181.0) == "" and scheduler.state() == "alive"
    os.kill(scheduler.pid, signal.SIGKILL)
    assert eventually(lambda: scheduler.tend(1182.0)), "and its process is asked for its end, or a warning comes later"
