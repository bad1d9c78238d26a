"""The crontab leaves out what the scheduler would get wrong, for as long as it would."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup.config.loader import load
from backup.errors import BackupError
from backup.operations.jobs import COMMANDS, Crontab, jobs

BEFORE, EVE, AFTER = (datetime(2025, 3, day, 12, tzinfo=UTC) for day in (6, 8, 9))


def table(place: Path) -> Crontab:
    # `true` takes the place of the scheduler: it accepts every crontab.
    return Crontab(load({"TZ": "America/New_York"}), ["backup"], place, "true")


def test_a_line_is_held_back_until_the_clock_has_changed(tmp_path: Path) -> None:
    crontab, file = table(tmp_path), tmp_path / "crontab"
    whole = file.read_text()
    assert len(whole.splitlines()) == sum(map(bool, jobs(load({})).values())) and "#" not in whole
    assert not crontab.refresh(BEFORE) and crontab.held == set()
    assert crontab.refresh(EVE) and crontab.held == {"daily"}
    assert not crontab.refresh(EVE)
    held = file.read_text().splitlines()
    assert held[0].startswith("# ") and held[1:] == whole.splitlines()[1:]
    assert crontab.refresh(AFTER) and file.read_text() == whole


def test_a_crontab_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    crontab, file = table(tmp_path), tmp_path / "crontab"
    file.unlink()
    file.mkdir()
    with pytest.raises(BackupError, match="cannot be written"):
        crontab.refresh(EVE)
    file.rmdir()
    assert crontab.refresh(EVE) and crontab.held == {"daily"}


def test_every_job_has_a_line_and_a_command() -> None:
    assert set(jobs(load({}))) == set(COMMANDS)
