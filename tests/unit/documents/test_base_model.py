"""How documents are made: what a program reads is exact where it may be handed back, and harmless everywhere."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.documents.base_model import (
    Exact,
    Instant,
    Measure,
    Seconds,
    Text,
    at,
    document,
    form,
    many,
    maybe,
    row,
    utc_text,
)
from tests.support.examples import examples


@dataclass
class Place:
    """A thing with all that forms read."""

    name: str = "uploads"
    size: int = 5
    seen: datetime | None = None
    span: timedelta = timedelta(seconds=1.23456)
    rate: float | None = None
    inner: object = None
    pairs: list[tuple[str, int]] = field(default_factory=lambda: [("a", 1)])


_PAIR = row(form("Pair", path=Exact, files=int))
_PLACE = document(
    "place",
    "For these tests.",
    name=Text,
    exact=at(Exact, "name"),
    size_bytes=at(int, "size"),
    seen=maybe(Instant, "seen"),
    span_seconds=at(Seconds, "span"),
    rate=Measure,
    inner_name=maybe(Text, "inner", "name"),
    pairs=many(_PAIR),
)


def read(thing: object, **more: object) -> dict[str, object]:
    text = _PLACE.of(thing, **more).encode()
    assert text.isascii() and text.endswith("\n") and text.count("\n") == 1
    return dict(json.loads(text))


def test_attributes_are_read_by_the_names_that_fields_give() -> None:
    seen = datetime(2025, 10, 20, 10, 0, 0, 999_999, timezone(timedelta(hours=8)))
    found = read(Place(seen=seen, inner=Place("below")))
    assert found == {
        "format": 1,
        "kind": "place",
        "name": "uploads",
        "exact": "uploads",
        "size_bytes": 5,
        "seen": "2025-10-20T02:00:00Z",
        "span_seconds": 1.235,
        "rate": None,
        "inner_name": "below",
        "pairs": [{"path": "a", "files": 1}],
    }


def test_what_is_not_known_is_null() -> None:
    found = read(Place(rate=float("inf")), size=0)
    assert (found["seen"], found["rate"], found["inner_name"], found["size_bytes"]) == (None, None, None, 0)


def test_zero_is_known() -> None:
    assert read(Place(rate=0.0))["rate"] == 0


@examples(50)
@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_names_come_back_and_sentences_are_harmless(name: str) -> None:
    found = read(Place(name))
    assert found["exact"] == name
    assert not set(str(found["name"])) & set("\n\r\x1b\u202e\ud800")


@examples(20)
@given(st.datetimes(timezones=st.timezones()).filter(lambda moment: 1 < moment.year < 9999))
def test_a_moment_is_utc_in_whole_seconds(moment: datetime) -> None:
    assert datetime.strptime(utc_text(moment), "%Y-%m-%dT%H:%M:%S%z") == moment.astimezone(UTC).replace(microsecond=0)


def test_a_moment_at_an_end_of_the_calendar_is_no_bug() -> None:
    assert utc_text(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))) == "0001-01-01T00:00:00Z"


LISTING = document("listing", "For these tests.", name=Text, pairs=many(form("Pair", path=Exact, files=int)))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_items_come_piece_by_piece_and_make_the_same_document(count: int) -> None:
    pairs = [{"path": "x", "files": each} for each in range(count)]
    text = "".join(LISTING.pieces(iter(pairs), name="n"))
    assert json.loads(text) == json.loads(LISTING.of(name="n", pairs=pairs).encode()) and text.endswith("\n")


def test_one_item_at_a_time_is_held() -> None:
    taken: list[int] = []
    pieces = LISTING.pieces((taken.append(each) or {"path": "x", "files": each} for each in range(9)), name="n")
    assert [next(pieces) for _ in range(2)] and taken == [0]
