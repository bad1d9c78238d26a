"""The copies of sets at another place, as people and programs see them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from backup.formatting import age, plural, printable, size
from backup.operations.offsite.verify_copies import Row

_STYLES: Final = {"offsite": "green", "archived": "cyan", "only local": "yellow"}


def copies_table(place: str, rows: Sequence[Row], now: datetime) -> RenderableType:
    """One line a set, newest first."""
    name = Column("set", no_wrap=True, min_width=max((len(row.id) for row in rows), default=0))
    table = Table(name, "age", "size", "state", "here", "note", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(
            row.id,
            age(now - row.time),
            Text(size(row.size), justify="right"),
            Text(row.state, style=_STYLES.get(row.state, "red")),
            "yes" if row.local else "no",
            Text(printable(row.note)),
        )
    held = [row for row in rows if row.state in ("offsite", "archived")]
    total = f"{plural(len(held), 'set')} at {place}, {size(sum(row.size for row in held))}"
    return Group(table, Text(printable(total)))


def copies_lines(rows: Sequence[Row]) -> list[str]:
    """The table for other programs' eyes: id, time (UTC), bytes, state, `here` or `there`, note, separated by tabs."""
    return [
        f"{row.id}\t{row.time:%Y-%m-%dT%H:%M:%SZ}\t{row.size}\t{row.state}\t{'here' if row.local else 'there'}"
        f"\t{printable(row.note)}"
        for row in rows
    ]


def copies_json(place: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The same for `--json`; times are ISO 8601 in UTC, sizes bytes."""
    return {
        "place": place,
        "sets": [
            {
                "id": row.id,
                "tier": str(row.tier),
                "time": row.time.isoformat(),
                "size": row.size,
                "state": row.state,
                "local": row.local,
                "note": row.note,
            }
            for row in rows
        ],
    }
