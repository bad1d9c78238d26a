"""The window: what it says, minute by minute, and what breaks it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from backup.model.wal import WalSlot, WindowProof
from backup.monitoring.window import Break, Window, breaks_words, slot_words, window_words
from tests.support.facts import NOW, UTC_ZONE
from tests.support.windows import a_base, a_stream, a_window, broken_window

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def live(lag: timedelta = timedelta(seconds=0.4), **more: object) -> Window:
    """A base of two hours ago, two whole segments, and a stream."""
    whole = {5: NOW - 2 * HOUR, 6: NOW - HOUR}
    return a_window(NOW, [a_base(5, NOW - 2 * HOUR)], whole, stream=a_stream(7, NOW - lag, NOW, **more))  # type: ignore[arg-type]


def ended() -> Window:
    return a_window(NOW, [a_base(5, NOW - 2 * HOUR)], {5: NOW - HOUR})


def test_it_is_said_in_one_line() -> None:
    seen = broken_window(NOW)
    words = "any moment from 2025-10-14 22:00 to now, 0.4 s behind; broken 2025-10-19 20:00 to 20:02"
    assert window_words(seen, NOW, UTC_ZONE) == f"{words}; not proven yet"
    manila = window_words(seen, NOW, ZoneInfo("Asia/Manila"))
    assert manila.startswith("any moment from 2025-10-15 06:00") and "2025-10-20 04:00 to 04:02" in manila


def test_without_a_span_there_is_no_moment() -> None:
    assert "no moment yet" in window_words(a_window(NOW), NOW, UTC_ZONE)
    # A base without its own segment is worth nothing.
    lone = a_window(NOW, [a_base(5, NOW - HOUR)], {6: NOW})
    assert (lone.start, lone.live, "no moment yet" in window_words(lone, NOW, UTC_ZONE)) == (None, False, True)


@pytest.mark.parametrize(("lag", "words"), [(4.24, "now, 4.2 s behind"), (299, "now, 4 min 59 s behind")])
def test_how_far_it_is_behind_is_said(lag: float, words: str) -> None:
    assert words in window_words(live(timedelta(seconds=lag)), NOW, UTC_ZONE)


def test_what_stands_still_does_not_reach_to_now() -> None:
    late = live(timedelta(minutes=20))
    assert "to 2025-10-20 11:40, and none since" in window_words(late, NOW, UTC_ZONE)
    assert "to 2025-10-20 11:00, and none since" in window_words(ended(), NOW, UTC_ZONE)
    down = live(timedelta(seconds=3), state="down")
    assert "and none since" in window_words(down, NOW, UTC_ZONE) and not down.follows(NOW)


def test_a_clock_that_is_behind_the_servers_is_no_lead() -> None:
    assert live(timedelta(seconds=-5)).lag(NOW) == timedelta()


def test_no_minute_is_promised_that_is_held_in_part() -> None:
    base = a_base(5, NOW - HOUR - timedelta(seconds=20))
    seen = a_window(NOW, [base], {5: NOW - timedelta(minutes=10, seconds=10)})
    assert "any moment from 2025-10-20 11:00 to 2025-10-20 11:49, and none since" in window_words(seen, NOW, UTC_ZONE)


def test_a_window_of_seconds_is_told_by_seconds() -> None:
    base = a_base(5, NOW - timedelta(seconds=61.5))
    words = "any moment from 2025-10-20 11:58:59 to 2025-10-20 11:59:20, and none since"
    assert words in window_words(a_window(NOW, [base], {5: NOW - timedelta(seconds=39.5)}), NOW, UTC_ZONE)


def test_up_to_where_it_was_proven_is_said() -> None:
    proof = WindowProof(tried=NOW, base="b", moment=NOW - timedelta(seconds=3.4), rows=7)
    assert window_words(replace(live(), proof=proof), NOW, UTC_ZONE).endswith("; proven to 2025-10-20 11:59:56")
    bad = proof.model_copy(update={"problem": "a page is damaged"})
    assert window_words(replace(live(), proof=bad), NOW, UTC_ZONE).endswith("; not proven yet")


def test_breaks_are_what_lies_between_spans() -> None:
    gap = NOW - 16 * HOUR
    assert broken_window(NOW).breaks(NOW) == (Break(gap, gap + 2 * MINUTE),)
    assert broken_window(NOW).breaks(NOW + timedelta(days=8)) == () == live().breaks(NOW)


def test_spans_that_touch_are_not_broken() -> None:
    """As where a server has begun a new timeline."""
    one, two = broken_window(NOW).spans
    seen = replace(broken_window(NOW), spans=(one, replace(two, start=one.end)))
    assert seen.breaks(NOW) == ()


def test_what_has_ended_is_broken_as_soon_as_it_is_late() -> None:
    assert ended().breaks(NOW) == (Break(NOW - HOUR, None),)
    assert live(4 * MINUTE, state="down").breaks(NOW) == ()
    assert live(6 * MINUTE, state="down").breaks(NOW) == (Break(NOW - 6 * MINUTE, None),)


def test_many_breaks_are_counted() -> None:
    many = [Break(NOW - n * HOUR, NOW - n * HOUR + MINUTE) for n in (5, 4, 3, 2)]
    assert breaks_words(many, UTC_ZONE) == (
        "2025-10-20 08:00 to 08:01, 2025-10-20 09:00 to 09:01, 2025-10-20 10:00 to 10:01 and 1 before"
    )
    night = Break(NOW - 13 * HOUR, NOW - 11 * HOUR)
    assert breaks_words([night], UTC_ZONE) == "2025-10-19 23:00 to 2025-10-20 01:00"


def test_a_slot_is_told_in_one_line() -> None:
    slot = WalSlot(name="s", held=30_000_000)
    assert slot_words(slot, up=True) == "s keeps 30.0 MB of WAL"
    # What nobody moves on keeps more and more.
    assert "when WAL was last received; by now it may be more" in slot_words(slot, up=False)
    more = slot_words(slot.model_copy(update={"safe": 0}), up=True)
    assert more == "s keeps 30.0 MB of WAL, 0 B more until the server gives it up"
    assert slot_words(WalSlot(name="s", problem="it is refused"), up=True) == "it is refused"
