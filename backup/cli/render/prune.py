"""What a cleanup does with each set, and why."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from backup.catalog.retention import Decision
from backup.formatting import age, plural, printable, size

_STYLES: Final = {"keep": "green", "remove": "red", "wait": "yellow", "later": "yellow"}


def prune_table(decisions: Sequence[Decision], now: datetime, hold: str) -> RenderableType:
    """One line a set, newest first; `hold` says why nothing goes at all."""
    name = Column("set", no_wrap=True, min_width=max((len(d.stored.id) for d in decisions), default=0))
    table = Table(name, "age", "size", "what", "why", box=None, pad_edge=False, header_style="bold")
    for decision in decisions:
        stored, what = decision.stored, action(decision)
        table.add_row(
            stored.id,
            age(now - stored.time),
            Text(size(stored.size), justify="right"),
            Text(what, style=_STYLES[what]),
            Text(printable(decision.reason)),
        )
    going = [decision.stored.size for decision in decisions if not decision.keep]
    total = f"{plural(len(going), 'set')} of {len(decisions)} would be removed, {size(sum(going))}"
    return Group(table, Text("; ".join(filter(None, [total, printable(hold)]))))


def prune_lines(decisions: Sequence[Decision]) -> list[str]:
    """The table for other programs' eyes: id, keep, remove, wait or later, the reason, separated by tabs."""
    return [f"{d.stored.id}\t{action(d)}\t{printable(d.reason)}" for d in decisions]


def prune_json(decisions: Sequence[Decision]) -> list[dict[str, Any]]:
    """The same for `--json`; `time` is ISO 8601 in UTC, `size` in bytes."""
    return [
        {
            "id": d.stored.id,
            "tier": d.stored.tier,
            "time": d.stored.time.isoformat(),
            "size": d.stored.size,
            "state": d.stored.state,
            "action": action(d),
            "reason": d.reason,
        }
        for d in decisions
    ]


def action(decision: Decision) -> str:
    """In one word: keep, remove, wait for a person, or later by itself."""
    return "wait" if decision.waits else "later" if decision.later else "keep" if decision.keep else "remove"
