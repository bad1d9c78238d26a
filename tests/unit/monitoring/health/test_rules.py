"""Each rule of the monitor from both sides: what it says, and where it keeps quiet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.model.backup_set import Proof, StoredSet, Verdict
from backup.model.finding import LEVELS, Finding, warning
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run
from backup.monitoring.health import Health, Limits, evaluate
from tests.support.examples import examples
from tests.support.facts import MB, NOW, ROWS, a_run, a_set

DAY = 24.0
LIMITS = Limits(
    min_size=100_000,
    min_free=5e9,
    next_set=10 * MB,
    proof=True,
    proof_age=timedelta(days=14),
    keep={Tier.DAILY: timedelta(days=30)},
    due={},
    minimum=3,
)
PLENTY = 10**10
DRILL_FAILED = a_run(1, Outcome.FAILED, "no image", hint="Pull it.", operation="drill", set="daily_x")
OLD_FAILED = a_run(1, Outcome.FAILED, "it does not load", operation="drill", set="daily_old")
OLD_REFUSED = replace(
    a_set(99, "old script"),
    id="daily_old",
    verdict=Verdict(checked=NOW, proof=Proof(tried=NOW, differences=("it does not load: no such type",))),
)


def judge(
    sets: Sequence[StoredSet],
    runs: Sequence[Run] = (),
    free: int | None = PLENTY,
    others: Sequence[Finding] = (),
    **limits: object,
) -> Health:
    changed = Limits(**{**vars(LIMITS), **limits})  # type: ignore[arg-type]
    return evaluate(
        sets, runs, NOW, max_age=timedelta(hours=48), scheduler="alive", free=free, others=others, limits=changed
    )


def week(**newest: object) -> list[StoredSet]:
    """Seven daily sets, all proven, the newest one as told."""
    return [a_set(1, **{"proof": "proven", **newest}), *(a_set(1 + DAY * n, proof="proven") for n in range(1, 7))]  # type: ignore[arg-type]


def media(files: int, count: int) -> dict[str, object]:
    return {"volumes": {"media": (files, count)}}


TABLE = [
    ("all well", week(), [], {}, "pass", ""),
    # size of the dump
    ("a small dump", week(dump=300_000), [], {}, "warn", "has only 75.0 kB; the limit is 100.0 kB"),
    ("a dump just large enough", [a_set(1, dump=400_000, proof="proven")], [], {}, "pass", ""),
    ("a small safety set", [a_set(1, dump=300_000, tier=Tier.PRE_RESTORE), *week()], [], {}, "pass", ""),
    ("a small dump, judged by nothing", [a_set(1, dump=4000)], [], {"min_size": 0}, "pass", ""),
    # room
    ("little room", week(), [], {"free": 4 * 10**9}, "warn", "4.0 GB free; the limit is 5.0 GB"),
    ("room enough", week(), [], {"free": 5 * 10**9}, "pass", ""),
    ("no room for the next set", week(), [], {"free": 10 * MB - 1}, "fail", "the next backup will not fit"),
    ("just room for the next set", week(), [], {"free": 10 * MB, "min_free": 0}, "pass", ""),
    ("room not known", week(), [], {"free": None}, "pass", ""),
    # counts
    (
        "far fewer than scheduled",
        week(),
        [],
        {"due": {Tier.DAILY: 15}},
        "warn",
        "daily holds 7 good sets; its schedule makes 15",
    ),
    ("a few fewer than scheduled", week(), [], {"due": {Tier.DAILY: 14}}, "pass", ""),
    ("too few slots to tell", [a_set(1, proof="proven")], [], {"due": {Tier.DAILY: 3}}, "pass", ""),
    (
        "more than is kept",
        [*week(), *(a_set(DAY * n, proof="proven") for n in (34, 35))],
        [],
        {},
        "warn",
        "2 sets older than the 30 days",
    ),
    ("one that the newest proof keeps", [*week(), a_set(DAY * 34)], [], {}, "pass", ""),
    ("late, within the grace", [*week(), *(a_set(DAY * 32 + n) for n in range(9))], [], {}, "pass", ""),
    (
        "too many, but nothing is removed after a failure",
        [*week(), *(a_set(DAY * 34 + n) for n in range(9))],
        [a_run(1, Outcome.FAILED, "no")],
        {},
        "fail",
        "the last daily backup failed: no",
    ),
    ("the minimum stays", [a_set(1, proof="proven"), *(a_set(DAY * n) for n in (34, 35, 36))], [], {}, "pass", ""),
    (
        "the last ones with a volume that left stay",
        [*week(), *(a_set(DAY * n, volumes={"media": (50, 5 * MB), "ocr": (9, MB)}) for n in (40, 50, 60))],
        [],
        {"forgotten": {"ocr": NOW}},
        "warn",
        "3 sets older than the 30 days",
    ),
    (
        "pinned sets stay",
        [*week(), *(old := [a_set(DAY * n) for n in (40, 50, 60)])],
        [],
        {"pinned": frozenset(s.id for s in old)},
        "pass",
        "",
    ),
    # proofs
    ("a drill failed", week(), [DRILL_FAILED], {}, "warn", "the last drill of daily_x failed: no image"),
    ("a drill failed, then well", week(), [DRILL_FAILED, a_run(0.5, operation="drill")], {}, "pass", ""),
    (
        "an old dump did not load",
        [*week(), OLD_REFUSED],
        [OLD_FAILED],
        {},
        "warn",
        "the last drill of daily_old failed",
    ),
    ("a drill crashed", week(), [a_run(1, Outcome.CRASHED, operation="drill")], {}, "warn", "drill of daily crashed"),
    (
        "another tier's drill excuses none",
        week(),
        [DRILL_FAILED, a_run(0.5, operation="drill", tier="weekly")],
        {},
        "warn",
        "no image",
    ),
    (
        "a drill is running",
        week(),
        [a_run(0, Outcome.RUNNING, operation="drill"), DRILL_FAILED],
        {},
        "warn",
        "no image",
    ),
    ("a drill was interrupted", week(), [a_run(0, Outcome.INTERRUPTED, operation="drill")], {}, "pass", ""),
    (
        "not what was dumped",
        week(proof="different"),
        [],
        {},
        "warn",
        "differs from the dump: public.visit: other rows and 1",
    ),
    ("proven again since", [a_set(0.5, proof="proven"), *week(proof="different")], [], {}, "pass", ""),
    ("never proven, new", [a_set(1), a_set(13 * DAY)], [], {}, "pass", ""),
    ("never proven, for long", [a_set(1), a_set(15 * DAY)], [], {}, "warn", "no set has ever been proven, in 15 d"),
    (
        "never proven, and no drill is scheduled",
        [a_set(1), a_set(15 * DAY)],
        [],
        {"proof_age": None},
        "warn",
        "BACKUP_DRILL is off",
    ),
    (
        "an old proof",
        [a_set(1), a_set(15 * DAY, proof="proven")],
        [],
        {},
        "warn",
        "is 15 d 00 h old; the limit is 14 d",
    ),
    (
        "an old proof, asked for by hand",
        [a_set(1), a_set(15 * DAY, proof="proven")],
        [],
        {"proof_age": None},
        "pass",
        "",
    ),
    ("proofs are not asked for", [a_set(1), a_set(15 * DAY)], [], {"proof": False}, "pass", ""),
    ("unverified for a day", [a_set(25, verified=False)], [], {}, "warn", "has not been verified since"),
    ("being verified", [a_set(23, verified=False)], [], {}, "pass", ""),
    # less than before
    (
        "half the rows",
        week(rows={"public.person": 900, "public.visit": 1500}),
        [],
        {},
        "warn",
        "2,400 rows instead of 5,000",
    ),
    ("a few rows less", week(rows={"public.person": 500, "public.visit": 2100}), [], {}, "pass", ""),
    ("half the dump", week(dump=1_900_000), [], {}, "warn", "1.9 MB of SQL instead of 4.0 MB"),
    ("a table is empty", week(rows=ROWS | {"public.person": 0}), [], {}, "warn", "public.person had 900 rows"),
    (
        "a table lost nearly all beside a log that grew",
        week(rows={"public.person": 9, "public.visit": 4_100_000}),
        [],
        {},
        "warn",
        "in 1 table: 9 rows of public.person instead of 900",
    ),
    ("a table lost nearly half", week(rows=ROWS | {"public.person": 450}), [], {}, "pass", ""),
    (
        "a small table lost nearly all",
        [a_set(1, rows=ROWS | {"a.b": 1}, proof="proven"), a_set(25, rows=ROWS | {"a.b": 99})],
        [],
        {},
        "pass",
        "",
    ),
    (
        "a queue, as every second day",
        [
            a_set(1 + DAY * n, rows=ROWS | {"a.queue": 300 * (n % 2)}, proof="proven")
            for n in range(6)  # empty today, two days ago and four days ago
        ],
        [],
        {},
        "pass",
        "",
    ),
    (
        "lost the day before yesterday",
        [a_set(1 + DAY * n, rows=ROWS | {"public.person": 900 if n > 1 else 9}) for n in range(4)],
        [],
        {},
        "warn",
        "9 rows of public.person instead of 900",
    ),
    ("a table is gone", week(rows={"public.visit": 4100}), [], {}, "warn", "1 table in"),
    ("a table was empty", [a_set(1, proof="proven"), a_set(25, rows=ROWS | {"public.queue": 19})], [], {}, "pass", ""),
    (
        "lost three days ago",
        [a_set(1), a_set(25), a_set(49, rows={"public.visit": 9_000_000})],
        [],
        {},
        "warn",
        "instead of 9,000,000",
    ),
    ("lost, long since", [a_set(1), a_set(25), a_set(74, rows={"public.visit": 9_000_000})], [], {}, "pass", ""),
    ("the one before is long ago", [a_set(1), a_set(DAY * 9, rows={"public.visit": 90_000})], [], {}, "warn", "90,000"),
    ("half the files", week(**media(24, 5 * MB)), [], {}, "warn", "24 files in volume media instead of 50"),
    ("half the bytes", week(**media(50, 2 * MB)), [], {}, "warn", "2.0 MB in volume media instead of 5.0 MB"),
    ("a few files less", week(**media(26, 3 * MB)), [], {}, "pass", ""),
    ("few files, fewer now", [a_set(1, **media(1, 9)), a_set(25, **media(9, 90))], [], {}, "pass", ""),  # type: ignore[arg-type]
    ("a volume that has never held a file", week(**media(0, 0)), [], {}, "warn", "the volume media is empty in"),
    ("it may be empty", [a_set(1, **media(0, 0), proof="proven")], [], {"allow_empty": {"media"}}, "pass", ""),  # type: ignore[arg-type]
    ("an empty safety set", [*week(), a_set(0.5, tier=Tier.PRE_RESTORE, **media(0, 0))], [], {}, "pass", ""),  # type: ignore[arg-type]
    ("a volume is gone", week(volumes={"other": (50, 5 * MB)}), [], {}, "warn", "does not hold volume media"),
    ("a set of the database alone", week(volumes={}), [], {}, "pass", ""),
    ("a set of media alone", [a_set(0.5, rows=None), *week()], [], {}, "pass", ""),
    ("a damaged set is no measure", [a_set(1), a_set(25, "damaged", rows={"a.b": 90_000})], [], {}, "warn", "damaged"),
    # from elsewhere
    (
        "another's reason",
        week(),
        [],
        {"others": [warning("2 alerts wait", "`notify --test`")]},
        "warn",
        "2 alerts",
    ),
]


@pytest.mark.parametrize(
    ("sets", "runs", "more", "status", "text"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_each_rule(sets: list[StoredSet], runs: list[Run], more: dict[str, object], status: str, text: str) -> None:
    health = judge(sets, runs, **more)  # type: ignore[arg-type]
    assert health.status == status, health.reasons
    assert text in "; ".join(reason.text for reason in health.reasons)
    assert all(reason.hint for reason in health.reasons), health.reasons
    assert bool(health.reasons) == (status != "pass")


def test_a_queue_that_is_emptied_each_night_between_sets_of_each_hour() -> None:
    hours = range(24 * 5)
    sets = [a_set(1 + hour, rows=ROWS | {"a.queue": 300 if hour % 24 else 0}, proof="proven") for hour in hours]
    assert judge(sets).reasons == ()
    assert "a.queue had 300 rows" in judge(sets[:40]).reasons[0].text  # nobody can know yet


def test_sets_that_are_kept_for_a_volume_that_left_are_no_sign_of_a_cleanup_that_does_not_run() -> None:
    two = {"media": (50, 5 * MB), "ocr": (9, MB)}
    old = [a_set(DAY * n, volumes=two) for n in (40, 50, 60)]
    (told,) = judge([*week(), *old]).reasons
    assert "does not hold volume ocr" in told.text
    more = judge([*week(), *old, *(a_set(DAY * n, volumes=two) for n in (70, 80))]).reasons
    assert [r.text for r in more if "the cleanup does not run" in r.text] == [
        "daily holds 2 sets older than the 30 days that it keeps: the cleanup does not run, or is held back"
    ]


def test_what_is_wrong_is_named_with_a_way_out() -> None:
    (reason,) = judge(week(rows={"public.visit": 4100})).reasons
    assert "public.person had 900 rows" in reason.text
    assert f"`restore {a_set(25).id} --dry-run`" in reason.hint


@pytest.mark.parametrize("hostile", ["\x1b[31mred", "a\nb\r\nc", "\u202egpj.exe", "x" * 10_000, "\ud800", "{0} %s {x}"])
def test_hostile_names_are_shown_as_harmless_text(hostile: str) -> None:
    sets = [
        a_set(1, rows={"a.b": 1}, volumes={"m": (1, 1)}),
        a_set(25, rows={hostile: 500, "a.b": 1}, volumes={hostile: (90, 9 * MB)}),
    ]
    reasons = judge(sets, [a_run(1, Outcome.FAILED, hostile, operation="drill", set=hostile, tier=hostile)]).reasons
    assert len(reasons) >= 3
    for text in (part for reason in reasons for part in (reason.text, reason.hint)):
        assert len(text) <= 500 and text.isprintable() and "\u202e" not in text


def test_too_many_sets_are_told_only_after_a_run_that_went_well() -> None:
    sets = [*week(), *(a_set(DAY * 34 + n) for n in range(9))]
    assert "the cleanup does not run" in judge(sets, [a_run(1)]).reasons[0].text
    assert len(judge(sets, [a_run(1, Outcome.FAILED, "no")]).reasons) == 1


def test_sets_of_another_server_are_not_compared() -> None:
    texts = [r.text for r in judge([a_set(1, rows={"a.b": 1}), a_set(25, rows={"c.d": 90_000}, server="8")]).reasons]
    assert len(texts) == 1 and "another database server" in texts[0]


states = st.sampled_from(["complete", "complete with changes", "damaged", "unreadable", "old script"])
tables = st.dictionaries(st.sampled_from(["a.b", "c.d", "e.f"]), st.integers(0, 10**6), max_size=3)
sets_of = st.builds(
    a_set,
    st.floats(-100, 2000),
    states,
    tier=st.sampled_from(Tier),
    rows=st.one_of(st.none(), tables),
    dump=st.integers(0, 10**9),
    volumes=st.dictionaries(
        st.sampled_from(["media", "x\n"]), st.tuples(st.integers(0, 10**4), st.integers(0, 10**9)), max_size=2
    ),
    proof=st.sampled_from(["", "proven", "different"]),
    verified=st.booleans(),
    server=st.sampled_from("78"),
)
set_lists = st.lists(sets_of, max_size=6, unique_by=lambda s: s.id)
runs_of = st.builds(
    a_run,
    st.floats(-100, 2000),
    st.sampled_from(Outcome),
    st.text(max_size=10),
    operation=st.sampled_from(["create", "drill", "prune", "monitor", "restore"]),
    only=st.sampled_from(["", "database", "media"]),
)
run_lists = st.lists(runs_of, max_size=6, unique_by=lambda r: r.id)
frees = st.one_of(st.none(), st.integers(0, 10**11))
limits = st.fixed_dictionaries(
    {
        "due": st.dictionaries(st.sampled_from(Tier), st.integers(0, 100)),
        "keep": st.dictionaries(st.sampled_from(Tier), st.builds(timedelta, days=st.integers(1, 400))),
        "proof_age": st.one_of(st.none(), st.builds(timedelta, days=st.integers(1, 60))),
        "next_set": st.one_of(st.none(), st.integers(0, 10**12)),
        "minimum": st.integers(0, 10),
    }
)


def rank(health: Health) -> int:
    return LEVELS.index(health.status)


@examples(40)
@given(set_lists, run_lists, frees, limits)
def test_any_state_has_a_verdict_and_order_does_not_matter(
    sets: list[StoredSet], runs: list[Run], free: int | None, limits: dict[str, object]
) -> None:
    health = judge(sets, runs, free, **limits)
    assert health.status in LEVELS
    assert (health.status == "pass") == (not health.reasons)
    turned = judge(sets[::-1], runs[::-1], free, **limits)
    assert sorted(r.text for r in turned.reasons) == sorted(r.text for r in health.reasons)


@examples(40)
@given(set_lists, run_lists, frees, limits, st.sampled_from([Outcome.FAILED, Outcome.CRASHED]))
def test_a_failed_newest_run_never_improves_anything(
    sets: list[StoredSet], runs: list[Run], free: int | None, limits: dict[str, object], outcome: Outcome
) -> None:
    before = judge(sets, runs, free, **limits)
    after = judge(sets, [*runs, a_run(-101, outcome)], free, **limits)
    assert after.status == "fail" and rank(after) >= rank(before)
    drilled = judge(sets, [*runs, a_run(-101, outcome, operation="drill", set="x")], free, **limits)
    assert rank(drilled) >= rank(before)


@examples(30)
@given(set_lists, run_lists, st.integers(0, 10**11), limits)
def test_less_room_is_never_better(
    sets: list[StoredSet], runs: list[Run], free: int, limits: dict[str, object]
) -> None:
    assert rank(judge(sets, runs, free // 2, **limits)) >= rank(judge(sets, runs, free, **limits))
