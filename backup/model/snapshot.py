"""Which transactions a dump saw. Plain data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from backup.model.frozen import Frozen

_XID: Final = 1 << 32


class DumpSnapshot(Frozen):
    """Which transactions a dump saw, in a place of its server's WAL.

    `transactions` as pg_current_snapshot writes them: `xmin:xmax:xip,xip`. All that were seen had been committed before
    `place`, which is of `timeline`. `rewritten` are tables whose rows it may have seen as they were later: a TRUNCATE,
    or an ALTER TABLE that writes all rows anew, shows what is new to whoever comes to the table behind it.
    """

    transactions: str
    place: str
    timeline: int
    rewritten: tuple[str, ...] = ()

    @property
    def end(self) -> int:
        """The first transaction that had not ended when the last one did that had; ValueError."""
        _, last, _ = self.transactions.split(":")
        return int(last)

    @property
    def running(self) -> tuple[str, ...]:
        """The transactions that had begun before the newest one it saw, and were not seen."""
        return tuple(filter(None, self.transactions.rpartition(":")[2].split(",")))

    def seeing(self) -> Callable[[int], bool]:
        """Whether it saw a transaction that was committed, by its number of 32 bits as the WAL has it; ValueError."""
        end, running = self.end, {int(each) % _XID for each in self.running}
        # Numbers come round: of two, the later one is less than half of them ahead.
        return lambda number: (number - end) % _XID >= _XID // 2 and number not in running
