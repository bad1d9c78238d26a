"""The watchdog bites when work stands still, and only then."""

from __future__ import annotations

import threading

from backup.operations.watchdog import Watchdog
from backup.progress import Silent


def test_work_that_stands_still_is_ended() -> None:
    bitten = threading.Event()
    with Watchdog(Silent(), 0.1, lambda seconds: bitten.set()) as dog:
        dog.phase("volume media", 10)
        dog.advance(1)
        assert bitten.wait(60)


def test_work_that_moves_and_phases_without_bytes_are_left_alone() -> None:
    bitten: list[float] = []
    now = iter(range(0, 10_000, 30))
    dog = Watchdog(Silent(), 40, bitten.append, clock=lambda: next(now))
    dog.phase("volume media")
    for _ in range(8):
        dog.advance(0)
        assert not dog.look()
    dog.phase("reading back")
    assert not any(dog.look() for _ in range(8))
    dog.advance(1)
    assert [dog.look(), dog.look(), bitten] == [False, True, [60]]
