"""docs/schema is what the package prints, and a format only ever grows."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from backup.documents.results import DOCUMENTS
from tests.support.golden import FOLDER as GOLDEN
from tests.support.golden import unchanged
from tests.support.schemas import FOLDER, checked, fields, render

Recorded = dict[str, Any]
_NAME: Final = "documents.json"


def current() -> Recorded:
    """Of each kind its format, and where it has which types."""
    return {
        kind: {"format": each.model_fields["format"].default, "fields": fields(each)}
        for kind, each in DOCUMENTS.items()
    }


def broken(before: Recorded, now: Recorded) -> list[str]:
    """What a program that read `before` would miss in `now`: a kind or field that is gone or has another type.

    A format that has risen may be anything.
    """
    found = []
    for kind, old in before.items():
        new = now.get(kind, {"format": old["format"], "fields": {}})
        if new["format"] == old["format"]:
            places = (place for place in old["fields"] if new["fields"].get(place) != old["fields"][place])
            found += [f"{kind}: {place}: {old['fields'][place]} → {new['fields'].get(place)}" for place in places]
        elif new["format"] < old["format"]:
            found.append(f"{kind}: format {old['format']} → {new['format']}")
    return found


def test_a_format_only_grows() -> None:
    before = json.loads((GOLDEN / _NAME).read_text())
    assert broken(before, current()) == [], "raise the `format` of the document, or keep the field as it is"
    unchanged(_NAME, json.dumps(current(), indent=1) + "\n")


FIELDS: Final = {"id": "string", "sets": "array"}


@pytest.mark.parametrize(
    ("number", "now", "well"),
    [
        (1, FIELDS, True),
        (1, FIELDS | {"more": "null or time"}, True),
        (1, {"id": "string"}, False),
        (1, FIELDS | {"id": "null or string"}, False),
        (2, {}, True),
        (0, FIELDS, False),
    ],
)
def test_what_counts_as_growing(number: int, now: dict[str, str], *, well: bool) -> None:
    before = {"status": {"format": 1, "fields": FIELDS}}
    assert (broken(before, {"status": {"format": number, "fields": now}}) == []) is well


def test_a_kind_that_is_gone_is_missed() -> None:
    assert broken({"status": {"format": 1, "fields": FIELDS}}, {})


def test_the_published_schemas_are_those_of_the_package() -> None:
    """`make docs` writes them."""
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == render()


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_every_document_says_what_it_is_and_when_it_is_printed(kind: str) -> None:
    found = json.loads((FOLDER / f"{kind}.json").read_text())
    assert found["properties"]["kind"]["const"] == kind and found["properties"]["format"]["const"] >= 1
    assert {"format", "kind"} <= set(found["required"]) and ("`" in found["description"] or "/" in found["description"])


@pytest.mark.parametrize(
    "wrong", [{"pinned": "yes"}, {"more": 1}, {"set": None}, {"format": 2}], ids=lambda wrong: next(iter(wrong))
)
def test_what_is_not_of_its_schema_is_seen(wrong: dict[str, Any]) -> None:
    right = {"format": 1, "kind": "pin", "set": "daily", "pinned": True}
    assert checked(json.dumps(right) + "\n") == right
    with pytest.raises(AssertionError):
        checked(json.dumps(right | wrong) + "\n")


def test_sizes_spans_and_moments_are_named_by_one_rule() -> None:
    """A field that is a size ends in `_bytes`, a span in `_seconds`; but for a manifest, which is a file of its own."""
    places = {place for each in DOCUMENTS.values() for place in fields(each) if not place.startswith("manifest.")}
    last = {place.rpartition(".")[2].removesuffix("[]") for place in places}
    assert not last & {"size", "bytes", "seconds", "age", "limit", "free", "total", "used", "keep"}
