"""What a moment means, whatever the clock does, and which commit is the last one of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from backup.model.moment import Commit, Survey, Wanted, parse_commit, parse_moment

ZONE = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 28, 16, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-11-28 16:05", datetime(2026, 11, 28, 15, 5, tzinfo=UTC)),
        ("2026-11-28 16:05:07", datetime(2026, 11, 28, 15, 5, 7, tzinfo=UTC)),
        ("2026-11-28T16:05:07.25", datetime(2026, 11, 28, 15, 5, 7, 250000, tzinfo=UTC)),
        ("  2026-07-01  16:05 ", datetime(2026, 7, 1, 14, 5, tzinfo=UTC)),
        ("2026-11-28 15:05Z", datetime(2026, 11, 28, 15, 5, tzinfo=UTC)),
        ("2026-11-28 15:05 +0000", datetime(2026, 11, 28, 15, 5, tzinfo=UTC)),
        ("2026-11-28T10:05-05", datetime(2026, 11, 28, 15, 5, tzinfo=UTC)),
        # The hour that came twice, told apart.
        ("2026-10-25 02:30+02:00", datetime(2026, 10, 25, 0, 30, tzinfo=UTC)),
        ("2026-10-25 02:30+01:00", datetime(2026, 10, 25, 1, 30, tzinfo=UTC)),
        ("10 minutes ago", NOW - timedelta(minutes=10)),
        ("1 hour ago", NOW - timedelta(hours=1)),
    ],
)
def test_a_moment_is_read_by_the_operators_clock(text: str, meant: datetime) -> None:
    assert parse_moment(text, NOW, ZONE) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2026-10-25 02:30", "'2026-10-25 02:30:00+02:00' or '2026-10-25 02:30:00+01:00'"),
        ("2026-03-29 02:30", "never was in Europe/Berlin"),
        ("2026-11-28 17:01", "still to come"),
        ("2026-11-28", "is not a moment"),
        ("yesterday", "is not a moment"),
        ("2026-11-28 25:00", "hour must be in"),
        ("0001-01-01 00:00+14:00", "beyond the calendar"),
        ("999999 days ago", "beyond the calendar"),
    ],
)
def test_what_is_no_moment_or_two_is_asked_back(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_moment(text, NOW, ZONE)


LINE = "rmgr: Transaction len (rec/tot):     34/    34, tx:        730, lsn: 0/03016078, prev 0/03016038, desc: "


@pytest.mark.parametrize(
    ("desc", "found"),
    [
        ("COMMIT 2026-11-29 20:34:58.539435 UTC", True),
        ("COMMIT 2026-11-29 20:34:58.539435 UTC; inval msgs: catcache 80 relcache 16385", True),
        ("COMMIT_PREPARED 729: 2026-11-29 20:34:58.539435 UTC", True),
        ("PREPARE gid COMMIT: 2026-11-29 20:34:58.539435 UTC", False),
        ("ABORT 2026-11-29 20:34:58.539435 UTC", False),
        ("ABORT_PREPARED 729: 2026-11-29 20:34:58.539435 UTC", False),
        ("COMMIT 2026-11-29 20:34:58.539435 CET", False),
    ],
)
def test_commits_are_read_from_what_pg_waldump_writes(desc: str, found: bool) -> None:
    number = 729 if "PREPARED" in desc else 730
    commit = Commit(0x3016078, datetime(2026, 11, 29, 20, 34, 58, 539435, tzinfo=UTC), number)
    assert parse_commit(LINE + desc) == (commit if found else None)


def survey(wanted: Wanted, *minutes: int) -> Survey:
    found = Survey(wanted)
    for place, minute in enumerate(minutes, 1):
        found.take(Commit(place, NOW + timedelta(minutes=minute)))
    return found


def test_the_last_commit_is_the_one_before_the_first_later_one() -> None:
    """Clocks are read before records are written, so times are not always in order."""
    found = survey(Wanted(NOW + timedelta(minutes=3)), 1, 3, 4, 2, 5)
    assert found.last and found.last.lsn == 2 and found.later == 3
    assert found.newest and found.newest.lsn == 5


def test_nothing_before_the_moment_is_the_base_itself() -> None:
    found = survey(Wanted(NOW), 1, 2)
    assert found.last is None and found.later == 2


def test_a_place_holds_what_was_committed_at_it() -> None:
    found = survey(Wanted(place=2), 1, 2, 3)
    assert found.last and found.last.lsn == 2 and found.later == 1


def test_more_wal_may_tell_more_until_a_later_commit_was_seen() -> None:
    found = survey(Wanted(NOW + timedelta(minutes=3)), 1)
    assert found.sure
    found.complete = False
    assert not found.sure
    found.take(Commit(9, NOW + timedelta(minutes=9)))
    assert found.sure


def test_commits_in_another_order_than_a_dump_saw_them_are_told() -> None:
    for seen, mixed in (({1, 2}, False), ({1, 3}, True), (set[int](), False)):
        found = Survey(Wanted(place=9, seen=seen.__contains__))
        for number in (1, 2, 3):
            found.take(Commit(number, NOW, number))
        assert found.mixed is mixed
