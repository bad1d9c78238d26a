"""What a load did without: SQL that notes it in the load's own sessions, and what these tell when they are asked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from backup.postgres.dump.statements import literal

_NOTES: Final = b"obcms_backup.left_out"
# What a session has noted, as an expression of SQL: JSON in one line.
NOTES: Final = b"coalesce(nullif(pg_catalog.current_setting('%b', true), ''), '[]')" % _NOTES
# More are not listed one by one.
_MOST: Final = 500

_TOLD: Final = {
    "empty": "the materialized view {} was left empty",
    "invalid": "the constraint {} is not valid for the rows that are there",
    "absent": "the constraint {} was left out",
}


@dataclass(frozen=True)
class LeftOut:
    """A view that is `empty`, a constraint that is `invalid` (it holds for later rows alone) or `absent`.

    `why` is what the server said, `remedy` the statement that makes it good.
    """

    kind: Literal["empty", "invalid", "absent"]
    name: str
    why: str
    remedy: str

    @property
    def told(self) -> str:
        """What became of it, in one sentence, and what to do."""
        return f"{_TOLD[self.kind].format(self.name)}: {self.why}. Later: {self.remedy.removesuffix(';')}"


def noting(kind: Literal["empty", "invalid", "absent"], name: bytes, remedy: bytes) -> bytes:
    """The statement of PL/pgSQL that notes it, `said` being why; `name` and `remedy` are expressions."""
    return (
        b"\n    IF jsonb_array_length(%b::jsonb) < %d THEN PERFORM set_config('%b', (%b::jsonb || jsonb_build_object("
        b"'kind', '%b', 'name', %b, 'why', left(said, 500), 'remedy', %b))::text, false); END IF;"
    ) % (NOTES, _MOST, _NOTES, NOTES, kind.encode(), name, remedy)


def left_out(lines: Iterable[str]) -> list[LeftOut]:
    """What sessions have told, each in one line."""
    return [LeftOut(**each) for line in lines for each in json.loads(line)]


def block(body: bytes) -> bytes:
    """PL/pgSQL as a statement; no name in it can end it."""
    return b"DO " + literal(body) + b";\n"
