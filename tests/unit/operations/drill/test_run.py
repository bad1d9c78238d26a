"""What a drill does beside its load ends with it, and what cannot be read while it loads is the set's damage."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backup.errors import StoreError
from backup.operations.drill import run
from backup.operations.drill.run import _Drill, _Expected, _NotWanted, _Wanted
from backup.operations.verify.run import Checked, SetContent
from backup.postgres.scratch_server import Place
from backup.progress import Silent

ERROR = "backup.sql.gz: Input/output error"


class Unreadable(_Drill):
    """Its dump cannot be read when it is loaded."""

    def _load(self, place: Place) -> _Expected:
        raise StoreError(ERROR)


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


@pytest.mark.parametrize("problems", [[ERROR], []])
def test_what_the_disk_does_not_give_is_damage_if_it_is_the_sets(
    monkeypatch: pytest.MonkeyPatch, problems: list[str]
) -> None:
    """It was, while all was read before the load; then the drill failed, and the set went on being called good."""
    monkeypatch.setattr(run, "check_set", lambda *_: Checked(problems, [], SetContent()))
    nobody = cast(Any, SimpleNamespace(progress=Silent()))
    drill = Unreadable(nobody, nobody, "run", {}, datetime(2026, 1, 1, tzinfo=UTC))
    if problems:
        assert drill._restored(nobody) == [] and drill.problems == [ERROR]
    else:
        with pytest.raises(StoreError, match="Input/output"):
            drill._restored(nobody)
