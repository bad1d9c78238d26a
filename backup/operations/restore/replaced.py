"""What the last restore replaced, as the server has it now: somebody may have dropped it, or half of it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from backup.errors import BackupError
from backup.operations.restore.journal import Kept, KeptFile, Lost
from backup.postgres.server import find_database
from backup.postgres.session import Login


def lost(login: Login, kept: Kept) -> Lost:
    """Why its database cannot come back; empty if it can."""
    if kept.database is None:
        return ""
    found = find_database(login, oid=kept.database.kept_oid)
    if found is None:
        return "gone"
    return "half removed" if found.half_removed else ""


def note_lost(root: Path, login: Login) -> None:
    """Note for those who ask no server whether the database can come back, if that can be told. Only under the lock."""
    file = KeptFile(root)
    with contextlib.suppress(BackupError):
        kept = file.read()
        if kept and kept != (now := kept.with_lost(lost(login, kept))):
            file.write(now)
