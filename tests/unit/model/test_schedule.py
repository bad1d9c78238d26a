"""Cron lines are checked before anything relies on them, and the next slots are told in the operator's zone."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from backup.model.schedule import (
    VANISHED,
    Account,
    check,
    claim,
    crontab,
    misled,
    moments,
    opened,
    owed,
    plain,
    resting,
    settle,
    upcoming,
)
from tests.support.examples import thinned

BERLIN, NEW_YORK, LORD_HOWE = (ZoneInfo(k) for k in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe"))
JOBS = {"daily": "0 2 * * *", "weekly": "0 3 * * 0", "monthly": "0 4 1 * *"}


@pytest.mark.parametrize(
    "cron", ["0 2 * * *", "*/15 0-6 1,15 * MON-FRI", "0 0 29 2 *", "0 0 * * 7", "0 0 L * *", "59 23 31 12 *"]
)
def test_a_usable_line_is_kept(cron: str) -> None:
    assert check(cron) == cron


def test_blanks_are_tidied_so_that_one_line_stays_one_line() -> None:
    assert check("  0\t2  *\n* *\r\n") == "0 2 * * *"


@pytest.mark.parametrize(
    "cron", ["", "daily", "@daily", "0 2 * *", "0 2 * * * *", "0 2 * * * rm -rf /", "0 2 * * *; date"]
)
def test_a_line_without_five_fields_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match="cron line"):
        check(cron)


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
        check(cron)


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 31 2 *"])
def test_a_line_that_never_matches_any_day_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match="never matches|Bad day"):
        check(cron)


def test_hostile_bytes_are_shown_harmless() -> None:
    with pytest.raises(ValueError) as caught:
        check("\x1b[2J")
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


def test_a_job_that_is_off_has_no_slot_and_no_line() -> None:
    assert upcoming({"daily": ""}, utc(2025, 1, 1), BERLIN) == []
    lines = {"daily": "backup create daily", "weekly": "backup create weekly"}
    assert crontab({"daily": "", "weekly": "0 3 * * 0"}, lines) == "0 3 * * 0 backup create weekly\n"
    assert crontab({"daily": ""}, lines) == ""


field = st.one_of(
    st.just("*"), st.integers(0, 70).map(str), st.sampled_from(["*/5", "1-5", "1,3", "L", "MON", "1#2", "x"])
)


@given(st.lists(field, min_size=4, max_size=6).map(" ".join))
def test_a_line_that_passes_has_slots_and_one_that_does_not_says_why(cron: str) -> None:
    try:
        checked = check(cron)
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


# --- what is owed -----------------------------------------------------------------------------------------------------

DAILY = {"daily": "0 2 * * *"}
ALL = JOBS | {"drill": "0 6 * * 0", "monitor": "0 */6 * * *"}


def account(until: datetime, cron: str = "0 2 * * *", zone: ZoneInfo = BERLIN) -> Account:
    return Account(cron=cron, zone=zone.key, until=until)


def open_all(now: datetime, jobs: dict[str, str] = ALL, zone: ZoneInfo = BERLIN) -> dict[str, Account]:
    return {job: opened(None, cron, now, zone)[0] for job, cron in jobs.items()}


def test_nothing_is_owed_at_the_first_start() -> None:
    now = utc(2025, 10, 1, 12)
    assert owed(ALL, open_all(now), now, BERLIN) == []
    assert owed(ALL, {}, now, BERLIN) == []


def test_missed_slots_are_owed_once_for_each_job_in_order() -> None:
    found = owed(ALL, open_all(utc(2025, 9, 29, 12)), utc(2025, 10, 12, 12), BERLIN)
    assert [(each.job, each.missed) for each in found] == [
        ("daily", 13),
        ("weekly", 2),
        ("monthly", 1),
        ("drill", 2),
        ("monitor", 52),
    ]
    assert found[0].slot == utc(2025, 10, 12)


def test_ten_years_are_counted_to_a_thousand_and_the_latest_slot_is_known() -> None:
    until, now = utc(2015, 1, 1), utc(2025, 6, 15, 12)
    (daily,) = owed(DAILY, {"daily": account(until)}, now, BERLIN)
    assert (daily.slot, daily.missed) == (utc(2025, 6, 15), 1000)
    (minutes,) = owed({"m": "* * * * *"}, {"m": account(until, "* * * * *")}, now, BERLIN)
    assert (minutes.slot, minutes.missed) == (now, 1000)
    (leap,) = owed({"l": "0 0 29 2 *"}, {"l": account(until, "0 0 29 2 *")}, now, BERLIN)
    assert (leap.slot, leap.missed) == (utc(2024, 2, 28, 23), 3)


def test_a_changed_line_or_zone_counts_anew() -> None:
    old, now = account(utc(2025, 10, 1)), utc(2025, 10, 3)
    assert owed({"daily": "0 3 * * *"}, {"daily": old}, now, BERLIN) == []
    for cron, zone in (("0 3 * * *", BERLIN), ("0 2 * * *", NEW_YORK)):
        new, note = opened(old, cron, now, zone)
        assert (new.until, new.cron, new.zone, note) == (now, cron, zone.key, "")
    assert opened(old, "0 2 * * *", now, BERLIN) == (old, "")


def test_a_clock_ten_years_ahead_for_one_run_is_neither_a_storm_nor_ten_years_of_silence() -> None:
    now = utc(2025, 10, 1, 12)
    ahead = claim(account(now), now.replace(year=2035), BERLIN)
    assert ahead is not None and ahead.slots == 1000
    ahead = settle(ahead, now.replace(year=2035), 0)
    assert claim(ahead, now.replace(year=2035), BERLIN) is None
    back, note = opened(ahead, "0 2 * * *", now + timedelta(hours=1), BERLIN)
    assert "the clock jumped" in note and back.until == now + timedelta(hours=1)
    (tomorrow,) = owed(DAILY, {"daily": back}, utc(2025, 10, 2, 12), BERLIN)
    assert tomorrow.missed == 1


def test_a_clock_set_back_by_hours_runs_nothing_twice() -> None:
    served = account(utc(2025, 10, 2))
    assert opened(served, "0 2 * * *", utc(2025, 10, 1, 21), BERLIN) == (served, "")
    assert claim(served, utc(2025, 10, 2, 0, 0), BERLIN) is None


def test_a_slot_is_claimed_once() -> None:
    slot = utc(2025, 10, 2)
    first = claim(account(utc(2025, 10, 1)), slot, BERLIN)
    assert first is not None
    assert (first.slot, first.slots, first.trigger, first.open) == (slot, 1, "schedule", True)
    assert claim(first, slot + timedelta(hours=1), BERLIN) is None
    assert claim(account(utc(2025, 10, 1)), slot - timedelta(minutes=1), BERLIN) is None  # too early


@pytest.mark.parametrize(("late", "trigger"), [(1, "schedule"), (80, "schedule"), (100, "catch-up"), (9e5, "catch-up")])
def test_a_late_claim_is_a_catch_up(late: float, trigger: str) -> None:
    claimed = claim(account(utc(2025, 10, 1)), utc(2025, 10, 2) + timedelta(seconds=late), BERLIN)
    assert claimed is not None and claimed.trigger == trigger


@pytest.mark.parametrize("code", [11, 130, 143])
def test_a_run_that_was_broken_off_is_owed_again_three_times(code: int) -> None:
    now, one = utc(2025, 10, 2, 1), account(utc(2025, 10, 1))
    for _ in range(3):
        claimed = claim(one, now, BERLIN)
        assert claimed is not None
        one = settle(claimed, now, code)
    assert claim(one, now, BERLIN) is None and one.tries == 0


@pytest.mark.parametrize("code", [0, 1, 2, 3, 10, 20, 30, 40])
def test_a_run_that_came_to_an_end_is_not_repeated(code: int) -> None:
    now = utc(2025, 10, 2, 1)
    claimed = claim(account(utc(2025, 10, 1)), now, BERLIN)
    assert claimed is not None
    done = settle(claimed, now, code)
    assert claim(done, now, BERLIN) is None and not done.crashed and done.exit_code == code


def test_a_run_that_vanished_is_owed_again_only_if_the_machine_went_down() -> None:
    now = utc(2025, 10, 2, 1)
    claimed = claim(account(utc(2025, 10, 1)), now, BERLIN)
    assert claimed is not None
    down = settle(claimed, now, VANISHED, since=now + timedelta(minutes=1))
    assert claim(down, now, BERLIN) is not None and not down.crashed
    killed = settle(claimed, now, VANISHED, since=now - timedelta(minutes=1))
    assert claim(killed, now, BERLIN) is None and killed.crashed and "without a word" in killed.reason


def test_a_run_that_somebody_stopped_rests_until_the_next_slot_or_start() -> None:
    now = utc(2025, 10, 2, 1)
    claimed = claim(account(utc(2025, 10, 1)), now, BERLIN)
    assert claimed is not None
    stopped = settle(claimed, now, 143)
    assert resting(stopped, utc(2025, 10, 2), since=now - timedelta(hours=1))
    assert not resting(stopped, utc(2025, 10, 3), since=now - timedelta(hours=1))
    assert not resting(stopped, utc(2025, 10, 2), since=now + timedelta(hours=1))


clock = st.integers(0, 3 * 365 * 24 * 60).map(lambda minutes: timedelta(minutes=minutes))


@given(
    st.sampled_from([name for name, _ in SWEPT]).map(ZoneInfo),
    st.sampled_from([*NIGHTS, "0 */6 * * *", "0 3 * * 0", "0 4 1 * *"]),
    st.lists(st.one_of(st.integers(1, 60 * 60), st.integers(1, 40 * 24 * 60)), min_size=1, max_size=30),
    clock,
)
def test_every_slot_is_claimed_exactly_once_whenever_somebody_comes_by(
    zone: ZoneInfo, cron: str, pauses: list[int], begin: timedelta
) -> None:
    """However the starts fall (late, early, twice, after months), the claims cover each slot once, and no other."""
    now = start = utc(2016, 1, 1) + begin
    one = opened(None, cron, now, zone)[0]
    covered = 0
    for pause in pauses:
        now += timedelta(minutes=pause)
        one, note = opened(one, cron, now, zone)
        assert note == ""
        if claimed := claim(one, now, zone):
            assert claimed.slot is not None and one.until < claimed.slot <= now + timedelta(seconds=5)
            covered += claimed.slots
            one = settle(claimed, now, 0)
        assert claim(one, now, zone) is None
    expected = list(takewhile(lambda slot: slot <= now, moments(cron, start, zone)))
    assert covered in (len(expected), len(expected) + 1)  # the last one may have been due in five seconds
    assert covered == len(expected) or next(moments(cron, now, zone)) <= now + timedelta(seconds=5)


# --- what the scheduler makes of it -----------------------------------------------------------------------------------

# zone, line, asked at: whether supercronic 0.2.45 goes wrong (measured; see docs/decisions/0005-the-schedule.md)
MISLED = [
    (NEW_YORK, "0 2 * * *", utc(2025, 3, 8, 12), True),  # an hour early, then gigabytes of log
    (NEW_YORK, "0 3 * * *", utc(2025, 3, 8, 12), False),
    (BERLIN, "0 2 * * *", utc(2025, 3, 29, 12), False),  # at the end of the gap, as it should be
    (BERLIN, "30 2 * * *", utc(2025, 3, 29, 12), True),
    (BERLIN, "0 2 * * *", utc(2025, 10, 25, 12), True),  # in the second of the two hours
    (NEW_YORK, "30 1 * * *", utc(2025, 11, 1, 12), False),
    (NEW_YORK, "30 1 * * *", utc(2025, 11, 2, 6, 10), True),  # restarted within the second: it spins
    (NEW_YORK, "*/15 * * * *", utc(2025, 3, 8, 12), True),
    (ZoneInfo("America/Sao_Paulo"), "0 0 * * *", utc(2018, 11, 3, 12), True),
    (ZoneInfo("Asia/Manila"), "0 2 * * *", utc(2025, 3, 29, 12), False),
    (BERLIN, "0 2 * * *", utc(2025, 7, 1), False),
    (BERLIN, "0 4 1 * *", utc(2025, 3, 5), False),
]


@pytest.mark.parametrize(("zone", "cron", "now", "expected"), MISLED)
def test_a_line_is_held_back_from_the_scheduler_when_it_would_go_wrong(
    zone: ZoneInfo, cron: str, now: datetime, expected: bool
) -> None:
    assert misled(cron, now, zone) is expected


def test_a_line_that_is_held_back_is_a_comment() -> None:
    text = crontab(DAILY | {"weekly": "0 3 * * 0"}, {"daily": "x daily", "weekly": "x weekly"}, frozenset({"daily"}))
    first, second = text.splitlines()
    assert first.startswith("# ") and first.endswith("0 2 * * * x daily") and second == "0 3 * * 0 x weekly"


# --- lines that two programs may read differently ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cron", "line"),
    [
        ("0 2 * * 5-7", "0 2 * * 0,5,6"),
        ("0 2 * * 01", "0 2 * * 1"),
        ("0 2 * * 1/2", "0 2 * * 0,1,3,5"),
        ("*/20 */12 1-31 JAN-MAR MON", "0,20,40 0,12 * 1,2,3 *"),
        ("5/20 * 1,15 * MON,7", "5,25,45 * 1,15 * 0,1"),
        ("0 2 */1 * 1", "0 2 * * 1"),
        ("0 2 */2 * *", f"0 2 {','.join(map(str, range(1, 32, 2)))} * *"),
        ("* * * * *", "* * * * *"),
        # a day that must be right twice, and days that are no numbers
        *(
            (cron, None)
            for cron in ("0 2 */2 * 1", "0 2 1 * */2", "0 2 L * *", "0 2 LW * 1", "0 2 * * 1#2", "0 2 * * 5L")
        ),
    ],
)
def test_the_scheduler_gets_numbers_alone_or_nothing(cron: str, line: str | None) -> None:
    assert check(cron) == cron and plain(cron) == line
    assert misled(cron, utc(2025, 7, 1), BERLIN) is (line is None)
    text = crontab({"daily": cron}, {"daily": "x daily"})
    assert text == (f"{line} x daily\n" if line else f"# the service starts it itself: {cron} x daily\n")


def part(least: int, most: int, *names: str) -> st.SearchStrategy[str]:
    number = st.integers(least, most)
    one = st.one_of(number.map(str), number.map(lambda n: f"{n:02}"), st.just("*"), st.sampled_from(names or ["*"]))
    some = st.one_of(one, st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}"))
    stepped = st.one_of(some, st.tuples(some, st.integers(1, 12)).map(lambda pair: f"{pair[0]}/{pair[1]}"))
    return st.lists(stepped, min_size=1, max_size=3).map(",".join)


YEAR = [date(2024, 1, 1) + timedelta(days=day) for day in range(366)]


@given(
    st.tuples(
        part(0, 59),
        part(0, 23),
        part(1, 31, "L", "LW"),
        part(1, 12, "JAN", "Dec"),
        part(0, 7, "MON", "sun", "1#2", "5L"),
    ).map(" ".join)
)
def test_a_plain_line_has_the_same_minutes_all_year(cron: str) -> None:
    try:
        line = plain(check(cron))
    except ValueError:
        return
    if line is None:
        _, _, days, _, weekdays = cron.split()
        assert "*" in (days[0], weekdays[0]) or set("L#") & set(days + weekdays)
        return
    assert re.fullmatch(r"(?:(?:\*|\d+(?:,\d+)*)(?: |$)){5}", line)
    ours, theirs = CronSim(cron, utc(2024, 1, 1)), CronSim(line, utc(2024, 1, 1))
    assert (ours.minutes, ours.hours, ours.months) == (theirs.minutes, theirs.hours, theirs.months)
    assert [day for day in YEAR if ours.match_day(day)] == [day for day in YEAR if theirs.match_day(day)]
    assert list(islice(ours, 20)) == list(islice(theirs, 20))
