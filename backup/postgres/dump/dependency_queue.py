"""In which order, and beside what, the parts of a load that build on rows can be done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from backup.postgres.dump.contents import Part


@dataclass(frozen=True)
class Entry:
    """`script`, and what it changes (`alters`) or what must not change meanwhile (`reads`): tables, and rows to come.

    `kind` and `name` are as in pg_dump's comment.

    `alone`: it may need anything that is before it. `last`: it would act on those that come behind it in the dump.
    `weight` grows with the rows that it works through: a guess, which makes no entry another one. `parts` are those of
    the dump whose rows follow the script.
    """

    script: bytes
    alters: frozenset[bytes] = frozenset()
    reads: frozenset[bytes] = frozenset()
    alone: bool = False
    last: bool = False
    weight: int = field(default=0, compare=False)
    kind: str = ""
    name: str = ""
    parts: tuple[Part, ...] = ()


class Queue:
    """Entries in an order that the dump's allows: the heaviest that waits for nothing goes first.

    `running` is under way from the start.
    """

    # Enough to find work for every session, without looking through all that is left each time.
    _WINDOW: Final = 64

    def __init__(self, entries: Iterable[Entry] = (), running: Iterable[Entry] = ()) -> None:
        self._waiting = list(entries)
        self._running = list(running)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def add(self, entries: Iterable[Entry]) -> None:
        """They come behind all that is there."""
        self._waiting += entries

    def take(self) -> Entry | None:
        """The next one to do, None while those under way have to be done first."""
        best = self._best()
        if best is not None:
            # By identity: two entries may be equal.
            del self._waiting[next(i for i, entry in enumerate(self._waiting) if entry is best)]
            self._running.append(best)
        return best

    def _best(self) -> Entry | None:
        if any(entry.alone for entry in self._running):
            return None
        # What those that come before have to themselves, and what they share.
        altered = {each for entry in self._running for each in entry.alters}
        read = {each for entry in self._running for each in entry.reads}
        best = None
        for place, entry in enumerate(self._waiting[: self._WINDOW]):
            if entry.alone:
                return best if place or self._running else entry
            free = altered.isdisjoint(entry.alters | entry.reads) and read.isdisjoint(entry.alters)
            if free and (best is None or entry.weight > best.weight):
                best = entry
            altered |= entry.alters
            read |= entry.reads
        return best

    def done(self, entry: Entry) -> None:
        """It has gone well."""
        self._running = [each for each in self._running if each is not entry]
