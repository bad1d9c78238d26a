"""The watchdog bites when work stands still, and only then."""

from __future__ import annotations

import threading

from backup.operations.watchdog import Watchdog
from backup.progress import Silent


def test_work_that_stands_still_is_ended() -> None:
    bitten = threading.Event()
    with Watchdog(Silent(), 0.2, lambda seconds: bitten.set()) as dog:
        dog.phase("volume media", 10)
        dog.advance(1)
        assert bitten.wait(10)


def test_work_that_moves_and_phases_without_bytes_are_left_alone() -> None:
    bitten = threading.Event()
    pause = threading.Event()
    with Watchdog(Silent(), 0.4, lambda seconds: bitten.set()) as dog:
        dog.phase("volume media")
        for _ in range(8):
            dog.advance(0)
            pause.wait(0.1)
        dog.phase("reading back")
        pause.wait(0.8)
    assert not bitten.is_set()
