"""The journal of a restore or an undo, in state/restore.json, and the record of what it replaced, in state/undo.json.

The journal is written before each step, so that whatever dies at any line leaves its name behind: what state things
are in, and which way they go. It is there from before the first change until after the last one.
"""

from __future__ import annotations

from backup.operations.restore.journal.files import JOURNAL, KEPT, JournalFile, KeptFile
from backup.operations.restore.journal.messages import (
    commands,
    journal_reason,
    lost_words,
    running,
    state,
    unfinished,
    words,
)
from backup.operations.restore.journal.model import (
    DatabaseSwap,
    Direction,
    Journal,
    Kept,
    KeptDatabase,
    KeptVolume,
    Lost,
    Step,
    Stopped,
    VolumeSwap,
    direction,
)

__all__ = [
    "JOURNAL",
    "KEPT",
    "DatabaseSwap",
    "Direction",
    "Journal",
    "JournalFile",
    "Kept",
    "KeptDatabase",
    "KeptFile",
    "KeptVolume",
    "Lost",
    "Step",
    "Stopped",
    "VolumeSwap",
    "commands",
    "direction",
    "journal_reason",
    "lost_words",
    "running",
    "state",
    "unfinished",
    "words",
]
