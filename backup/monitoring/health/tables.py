"""Tables that hold much less than before, each judged by itself: a large log hides what the others lose. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# Less than this share of what it had is far less, as for a whole database.
SHARE: Final = 0.5
# What a table must have had for that to say anything, and to be missed when it is empty or gone.
_ROWS: Final = 100
_ANY: Final = 20
# What happened so often is how the table is used.
_HABIT: Final = 2


@dataclass(frozen=True)
class Loss:
    """A table that has `rows`, and had `before` in the set called `id`."""

    table: str
    rows: int
    before: int
    id: str

    @property
    def is_far(self) -> bool:
        """Whether it is to be told, by the numbers alone."""
        return self.before >= (_ROWS if self.rows else _ANY) and self.rows < SHARE * self.before


def losses(now: Mapping[str, int], before: Sequence[tuple[str, Mapping[str, int]]]) -> list[Loss]:
    """Each table that lost more than half of its rows, by name. `before` are the sets to compare with, newest first."""
    most: dict[str, Loss] = {}
    for identifier, rows in before:
        for table, count in rows.items():
            if table not in most or count > most[table].before:
                most[table] = Loss(table, now.get(table, 0), count, identifier)
    return [loss for _, loss in sorted(most.items()) if loss.is_far]


def swings(loss: Loss, history: Sequence[int]) -> bool:
    """Whether it had about as few rows before, and came back from it by itself, twice: as sessions and queues do.

    Once says nothing: that may have been a loss that a restore made good. `history` are its rows, oldest first.
    """
    few, many = max(2 * loss.rows, _ANY), SHARE * loss.before
    is_high, was_low, returns = False, False, 0
    for count in history:
        if count >= many:
            returns += was_low
            is_high, was_low = True, False
        elif is_high and count <= few:
            was_low = True
    return returns >= _HABIT
