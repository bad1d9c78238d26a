"""What is told, and how often: whatever happens, few messages, nothing lost, one recovery."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from backup import logging
from backup.model.backup_set import Verdict
from backup.model.finding import Finding, failure, warning
from backup.model.run import Outcome, Run
from backup.monitoring.alerts.model import BODY, TITLE, Known, Memory, Notice, Policy, State
from backup.monitoring.alerts.rules import AT_ONCE, DAY, PAUSE, SETTLE, STANDS, cause, decide, heartbeat_run
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
            state, notice = decide(self.state, health, self.runs, self.now, policy(self.level))
            if state != self.state:
                self.state = Memory.model_validate_json(Memory(state=state).model_dump_json()).state
            if notice:
                self.notices.append((self.now, notice))
                found.append(notice)
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


def test_a_snapshot_that_failed_is_not_told_by_itself() -> None:
    """The next one comes within minutes; health tells when none comes to its end."""
    world = World()
    world.look()
    for outcome in (Outcome.FAILED, Outcome.CRASHED):
        world.run(outcome, "no set to go on from")
        world.runs[0] = world.runs[0].model_copy(update={"tier": "snapshot"})
        assert not world.look(3)
    world.reasons = (warning("none of the last 3 snapshots of the media came to its end", ""),)
    assert len(world.look(3)) == 1


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


def test_reminders_come_daily_for_ever() -> None:
    world = World()
    world.fail()
    world.look(24 * 60, timedelta(hours=1))
    assert world.kinds()[0] == "failure" and set(world.kinds()[1:]) == {"reminder"}
    times = [moment - NOW for moment, _ in world.notices]
    assert {b - a for a, b in zip(times, times[1:], strict=False)} == {DAY} and len(times) == 60
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


@pytest.mark.long
def test_a_storm_of_different_failures_is_a_few_messages_and_names_them_all() -> None:
    world = World()
    world.look()
    many = 600  # more than are remembered
    for n in range(many):
        word = "".join(chr(97 + n // 26**k % 26) for k in range(3))
        world.run(Outcome.FAILED, f"reason {word}", operation=word)
        world.look(1)
        assert len(world.state.waiting) <= 101
    hours = many * TICK / timedelta(hours=1)
    assert len(world.notices) <= min(4 * (hours + 1), 12)
    world.look(30, timedelta(hours=1))
    assert not world.state.waiting
    assert len(world.state.known) <= 510 and len(world.state.model_dump_json()) < 200_000
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
    assert "for a while: warning " in critical.body and "reason xx" in critical.body
    assert world.state.waiting == []
    world.reasons = ()
    assert [notice.kind for notice in world.look(1)] == ["recovery"]
    world.reasons = (failure("another set is damaged"),)
    assert [notice.kind for notice in world.look(2)] == ["failure"]


def test_warnings_that_passed_while_held_back_are_told_once() -> None:
    world = World(state=State(sent=(NOW,) * 4, seen=()), reasons=(warning("the clock is odd", "Look."),))
    world.look(3)
    world.reasons = ()
    (told,) = world.look(400)
    assert told.kind == "warning" and "WARNING: for a while: the clock is odd" in told.title
    assert "12:00:00 UTC: for a while: the clock is odd\n  Look.\n" in told.body
    world = World(state=State(sent=(NOW,) * 4, seen=()), reasons=(warning("the clock is odd"),))
    (told,) = world.look(400)
    assert told.body.count("the clock is odd") == 1


def test_flapping_is_bounded_and_ends_with_the_truth() -> None:
    world = World()
    for n in range(400):
        world.fail() if n % 2 == 0 else world.succeed()
        world.look(2)
    assert len(world.notices) <= 12 + AT_ONCE  # its own and of its runs, and those that tell its end
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
    assert told <= 12 and "for a while: the backup volume cannot be read" in world.notices[-1][1].title
    assert world.kinds()[:8] == ["failure", "recovery"] * AT_ONCE
    world.reasons = (failure("the backup volume cannot be read"),)
    world.look(123)
    assert world.kinds()[told:] == ["failure"]


@pytest.mark.parametrize("count", [2, 400])
@pytest.mark.long
def test_a_cause_whose_words_change_from_look_to_look_is_told_as_one(count: int) -> None:
    world = World()
    many = 400  # more than are remembered
    for n in range(many):
        word = "".join(chr(97 + n % count // 26**k % 26) for k in range(3))
        world.reasons = (failure(f"cannot read {word}"),)
        world.look()
    assert world.notices[0][0] <= NOW + TICK and world.notices[0][1].kind == "failure"
    hours = many * TICK / timedelta(hours=1)
    assert len(world.notices) <= AT_ONCE + hours
    assert len(world.state.model_dump_json()) < 100_000


@pytest.mark.long
def test_what_is_remembered_of_warnings_is_bounded() -> None:
    world = World()
    for hour in range(24 * 3):
        word = "".join(chr(97 + hour // 26**k % 26) for k in range(3))
        world.reasons = tuple(
            warning(f"{word} {chr(97 + n)} {chr(97 + n // 26)} is odd " + "x" * 90) for n in range(50)
        )
        world.look(1, timedelta(hours=1))
    assert len(world.state.known) <= 600 and len(world.state.model_dump_json()) < 200_000


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
    (told,) = world.look(400)
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
    spent = Known(level="fail", since=NOW, told=tuple(NOW - n * TICK for n in range(AT_ONCE, 0, -1)))
    world = World(state=State(sent=(NOW,) * 4, known={f"fail {text}": spent}, seen=()), reasons=(failure(text),))
    world.look(5)
    world.reasons = ()
    assert world.look(5) == []
    (told,) = world.look(400)
    assert "for a while: the volume is gone" in told.title


def test_what_was_noted_by_a_clock_that_was_ahead_is_told_at_once() -> None:
    ahead = NOW + timedelta(days=3650)
    known = Known(level="fail", text="the volume is gone", since=ahead, count=1, stands=True, told=(ahead,) * AT_ONCE)
    run = Known(level="run", text="drill daily failed: x", since=ahead, count=1, told=(ahead,))
    world = World(state=State(known={f"fail {known.text}": known}, sent=(ahead,), seen=()))
    world.reasons = (failure(known.text),)
    assert [n.kind for n in world.look(2)] == ["failure"]
    world = World(state=State(known={f"run {run.text}": run}, sent=(ahead,) * AT_ONCE, seen=()))
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
names = st.sampled_from(["apple", "birch", "cedar", "daisy"])
steps = st.lists(
    st.tuples(st.sampled_from(["cause", "over", "warning", "calm", "run", "looks", "flaps", "hours"]), names),
    max_size=25,
)


@dataclass
class Look:
    """One look of the service, as a slow reader sees it."""

    now: datetime
    causes: frozenset[str]
    warnings: frozenset[str]
    runs: int
    notice: Notice | None

    def listed(self, *headings: str) -> str:
        """The paragraphs of the message under these headings."""
        parts = self.notice.body.split("\n\n") if self.notice else []
        return "\n".join(part for part in parts if part.startswith(headings))

    def wrong(self, name: str) -> bool:
        return f"cause {name}" in self.listed("What is wrong now")

    def told(self, name: str) -> bool:
        """Also of one that is over: such a message is one of the four of a day, too."""
        return f"cause {name}" in self.listed("What is wrong now", "What has happened")


class History:
    """What happens, look by look, and what the messages say of it."""

    def __init__(self) -> None:
        self.world, self.looks = World(), list[Look]()
        self.causes, self.warnings = dict[str, Finding](), dict[str, Finding]()
        self.world.look()

    def play(self, what: str, name: str) -> None:
        kinds = {"cause": (self.causes, failure), "warning": (self.warnings, warning)}
        if what in kinds:
            found, level = kinds[what]
            found[name] = level(f"{what} {name} is there")
        elif what in ("over", "calm"):
            (self.causes if what == "over" else self.warnings).pop(name, None)
        elif what == "run":
            self.world.run(Outcome.FAILED, f"run {name} ended", operation="upload")
        elif what == "flaps":
            for number in range(14):
                self.play("over" if number % 2 else "cause", name)
                self.look(2)
        self.look(*{"looks": (4, TICK), "hours": (30, timedelta(minutes=10))}.get(what, (1, TICK)))

    def look(self, times: int, every: timedelta = TICK) -> None:
        for _ in range(times):
            self.world.reasons = (*self.causes.values(), *self.warnings.values())
            now, runs = self.world.now, len(self.world.runs)
            notice = next(iter(self.world.look(1, every)), None)
            self.looks.append(Look(now, frozenset(self.causes), frozenset(self.warnings), runs, notice))

    def ends(self) -> None:
        """All is well again, for long enough."""
        self.causes.clear()
        self.warnings.clear()
        self.look(40, timedelta(hours=1))


def played(plan: list[tuple[str, str]]) -> History:
    history = History()
    for what, name in plan:
        history.play(what, name)
    return history


def most(times: list[datetime], within: timedelta) -> int:
    return max((sum(moment - within < each <= moment for each in times) for moment in times), default=0)


@examples(60)
@example([("flaps", "apple"), *[("hours", "apple")] * 5, ("flaps", "apple")])
@given(steps)
@pytest.mark.long
def test_a_cause_goes_at_once_and_one_that_flapped_within_the_hour(plan: list[tuple[str, str]]) -> None:
    looks = played(plan).looks
    for number, look in enumerate(looks):
        for name in look.causes:
            first = number
            while first and name in looks[first - 1].causes:
                first -= 1
            # What came as another went may be that one in other words.
            alone = not first or looks[first - 1].causes <= looks[first].causes
            stood = look.now - looks[first].now
            before = [x for x in looks[:first] if x.told(name) and looks[first].now - x.now < DAY]
            if stood >= STANDS or (stood >= SETTLE and alone and len(before) < AT_ONCE):
                assert any(x.wrong(name) for x in looks[first : number + 1]), (name, stood)


@examples(60)
@given(steps)
def test_the_recipients_believe_what_is_true(plan: list[tuple[str, str]]) -> None:
    """Once told when it is over, daily while it is not, and never that all is well while something is wrong."""
    red, last = False, NOW
    for look in played(plan).looks:
        if look.notice:
            assert look.notice.kind != "recovery" or (red and not look.causes)
            red = look.notice.kind != "recovery" and (red or bool(look.listed("What is wrong now")))
            last = look.now
        assert not red or look.causes
        assert not red or look.now - last < DAY + timedelta(minutes=10)


@examples(60)
@given(steps)
def test_there_is_no_flood(plan: list[tuple[str, str]]) -> None:
    history = played(plan)
    forced, calm, ends, flapped = list[datetime](), list[datetime](), list[datetime](), set[str]()
    known: set[str] = set()
    for look in history.looks:
        known &= look.causes
        new = {name for name in look.causes if look.wrong(name)} - known
        if look.notice:
            (ends if look.notice.kind == "recovery" else forced if new else calm).append(look.now)
        known |= new
        flapped |= new
    assert most(calm, timedelta(hours=1)) <= AT_ONCE and most(calm, DAY) <= AT_ONCE + DAY / PAUSE
    for times in (forced, ends):
        assert most(times, timedelta(hours=1)) <= AT_ONCE * len(flapped) + 1
        assert most(times, DAY) <= (AT_ONCE + 1) * len(flapped) + DAY / STANDS


@examples(60)
@given(steps)
def test_each_failed_run_and_each_warning_is_told(plan: list[tuple[str, str]]) -> None:
    """In a day at the most, counted, whatever was held back; a restart in between loses nothing."""
    history = played(plan)
    history.ends()
    looks = history.looks
    messages = [look for look in looks if look.notice]
    assert history.world.state.waiting == [] and history.world.state.unwell is None
    told = [
        re.findall(r"- (?:(\d+) times, last )?[^\n]*: run (\w+) ended", x.listed("What has happened")) for x in messages
    ]
    for name in ("apple", "birch", "cedar", "daisy"):
        count = sum(run.message == f"run {name} ended" for run in history.world.runs)
        assert sum(int(often or 1) for found in told for often, which in found if which == name) == count
    for number, look in enumerate(looks):
        if number and look.runs > looks[number - 1].runs:
            later = [x for x in messages if timedelta(0) <= x.now - look.now <= DAY + timedelta(hours=1)]
            assert any(x.listed("What has happened") for x in later)
        for name in look.warnings:
            week = [x for x in messages if abs(x.now - look.now) < timedelta(days=7)]
            assert any(x.notice and f"warning {name}" in x.notice.body for x in week)


@examples(60)
@given(steps)
def test_what_is_remembered_is_enough_and_small(plan: list[tuple[str, str]]) -> None:
    history = played(plan)
    assert len(history.world.state.known) <= 12
    history.ends()
    history.look(10, DAY)
    assert history.world.state.known == {}


moments = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
levels = st.sampled_from(["fail", "warn", "run"])
known = st.builds(
    Known,
    level=levels,
    text=words,
    since=moments,
    count=st.integers(0, 9),
    stands=st.booleans(),
    told=st.lists(moments, max_size=4).map(tuple),
)
states = st.builds(
    State,
    known=st.dictionaries(st.tuples(levels, words), known, max_size=6).map(
        lambda found: {f"{each.level} {word}": each for (_, word), each in found.items()}
    ),
    seen=st.none() | st.tuples(st.just("r0")),
    unwell=st.none() | moments,
    sent=st.lists(moments, max_size=4).map(tuple),
)


@examples(50)
@given(states, words, st.sampled_from([-3650, 0, 3650]))
def test_from_any_state_and_after_any_jump_a_new_failure_is_told_and_so_is_the_recovery(
    state: State, word: str, days: int
) -> None:
    world = World(state=state)
    world.look(3)
    world.now += timedelta(days=days)
    world.fail(f"quite new: {word}")
    world.run(Outcome.FAILED, f"quite new: {word}", operation="another")
    begun = len(world.notices)
    world.look(30, timedelta(hours=1))
    assert any("quite new" in notice.body for _, notice in world.notices[begun:])
    assert len(world.notices) <= 12 + 24
    world.reasons = ()
    world.look(30, timedelta(hours=1))
    assert world.kinds()[-1] == "recovery" and world.kinds()[begun:].count("recovery") == 1


# --- the form of before ----------------------------------------------------------------------------------------------

OLD: Final[dict[str, Any]] = {
    "state": {
        "causes": {"the volume is gone": {"text": "the volume is gone", "since": NOW, "seen": NOW, "told": NOW}},
        "warned": {"the clock is odd": NOW},
        "events": {"drill failed: x": {"text": "drill failed: x", "last": NOW, "count": 2, "told": None}},
        "seen": ["r0"],
        "unwell": NOW,
        "told": NOW,
        "reminded": 1,
        "sent": [NOW] * 7,
        "critical": {"the volume is gone": [NOW]},
        "held": {"odd": {"text": "odd", "since": NOW, "seen": NOW, "told": None}},
        "ping": "r9",
    },
    "deliveries": {"mail:a@b": {"failures": 0, "since": None, "delivered": NOW}, "x://": {"delivered": None}},
    "lost": 2,
    "lost_at": NOW,
}


def test_a_memory_of_before_is_read_and_nothing_is_told_again_or_lost() -> None:
    memory = Memory.model_validate_json(json.dumps(OLD, default=datetime.isoformat))
    assert memory.delivered == {"mail:a@b": NOW} and memory.lost == 2 and memory.state.ping == "r9"
    world = World(state=memory.state, reasons=(failure("the volume is gone"), warning("the clock is odd")))
    world.run(Outcome.FAILED)
    assert [each.text for each in world.state.waiting] == ["drill failed: x", "odd"]
    (told,) = world.look(400)
    assert told.kind == "failure" and "2 times" in told.body and "for a while: odd" in told.body
    world.reasons = ()
    assert [each.kind for each in world.look(2)] == ["recovery"]


@pytest.mark.parametrize("field", sorted(OLD["state"]))
def test_a_memory_of_before_that_is_damaged_is_said_to_be(field: str) -> None:
    for value in (5, [5], {"x": 5}, None):
        old = {**OLD, "state": {**OLD["state"], field: value}}
        with contextlib.suppress(ValidationError):
            Memory.model_validate_json(json.dumps(old, default=datetime.isoformat))


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
def test_the_heartbeat_is_for_a_verified_backup_alone(sets: list[Any], run: Run, expected: bool) -> None:
    assert bool(heartbeat_run(sets, [run], NOW, timedelta(hours=48))) is expected
