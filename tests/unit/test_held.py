"""Names of what a restore makes; and that what is done is what a person agreed to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup import wiring_restore
from backup.cli import main, restoring
from backup.errors import EngineError
from backup.journal import Kept, KeptFile
from backup.operations.restore.held import stamp
from backup.records import Run

NOW = datetime(2026, 1, 2, 3, 4, 59, tzinfo=UTC)
FIRST, SECOND = (Kept(id=f"2026010203045{number}", set=f"daily_{number}", replaced=NOW) for number in (1, 2))


def test_a_restore_within_the_same_second_has_a_name_of_its_own(tmp_path: Path) -> None:
    run = Run(id="r", operation="restore", started=NOW)
    assert stamp(tmp_path, run) == "20260102030459"
    KeptFile(tmp_path).write(Kept(id="20260102030459", set="daily_x", replaced=NOW))
    assert stamp(tmp_path, run) == "20260102030500"


def _no_engine() -> None:
    raise EngineError("there is none")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A backup volume with nothing around it."""
    for name in ("backups", "volumes", "spool"):
        (tmp_path / name).mkdir(0o700)
    monkeypatch.setenv("BACKUP_DIR", str(tmp_path / "backups"))
    monkeypatch.setenv("BACKUP_VOLUMES_DIR", str(tmp_path / "volumes"))
    monkeypatch.setenv("BACKUP_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setattr(wiring_restore, "Engine", _no_engine)
    monkeypatch.setenv("DB_HOST", "127.0.0.1")
    monkeypatch.delenv("container", raising=False)
    umask = os.umask(0o077)
    yield tmp_path / "backups"
    os.umask(umask)


@pytest.mark.parametrize("words", [("undo",), ("undo", "--discard")])
@pytest.mark.parametrize(("seen", "there"), [(FIRST, SECOND), (FIRST, None), (None, SECOND)])
def test_another_restore_ends_while_a_person_is_asked(
    root: Path,
    words: tuple[str, ...],
    seen: Kept | None,
    there: Kept | None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What is kept then is not what the question named: it stays, and nothing is brought back."""
    file = KeptFile(root)
    if seen:
        file.write(seen)

    def asked(force: bool, question: str) -> None:
        assert (f"restore of {seen.set}" if seen else "what the last restore replaced") in question
        file.write(there) if there else file.remove()

    monkeypatch.setattr(restoring, "_confirm", asked)
    code = main(list(words))
    said = "".join(capfd.readouterr())
    assert code == (11 if seen or words != ("undo",) else 44), said
    assert file.read() == there and "nothing" in said
