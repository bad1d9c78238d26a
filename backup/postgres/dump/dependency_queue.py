"""In which order, and beside what, the parts of a load that build on rows can be done."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True)
class Entry:
    """`script`, and the tables that it changes (`alters`) or that must not change meanwhile (`reads`).

    `kind` and `name` are as in pg_dump's comment.

    `alone`: it may need anything that is before it. `early`: of the rows, it needs those of these tables alone.
    `last`: it would act on those that come behind it in the dump. `weight` grows with the rows that it works through: a
    guess, which makes no entry another one.
    """

    script: bytes
    alters: frozenset[bytes] = frozenset()
    reads: frozenset[bytes] = frozenset()
    alone: bool = False
    early: bool = False
    last: bool = False
    weight: int = field(default=0, compare=False)
    kind: str = ""
    name: str = ""

    def is_possible(self, loaded: Collection[bytes]) -> bool:
        """Whether it can be done while only these tables have all of their rows."""
        return self.early and all(table in loaded for table in self.alters | self.reads)


class Queue:
    """Entries in an order that the dump's allows: the heaviest that waits for nothing goes first."""

    # Enough to find work for a second session, without looking through all that is left each time.
    _WINDOW: Final = 64

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._waiting = list(entries)
        self._running: list[Entry] = []

    def __bool__(self) -> bool:
        return bool(self._waiting or self._running)

    def take(self, loaded: Collection[bytes] | None = None) -> Entry | None:
        """The next one to do, None while those under way have to be done first, or more than the `loaded` tables."""
        best = self._best(loaded)
        if best is not None:
            # By identity: two entries may be equal.
            del self._waiting[next(i for i, entry in enumerate(self._waiting) if entry is best)]
            self._running.append(best)
        return best

    def _best(self, loaded: Collection[bytes] | None) -> Entry | None:
        if any(entry.alone for entry in self._running):
            return None
        # What those that come before have to themselves, and what they share.
        altered = {table for entry in self._running for table in entry.alters}
        read = {table for entry in self._running for table in entry.reads}
        best = None
        for place, entry in enumerate(self._waiting[: self._WINDOW]):
            if entry.alone:
                return best if place or self._running or loaded is not None else entry
            free = altered.isdisjoint(entry.alters | entry.reads) and read.isdisjoint(entry.alters)
            if free and (loaded is None or entry.is_possible(loaded)) and (best is None or entry.weight > best.weight):
                best = entry
            altered |= entry.alters
            read |= entry.reads
        return best

    def done(self, entry: Entry) -> None:
        """It has gone well."""
        self._running = [each for each in self._running if each is not entry]
