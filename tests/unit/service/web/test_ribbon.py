"""The ribbon: its pieces lie where their moments are, and no break is too thin to be seen."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backup.service.web.ribbon import Piece, ribbon
from tests.support.facts import NOW
from tests.support.windows import a_base, a_stream, a_window, broken_window

DAY = timedelta(days=1)


def test_off_has_none() -> None:
    assert ribbon(None, NOW) is None


def test_pieces_lie_where_their_moments_are() -> None:
    drawn = ribbon(broken_window(NOW), NOW)
    assert drawn and drawn.since == NOW - 7 * DAY
    first, second, broken = drawn.pieces
    assert (first.kind, second.kind, broken.kind) == ("held", "held", "broken")
    assert (first.x, second.x + second.width) == pytest.approx((100 * (1 + 10 / 24) / 7, 100), abs=0.02)
    assert first.x + first.width == pytest.approx(100 * (7 - 16 / 24) / 7, abs=0.02) == broken.x
    assert broken.width == 1.0 and drawn.breaks == [broken]


def test_what_is_older_is_cut_off() -> None:
    old = a_window(NOW, [a_base(5, NOW - 20 * DAY)], {5: NOW - 10 * DAY}, stream=a_stream(6, NOW, NOW))
    assert ribbon(old, NOW).pieces == (Piece(0, 100, "held", NOW - 20 * DAY, NOW),)  # type: ignore[union-attr]
    gone = a_window(NOW, [a_base(5, NOW - 20 * DAY)], {5: NOW - 10 * DAY})
    assert [(each.kind, each.x, each.width) for each in ribbon(gone, NOW).pieces] == [("broken", 0, 100)]  # type: ignore[union-attr]


def test_a_break_at_the_end_stays_on_the_ribbon() -> None:
    late = a_window(NOW, [a_base(5, NOW - DAY)], {5: NOW - timedelta(minutes=9)})
    broken = ribbon(late, NOW).breaks[0]  # type: ignore[union-attr]
    assert (broken.x + broken.width, broken.end) == (100, None)
