"""Cron lines are checked before anything relies on them, and the next slots are told in the operator's zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from backup.schedule import check, crontab, upcoming

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
