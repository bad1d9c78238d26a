"""What all JSON documents are made of: a form reads the attributes that its fields name, and is its own schema.

Moments are RFC 3339 in UTC, whole seconds; sizes are bytes in fields that end in `_bytes`, spans seconds in fields that
end in `_seconds`. What is not known is null. Sentences are harmless on a terminal; names that a program may hand back
(paths, tables) are exact, and JSON's own escapes keep them from a terminal.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    create_model,
)

from backup.formatting import printable


def utc_text(moment: datetime) -> str:
    """Write a moment as programs read it. One at an end of the calendar, which a file may hold, keeps its own clock."""
    with contextlib.suppress(OverflowError):
        moment = moment.astimezone(UTC)
    return f"{moment.isoformat()[:19]}Z"


def derived(kind: Any, convert: Callable[[Any], Any]) -> Any:
    """Declare the type of a field whose value is derived first."""
    return Annotated[kind, BeforeValidator(convert)]


Text = derived(str, printable)
Exact = Annotated[str, PlainValidator(os.fsdecode), WithJsonSchema({"type": "string"})]
Instant: Any = Annotated[derived(str, utc_text), Field(json_schema_extra={"format": "date-time"})]
Seconds = derived(float, lambda span: round(span.total_seconds(), 3))
Spans = derived(
    dict[str, float], lambda spans: {printable(name): span for name, span in spans.items() if math.isfinite(span)}
)
Measure = derived(float | None, lambda value: value if math.isfinite(value or 0) else None)


class _Joined:
    """An object, and attributes that it has not."""

    def __init__(self, thing: object, more: dict[str, Any]) -> None:
        self.__dict__.update(more, _thing=thing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_thing"], name)


class Form(BaseModel):
    """A thing as programs see it."""

    model_config = ConfigDict(
        from_attributes=True, frozen=True, defer_build=True, json_schema_serialization_defaults_required=True
    )

    @classmethod
    def of(cls, thing: object = None, **more: Any) -> Self:
        """Make it of the attributes of `thing`, and of others that are given."""
        return cls.model_validate(_Joined(thing, more))


class Document(Form):
    """What is printed or answered as a whole. `format` rises when a field goes or changes its meaning."""

    format: Literal[1] = 1
    kind: str

    def encode(self) -> str:
        """Encode it: one line of ASCII."""
        return json.dumps(self.model_dump(mode="json")) + "\n"

    @classmethod
    def pieces(cls, things: Iterable[object], **fields: Any) -> Iterator[str]:
        """Encode one whose last field is a list of these, an item a line: one of them is held in memory at a time."""
        name, field = list(cls.model_fields.items())[-1]
        (item,) = get_args(field.annotation)
        yield cls.of(**fields, **{name: []}).encode().removesuffix("]}\n")
        mark = "\n"
        for thing in things:
            yield mark + json.dumps(item.model_validate(thing).model_dump(mode="json"))
            mark = ",\n"
        yield "]}\n"


def form(name: str, /, *bases: type[Form], about: str | None = None, **fields: Any) -> Any:
    """Declare a form: its name, the forms that it is, too, and its fields with their types."""
    return create_model(name, __base__=bases or Form, __doc__=about, **fields)


def document(kind: str, about: str, /, *bases: type[Form], **fields: Any) -> type[Document]:
    """Declare a document in the same way, and say what it is about."""
    made: type[Document] = form(kind, *bases, Document, about=about, kind=(Literal[kind], kind), **fields)
    return made


def at(kind: Any, *path: str) -> Any:
    """Declare the type of a field that is read from an attribute of another name, or from one of an attribute."""
    return Annotated[kind, Field(validation_alias=AliasPath(*path))]


def maybe(kind: Any, *path: str) -> Any:
    """Declare the same where there may be none: then it is null."""
    return Annotated[kind | None, Field(default=None, validation_alias=AliasPath(*path))]


def many(kind: Any, by: Any = None) -> Any:
    """Declare a list, or an object that is keyed by data."""
    return dict[by, kind] if by else list[kind]


def row(kind: Any) -> Any:
    """Declare a form that may be read from a tuple of its fields."""
    names = tuple(kind.model_fields)
    return Annotated[
        kind, BeforeValidator(lambda cells: dict(zip(names, cells, strict=True)) if type(cells) is tuple else cells)
    ]
