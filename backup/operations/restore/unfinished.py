"""While a restore stands half way nothing else is done: a set made then would hold half of each state."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

from backup.errors import LockHeld
from backup.operations.restore.journal import Journal, JournalFile, running, unfinished
from backup.storage import lock

# What a run that ends the restore of another one is called by the holder of the lock.
_RECOVER: Final = "recover "
LOOK: Final = "Wait for it to end, look at what is live then, and decide again."


def standing(root: Path) -> tuple[Journal, str] | None:
    """The restore that has not ended, and who is at work on it; empty when nobody is: then it stands half way.

    Journal and lock cannot be read at once. A restore notes its end before it lets go of the lock, so a journal that
    is the same after the lock was seen without it is one that nobody works on.
    """
    file = JournalFile(root)
    while journal := file.read():
        who = lock.holder(root / "state" / "lock") or ""
        at_it = who.startswith(_RECOVER) or lock.names(who, journal.run)
        if at_it or file.read() == journal:
            return journal, who if at_it else ""
    return None


def refuse_unfinished(root: Path, now: datetime) -> None:
    """RestoreUnfinished while one stands half way, LockHeld while one is under way."""
    if found := standing(root):
        journal, who = found
        if who:
            raise LockHeld(f"{running(journal, who)}; nothing was done", LOOK)
        raise unfinished(journal, now)
