"""The desk leaves no word of a backup that does not last, and drops none of what is critical."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup.errors import StoreError
from backup.model.backup_set import Verdict
from backup.model.finding import Finding, failure, warning
from backup.model.run import Outcome, Run
from backup.monitoring.alerts import outbox
from backup.monitoring.alerts.desk import Desk, Surroundings, View
from backup.monitoring.alerts.model import Letter, Policy, Receipt
from backup.monitoring.alerts.outbox import Outbox
from backup.monitoring.health import Health
from backup.storage import errors
from tests.unit.monitoring.health.test_health import stored

NOW = datetime(2025, 10, 20, 2, tzinfo=UTC)


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.CHANGED])
@pytest.mark.parametrize("lasts", [True, False])
def test_a_set_in_memory_is_no_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, lasts: bool
) -> None:
    monkeypatch.setattr(errors, "MEMORY", frozenset() if lasts else frozenset({"tmpfs"}))
    sets = [replace(stored(1), verdict=Verdict(checked=NOW))]
    run = Run(id="r", operation="create", started=NOW, ended=NOW, outcome=outcome, set=sets[0].id)
    a_desk(tmp_path, lambda: View(Health("pass", (), NOW), [run], sets), heartbeat=True).round()
    assert bool(list(tmp_path.rglob("heartbeat.json"))) is lasts


def a_desk(
    root: Path,
    look: Callable[[], View],
    clock: Callable[[], datetime] = lambda: NOW,
    targets: Sequence[str] = (),
    heartbeat: bool = False,
    post: Callable[[Sequence[Letter]], Sequence[Receipt]] = lambda letters: [
        Receipt(target=each.target, id=each.id, error="it is down") for each in letters
    ],
) -> Desk:
    """One whose targets take nothing."""
    (root / "state").mkdir(exist_ok=True)
    return Desk(
        Surroundings(
            root=root,
            policy=lambda: Policy("obcms", "warn", timedelta(hours=24), UTC),
            targets=targets,
            heartbeat=heartbeat,
            max_age=timedelta(hours=48),
            look=look,
            post=post,
            stop=lambda: None,
            clock=clock,
        )
    )


@pytest.mark.parametrize("error", [StoreError("the disk is gone", ""), OverflowError("date value out of range")])
def test_that_nothing_can_be_told_is_told(tmp_path: Path, error: Exception) -> None:
    """Whoever asks the service is told that it is critical; so is who waits for a message."""

    def look() -> View:
        raise error

    now = NOW
    desk = a_desk(tmp_path, look, lambda: now, ["mail"])
    desk.round()
    now += timedelta(seconds=30)
    desk.round()
    (told,) = Outbox(tmp_path).messages()
    assert told.kind == "failure" and "how the backups are cannot be told" in told.title and str(error) in told.title


def test_while_a_target_is_down_what_is_critical_is_not_pushed_out(tmp_path: Path) -> None:
    now, reasons = NOW, [warning("something odd")]
    desk = a_desk(tmp_path, lambda: View(health_of(reasons, now), [], []), lambda: now, ["mail"])

    def looks(count: int, each: timedelta = timedelta(minutes=1)) -> None:
        nonlocal now
        for _ in range(count):
            desk.round()
            now += each

    looks(2)
    reasons[:] = [failure("the newest set is damaged")]
    looks(2)
    reasons[:] = []
    looks(2)
    for number in range(30):
        reasons[:] = [warning(f"warning {chr(97 + number % 26) * (1 + number // 26)}")]
        looks(2, timedelta(hours=2))
    kinds = [each.kind for each in Outbox(tmp_path).messages()]
    assert kinds[:3] == ["warning", "failure", "recovery"] and len(kinds) == outbox.MOST


def test_whoever_missed_alerts_is_told_so_when_they_reach_it_again(tmp_path: Path) -> None:
    now, reasons, works, taken = NOW, [failure("the newest set is damaged")], False, list[Letter]()

    def post(letters: Sequence[Letter]) -> list[Receipt]:
        taken.extend(letters if works else ())
        return [Receipt(target=each.target, id=each.id, error="" if works else "it is down") for each in letters]

    desk = a_desk(tmp_path, lambda: View(health_of(reasons, now), [], []), lambda: now, ["mail"], post=post)
    for day in range(10):
        works = day == 9
        reasons[:] = reasons if day < 1 else []
        for _ in range(12):
            desk.round()
            now += timedelta(hours=2)
    reasons[:] = [failure("the disk is full")]
    for _ in range(3):
        desk.round()
        now += timedelta(minutes=1)
    assert any("2 alerts could never be delivered" in each.body for each in taken)


def health_of(reasons: Sequence[Finding], now: datetime) -> Health:
    return Health(reasons[0].level if reasons else "pass", tuple(reasons), now)
