"""A drill ends when a restore asks it to, however early that is; not for what an earlier one was asked."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from backup.errors import Interrupted
from backup.operations import preemption
from backup.storage.lock import hold


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path


@pytest.fixture(autouse=True)
def interrupting() -> Iterator[None]:
    def told(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, told)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_restore_that_asks_before_the_drill_listens_is_heard(root: Path) -> None:
    """It queues for the lock, and sees within a tenth of a second who has it."""
    with hold(root / "state" / "lock", "drill daily_x", "run-8"):
        preemption.ask(root, "a restore")
        with pytest.raises(Interrupted) as caught, preemption.giving_way(root, look=0.01):
            threading.Event().wait(60)
    assert "a restore was to go first" in caught.value.message


@pytest.mark.parametrize("when", [1, 1 << 32])
def test_what_an_earlier_drill_was_asked_ends_no_other(root: Path, when: int) -> None:
    """Also if the clock was ahead then: it would end all of them until that time has come."""
    preemption.ask(root, "a restore")
    os.utime(root / "state" / "restore-first", (when, when))
    with hold(root / "state" / "lock", "drill daily_x", "run-8"), preemption.giving_way(root, look=0.01):
        threading.Event().wait(0.2)
