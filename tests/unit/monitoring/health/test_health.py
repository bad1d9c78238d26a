"""Health is green only with a fresh good set and a last run that went well; anything else says why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.model.backup_set import SetState, StoredSet
from backup.model.finding import LEVELS, warning
from backup.model.manifest import DatabasePart, Manifest, Tier, VolumePart
from backup.model.run import Outcome, Run
from backup.monitoring.health import Health, Limits, SchedulerState, evaluate

NOW = datetime(2025, 10, 20, 12, tzinfo=UTC)
MAX_AGE = timedelta(hours=48)


def stored(
    hours: float,
    state: SetState = "complete",
    *,
    tier: Tier = Tier.DAILY,
    database: bool = True,
    media: bool = True,
    server: str = "7",
) -> StoredSet:
    """A set of `hours` ago."""
    time = NOW - timedelta(hours=hours)
    identifier = f"{tier}_{time:%Y-%m-%d_%H-%M-%S}"
    manifest = Manifest(
        id=identifier,
        tier=tier,
        run="r",
        started=time,
        ended=time,
        started_local="",
        ended_local="",
        zone="UTC",
        product_version="0",
        artifacts=(),
        database=DatabasePart(
            name="obcms", oid=1, system_identifier=server, server_version="17", client_version="17", command=(), rows={}
        )
        if database
        else None,
        volumes=(VolumePart(name="media", files=1, directories=1, links=0, hard_links=0, bytes=1, excludes=()),)
        if media
        else (),
    )
    problem = "" if state.startswith("complete") else "the disk returned other bytes"
    known = state not in ("old script", "unreadable")
    return StoredSet(
        Path("/backups") / tier, identifier, tier, time, state, (), 0, manifest if known else None, None, problem
    )


def run(
    hours: float, outcome: Outcome, message: str = "", hint: str = "", operation: str = "create", only: str = ""
) -> Run:
    """A run that began `hours` ago."""
    started = NOW - timedelta(hours=hours)
    return Run(
        id=f"{started:%Y%m%d%H%M%S}",
        operation=operation,
        only=only,
        tier="daily",
        started=started,
        outcome=outcome,
        message=message,
        hint=hint,
    )


def judge(
    sets: Sequence[StoredSet] = (),
    runs: Sequence[Run] = (),
    scheduler: SchedulerState | None = "alive",
    problem: str = "",
    notes: Sequence[str] = (),
    free: int | None = None,
) -> Health:
    return evaluate(
        sets,
        runs,
        NOW,
        max_age=MAX_AGE,
        scheduler=scheduler,
        problem=problem,
        free=free,
        others=[warning(note) for note in notes],
    )


FRESH, OLD = stored(10), stored(49)
GOOD_MEDIA = run(0.2, Outcome.SUCCESS, only="media")
GOOD_DATABASE = run(0.3, Outcome.SUCCESS, only="database")
BAD_DATABASE = run(0.5, Outcome.FAILED, "the password is wrong", only="database")
OK, BAD = run(10, Outcome.SUCCESS), run(1, Outcome.FAILED, "the password is wrong", "Set DB_PASSWORD.")

SAFETY_OF_8 = stored(1, server="8", tier=Tier.PRE_RESTORE)
SAFETY_RUN = run(0, Outcome.SUCCESS).model_copy(update={"tier": "pre-restore"})
SAFETY_FAILED = run(0, Outcome.FAILED, "no room").model_copy(update={"tier": "pre-restore"})

TABLE = [
    ("all well", [FRESH], [OK], {}, "pass", ""),
    ("asked from outside the service", [FRESH], [OK], {"scheduler": None}, "pass", ""),
    ("a fresh set, and the records were lost", [FRESH], [], {}, "pass", ""),
    ("the good set is older, but young enough", [stored(47.9)], [OK], {}, "pass", ""),
    ("any tier counts", [stored(1, tier=Tier.MANUAL), OLD], [OK], {}, "pass", ""),
    ("nothing at all", [], [], {}, "fail", "no good set"),
    ("only the old scripts' files", [stored(1, "old script")], [], {}, "fail", "no good set"),
    ("first backup running", [], [run(0.1, Outcome.RUNNING)], {}, "starting", "first backup has been running"),
    ("first backup failed", [], [BAD], {}, "fail", "password is wrong"),
    ("first failed, second running", [], [run(0, Outcome.RUNNING), BAD], {}, "fail", "password is wrong"),
    ("first crashed, second running", [], [run(0, Outcome.RUNNING), run(1, Outcome.CRASHED)], {}, "fail", "crashed"),
    (
        "first interrupted, second running",
        [],
        [run(0, Outcome.RUNNING), run(1, Outcome.INTERRUPTED)],
        {},
        "starting",
        "",
    ),
    ("another operation running", [], [run(0, Outcome.RUNNING, operation="verify")], {}, "fail", "no good set"),
    ("first running, scheduler dead", [], [run(0, Outcome.RUNNING)], {"scheduler": "dead"}, "fail", "not running"),
    ("stale", [OLD], [OK], {}, "fail", "limit is 2 d 00 h"),
    ("stale, one is running", [OLD], [run(0, Outcome.RUNNING)], {}, "fail", "limit is"),
    ("set from the future", [FRESH, stored(-1)], [OK], {}, "warn", "ahead of the clock, so never"),
    ("it hides nothing", [stored(49), stored(-1)], [OK], {}, "fail", "the limit is"),
    ("and is none itself", [stored(-1)], [OK], {}, "fail", "no good set"),
    ("set from a clock that differs a little", [stored(-0.05)], [OK], {}, "pass", ""),
    ("run from the future", [FRESH], [run(-1, Outcome.SUCCESS)], {}, "fail", "clock jumped"),
    ("last run failed", [FRESH], [BAD, OK], {}, "fail", "the last daily backup failed: the password is wrong"),
    ("last run crashed", [FRESH], [run(1, Outcome.CRASHED), OK], {}, "fail", "crashed"),
    ("last run interrupted", [FRESH], [run(1, Outcome.INTERRUPTED), OK], {}, "warn", "interrupted"),
    ("interrupted and stale", [OLD], [run(1, Outcome.INTERRUPTED)], {}, "fail", "limit is"),
    ("last run with changes", [FRESH], [run(1, Outcome.CHANGED)], {}, "warn", "files changed"),
    ("failed, then well", [FRESH], [run(1, Outcome.SUCCESS), run(2, Outcome.FAILED)], {}, "pass", ""),
    ("failed, now running", [FRESH], [run(0, Outcome.RUNNING), BAD], {}, "fail", "password"),
    ("records in any order", [FRESH], [OK, BAD], {}, "fail", "password"),
    ("another operation failed", [FRESH], [run(1, Outcome.FAILED, operation="verify"), OK], {}, "pass", ""),
    ("newest set damaged", [stored(1, "damaged"), FRESH], [OK], {}, "fail", "the newest set"),
    ("newest set unreadable", [stored(1, "unreadable"), FRESH], [OK], {}, "fail", "unreadable"),
    ("an older set damaged", [FRESH, stored(30, "damaged")], [OK], {}, "warn", "damaged"),
    (
        "a safety set takes no damaged backup's place",
        [stored(0, tier=Tier.PRE_RESTORE), stored(1, "damaged"), FRESH],
        [OK],
        {},
        "fail",
        "the newest set of the database, daily_2025-10-20_11-00-00, is damaged",
    ),
    ("nor one of media", [stored(0, database=False), stored(1, "damaged"), FRESH], [OK], {}, "fail", "of the database"),
    ("nor one without", [stored(0, media=False), stored(1, "damaged"), FRESH], [OK], {}, "fail", "set of the media"),
    (
        "both halves, each newer",
        [stored(0, media=False), stored(0.5, database=False), stored(1, "damaged"), FRESH],
        [OK],
        {},
        "warn",
        "is damaged",
    ),
    (
        "old scripts' newer files hide nothing",
        [stored(0, "old script"), stored(1, "damaged"), FRESH],
        [OK],
        {},
        "fail",
        "",
    ),
    ("many damaged sets", [FRESH, *(stored(20 + n, "damaged") for n in range(9))], [OK], {}, "warn", "4 more damaged"),
    ("scheduler stopped", [FRESH], [OK], {"scheduler": "stopped"}, "fail", "frozen"),
    ("scheduler dead", [FRESH], [OK], {"scheduler": "dead"}, "fail", "not running"),
    ("state unreadable", [], [], {"problem": "run record x is damaged"}, "fail", "run record x is damaged"),
    ("a record unreadable", [FRESH], [], {"problem": "run record x is damaged"}, "fail", "run record x is damaged"),
    ("it does not hide what is too old", [OLD], [], {"problem": "run record x is damaged"}, "fail", "the limit is"),
    ("a note", [FRESH], [OK], {"notes": ["no offsite copies"]}, "warn", "no offsite copies"),
    ("media alone is no backup", [stored(1, database=False), OLD], [OK], {}, "fail", "limit is"),
    ("the database alone leaves media stale", [stored(1, media=False), OLD], [OK], {}, "fail", "holds media"),
    ("no media anywhere", [stored(1, media=False)], [OK], {}, "pass", ""),
    ("media alone excuses no failed run", [FRESH], [GOOD_MEDIA, BAD, OK], {}, "fail", "that included the database"),
    ("nor one of the database alone", [FRESH], [GOOD_MEDIA, BAD_DATABASE, OK], {}, "fail", "the password is wrong"),
    ("the database alone excuses no failed run", [FRESH], [GOOD_DATABASE, BAD, OK], {}, "fail", "included the media"),
    ("the database alone, failed there, then well", [FRESH], [GOOD_DATABASE, BAD_DATABASE, OK], {}, "pass", ""),
    ("both halves, one after the other", [FRESH], [GOOD_MEDIA, GOOD_DATABASE, BAD, OK], {}, "pass", ""),
    ("an interrupted run excuses nothing", [FRESH], [run(0, Outcome.INTERRUPTED), BAD, OK], {}, "fail", "password"),
    ("media alone is no first backup", [], [run(0, Outcome.RUNNING, only="media")], {}, "fail", "no good set"),
    (
        "running for too long",
        [FRESH],
        [run(25, Outcome.RUNNING), run(30, Outcome.SUCCESS)],
        {},
        "warn",
        "running since",
    ),
    (
        "an upload that hangs",
        [FRESH],
        [run(25, Outcome.RUNNING, operation="upload"), OK],
        {},
        "warn",
        "`upload` has been running since",
    ),
    ("running for long", [FRESH], [run(23, Outcome.RUNNING), run(30, Outcome.SUCCESS)], {}, "pass", ""),
    ("no room", [FRESH], [OK], {"free": 0}, "fail", "the backup volume is full"),
    ("not even room for a record", [FRESH], [OK], {"free": (1 << 20) - 1}, "fail", "the backup volume is full"),
    ("a little room", [FRESH], [OK], {"free": 1 << 20}, "pass", ""),
    ("another server", [stored(1, server="8"), FRESH], [OK], {}, "warn", "system identifier 8 instead of 7"),
    ("another server, a safety set of it tells first", [SAFETY_OF_8, FRESH], [OK], {}, "warn", "identifier 8 instead"),
    ("and hides it from none after it", [stored(0, server="8"), SAFETY_OF_8, FRESH], [OK], {}, "warn", "instead of 7"),
    ("a safety set is no backup", [stored(1, tier=Tier.PRE_RESTORE), OLD], [OK], {}, "fail", "limit is"),
    ("nor one of media", [stored(1, tier=Tier.PRE_RESTORE), stored(2, media=False), OLD], [OK], {}, "fail", "media"),
    ("its run excuses no failed one", [FRESH], [SAFETY_RUN, BAD, OK], {}, "fail", "the password is wrong"),
    ("nor is it a failed backup", [FRESH], [SAFETY_FAILED, OK], {}, "pass", ""),
    ("another server, of late", [stored(1, server="8"), stored(2, server="8"), FRESH], [OK], {}, "pass", ""),
    (
        "another server, media in between",
        [stored(1, server="8"), stored(2, database=False), FRESH],
        [OK],
        {},
        "warn",
        "another database server",
    ),
    (
        "another server than in a set damaged since",
        [stored(1, server="8"), stored(9, "damaged"), stored(20, server="8")],
        [OK],
        {},
        "warn",
        "another database server",
    ),
]


@pytest.mark.parametrize(
    ("sets", "runs", "more", "status", "text"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_each_state_has_its_status_and_says_why(
    sets: list[StoredSet], runs: list[Run], more: dict[str, object], status: str, text: str
) -> None:
    health = judge(sets, runs, **more)  # type: ignore[arg-type]
    assert health.status == status, health.reasons
    assert text in "; ".join(reason.text for reason in health.reasons)
    assert bool(health.reasons) == (status != "pass")


def test_a_stack_that_has_no_volume_any_more_is_well_when_a_person_has_said_so() -> None:
    sets = [*(stored(24 * n + 1, media=False) for n in range(4)), stored(100), stored(124, "damaged")]
    (told, older) = judge(sets, [OK]).reasons
    assert told.level == "fail" and "holds media" in told.text and "`prune --forget-volume media`" in told.hint
    forgotten = Limits(forgotten={"media": NOW - timedelta(hours=100)})
    well = evaluate(sets[:-1], [OK], NOW, max_age=MAX_AGE, scheduler="alive", limits=forgotten)
    assert well.status == "pass", well.reasons
    back = evaluate([stored(60), *sets[:3]], [OK], NOW, max_age=MAX_AGE, scheduler="alive", limits=forgotten)
    assert back.status == "fail", "what is newer counts again"


def test_the_verdict_names_the_newest_good_set_and_its_age() -> None:
    health = judge([OLD, FRESH, stored(1, "damaged")], [OK])
    assert health.newest_good is FRESH
    assert health.age == timedelta(hours=10)
    assert judge().age is None


def test_a_failure_from_before_this_start_does_not_spoil_the_first_backup() -> None:
    """By the records alone: `monitor`, which knows no start of the service, must not differ from /healthz."""
    first = run(0.1, Outcome.RUNNING).model_copy(update={"trigger": "first"})
    assert judge([], [first, BAD]).status == "starting"
    assert judge([], [run(0.1, Outcome.RUNNING), BAD]).status == "fail"
    assert judge([], [first, run(1, Outcome.CRASHED)]).status == "fail"
    assert judge([], [first, run(0, Outcome.FAILED)]).status == "fail"


def test_the_message_and_the_hint_of_a_failed_run_are_given() -> None:
    (reason,) = judge([FRESH], [BAD]).reasons
    assert "the password is wrong" in reason.text
    assert reason.hint == "Set DB_PASSWORD."


@pytest.mark.parametrize("hostile", ["\x1b[31mred", "a\nb\r\nc", "\u202egpj.exe", "x" * 100_000, "\ud800"])
def test_texts_from_elsewhere_are_one_short_harmless_line(hostile: str) -> None:
    health = judge([stored(1, "damaged")], [run(1, Outcome.FAILED, hostile, hostile)], problem="", notes=[hostile])
    for text in (part for reason in health.reasons for part in (reason.text, reason.hint)):
        assert not re.search("[\x00-\x1f\x7f\u202e\ud800]", text)
        assert len(text) <= 500


states = st.sampled_from(["complete", "complete with changes", "damaged", "unreadable", "old script"])
hours = st.floats(-100, 1000, allow_nan=False)
set_lists = st.lists(
    st.builds(stored, hours, states, tier=st.sampled_from(Tier), database=st.booleans()),
    max_size=5,
    unique_by=lambda s: s.id,
)
run_lists = st.lists(
    st.builds(
        run, hours, st.sampled_from(Outcome), st.text(max_size=20), only=st.sampled_from(["", "database", "media"])
    ),
    max_size=5,
    unique_by=lambda r: r.id,
)
schedulers = st.sampled_from(["alive", "stopped", "dead", None])


def rank(health: Health) -> int:
    return LEVELS.index(health.status)


@given(set_lists, run_lists, schedulers, st.text(max_size=5))
def test_never_green_without_a_fresh_good_set_a_live_scheduler_and_a_readable_state(
    sets: list[StoredSet], runs: list[Run], scheduler: SchedulerState | None, problem: str
) -> None:
    health = judge(sets, runs, scheduler, problem)
    if health.status in ("pass", "warn"):
        assert health.newest_good is not None and health.newest_good.good
        assert health.age is not None and -timedelta(minutes=5) <= health.age <= MAX_AGE
        assert scheduler in ("alive", None) and not problem
    assert rank(health) == max((LEVELS.index(reason.level) for reason in health.reasons), default=0)


@given(set_lists, run_lists, schedulers, st.sampled_from([Outcome.FAILED, Outcome.CRASHED]))
def test_a_failed_newest_run_never_improves_anything(
    sets: list[StoredSet], runs: list[Run], scheduler: SchedulerState | None, outcome: Outcome
) -> None:
    worse = judge(sets, [*runs, run(-101, outcome)], scheduler)
    assert rank(worse) >= rank(judge(sets, runs, scheduler))
    assert worse.status == "fail"


@given(set_lists, run_lists, st.sampled_from(["damaged", "unreadable"]))
def test_a_damaged_newest_set_is_red(sets: list[StoredSet], runs: list[Run], state: SetState) -> None:
    assert judge([*sets, stored(-0.08, state)], runs).status == "fail"


@given(set_lists, run_lists)
def test_order_does_not_matter(sets: list[StoredSet], runs: list[Run]) -> None:
    assert rank(judge(sets, runs)) == rank(judge(sets[::-1], runs[::-1]))


@given(set_lists, run_lists, st.sampled_from(["database", "media"]))
def test_a_failure_of_one_half_is_told_until_that_half_succeeds(
    sets: list[StoredSet], runs: list[Run], half: str
) -> None:
    other = "media" if half == "database" else "database"
    failed = [*runs, run(-101, Outcome.FAILED, "the disk of the half", only=half)]
    assert judge(sets, [*failed, run(-102, Outcome.SUCCESS, only=other)]).status == "fail"
    told = [r.text for r in judge(sets, [*failed, run(-102, Outcome.SUCCESS, only=half)]).reasons]
    assert not any("the disk of the half" in text for text in told)
