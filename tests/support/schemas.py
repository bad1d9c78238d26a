"""docs/schema from the documents: `python -m tests.support.schemas` writes it; tests hold what is printed to it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft202012Validator
from pydantic.json_schema import GenerateJsonSchema

from backup.documents.base_model import Document
from backup.documents.results import DOCUMENTS

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "schema"
_MOMENT: Final = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"


class _Plain(GenerateJsonSchema):
    """Without a title for each field, which repeats its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema(document: type[Document]) -> dict[str, Any]:
    """The schema of a document, as it is published. What a later release adds fits it, too."""
    made = document.model_json_schema(mode="serialization", schema_generator=_Plain)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def render() -> dict[str, str]:
    """The files by name."""
    return {f"{kind}.json": json.dumps(schema(each), indent=1) + "\n" for kind, each in DOCUMENTS.items()}


def checked(data: str | bytes) -> Any:
    """The document in `data`, and all of it. AssertionError unless it is of its published schema, and holds no more."""
    text = data if isinstance(data, str) else data.decode()
    assert text.isascii() and text.endswith("\n"), text[-100:]
    document = json.loads(text)
    wrong = [f"{error.json_path}: {error.message}" for error in _validator(document["kind"]).iter_errors(document)]
    assert not wrong, wrong
    return document


@functools.cache
def _validator(kind: str) -> Draft202012Validator:
    return Draft202012Validator(_strict(schema(DOCUMENTS[kind])))


def _strict(part: Any) -> Any:
    """The schema for this very release: no other fields, and moments that say UTC."""
    if isinstance(part, list):
        return [_strict(each) for each in part]
    if not isinstance(part, dict):
        return part
    closed = {"additionalProperties": False} if isinstance(part.get("properties"), dict) else {}
    moment = {"pattern": _MOMENT} if part.get("format") == "date-time" else {}
    return {name: _strict(each) for name, each in part.items()} | closed | moment


def fields(document: type[Document]) -> dict[str, str]:
    """Where a document has which types: `sets[].pin.since` may be `null` or a `time`."""
    made, found = schema(document), dict[str, set[str]]()
    for place, kind in _walk(made, made.get("$defs", {}), ""):
        found.setdefault(place, set()).add(kind)
    return {place: " or ".join(sorted(kinds)) for place, kinds in sorted(found.items()) if place}


def _walk(part: dict[str, Any], known: dict[str, Any], place: str) -> Iterator[tuple[str, str]]:
    if "$ref" in part:
        part = known[part["$ref"].rpartition("/")[2]]
    for other in part.get("anyOf", ()):
        yield from _walk(other, known, place)
    if "type" in part:
        yield place, "time" if part.get("format") == "date-time" else part["type"]
    for name, each in part.get("properties", {}).items():
        yield from _walk(each, known, f"{place}.{name}".removeprefix("."))
    if isinstance(rest := part.get("additionalProperties"), dict):
        yield from _walk(rest, known, f"{place}.*")
    for each in (*part.get("prefixItems", ()), *([part["items"]] if isinstance(part.get("items"), dict) else [])):
        yield from _walk(each, known, f"{place}[]")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in render().items():
        (FOLDER / name).write_text(text)
