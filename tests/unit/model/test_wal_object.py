"""The names of objects of WAL say what is in them, and which of two is to be taken."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from backup.model.wal import UNKNOWN, SegmentId
from backup.model.wal_object import (
    BaseRecord,
    SegmentObject,
    base_key,
    best,
    place_there,
    received_there,
    superseded,
)
from tests.support.windows import SIZE

ARCHIVE = "7400000000000000001-0123456789abcdef"
LEVEL = datetime(2026, 11, 28, 16, 5, 7, 123456, tzinfo=UTC)


def an_object(number: int = 3, part: str = "", level: datetime = LEVEL, **more: object) -> SegmentObject:
    made = SegmentObject(ARCHIVE, SegmentId(1, number).name(SIZE), level, "ab" * 32, part)
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "each",
    [
        an_object(),
        an_object(part="broken"),
        an_object(part="00ab1000", encrypted=True),
        an_object(level=UNKNOWN),
        an_object(name="00000002.history"),
    ],
)
def test_a_key_tells_all_that_its_object_is(each: SegmentObject) -> None:
    assert SegmentObject.parse(each.key) == each
    assert BaseRecord.parse(each.key) is None


@pytest.mark.parametrize(
    "key",
    [
        "daily/obcms_set_daily_2025-10-20_02-00-00.json",
        an_object().key + ".tmp",
        an_object().key.replace("wal/", "wal/../"),
        an_object().key.replace("20261128T", "20261399T"),
        an_object().key.replace(ARCHIVE, "7400000000000000001"),
        base_key(ARCHIVE, "20261128T010000Z.0123456789abcdef.tar.gz"),
    ],
)
def test_any_other_key_is_nothing(key: str) -> None:
    assert SegmentObject.parse(key) is None and BaseRecord.parse(key) is None


def test_the_record_of_a_base_is_known_by_its_key() -> None:
    record = BaseRecord(ARCHIVE, "20261128T010000Z", "cd" * 32)
    assert BaseRecord.parse(record.key) == record


def test_of_one_segment_the_whole_one_is_taken_then_what_a_gap_left_then_what_holds_most() -> None:
    early, late = an_object(part="00001000"), an_object(part="00002000", level=LEVEL + timedelta(minutes=1))
    broken, whole = an_object(part="broken", level=LEVEL), an_object(level=UNKNOWN)
    for count in range(1, 5):
        ordered = [early, late, broken, whole][:count]
        (chosen,) = best(reversed(ordered)).values()
        assert chosen == ordered[-1]
    assert superseded([early, late, broken, whole]) == [early, late]
    assert superseded([early, late]) == [early] and superseded([late]) == []


def test_a_segment_that_was_being_received_is_the_end_of_what_is_there() -> None:
    there = [an_object(3), an_object(4, "00002000", LEVEL + timedelta(minutes=1)), an_object(4, "00001000")]
    received = received_there(there, SIZE)
    assert received.whole == {SegmentId(1, 3): LEVEL}
    assert received.broken == {SegmentId(1, 4): LEVEL + timedelta(minutes=1)}
    assert place_there(there, 1, SIZE) == 4 * SIZE + 0x2000
    assert place_there(there[:1], 1, SIZE) == 4 * SIZE and place_there(there, 2, SIZE) == 0
