"""Cron lines are checked before anything relies on them, and the next slots are told in the operator's zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from backup.model.run import Outcome, Run
from backup.model.schedule import (
    BUSY,
    Due,
    JobState,
    Standing,
    check_cron,
    counted,
    find_due,
    is_resting,
    moments,
    standing,
    upcoming,
)
from tests.support.examples import thinned

BERLIN, NEW_YORK, LORD_HOWE = (ZoneInfo(k) for k in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe"))
JOBS = {"daily": "0 2 * * *", "weekly": "0 3 * * 0", "monthly": "0 4 1 * *"}


@pytest.mark.parametrize(
    "cron", ["0 2 * * *", "*/15 0-6 1,15 * MON-FRI", "0 0 29 2 *", "0 0 * * 7", "0 0 L * *", "59 23 31 12 *"]
)
def test_a_usable_line_is_kept(cron: str) -> None:
    assert check_cron(cron) == cron


def test_blanks_are_tidied_so_that_one_line_stays_one_line() -> None:
    assert check_cron("  0\t2  *\n* *\r\n") == "0 2 * * *"


@pytest.mark.parametrize(
    "cron", ["", "daily", "@daily", "0 2 * *", "0 2 * * * *", "0 2 * * * rm -rf /", "0 2 * * *; date"]
)
def test_a_line_without_five_fields_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match="cron line"):
        check_cron(cron)


@pytest.mark.parametrize(
    "cron",
    [
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "a * * * *",
    ],
)
def test_a_field_out_of_range_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match="is not a cron line"):
        check_cron(cron)


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 31 2 *"])
def test_a_line_that_never_matches_any_day_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match="never matches|Bad day"):
        check_cron(cron)


def test_hostile_bytes_are_shown_harmless() -> None:
    with pytest.raises(ValueError) as caught:
        check_cron("\x1b[2J")
    assert "\x1b" not in str(caught.value)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type]


# zone, cron, asked at (UTC), the two next moments (UTC)
DST = [
    # 02:00 to 03:00 does not exist on the day: at once after the gap, and once
    (BERLIN, "30 2 * * *", utc(2025, 3, 29, 12), [utc(2025, 3, 30, 1), utc(2025, 3, 31, 0, 30)]),
    (NEW_YORK, "0 2 * * *", utc(2025, 3, 8, 20), [utc(2025, 3, 9, 7), utc(2025, 3, 10, 6)]),
    (LORD_HOWE, "15 2 * * *", utc(2025, 10, 4), [utc(2025, 10, 4, 15, 30), utc(2025, 10, 5, 15, 15)]),
    # an hour (Lord Howe: half an hour) comes twice: in the first of the two only
    (BERLIN, "30 2 * * *", utc(2025, 10, 25, 12), [utc(2025, 10, 26, 0, 30), utc(2025, 10, 27, 1, 30)]),
    (NEW_YORK, "30 1 * * *", utc(2025, 11, 1, 20), [utc(2025, 11, 2, 5, 30), utc(2025, 11, 3, 6, 30)]),
    (LORD_HOWE, "45 1 * * *", utc(2025, 4, 5), [utc(2025, 4, 5, 14, 45), utc(2025, 4, 6, 15, 15)]),
]


@pytest.mark.parametrize(("zone", "cron", "now", "moments"), DST)
def test_each_day_has_one_slot_when_the_clock_changes(
    zone: ZoneInfo, cron: str, now: datetime, moments: list[datetime]
) -> None:
    (slot,) = upcoming({"daily": cron}, now, zone, count=2)
    assert [time.astimezone(UTC) for time in slot.times] == moments
    assert all(time.tzinfo is zone for time in slot.times)


def test_slots_come_soonest_first() -> None:
    slots = upcoming(JOBS, utc(2025, 10, 31, 20, 30), ZoneInfo("Asia/Manila"))  # 04:30 on 1 November, a Saturday
    assert [(slot.job, f"{slot.times[0]:%m-%d %H:%M}") for slot in slots] == [
        ("daily", "11-02 02:00"),
        ("weekly", "11-02 03:00"),
        ("monthly", "12-01 04:00"),
    ]


def test_slots_come_soonest_first_in_the_hour_that_comes_twice() -> None:
    slots = upcoming({"ten": "10 * * * *", "fifty": "50 * * * *"}, utc(2025, 10, 26, 0, 45), BERLIN)
    assert [slot.job for slot in slots] == ["fifty", "ten"]


def test_a_job_that_is_off_has_no_slot() -> None:
    assert upcoming({"daily": ""}, utc(2025, 1, 1), BERLIN) == []


field = st.one_of(
    st.just("*"), st.integers(0, 70).map(str), st.sampled_from(["*/5", "1-5", "1,3", "L", "MON", "1#2", "x"])
)


@given(st.lists(field, min_size=4, max_size=6).map(" ".join))
def test_a_line_that_passes_has_slots_and_one_that_does_not_says_why(cron: str) -> None:
    try:
        checked = check_cron(cron)
    except ValueError as error:
        assert repr(cron)[1:-1] in str(error)
        return
    assert len(checked.split(" ")) == 5
    assert next(CronSim(checked, utc(2024, 1, 1)))


@given(
    st.integers(0, 15 * 365 * 86400).map(lambda seconds: utc(2020, 1, 1) + timedelta(seconds=seconds)),
    st.sampled_from([BERLIN, NEW_YORK, LORD_HOWE, ZoneInfo("UTC")]),
    st.sampled_from(["0 2 * * *", "30 2 * * *", "30 1 * * *", "45 1 * * *"]),
)
def test_a_daily_job_runs_every_day_and_once(now: datetime, zone: ZoneInfo, cron: str) -> None:
    (slot,) = upcoming({"daily": cron}, now, zone, count=10)
    moments = [time.astimezone(UTC) for time in slot.times]
    assert moments[0] > now
    assert all(
        timedelta(hours=22) < after - before < timedelta(hours=26)
        for before, after in zip(moments, moments[1:], strict=False)
    )
    assert len({time.date() for time in slot.times}) == 10


# --- every local day, once ------------------------------------------------------------------------------------------

SWEPT = [
    # zone, first year: ten years each, with all changes of the clock that fell into them
    ("Europe/Berlin", 2024),
    ("America/New_York", 2024),
    ("Australia/Lord_Howe", 2024),
    ("Asia/Manila", 2024),
    ("Africa/Casablanca", 2020),
    ("America/Sao_Paulo", 2009),
]
# The default, and lines in the hours that are missing or come twice in one of these zones.
NIGHTS = ["0 2 * * *", "30 2 * * *", "30 1 * * *", "0 0 * * *"]


@pytest.mark.long
@pytest.mark.parametrize(("name", "year"), SWEPT)
def test_every_local_day_has_exactly_one_daily_run_for_ten_years(name: str, year: int) -> None:
    zone = ZoneInfo(name)
    begin, end = datetime(year, 1, 1, tzinfo=zone), datetime(year + 10, 1, 1, tzinfo=zone)
    expected = [date.fromordinal(day) for day in range(begin.toordinal(), end.toordinal())]
    for cron in thinned(NIGHTS, 2):
        slots = list(
            takewhile(lambda slot: slot < end.astimezone(UTC), moments(cron, begin - timedelta(seconds=1), zone))
        )
        assert [slot.astimezone(zone).date() for slot in slots] == expected, cron


@pytest.mark.parametrize(
    ("zone", "asked"),
    [(NEW_YORK, utc(2025, 11, 2, 6, 10)), (BERLIN, utc(2025, 10, 26, 1, 10)), (LORD_HOWE, utc(2025, 4, 5, 15, 5))],
    ids=str,
)
def test_asked_within_the_second_of_two_equal_hours_the_next_slot_is_still_to_come(
    zone: ZoneInfo, asked: datetime
) -> None:
    wall = asked.astimezone(zone) + timedelta(minutes=20)
    slots = list(islice(moments(f"{wall.minute} {wall.hour} * * *", asked, zone), 3))
    assert slots == sorted(set(slots)) and slots[0] > asked + timedelta(hours=20)


# --- what is due ------------------------------------------------------------------------------------------------------

ALL = JOBS | {"drill": "0 6 * * 0", "monitor": "0 */6 * * *"}
DAILY = "0 2 * * *"
SLOT = utc(2025, 10, 2)


def state(until: datetime, cron: str = DAILY, zone: ZoneInfo = BERLIN) -> JobState:
    return JobState(cron=cron, zone=zone.key, until=until)


def due(state: JobState, now: datetime, *runs: Run, since: datetime | None = None) -> Due | None:
    """What is due by the records, given oldest first."""
    return find_due("job", state, standing(state, runs[::-1], now, since), now, ZoneInfo(state.zone))


def run(begun: datetime = SLOT, outcome: Outcome = Outcome.SUCCESS, code: int = 0, slot: datetime = SLOT) -> Run:
    ended = None if outcome is Outcome.RUNNING else begun + timedelta(minutes=1)
    started = begun + timedelta(seconds=1)
    return Run(
        id=str(started), operation="create", started=started, ended=ended, outcome=outcome, exit_code=code, slot=slot
    )


BROKEN_OFF = [
    (Outcome.FAILED, BUSY),
    (Outcome.INTERRUPTED, BUSY),
    (Outcome.INTERRUPTED, 130),
    (Outcome.INTERRUPTED, 143),
]


def test_nothing_is_due_at_the_first_start() -> None:
    now = utc(2025, 10, 1, 12)
    for cron in ALL.values():
        new, note = counted(None, cron, now, BERLIN)
        assert due(new, now) is None and not note


def test_missed_slots_are_due_once_for_each_job() -> None:
    begun, now = utc(2025, 9, 29, 12), utc(2025, 10, 12, 12)
    found = {job: due(state(begun, cron), now) for job, cron in ALL.items()}
    assert {job: each and each.count for job, each in found.items()} == {
        "daily": 13,
        "weekly": 2,
        "monthly": 1,
        "drill": 2,
        "monitor": 52,
    }
    assert found["daily"] == Due("job", utc(2025, 10, 12), 13)


def test_ten_years_are_counted_to_a_thousand_and_the_latest_slot_is_known() -> None:
    begun, now = utc(2015, 1, 1), utc(2025, 6, 15, 12)
    assert due(state(begun), now) == Due("job", utc(2025, 6, 15), 1000)
    assert due(state(begun, "* * * * *"), now) == Due("job", now, 1000)
    assert due(state(begun, "0 0 29 2 *"), now) == Due("job", utc(2024, 2, 28, 23), 3)


def test_a_changed_line_or_zone_counts_anew() -> None:
    old, now = state(utc(2025, 10, 1)), utc(2025, 10, 3)
    for cron, zone in (("0 3 * * *", BERLIN), ("0 2 * * *", NEW_YORK)):
        new, note = counted(old, cron, now, zone)
        assert (new.until, new.cron, new.zone, note) == (now, cron, zone.key, "")
        assert due(new, now, run()) is None  # the record is one of the old line
    assert counted(old, DAILY, now, BERLIN) == (old, "")


def test_a_clock_ten_years_ahead_for_one_run_is_neither_a_storm_nor_ten_years_of_silence() -> None:
    now = utc(2025, 10, 1, 12)
    ahead, slot = now.replace(year=2035), utc(2035, 10, 1)
    first = due(state(now), ahead)
    assert first is not None and (first.slot, first.count) == (slot, 1000)
    served = standing(state(now), [run(ahead, slot=slot)], ahead, None)
    assert served.until == slot and due(state(now), ahead, run(ahead, slot=slot)) is None
    back, note = counted(state(slot), DAILY, now + timedelta(hours=1), BERLIN)
    assert "the clock jumped" in note and back.until == now + timedelta(hours=1)
    # Its record is still there.
    tomorrow = due(back, utc(2025, 10, 2, 12), run(ahead, slot=slot))
    assert tomorrow == Due("job", SLOT, 1)


def test_a_clock_set_back_by_hours_runs_nothing_twice() -> None:
    for served, runs in ((state(SLOT), ()), (state(utc(2025, 10, 1)), (run(),))):
        assert counted(served, DAILY, utc(2025, 10, 1, 21), BERLIN) == (served, "")
        for now in (utc(2025, 10, 1, 21), SLOT, utc(2025, 10, 2, 1)):
            assert due(served, now, *runs) is None


def test_a_slot_is_due_once() -> None:
    before = state(utc(2025, 10, 1))
    assert due(before, SLOT - timedelta(minutes=1)) is None
    assert due(before, SLOT) == Due("job", SLOT, 1)
    assert due(before, SLOT + timedelta(minutes=1), run(outcome=Outcome.RUNNING)) is None
    assert due(before, SLOT + timedelta(hours=1), run()) is None
    assert due(state(SLOT), SLOT + timedelta(hours=1)) is None  # its record was removed
    # A run by hand is for no slot.
    assert due(before, SLOT, run().model_copy(update={"slot": None})) == Due("job", SLOT, 1)


@pytest.mark.parametrize(("late", "expected"), [(1, False), (80, False), (100, True), (9e5, True)])
def test_a_late_run_is_a_catch_up(late: float, expected: bool) -> None:
    now = SLOT + timedelta(seconds=late)
    found = due(state(utc(2025, 10, 1)), now)
    assert found is not None and found.is_late(now) is expected


@pytest.mark.parametrize(("outcome", "code"), BROKEN_OFF)
def test_a_run_that_was_broken_off_is_due_again_three_times(outcome: Outcome, code: int) -> None:
    before, tries = state(utc(2025, 10, 1)), [run(SLOT + timedelta(hours=n), outcome, code) for n in range(3)]
    now = SLOT + timedelta(hours=3)
    assert due(before, now, *tries[:1]) == Due("job", SLOT, 1, 1)
    assert due(before, now, *tries[:2]) == Due("job", SLOT, 1, 2)
    assert due(before, now, *tries) is None
    # The slots that pass meanwhile are those of the same tries.
    later = run(SLOT + timedelta(days=1), outcome, code, SLOT + timedelta(days=1))
    assert due(before, now + timedelta(days=1), *tries[:1], later) == Due("job", SLOT + timedelta(days=1), 2, 2)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 10, 20, 30, 40])
def test_a_run_that_came_to_an_end_is_not_repeated(code: int) -> None:
    outcome = Outcome.FAILED if code else Outcome.SUCCESS
    before, now = state(utc(2025, 10, 1)), SLOT + timedelta(hours=3)
    assert due(before, now, run(outcome=outcome, code=code)) is None
    again = run(SLOT + timedelta(hours=1), outcome, code)
    assert due(before, now, run(outcome=Outcome.INTERRUPTED, code=143), again) is None


def test_of_several_sets_that_a_run_drills_the_last_tells_whether_it_was_broken_off() -> None:
    before, second = state(utc(2025, 10, 1)), run(SLOT + timedelta(minutes=5), Outcome.INTERRUPTED, 143)
    assert due(before, SLOT + timedelta(hours=1), run(), second) == Due("job", SLOT, 1, 1)


def test_a_run_that_vanished_is_due_again_only_if_the_machine_went_down() -> None:
    before, now, minute = state(utc(2025, 10, 1)), SLOT + timedelta(hours=3), timedelta(minutes=1)
    died = run(outcome=Outcome.CRASHED, code=137)
    unmarked = died.model_copy(update={"ended": None})
    for dead in (died, unmarked):
        assert due(before, now, dead, since=SLOT - minute) is None
        assert due(before, now, dead, since=SLOT + minute / 2) == Due("job", SLOT, 1, 1)
    # Killed alone in an earlier life of the service, which had marked it so.
    assert due(before, now, died, since=SLOT + 2 * minute) is None


def test_a_run_that_takes_the_machine_down_is_tried_three_times() -> None:
    before, hour = state(utc(2025, 10, 1)), timedelta(hours=1)
    dead = [run(SLOT + n * hour, Outcome.CRASHED, 137) for n in range(3)]
    for n in range(3):
        since = dead[n].started + timedelta(seconds=10)
        found = due(before, since + hour, *dead[: n + 1], since=since)
        assert found == (Due("job", SLOT, 1, n + 1) if n < 2 else None)


def test_a_run_that_somebody_stopped_rests_until_the_next_slot_or_start() -> None:
    at = Standing(SLOT, 1, run(outcome=Outcome.INTERRUPTED, code=143))
    hour = timedelta(hours=1)
    assert is_resting(Due("job", SLOT, 1), at, since=SLOT - hour)
    assert not is_resting(Due("job", SLOT + 24 * hour, 1), at, since=SLOT - hour)
    assert not is_resting(Due("job", SLOT, 1), at, since=SLOT + hour)
    kept_out = Standing(SLOT, 1, run(outcome=Outcome.INTERRUPTED, code=BUSY))
    assert not is_resting(Due("job", SLOT, 1), kept_out, since=SLOT - hour)


def test_what_an_earlier_release_had_begun_and_not_ended_is_open_again() -> None:
    done = {"cron": DAILY, "zone": BERLIN.key, "until": SLOT, "before": utc(2025, 10, 1), "begun": SLOT, "ended": SLOT}
    assert JobState.model_validate(done).until == SLOT
    assert JobState.model_validate(done | {"ended": None}).until == utc(2025, 10, 1)


clock = st.integers(0, 3 * 365 * 24 * 60).map(lambda minutes: timedelta(minutes=minutes))


@given(
    st.sampled_from([name for name, _ in SWEPT]).map(ZoneInfo),
    st.sampled_from([*NIGHTS, "0 */6 * * *", "0 3 * * 0", "0 4 1 * *"]),
    st.lists(
        st.tuples(
            st.one_of(st.integers(1, 60 * 60), st.integers(1, 40 * 24 * 60)),
            st.sampled_from([(Outcome.SUCCESS, 0), (Outcome.FAILED, 20), (Outcome.CRASHED, 9), *BROKEN_OFF]),
            st.booleans(),
        ),
        min_size=1,
        max_size=30,
    ),
    clock,
)
def test_every_slot_is_settled_exactly_once_whenever_somebody_comes_by(
    zone: ZoneInfo, cron: str, visits: list[tuple[int, tuple[Outcome, int], bool]], begin: timedelta
) -> None:
    """However the runs fall (late, after months) and end, they cover each slot once, those broken off aside.

    The file is written or not: what it does not know yet, the records do.
    """
    now = start = utc(2016, 1, 1) + begin
    one = counted(None, cron, now, zone)[0]
    runs: list[Run] = []
    covered = tries = 0
    for pause, (outcome, code), written in visits:
        now += timedelta(minutes=pause)
        assert counted(one, cron, now, zone) == (one, "")
        found = find_due("job", one, standing(one, runs, now, None), now, zone)
        if found:
            assert found.slot <= now and found.tries == tries
            runs.insert(0, run(now, outcome, code, found.slot))
            tries = (tries + 1) % 3 if (outcome, code) in BROKEN_OFF else 0
            covered += 0 if tries else found.count
        at = standing(one, runs, now, None)
        assert tries or find_due("job", one, at, now, zone) is None
        if written:
            one = one.model_copy(update={"until": at.until})
            runs = runs if tries else []  # what is written needs no record any more
    expected = list(takewhile(lambda slot: slot <= at.until, moments(cron, start, zone)))
    assert covered == len(expected)
