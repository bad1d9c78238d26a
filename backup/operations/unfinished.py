"""While a restore stands half way nothing else is done: a set made then would hold half of each state."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from backup.journal import JournalFile, unfinished


def refuse_unfinished(root: Path, now: datetime) -> None:
    """RestoreUnfinished while one stands half way."""
    if journal := JournalFile(root).read():
        raise unfinished(journal, now)
