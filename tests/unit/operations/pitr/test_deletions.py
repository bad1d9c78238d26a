"""Which WAL is read for what was committed after a moment: never less than may hold it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backup.model.wal import UNKNOWN, SegmentId
from backup.operations.pitr.deletions import _segments_since

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("passed", "since", "kept"),
    [
        # Each had been passed an hour after the one before. What is in the one before the first may be later than it.
        ([0, 1, 2, 3], 2, [1, 2, 3]),
        ([0, 1, 2, 3], 9, [3]),
        ([0, 1, 2, 3], -1, [0, 1, 2, 3]),
        # Nobody looked for two hours: these came late, and may hold anything up to the next look.
        ([0, 0, 0, 0, 2], 1, [0, 1, 2, 3, 4]),
        ([-1, 0, 0, 0, 2], 1, [1, 2, 3, 4]),
        # One of which nothing is known is never a hole.
        ([0, 1, None, 3], 2, [1, 2, 3]),
        ([], 1, []),
    ],
)
def test_wal_that_came_late_is_read_as_well(passed: list[int | None], since: int, kept: list[int]) -> None:
    segments = [SegmentId(1, number) for number in range(len(passed))]
    whole = {
        segment: UNKNOWN if hours is None else NOON + timedelta(hours=hours)
        for segment, hours in zip(segments, passed, strict=True)
    }
    assert [each.number for each in _segments_since(segments, whole, NOON + timedelta(hours=since))] == kept


def test_the_segment_that_is_being_received_is_read() -> None:
    segments = [SegmentId(1, number) for number in range(3)]
    whole = {segments[0]: NOON, segments[1]: NOON}
    assert [each.number for each in _segments_since(segments, whole, NOON)] == [0, 1, 2]
    assert [each.number for each in _segments_since(segments, whole, NOON + timedelta(hours=1))] == [0, 1, 2]
