"""Which moments base backups and received WAL can bring back."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.model.manifest import Artifact
from backup.model.wal import (
    Base,
    Received,
    SegmentHeader,
    SegmentId,
    Stream,
    base_for,
    chain,
    expired,
    is_history,
    is_segment,
    lsn,
    lsn_text,
    needless,
    offered,
    spans,
    supported,
    unneeded,
)

SIZE = 16 << 20
DAY = datetime(2026, 11, 28, tzinfo=UTC)
ARTIFACT = Artifact(
    kind="base",
    file="b.tar.gz",
    stored_size=1,
    stored_sha256="0" * 64,
    plain_size=1,
    plain_sha256="0" * 64,
)


def at(hour: float) -> datetime:
    """An hour of that day."""
    return DAY + timedelta(hours=hour)


def base(number: int, hour: float, timeline: int = 1) -> Base:
    """A base that begins and ends within one segment, at this hour."""
    place = number * SIZE
    return Base(
        id=f"b{number}",
        run="r",
        started=at(hour),
        ended=at(hour),
        timeline=timeline,
        start=lsn_text(place + 40),
        end=lsn_text(place + 300),
        system_identifier="1",
        server_version="17.2",
        user="postgres",
        size=SIZE,
        artifact=ARTIFACT,
    )


def whole(numbers: range, timeline: int = 1) -> dict[SegmentId, datetime]:
    """Segments, each received in the hour of its number."""
    return {SegmentId(timeline, number): at(number) for number in numbers}


def stream(number: int, hour: float, state: str = "streaming", timeline: int = 1) -> Stream:
    """One that is within a segment."""
    place = lsn_text(number * SIZE + 500)
    return Stream(
        looked=at(hour),
        state=state,
        system_identifier="1",
        timeline=timeline,
        received=place,
        current=place,
        level=at(hour),
    )


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**40), st.sampled_from([1 << 20, 16 << 20, 1 << 30]))
def test_names_of_segments_are_read_as_they_are_written(timeline: int, number: int, size: int) -> None:
    number %= (1 << 64) // size
    each = SegmentId(timeline, number)
    assert SegmentId.of(each.name(size), size) == each
    assert SegmentId.at(timeline, number * size + size - 1, size) == each


@given(st.integers(0, 2**64 - 1))
def test_places_are_read_as_they_are_written(place: int) -> None:
    assert lsn(lsn_text(place)) == place


@pytest.mark.parametrize("text", ["", "0", "0/", "/0", "0/G", "0/123456789", " 0/1", "0/1\n"])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a place"):
        lsn(text)


def test_names() -> None:
    assert SegmentId(1, 0x1A3).name(SIZE) == "0000000100000001000000A3"
    assert is_segment("0000000100000001000000A3")
    assert not is_segment("0000000100000001000000A3.partial")
    assert is_history("00000002.history")
    with pytest.raises(ValueError, match="not the name"):
        SegmentId.of("00000002.history", SIZE)


def test_the_first_page_says_which_segment_it_is() -> None:
    page = struct.pack("<HHIQIIQII", 0xD116, 2, 3, 7 * SIZE, 0, 0, 7713695199303512095, SIZE, 8192)
    assert SegmentHeader.parse(page) == SegmentHeader(3, 7 * SIZE, "7713695199303512095", SIZE)
    for spoilt in (page[:20], bytes(40), page[:2] + b"\0\0" + page[4:]):
        with pytest.raises(ValueError, match="first page"):
            SegmentHeader.parse(spoilt)


def test_a_window_reaches_from_the_first_base_to_the_stream() -> None:
    (span,) = spans([base(2, 2), base(5, 5)], Received(whole(range(2, 8)), stream(8, 8.5)))
    assert (span.start, span.end, span.live) == (at(2), at(8.5), True)
    assert [each.id for each in span.bases] == ["b2", "b5"]


def test_a_missing_segment_breaks_it() -> None:
    segments = whole(range(2, 5)) | whole(range(6, 8))
    before, after = spans([base(2, 2), base(6, 6)], Received(segments, stream(8, 8.5)))
    assert (before.start, before.end, before.live) == (at(2), at(4), False)
    assert (after.start, after.end, after.live) == (at(6), at(8.5), True)


def test_a_base_without_its_own_segments_is_worth_nothing() -> None:
    assert spans([base(2, 2)], Received(whole(range(3, 8)), stream(8, 8.5))) == []
    assert spans([base(2, 2)], Received({})) == []


def test_a_stream_that_is_down_ends_the_window_where_it_was_level() -> None:
    (span,) = spans([base(2, 2)], Received(whole(range(2, 4)), stream(4, 4.5, "down")))
    assert (span.end, span.live) == (at(4.5), False)


def test_what_is_said_of_the_stream_may_be_older_than_the_segments() -> None:
    (span,) = spans([base(2, 2)], Received(whole(range(2, 7)), stream(4, 4.5)))
    assert (span.end, span.live) == (at(6), True)


def test_a_segment_that_a_gap_broke_off_is_the_last_one() -> None:
    received = Received(whole(range(2, 4)) | whole(range(5, 8)), stream(8, 8.5), {SegmentId(1, 4): at(4.25)})
    (span,) = spans([base(2, 2)], received)
    assert (span.end, span.live) == (at(4.25), False)


def test_no_window_crosses_a_timeline() -> None:
    received = Received(whole(range(2, 5)) | whole(range(4, 8), 2), stream(8, 8.5, timeline=2))
    before, after = spans([base(2, 2), base(5, 5, 2)], received)
    assert (before.end, before.live) == (at(4), False)
    assert (after.start, after.live) == (at(5), True)


def test_the_newest_base_before_a_moment_serves_it() -> None:
    bases, received = [base(2, 2), base(5, 5)], Received(whole(range(2, 8)), stream(8, 8.5))
    chosen = [base_for(bases, received, at(hour)) for hour in (1.9, 2, 4.9, 5, 8.5, 8.6)]
    assert [each and each.id for each in chosen] == [None, "b2", "b2", "b5", "b5", None]


@given(st.lists(st.integers(0, 40), max_size=8), st.sets(st.integers(0, 45)), st.integers(0, 46))
def test_every_moment_of_a_window_has_all_that_brings_it_back(
    numbers: list[int], there: set[int], current: int
) -> None:
    """By a slow model: a base before the moment, and each segment from its first to the one of that moment."""
    bases = [base(number, number) for number in sorted(set(numbers))]
    segments = {SegmentId(1, number): at(number + 0.9) for number in there if number < current}
    received = Received(segments, stream(current, current + 0.5))
    for span in spans(bases, received):
        assert span.start <= span.end
        for moment in (span.start, span.start + (span.end - span.start) / 2, span.end):
            chosen = base_for(bases, received, moment)
            assert chosen
            last = int((moment - DAY) / timedelta(hours=1))
            needed = set(range(chosen.first.number, last + 1))
            assert needed <= {each.number for each in segments} | {current}
            assert chosen.ended <= moment


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 2)), max_size=8), st.floats(0, 2))
def test_each_whole_second_that_is_offered_can_be_had_and_no_other_one(
    ended: list[tuple[int, float]], level: float
) -> None:
    """Parts of the window that last some tenths of a second are the rule where a server is killed again and again."""
    bases = [
        base(number, number).model_copy(update={"ended": at(number) + timedelta(seconds=late)})
        for number, late in dict(ended).items()
    ]
    received = Received({each.first: at(each.first.number) + timedelta(seconds=level) for each in bases})
    told = list(offered(spans(bases, received)))
    seconds = {at(number) + timedelta(seconds=second) for number in range(41) for second in range(4)}
    assert {each for each in seconds if any(span.holds(each) for span in told)} == {
        each for each in seconds if base_for(bases, received, each)
    }
    assert all(span.start in seconds and span.start <= span.end for span in told)


def test_a_part_that_has_just_begun_is_told_by_the_second_that_comes() -> None:
    begun = base(2, 2 + 0.3 / 3600)
    (span,) = offered(spans([begun], Received(whole(range(2, 2)), stream(2, 2 + 0.5 / 3600))))
    assert (span.start, span.end, span.live) == (at(2) + timedelta(seconds=1), span.start, True)


def test_a_set_that_was_begun_in_the_second_in_which_its_base_ended_lies_in_the_window() -> None:
    """Names of sets have whole seconds: a dump that began 0.6 s behind its base seemed older than that."""
    begun = base(2, 2 + 0.3 / 3600)
    received = Received(whole(range(2, 2)), stream(2, 2.5))
    for (span,) in (spans([begun], received), list(offered(spans([begun], received)))):
        assert [span.may_hold(at(2) + timedelta(seconds=second)) for second in (-1, 0, 1)] == [False, True, True]
        assert not span.may_hold(at(3))


def test_bases_that_no_kept_moment_needs() -> None:
    bases = [base(number, number * 24.0) for number in range(1, 11)]
    now = at(10 * 24)
    gone = expired(bases, timedelta(days=7), now)
    # Of the third day at this hour is the oldest moment that is kept.
    assert [each.id for each in gone] == ["b1", "b2"]
    assert expired(bases[:1], timedelta(days=1), now) == []
    assert expired([], timedelta(days=1), now) == []


def on(parent: Base, number: int, hour: float) -> Base:
    """A base that builds on another."""
    return base(number, hour).model_copy(update={"parent": parent.id})


def test_what_builds_on_something_that_is_missing_gives_no_moment() -> None:
    full = base(2, 2)
    one = on(full, 3, 3)
    two = on(one, 4, 4)
    received = Received(whole(range(2, 6)), stream(6, 6.5))
    assert chain(two, [full, one, two]) == [full, one, two] and chain(full, []) == [full]
    assert base_for([full, one, two], received, at(5)) == two
    assert chain(two, [full, two]) == [] and supported([full, two]) == [full]
    assert base_for([full, two], received, at(5)) == full
    assert spans([one, two], received) == []


@pytest.mark.parametrize("change", [{"timeline": 2}, {"system_identifier": "2"}, {"ended": at(9)}, {"parent": "b3"}])
def test_a_chain_is_of_one_history_and_leads_back(change: dict[str, object]) -> None:
    full = base(2, 2).model_copy(update=change)
    one = on(base(2, 2), 3, 3)
    assert chain(one, [full, one]) == []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=14), st.integers(0, 20))
def test_no_base_goes_that_one_that_stays_builds_on(steps: list[int], days: int) -> None:
    """Each builds on none (0), or on the last, the second to last, the third to last."""
    bases: list[Base] = []
    for number, step in enumerate(steps):
        made = base(number, number * 24.0)
        bases.append(on(bases[-step], number, number * 24.0) if 0 < step <= len(bases) else made)
    now = at(len(bases) * 24.0)
    left = list(bases)
    over = expired(bases, timedelta(days=days), now)
    for gone in unneeded(over, bases):
        left.remove(gone)
        assert supported(left) == left, "one went before what builds on it"
    kept = {each.id for each in bases if each not in over}
    assert {link.id for each in bases if each.id in kept for link in chain(each, bases)} == {each.id for each in left}
    if not any(each.parent for each in bases):
        assert unneeded(over, bases) == over, "full ones go oldest first"


def test_segments_that_no_base_needs() -> None:
    segments = [*whole(range(1, 6)), SegmentId(2, 5), SegmentId(3, 9)]
    assert needless(segments, []) == []
    assert needless(segments, [base(3, 3)]) == [SegmentId(1, 1), SegmentId(1, 2)]
    assert needless(segments, [base(6, 6, 2)]) == [*whole(range(1, 6)), SegmentId(2, 5)]
