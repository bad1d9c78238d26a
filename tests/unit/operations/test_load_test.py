"""A new set is tried where nobody has tried one like it; whatever keeps it from being tried says nothing against it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from backup.errors import BackupError, EngineError, IntegrityError, Interrupted, LoadFailed
from backup.model.backup_set import LoadTest, StoredSet
from backup.model.manifest import Tier
from backup.operations import load_test, preemption
from backup.operations.load_test import Dumped
from backup.postgres.scratch_server import Place, WantedDatabase
from backup.storage.lock import hold
from tests.support.facts import NOW, a_set
from tests.unit.monitoring.health.test_proofs import REFUSED, a_test, defined, found

SCRIPT = Dumped([b"--\n-- PostgreSQL database dump\n--\n"], "CREATE ROLE me;")


class Failing:
    """Places where no server can be made: what `prepare` does instead."""

    way = "a place of this test"

    def __init__(self, does: Callable[[], None]) -> None:
        self._does = does
        self.wanted: list[WantedDatabase] = []

    @contextlib.contextmanager
    def prepare(self, wanted: WantedDatabase, run: str) -> Iterator[Place]:
        self.wanted.append(wanted)
        self._does()
        raise AssertionError("it went on")
        yield

    def sweep(self) -> int:
        return 0


@pytest.fixture(autouse=True)
def interrupting() -> Iterator[None]:
    def told(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, told)
    yield
    signal.signal(signal.SIGTERM, before)


def tried(
    tmp_path: Path,
    does: Callable[[], None],
    *others: StoredSet,
    new: StoredSet | None = None,
    dumped: Dumped = SCRIPT,
    limit: float = 60.0,
) -> LoadTest:
    with hold(tmp_path / "state" / "lock", "create daily", "run-1"):
        return load_test.load_test(
            new or defined(a_set(0)),
            dumped,
            others=others,
            root=tmp_path,
            run="run-1",
            places=lambda _: Failing(does),
            clock=lambda: NOW,
            limit=limit,
        )


def fails(error: BackupError) -> Callable[[], None]:
    def raising() -> None:
        raise error

    return raising


def waits() -> None:
    threading.Event().wait(60)


def never() -> None:
    raise AssertionError("nothing was to be tried")


def test_nothing_is_started_where_it_is_known(tmp_path: Path) -> None:
    before = found(defined(a_set(9)), test=a_test(9, server_version="17.2"))
    told = tried(tmp_path, never, before)
    assert (told.loads, told.alike, told.server_version) == (True, before.id, "17.2")
    # The one that was tried is named, not the last of those that were not.
    heir = found(defined(a_set(5)), test=told)
    assert tried(tmp_path, never, heir).alike == before.id
    assert tried(tmp_path, never, found(defined(a_set(5)), proof="")).loads


@pytest.mark.parametrize(
    "error",
    [
        EngineError("the image is not here", "Pull it."),
        LoadFailed("psql stands still", "Pull it."),
        LoadFailed("ERROR: no such collation", "Pull it.", refused=True),
    ],
    ids=lambda error: str(error),
)
def test_want_of_a_place_says_nothing_of_the_set(tmp_path: Path, error: BackupError) -> None:
    told = tried(tmp_path, fails(error))
    assert (told.untried, told.remedy, told.refusal, told.loads) == (error.message, "Pull it.", "", False)


def test_roles_that_cannot_be_read_let_no_set_load(tmp_path: Path) -> None:
    error = IntegrityError("the roles file cannot be used", "Was the file edited?")
    told = tried(tmp_path, fails(error))
    assert (told.refusal, told.remedy, told.untried, told.loads) == (error.message, error.hint, "", False)


def test_what_is_not_tried_at_all(tmp_path: Path) -> None:
    safety, bad = defined(a_set(0, tier=Tier.PRE_RESTORE)), found(defined(a_set(9)), proof=REFUSED)
    assert "safety set" in tried(tmp_path, never, new=safety).untried
    assert tried(tmp_path, never, bad, new=safety).untried == f"{bad.id}, with the same definitions, does not load"
    assert "too large for a load test" in tried(tmp_path, never, dumped=Dumped(None, "")).untried


def test_it_makes_way_for_a_restore_and_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    def asked() -> None:
        preemption.ask(tmp_path, "a restore")
        waits()

    assert tried(tmp_path, asked).untried == "a restore was to go first"
    assert tried(tmp_path, waits, limit=0.1).untried == "it took more than 0 s"


def test_who_is_told_to_end_says_so(tmp_path: Path) -> None:
    def told() -> None:
        raise Interrupted(signal.SIGINT)

    assert tried(tmp_path, told).untried == "the run was stopped (signal 2)"


def test_rows_that_did_not_load_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Definitions that load say nothing of rows, and a drill has tried those."""
    bad = found(defined(a_set(9)), proof=REFUSED)
    monkeypatch.setattr(load_test, "_into", lambda *_: LoadTest(tried=NOW, server_version="17.2"))
    told = tried(tmp_path, never, bad)
    assert not told.loads and bad.id in told.untried and "the rows of " in told.untried
