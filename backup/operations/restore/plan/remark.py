"""One thing to be known before a restore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from backup.formatting import printable

_LISTED: Final = 10


@dataclass(frozen=True)
class Remark:
    """One sentence and the next step; both safe to print."""

    text: str
    hint: str


def named(names: Sequence[str]) -> str:
    """Names, safe to print, cut at ten."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(printable(name) for name in names[:_LISTED]) + more
