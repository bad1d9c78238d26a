"""The service leaves no word of a backup that does not last, and drops none of what is critical."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backup.errors import StoreError
from backup.model.backup_set import Verdict
from backup.model.finding import Finding, failure, warning
from backup.model.run import Outcome, Run
from backup.monitoring.alerts import outbox
from backup.monitoring.alerts.model import Delivery, Notice, Policy, Receipt
from backup.monitoring.alerts.notifier import Notifier, Snapshot
from backup.monitoring.alerts.outbox import recall
from backup.monitoring.health import Health
from backup.storage import filesystem
from tests.support.examples import examples
from tests.unit.monitoring.health.test_health import stored

NOW = datetime(2025, 10, 20, 2, tzinfo=UTC)


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.CHANGED])
@pytest.mark.parametrize("lasts", [True, False])
def test_a_set_in_memory_is_no_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, lasts: bool
) -> None:
    monkeypatch.setattr(filesystem, "MEMORY", frozenset() if lasts else frozenset({"tmpfs"}))
    sets = [replace(stored(1), verdict=Verdict(checked=NOW))]
    run = Run(id="r", operation="create", started=NOW, ended=NOW, outcome=outcome, set=sets[0].id)
    a_notifier(tmp_path, lambda: Snapshot(Health("pass", (), NOW), [run], sets), heartbeat=True).round()
    assert any(each.kind == "heartbeat" for each in recall(tmp_path).messages) is lasts


def a_notifier(
    root: Path,
    look: Callable[[], Snapshot],
    clock: Callable[[], datetime] = lambda: NOW,
    targets: Sequence[str] = (),
    heartbeat: bool = False,
    deliver: Callable[[Sequence[Delivery]], Sequence[Receipt]] = lambda deliveries: [
        Receipt(target=each.target, id=each.id, error="it is down") for each in deliveries
    ],
) -> Notifier:
    """One whose targets take nothing."""
    (root / "state").mkdir(exist_ok=True)
    return Notifier(
        root=root,
        policy=lambda: Policy("obcms", "warn", timedelta(hours=24), UTC),
        targets=targets,
        heartbeat=heartbeat,
        max_age=timedelta(hours=48),
        look=look,
        deliver=deliver,
        stop=lambda: None,
        clock=clock,
    )


@pytest.mark.parametrize("error", [StoreError("the disk is gone", ""), OverflowError("date value out of range")])
def test_that_nothing_can_be_told_is_told(tmp_path: Path, error: Exception) -> None:
    """Whoever asks the service is told that it is critical; so is who waits for a message."""

    def look() -> Snapshot:
        raise error

    now = NOW
    notifier = a_notifier(tmp_path, look, lambda: now, ["mail"])
    notifier.round()
    now += timedelta(seconds=30)
    notifier.round()
    (told,) = recall(tmp_path).messages
    assert told.kind == "failure" and "how the backups are cannot be told" in told.title and str(error) in told.title


def test_while_a_target_is_down_what_is_critical_is_not_pushed_out(tmp_path: Path) -> None:
    now, reasons = NOW, [warning("something odd")]
    notifier = a_notifier(tmp_path, lambda: Snapshot(health_of(reasons, now), [], []), lambda: now, ["mail"])

    def looks(count: int, each: timedelta = timedelta(minutes=1)) -> None:
        nonlocal now
        for _ in range(count):
            notifier.round()
            now += each

    looks(2)
    reasons[:] = [failure("the newest set is damaged")]
    looks(2)
    reasons[:] = []
    looks(2)
    for number in range(30):
        reasons[:] = [warning(f"warning {chr(97 + number % 26) * (1 + number // 26)}")]
        looks(2, timedelta(hours=2))
    kinds = [each.kind for each in recall(tmp_path).messages]
    assert kinds[:3] == ["warning", "failure", "recovery"] and 3 < len(kinds) <= outbox.MOST / 2


def test_whoever_missed_alerts_is_told_so_when_they_reach_it_again(tmp_path: Path) -> None:
    now, reasons, works, taken = NOW, [failure("the newest set is damaged")], False, list[Delivery]()

    def deliver(deliveries: Sequence[Delivery]) -> list[Receipt]:
        taken.extend(deliveries if works else ())
        return [Receipt(target=each.target, id=each.id, error="" if works else "it is down") for each in deliveries]

    notifier = a_notifier(
        tmp_path, lambda: Snapshot(health_of(reasons, now), [], []), lambda: now, ["mail"], deliver=deliver
    )
    for day in range(10):
        works = day == 9
        reasons[:] = reasons if day < 1 else []
        for _ in range(48):
            notifier.round()
            now += timedelta(minutes=30)
    reasons[:] = [failure("the disk is full")]
    for _ in range(3):
        notifier.round()
        now += timedelta(minutes=1)
    assert any("2 alerts could never be delivered" in each.body for each in taken)


def health_of(reasons: Sequence[Finding], now: datetime) -> Health:
    return Health(reasons[0].level if reasons else "pass", tuple(reasons), now)


class Place:
    """A service with one target, whatever becomes of it, of its target and of its clock."""

    def __init__(self, root: Path) -> None:
        self.root, self.now, self.down, self.killed = root, NOW, False, False
        self.causes, self.runs, self.stood = dict[str, int](), list[Run](), set[str]()
        self.taken: list[Delivery] = []
        self.restart()

    def restart(self) -> None:
        self.notifier = a_notifier(self.root, self.seen, lambda: self.now, ["mail"], deliver=self.deliver)

    def seen(self) -> Snapshot:
        return Snapshot(health_of([failure(f"cause {name}") for name in self.causes], self.now), self.runs, [])

    def deliver(self, deliveries: Sequence[Delivery]) -> list[Receipt]:
        assert len({each.target for each in deliveries}) == len(deliveries)
        if not self.down:
            self.taken.extend(deliveries)
        if self.killed:
            raise KeyboardInterrupt
        return [Receipt(target=each.target, id=each.id, error="it is down" if self.down else "") for each in deliveries]

    def look(self, times: int, every: timedelta) -> None:
        for _ in range(times):
            try:
                self.notifier.round()
            except KeyboardInterrupt:
                self.restart()
            self.causes = {name: looks + 1 for name, looks in self.causes.items()}
            self.stood |= {name for name, looks in self.causes.items() if looks >= 2}
            self.now += every

    def play(self, what: str, name: str) -> None:
        if what == "cause":
            self.causes.setdefault(name, 0)
        elif what == "over":
            self.causes.pop(name, None)
        elif what == "run":
            message, moment = f"run {name} ended", self.now
            self.runs.insert(
                0,
                Run(
                    id=f"r{len(self.runs)}", operation="drill", started=moment, outcome=Outcome.FAILED, message=message
                ),
            )
        elif what in ("down", "up"):
            self.down = what == "down"
        elif what in ("killed", "alive"):
            self.killed = what == "killed"
        elif what == "restart":
            self.restart()
        elif what in ("ahead", "back"):
            self.now += timedelta(days=400 if what == "ahead" else -400)
        self.look(*(24, timedelta(hours=1)) if what == "day" else (2, timedelta(seconds=30)))


happenings = st.sampled_from("cause over run down up killed alive restart ahead back day".split())


@examples(30)
@example([("down", "apple"), ("run", "apple"), ("ahead", "apple")])
@example([("ahead", "apple"), ("down", "apple"), ("run", "apple"), ("back", "apple")])
@given(st.lists(st.tuples(happenings, st.sampled_from(["apple", "birch", "cedar"])), max_size=25))
@pytest.mark.long
def test_nothing_is_lost_whatever_becomes_of_the_target_the_service_and_the_clock(plan: list[tuple[str, str]]) -> None:
    with TemporaryDirectory() as root:
        place = Place(Path(root))
        for what, name in plan:
            place.play(what, name)
        place.down = place.killed = False
        place.causes.clear()
        place.look(40, timedelta(hours=1))
        memory = recall(place.root)
    assert memory.messages == () and memory.lost == 0 and not memory.state.waiting
    said = "\n".join(each.title + each.body for each in place.taken)
    assert all(f"cause {name}" in said for name in place.stood)
    assert all(run.message in said for run in place.runs)
    assert "What is wrong now" not in said or "RECOVERED" in said
    # A kill between delivery and its note sends a message twice, never not at all.
    assert len(place.taken) == len({each.id for each in place.taken}) or any(what == "killed" for what, _ in plan)


def test_a_day_without_the_target_is_summed_up_when_it_is_back(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.down = True
    for number in range(48):
        name = "".join(chr(97 + int(digit)) for digit in f"{number:02d}")
        place.causes = {name: 0}
        place.play("run", name)
        place.look(1, timedelta(minutes=29))
    waiting = recall(tmp_path).messages
    assert len(waiting) == outbox.MOST / 2 and "cause aa" in waiting[0].title
    place.down = False
    place.causes.clear()
    place.look(40, timedelta(minutes=30))
    said = "\n".join(each.body for each in place.taken)
    assert len(place.taken) <= outbox.MOST / 2 + 2
    assert all(f"cause {name}" in said for name in place.stood) and all(run.message in said for run in place.runs)
    assert any(each.kind == "recovery" for each in place.taken) and recall(tmp_path).lost == 0


def test_a_message_that_the_disk_did_not_take_is_made_again_by_whoever_starts_next(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.down = True
    (tmp_path / "state").rmdir()
    (tmp_path / "state").write_text("no directory: nothing can be written below")
    place.play("cause", "apple")
    (tmp_path / "state").unlink()
    place.restart()
    place.down = False
    place.look(3, timedelta(seconds=30))
    assert [each.kind for each in place.taken] == ["failure"]


def test_what_another_process_puts_in_is_sent_once_and_survives_a_kill(tmp_path: Path) -> None:
    place = Place(tmp_path)
    notice = Notice(kind="report", title="weekly", body="all is well")
    outbox.enqueue(tmp_path, notice, NOW)
    place.down = True
    place.look(1, timedelta(hours=1))
    assert list((tmp_path / "state" / "outbox").iterdir()) == [] and len(recall(tmp_path).messages) == 1
    outbox.enqueue(tmp_path, notice, NOW)
    place.restart()
    place.look(1, timedelta(hours=1))
    place.down = False
    place.look(5, timedelta(hours=1))
    assert [each.title for each in place.taken] == ["weekly"] * 2 and recall(tmp_path).messages == ()


def test_a_file_that_cannot_be_removed_is_sent_once(tmp_path: Path) -> None:
    place = Place(tmp_path)
    outbox.enqueue(tmp_path, Notice(kind="report", title="weekly", body="all is well"), NOW)
    (tmp_path / "state" / "alerts.json").mkdir()  # nothing can be noted, so the file stays
    place.look(5, timedelta(hours=1))
    assert len(place.taken) == 1 and len(list((tmp_path / "state" / "outbox").iterdir())) == 1


def test_a_message_that_is_refused_for_good_holds_up_no_other(tmp_path: Path) -> None:
    place = Place(tmp_path)
    refused, taken = list[str](), list[str]()

    def deliver(deliveries: Sequence[Delivery]) -> list[Receipt]:
        (each,) = deliveries
        refused.extend([] if refused else [each.id])
        taken.extend([] if each.id in refused else [each.kind])
        return [Receipt(target=each.target, id=each.id, error="too odd" if each.id in refused else "")]

    place.notifier.deliver = deliver
    for what in ("cause", "over", "cause", "over"):
        place.play(what, "apple")
        place.look(8, timedelta(seconds=30))
    assert taken == ["recovery", "failure", "recovery"] and len(recall(tmp_path).messages) == 1
