"""Names of what a restore makes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from backup.journal import Kept, KeptFile
from backup.operations.restore.held import stamp
from backup.records import Run

NOW = datetime(2026, 1, 2, 3, 4, 59, tzinfo=UTC)


def test_a_restore_within_the_same_second_has_a_name_of_its_own(tmp_path: Path) -> None:
    run = Run(id="r", operation="restore", started=NOW)
    assert stamp(tmp_path, run) == "20260102030459"
    KeptFile(tmp_path).write(Kept(id="20260102030459", set="daily_x", replaced=NOW))
    assert stamp(tmp_path, run) == "20260102030500"
