"""What is told, and how often: whatever happens, few messages, nothing lost, one recovery."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup import logging
from backup.model.backup_set import Verdict
from backup.model.finding import Finding, failure, warning
from backup.model.run import Outcome, Run
from backup.monitoring.alerts import messages as wording
from backup.monitoring.alerts.model import BODY, TITLE, Event, Known, Memory, Notice, Policy, State
from backup.monitoring.alerts.rules import CRITICAL, LIMITS, cause, due, ping
from backup.monitoring.health import Health
from tests.support.examples import examples
from tests.unit.monitoring.health.test_health import stored

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TICK = timedelta(seconds=30)
LATER = NOW + timedelta(hours=1)


def policy(level: Literal["fail", "warn"] = "warn") -> Policy:
    return Policy("obcms", level, timedelta(hours=24), UTC)


@dataclass
class World:
    """The service's half minutes, one after the other, with a state that goes through JSON as it does on disk."""

    now: datetime = NOW
    state: State = field(default_factory=State)
    runs: list[Run] = field(default_factory=list)
    reasons: tuple[Finding, ...] = ()
    level: Literal["fail", "warn"] = "warn"
    notices: list[tuple[datetime, Notice]] = field(default_factory=list)

    def look(self, times: int = 1, every: timedelta = TICK) -> list[Notice]:
        found = []
        for _ in range(times):
            status = max(
                (r.level for r in self.reasons), key=["pass", "warn", "starting", "fail"].index, default="pass"
            )
            health = Health(status, self.reasons, self.now)
            state, notices = due(self.state, health, self.runs, self.now, policy(self.level))
            self.state = Memory.model_validate_json(Memory(state=state).model_dump_json()).state
            self.notices += [(self.now, notice) for notice in notices]
            found += notices
            self.now += every
        return found

    def run(self, outcome: Outcome, message: str = "", operation: str = "create") -> None:
        moment = self.now - timedelta(seconds=10)
        run = Run(
            id=f"r{len(self.runs)}",
            operation=operation,
            tier="daily",
            started=moment,
            ended=moment,
            outcome=outcome,
            message=message,
            hint="Look at it.",
        )
        self.runs.insert(0, run)

    def fail(self, message: str = "the password is wrong") -> None:
        self.run(Outcome.FAILED, message)
        self.reasons = (failure(f"the last daily backup failed: {message}", "Set DB_PASSWORD."),)

    def succeed(self) -> None:
        self.run(Outcome.SUCCESS)
        self.reasons = ()

    def kinds(self) -> list[str]:
        return [notice.kind for _, notice in self.notices]


def test_all_well_says_nothing() -> None:
    world = World()
    world.run(Outcome.SUCCESS)
    assert world.look(100) == []


def test_a_failing_backup_is_one_message_and_its_recovery_another() -> None:
    world = World()
    world.look(3)
    world.fail()
    (told,) = world.look(20)
    assert told.kind == "failure"
    assert told.title.startswith("[obcms] BACKUP FAILED: the last daily backup failed: the password is wrong")
    for words in (
        "the password is wrong",
        "Set DB_PASSWORD.",
        "There is no good set",
        "State now: fail",
        "backup list",
    ):
        assert words in told.body
    world.succeed()
    (well,) = world.look(200)
    assert well.kind == "recovery" and "RECOVERED after 10 min" in well.title


def test_a_run_that_failed_and_was_made_good_between_two_looks_is_told() -> None:
    world = World()
    world.look()
    world.fail()
    world.succeed()
    (told,) = world.look(200)
    assert told.kind == "failure" and "FAILED, but is well by now" in told.title and "State now: pass" in told.body


def test_what_passes_by_itself_within_seconds_is_not_told() -> None:
    world = World(reasons=(failure("the scheduler is not running"),))
    world.look(1)
    world.reasons = ()
    assert world.look(100) == []


def test_a_cause_of_health_is_told_when_it_stands() -> None:
    world = World(reasons=(failure("the newest set is 49 h 00 min old; the limit is 2 d 00 h"),))
    assert world.look(1) == []
    assert [n.kind for n in world.look(1)] == ["failure"]
    world.reasons = (failure("the newest set is 2 d 02 h old; the limit is 2 d 00 h"),)
    assert world.look(100) == []


def test_a_second_cause_is_told_besides_and_the_recovery_waits_for_both() -> None:
    world = World()
    world.fail()
    world.look(3)
    both = (*world.reasons, failure("the backup volume is full: 12 B free"))
    world.reasons = both
    (second,) = world.look(5)
    assert "volume is full" in second.title and "password" in second.body
    world.reasons = both[1:]
    assert world.look(5) == []
    world.reasons = ()
    assert [n.kind for n in world.look(5)] == ["recovery"]


def test_reminders_come_daily_then_more_rarely_for_ever() -> None:
    world = World()
    world.fail()
    world.look(24 * 60, timedelta(hours=1))
    assert world.kinds()[0] == "failure" and set(world.kinds()[1:]) == {"reminder"}
    times = [moment - NOW for moment, _ in world.notices]
    gaps = [round((b - a) / timedelta(days=1)) for a, b in zip(times, times[1:], strict=False)]
    assert gaps[:7] == [1] * 7 and gaps[7:9] == [2, 4] and set(gaps[9:]) == {7}
    assert "STILL FAILING for 24 h" in world.notices[1][1].title


def test_runs_that_fail_alike_wait_for_the_reminder_and_are_counted() -> None:
    world = World()
    for n in range(50):
        world.fail(f"the server refused {n} times, {'weekly' if n % 2 else 'daily'}_2026-01-01_02-00-{n:02d} is gone")
        world.look(1, timedelta(minutes=20))
    assert world.kinds() == ["failure"]
    world.look(20, timedelta(hours=1))
    reminder = next(notice for _, notice in world.notices if notice.kind == "reminder")
    assert "times, last" in reminder.body


def test_a_storm_of_a_thousand_different_failures_is_a_few_messages_and_names_them_all() -> None:
    world = World()
    world.look()
    for n in range(1000):
        word = "".join(chr(97 + n // 26**k % 26) for k in range(3))
        world.run(Outcome.FAILED, f"reason {word}", operation=word)
        world.look(1)
    hours = 1000 * TICK / timedelta(hours=1)
    assert len(world.notices) <= min(4 * (hours + 1), 12)
    world.look(30, timedelta(hours=1))
    assert not any(event.count for event in world.state.events.values())
    assert len(world.state.events) <= 51 and len(world.state.model_dump_json()) < 200_000
    assert all(len(n.body) <= BODY and len(n.title) <= TITLE for _, n in world.notices)


def test_a_critical_and_its_end_go_whatever_was_sent_before() -> None:
    world = World()
    for n in range(50):
        word = chr(97 + n % 26) * (1 + n // 26)
        world.reasons = (warning(f"warning {word}"),)
        world.run(Outcome.FAILED, f"reason {word}", operation=f"upload {word}")
        world.look(2)
    assert len(world.notices) <= 4
    held = {known.text for known in world.state.waiting}
    assert {"warning xx", "upload xx daily failed: reason xx"} <= held
    world.reasons = (failure("the newest set is damaged"),)
    (critical,) = world.look(2)
    assert critical.kind == "failure" and "the newest set is damaged" in critical.title
    assert "Held back until now" in critical.body and "warning " in critical.body and "reason xx" in critical.body
    assert world.state.waiting == []
    world.reasons = ()
    assert [notice.kind for notice in world.look(1)] == ["recovery"]
    world.reasons = (failure("another set is damaged"),)
    assert [notice.kind for notice in world.look(2)] == ["failure"]


def test_warnings_that_passed_while_held_back_are_told_once() -> None:
    world = World(state=State(sent=(NOW,) * 4, seen=()), reasons=(warning("the clock is odd", "Look."),))
    world.look(3)
    world.reasons = ()
    (told,) = world.look(300)
    assert told.kind == "warning" and "the clock is odd" in told.title and "Held back" in told.body
    world = World(state=State(sent=(NOW,) * 4, seen=()), reasons=(warning("the clock is odd"),))
    (told,) = world.look(300)
    assert told.body.count("the clock is odd") == 1


def test_flapping_is_bounded_and_ends_with_the_truth() -> None:
    world = World()
    for n in range(400):
        world.fail() if n % 2 == 0 else world.succeed()
        world.look(2)
    assert len(world.notices) <= LIMITS[1][0] + CRITICAL[1][0]  # its own, and those that tell its end
    world.succeed()
    world.look(30, timedelta(hours=1))
    assert world.state.unwell is None
    assert "RECOVERED" in world.notices[-1][1].title or "is well by now" in world.notices[-1][1].title


def test_what_came_and_went_all_morning_and_then_stands_is_told_within_the_hour() -> None:
    """Who was last told that all is well again must not believe it until tomorrow."""
    world = World()
    world.look()
    for _ in range(9):
        world.reasons = (failure("the backup volume cannot be read"),)
        world.look(3)
        world.reasons = ()
        world.look(3)
        world.now += timedelta(minutes=35)
    told = len(world.notices)
    assert told == 12 and world.notices[-1][1].kind == "recovery"
    world.reasons = (failure("the backup volume cannot be read"),)
    world.look(123)
    assert world.kinds()[told:] == ["failure"]


@pytest.mark.parametrize("count", [2, 600])
def test_a_cause_whose_words_change_from_look_to_look_is_told_as_one(count: int) -> None:
    world = World()
    for n in range(600):
        word = "".join(chr(97 + n % count // 26**k % 26) for k in range(3))
        world.reasons = (failure(f"cannot read {word}"),)
        world.look()
    assert world.notices[0][0] <= NOW + TICK and world.notices[0][1].kind == "failure"
    hours = 600 * TICK / timedelta(hours=1)
    assert len(world.notices) <= LIMITS[1][0] + 2 * CRITICAL[1][0] + hours
    assert len(world.state.model_dump_json()) < 100_000


def test_what_is_remembered_of_warnings_is_bounded() -> None:
    world = World()
    for hour in range(24 * 3):
        word = "".join(chr(97 + hour // 26**k % 26) for k in range(3))
        world.reasons = tuple(
            warning(f"{word} {chr(97 + n)} {chr(97 + n // 26)} is odd " + "x" * 90) for n in range(50)
        )
        world.look(1, timedelta(hours=1))
    assert len(world.state.warned) <= 600 and len(world.state.model_dump_json()) < 200_000


def test_of_many_criticals_the_new_ones_are_named_first() -> None:
    old = tuple(failure(f"critical {chr(97 + n)}") for n in range(8))
    world = World(reasons=old)
    world.look(3)
    world.reasons = (*old, failure("one more"), failure("and another"))
    (told,) = world.look(3)
    assert "one more" in told.body and "and another" in told.body


def test_a_message_names_all_that_was_held_back_and_keeps_its_end() -> None:
    """However much it is: what has passed by then is listed nowhere else."""
    world = World(state=State(sent=(NOW,) * 4, seen=()))
    world.reasons = tuple(warning(f"odd {chr(97 + n)} " + "x" * 390, "y" * 390) for n in range(20))
    world.look(3)
    world.reasons = ()
    for n in range(8):
        world.run(Outcome.FAILED, f"why {chr(97 + n)} " + "z" * 390, operation=f"upload{chr(97 + n)}")
    (told,) = world.look(200)
    assert len(told.body) <= BODY and "State now: pass." in told.body and told.body.endswith("UTC\n")
    assert all(f"odd {chr(97 + n)} " in told.body for n in range(20))
    assert all(f"why {chr(97 + n)}" in told.body for n in range(8))


def test_warnings_are_told_once_a_week_unless_only_failures_are_wanted() -> None:
    changed = warning("the last daily backup is complete, but files changed", "`show x` lists them.")
    for level, expected in (("warn", ["warning", "warning"]), ("fail", [])):
        world = World(level=level)  # type: ignore[arg-type]
        for day in range(14):
            world.reasons = (changed,) if day % 2 == 0 else ()
            world.look(1, timedelta(days=1))
        assert world.kinds() == expected


def test_a_failed_drill_is_told_without_a_recovery() -> None:
    world = World()
    world.look()
    world.run(Outcome.FAILED, "the dump differs", operation="drill")
    assert [n.kind for n in world.look(100)] == ["failure"]


def test_who_begins_is_not_told_of_last_months_failures() -> None:
    world = World()
    world.run(Outcome.FAILED, "long ago")
    world.now += timedelta(days=30)
    assert world.look(10) == []


def test_records_that_cannot_be_read_for_a_while_are_not_told_again() -> None:
    world = World()
    world.fail()
    world.look(3)
    runs, world.runs = world.runs, []
    world.look(3)
    world.runs, world.reasons = runs, ()
    assert [n.kind for n in world.look(3000)] == ["recovery"]


def test_a_service_that_is_starting_has_not_recovered() -> None:
    world = World()
    world.fail()
    world.look(3)
    world.reasons = (Finding("starting", "the first backup is running"),)
    assert world.look(10) == []
    world.reasons = ()
    assert [n.kind for n in world.look(10)] == ["recovery"]


def test_a_cause_that_passed_while_nothing_could_be_sent_is_told_later() -> None:
    text = "the volume is gone"
    spent = State(sent=(NOW,) * 4, critical={text: (NOW,) * 2}, seen=())
    world = World(state=spent, reasons=(failure(text),))
    world.look(5)
    world.reasons = ()
    assert world.look(5) == []
    (told,) = world.look(200)
    assert "for a while: the volume is gone" in told.title


def test_what_was_noted_by_a_clock_that_was_ahead_is_told_at_once() -> None:
    ahead = NOW + timedelta(days=3650)
    known = Known(text="the volume is gone", since=ahead, seen=ahead)
    event = Event(text="drill daily failed: x", last=ahead, count=1, told=ahead)
    world = World(state=State(causes={cause(known.text): known}, seen=()), reasons=(failure(known.text),))
    assert [n.kind for n in world.look(2)] == ["failure"]
    world = World(state=State(events={cause(event.text): event}, seen=()))
    assert [n.kind for n in world.look(26, timedelta(hours=1))] == ["failure"]


@pytest.mark.parametrize("years", [-10, 10])
def test_a_clock_that_jumps_silences_nothing(years: int) -> None:
    world = World()
    world.fail()
    world.look(3)
    world.now += timedelta(days=365 * years)
    world.look(2)
    world.reasons = (failure("the disk is gone"),)
    world.look(130)
    assert any("disk is gone" in n.title for _, n in world.notices)
    world.reasons = ()
    assert world.look(200)[-1].kind == "recovery"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("is 49 h 00 min old; the limit is 2 d 00 h", "is 3 d 01 h old; the limit is 2 d 00 h", True),
        ("x, daily_2026-01-01_02-00-00, is 5.0 s old", "x, weekly_2026-02-01_03-00-00, is 3 min 20 s old", True),
        ("the backup volume is full: 12 B free", "the backup volume is full: 1.4 kB free", True),
        ("the password is wrong", "the disk is full", False),
        ("table a is missing", "table b is missing", False),
    ],
)
def test_the_class_of_a_text_leaves_out_what_changes(one: str, other: str, same: bool) -> None:
    assert (cause(one) == cause(other)) is same


def test_hostile_texts_and_secrets_are_not_in_a_message() -> None:
    logging.redacting(["canary-in-a-run"])
    world = World()
    world.fail("\x1b[31m\r\nBcc: evil@example.com\u202e canary-in-a-run " + "x" * 100_000)
    (told,) = world.look(3)
    assert not set(told.title) & set("\r\n\x1b\u202e")
    assert not set(told.body) & set("\r\x1b\u202e") and "\nBcc" not in told.body
    assert "canary" not in told.title + told.body
    assert len(told.body) <= BODY and len(told.title) <= TITLE


# --- whatever happens ----------------------------------------------------------------------------------------------

words = st.sampled_from(["the password is wrong", "the disk is full", "no route", "tar failed at 3 of 7", "é\x00\n"])
steps = st.one_of(
    st.tuples(st.just("fail"), words),
    st.tuples(st.just("event"), words),
    st.tuples(st.just("reason"), words),
    st.tuples(st.just("succeed"), st.just("")),
    st.tuples(st.just("warn"), words),
    st.tuples(st.just("wait"), st.integers(1, 3000)),
    st.tuples(st.just("forget"), st.just("")),
)


def play(world: World, step: tuple[str, Any]) -> None:
    what, value = step
    if what == "fail":
        world.fail(value)
    elif what == "event":
        world.run(Outcome.CRASHED, value, operation="verify")
    elif what in ("reason", "warn"):
        world.reasons = (*world.reasons, Finding("fail" if what == "reason" else "warn", value))
    elif what == "succeed":
        world.succeed()
    elif what == "forget":
        world.state = State()
    world.look(1, timedelta(seconds=30 * value) if what == "wait" else TICK)


@examples(40)
@given(st.lists(steps, max_size=40))
def test_never_more_than_the_bound_nothing_lost_one_recovery(plan: list[tuple[str, Any]]) -> None:
    world = World()
    sound = ("forget", "") not in plan
    for step in plan:
        play(world, step)
    if sound:  # a state that is lost may tell again
        for (most, within), (each, _) in zip(LIMITS, CRITICAL, strict=True):
            times = [moment for moment, _ in world.notices]
            critical = {(r.operation, r.message) for r in world.runs} | {s for s in plan if s[0] in ("reason", "fail")}
            bound = most + 2 * each * len(critical)
            assert all(sum(t - within < x <= t for x in times) <= bound for t in times)
            calm = [moment for moment, notice in world.notices if notice.kind in ("warning", "reminder")]
            assert all(sum(t - within < x <= t for x in calm) <= most for t in calm)
    world.look(80, timedelta(hours=1))
    text = "\n".join(notice.title + notice.body for _, notice in world.notices)
    failed = {(r.operation, r.message) for r in world.runs if r.outcome is not Outcome.SUCCESS}
    if sound and len(failed) <= 8:
        assert all(wording.line(message) in text for _, message in failed)
    assert not any(event.count for event in world.state.events.values()) or world.reasons
    world.reasons = ()
    world.look(30, timedelta(hours=1))
    assert world.state.unwell is None and not world.state.causes
    if sound:
        told = "".join({"failure": "F", "recovery": "R"}.get(kind, "") for kind in world.kinds())
        assert "RR" not in told and not told.startswith("R")


moments = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
states = st.builds(
    State,
    causes=st.dictionaries(
        words, st.builds(Known, text=words, since=moments, seen=moments, told=st.none() | moments), max_size=3
    ),
    warned=st.dictionaries(words, moments, max_size=3),
    events=st.dictionaries(
        words,
        st.builds(Event, text=words, last=moments, count=st.integers(0, 9), told=st.none() | moments),
        max_size=3,
    ),
    seen=st.none() | st.tuples(st.just("r0")),
    unwell=st.none() | moments,
    told=st.none() | moments,
    reminded=st.integers(0, 10**6),
    sent=st.lists(moments, max_size=20).map(tuple),
)


@examples(50)
@given(states, words)
def test_from_any_state_a_new_failure_is_told_and_so_is_the_recovery(state: State, word: str) -> None:
    world = World(state=state)
    world.fail(f"quite new: {word}")
    world.run(Outcome.FAILED, f"quite new: {word}", operation="another")
    world.look(30, timedelta(hours=1))
    assert any("quite new" in notice.body for _, notice in world.notices)
    assert len(world.notices) <= 12 + 24
    world.reasons = ()
    world.look(30, timedelta(hours=1))
    assert world.kinds()[-1] == "recovery" and world.kinds().count("recovery") == 1


# --- the heartbeat ---------------------------------------------------------------------------------------------------


def verified(hours: float, *, problems: tuple[str, ...] = (), verdict: bool = True, database: bool = True) -> Any:
    found = stored(hours, database=database)
    return replace(found, verdict=Verdict(checked=NOW, problems=problems) if verdict else None)


def made(set_id: str, outcome: Outcome = Outcome.SUCCESS, only: str = "", hours: float = 1.0) -> Run:
    moment = NOW - timedelta(hours=hours)
    return Run(id=f"r{hours}", operation="create", only=only, started=moment, ended=moment, outcome=outcome, set=set_id)


GOOD = verified(1)


@pytest.mark.parametrize(
    ("sets", "run", "expected"),
    [
        ([GOOD], made(GOOD.id), True),
        ([GOOD], made(GOOD.id, Outcome.CHANGED), True),
        ([GOOD], made(GOOD.id, only="database"), True),
        ([GOOD], made(GOOD.id, only="media"), False),
        ([GOOD], made(GOOD.id, Outcome.FAILED), False),
        ([GOOD], made(GOOD.id, Outcome.RUNNING), False),
        ([verified(1, verdict=False)], made(GOOD.id), False),
        ([verified(1, problems=("a byte differs",))], made(GOOD.id), False),
        ([], made(GOOD.id), False),
        ([GOOD], made(GOOD.id, hours=49), False),
        ([GOOD], made(GOOD.id, hours=-2), False),
        ([GOOD], made(GOOD.id).model_copy(update={"operation": "verify"}), False),
        ([GOOD], made(GOOD.id).model_copy(update={"tier": "pre-restore"}), False),
    ],
)
def test_the_heartbeat_is_for_a_verified_backup_alone_and_once(sets: list[Any], run: Run, expected: bool) -> None:
    state, name = ping(State(), sets, [run], NOW, timedelta(hours=48))
    assert bool(name) is expected
    assert ping(state, sets, [run], NOW, timedelta(hours=48)) == (state, "")
