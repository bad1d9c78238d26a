"""What a drill does beside its load ends with it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from backup.operations.drill.run import _NotWanted, _Wanted


def test_a_check_that_nobody_waits_for_is_broken_off_at_its_next_piece() -> None:
    """Where the load fails, or a signal ends it: the archives may be large."""
    reading = threading.Event()

    def check(progress: _Wanted) -> None:
        while True:
            progress.advance(1)
            reading.set()

    with pytest.raises(KeyboardInterrupt), ThreadPoolExecutor(1) as pool, _Wanted() as progress:
        checked = pool.submit(check, progress)
        reading.wait(30)
        raise KeyboardInterrupt
    with pytest.raises(_NotWanted):
        checked.result()
