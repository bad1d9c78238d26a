"""Output that others rely on, kept as files. A difference is looked at; `GOLDEN=1` writes what is there now."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Final

_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")
FOLDER: Final = Path(__file__).resolve().parents[1] / "golden"


def unchanged(name: str, text: str) -> None:
    """AssertionError unless the golden file holds this very text."""
    path = FOLDER / name
    if os.environ.get("GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text, f"{path} differs: if that is meant, GOLDEN=1 writes it anew"


def shape(value: Any) -> Any:
    """What a program can rely on in JSON: the names and the types, not what they say.

    Objects that are keyed by data (names of volumes, tables, tiers …) are not told apart from others; whoever calls
    uses the same data each time.
    """
    match value:
        case dict():
            return {_STAMP.sub("…", name): shape(each) for name, each in sorted(value.items())}
        case list():
            seen = {json.dumps(shape(each), sort_keys=True) for each in value}
            return [json.loads(each) for each in sorted(seen)]
        case str():
            return "time" if re.match(r"\d{4}-\d\d-\d\dT", value) else "text"
        case bool() | None:
            return value if value is None else "boolean"
        case _:
            return "number"
