"""Names of what a restore makes; and that what is done is what a person agreed to."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from backup.app import restore
from backup.cli import main
from backup.cli import restore as restoring
from backup.errors import EngineError, LockHeld
from backup.model.run import Run
from backup.operations.restore import locking
from backup.operations.restore.context import RestoreContext
from backup.operations.restore.journal import Journal, JournalFile, Kept, KeptDatabase, KeptFile
from backup.operations.restore.locking import require_unmoved, stamp
from backup.storage import lock
from tests.support.facts import on_disk
from tests.support.faults import eventually

NOW = datetime(2026, 1, 2, 3, 4, 59, tzinfo=UTC)
FIRST, SECOND = (Kept(id=f"2026010203045{number}", set=f"daily_{number}", replaced=NOW) for number in (1, 2))


def test_a_restore_within_the_same_second_has_a_name_of_its_own(tmp_path: Path) -> None:
    run = Run(id="r", operation="restore", started=NOW)
    assert stamp(tmp_path, run) == "20260102030459"
    KeptFile(tmp_path).write(Kept(id="20260102030459", set="daily_x", replaced=NOW))
    assert stamp(tmp_path, run) == "20260102030500"


@pytest.mark.parametrize("who", ["create snapshot that gives way", "create daily"])
def test_a_look_asks_what_gives_way_to_all_and_waits_for_the_rest(tmp_path: Path, who: str) -> None:
    (tmp_path / "state").mkdir()
    path, asked = tmp_path / "state" / "lock", tmp_path / "state" / "restore-first"
    held, waits = threading.Event(), threading.Event()

    def hold() -> None:
        with lock.hold(path, who, "r"):
            held.set()
            eventually(asked.exists) if "gives way" in who else waits.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    waits.set()
    with locking.looking(path, "look at a moment", "s"):
        assert asked.exists() == ("gives way" in who)
        assert "look at a moment" in (lock.holder(path) or "")
    thread.join()


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
    monkeypatch.setattr(restore, "Engine", _no_engine)
    monkeypatch.setenv("DB_HOST", "127.0.0.1")
    monkeypatch.delenv("container", raising=False)
    umask = os.umask(0o077)
    yield tmp_path / "backups"
    os.umask(umask)


@pytest.mark.parametrize(
    "words",
    [
        ("undo", "--force"),
        ("undo", "--dry-run"),
        ("undo", "--discard", "--force"),
        ("restore", "latest", "--only", "media", "--dry-run"),
        ("restore", "latest", "--only", "media", "--path", "a", "--dry-run"),
        ("prune", "--dry-run"),
    ],
)
@pytest.mark.parametrize(
    ("holder", "under_way"),
    [(None, False), (("restore x", "run-1"), True), (("recover", "run-2"), True), (("create daily", "run-3"), False)],
)
def test_a_restore_is_under_way_as_long_as_somebody_is_at_it(
    root: Path,
    words: tuple[str, ...],
    holder: tuple[str, str] | None,
    under_way: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Who is told to roll back what runs would wait for it, and then undo what went well."""
    on_disk(root, 1)
    (root.parent / "volumes" / "media").mkdir()
    JournalFile(root).begin(Journal(id="i", run="run-1", set="daily_x", started=NOW))
    with lock.hold(root / "state" / "lock", *holder) if holder else contextlib.nullcontext():
        code = main(list(words))
    said = "".join(capfd.readouterr())
    running = "the restore of daily_x is running" in said or "another run is changing the live data" in said
    assert (running and f"(run {holder[1] if holder else ''} in" in said and "since 20" in said) == under_way, said
    assert ("stopped at `loading`" in said and "--rollback" in said) == (not under_way), said
    assert (code == 11) == under_way and code, said


def test_a_database_that_is_seen_to_be_lost_is_no_other_restore(tmp_path: Path) -> None:
    """After the loss of the server the run itself notes it, between a person's yes and the start."""
    context = cast("RestoreContext", SimpleNamespace(catalog=SimpleNamespace(root=tmp_path)))
    database = KeptDatabase(live="app", current_oid=1, kept="app_old", kept_oid=2)
    seen = FIRST.model_copy(update={"database": database})
    for noted in (seen.with_lost("gone"), seen.with_lost("half removed"), seen):
        KeptFile(tmp_path).write(noted)
        require_unmoved(context, seen)
        require_unmoved(context, seen.with_lost("gone"))
    for other in (FIRST, seen.model_copy(update={"id": "other"}), None):
        with pytest.raises(LockHeld, match="meanwhile"):
            require_unmoved(context, other)


def test_a_plan_beside_the_safety_set_of_a_restore_says_so(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """There is no journal yet."""
    on_disk(root, 1)
    (root.parent / "volumes" / "media").mkdir()
    for words in (["restore", "latest", "--only", "media", "--dry-run"], ["undo", "--dry-run"]):
        with lock.hold(root / "state" / "lock", "create pre-restore", "run-1"):
            assert main(words) == 11
        said = "".join(capfd.readouterr())
        assert "changing the live data: create pre-restore (run run-1 in" in said and "decide again" in said, said


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
