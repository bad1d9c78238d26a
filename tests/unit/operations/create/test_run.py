"""A run leaves a record of how it ended, whatever it fails at."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from backup.app.composition import App
from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.config import loader
from backup.errors import BackupError, NoSpace, StoreError
from backup.media import archive_tree as sources
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run
from backup.operations.create import verify_new
from backup.operations.create.run import Request, create_set
from backup.operations.verify.run import verify_set
from backup.operations.watchdog import Watchdog
from backup.progress import Silent
from tests.unit.catalog.test_catalog import NOW, published


@pytest.fixture
def app(tmp_path: Path) -> App:
    (tmp_path / "volumes" / "media").mkdir(parents=True)
    (tmp_path / "volumes" / "media" / "a").write_text("a")
    return App(
        loader.load_settings({"BACKUP_DIR": str(tmp_path / "b"), "BACKUP_VOLUMES_DIR": str(tmp_path / "volumes")})
    )


def media(app: App) -> Run:
    return create_set(Request(tier=Tier.DAILY, only="media"), app.create_context(Silent()))


def test_a_run_says_what_it_was_asked_for(app: App) -> None:
    assert media(app).only == "media"
    assert app.records.all()[0].only == "media"


@pytest.mark.parametrize(("owner", "name"), [(Records, "begin"), (Catalog, "new_id"), (Catalog, "sweep")])
def test_a_run_that_fails_before_it_begins_is_recorded(
    app: App, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    def full(*_: object) -> None:
        raise NoSpace("the backup volume is full", "Free space.")

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(BackupError, match="full"):
            media(app)
    (run,) = app.records.all()
    assert (run.outcome, run.exit_code, run.only) == (Outcome.FAILED, 30, "media")
    assert (run.message, run.hint) == ("the backup volume is full", "Free space.")
    assert media(app).exit_code == 0


@pytest.mark.parametrize("when", ["archived", "verified"])
def test_a_disk_that_hangs_is_told_with_what_is_there_by_then(
    app: App, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    killed = threading.Event()
    records: list[Run] = []

    def kill(process: int, number: int) -> None:
        records.extend(app.records.all())
        killed.set()

    def hang(*arguments: object, **options: object) -> None:
        progress = arguments[1] if when == "verified" else options["progress"]
        (progress.advance if isinstance(progress, Watchdog) else progress)(1)  # type: ignore[operator]
        assert killed.wait(20)
        raise StoreError("killed")

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(*((verify_new, "check_set") if when == "verified" else (sources, "archive")), hang)
    with pytest.raises(StoreError):
        create_set(
            Request(tier=Tier.DAILY, only="media"), replace(app.create_context(Silent()), stall_timeout=0.1), least=0.1
        )
    (run,) = records
    assert (run.outcome, run.exit_code) == (Outcome.FAILED, 137)
    sets = [stored.id for stored in app.catalog.sets()]
    if when == "verified":
        assert [run.set] == sets and f"{run.set} is published, but was not verified" in run.message
        assert run.seconds["total"] > 0
    else:
        assert not run.set and not sets and "nothing of it was published" in run.message


def test_a_volume_of_one_great_hole_is_a_sign_of_life_while_it_is_verified(app: App) -> None:
    with open(app.settings.volumes / "media" / "hole", "wb") as file:
        file.truncate(200 << 20)
    calls: list[int] = []

    class Counted(Silent):
        def advance(self, count: int) -> None:
            calls.append(count)

    media(app)
    (stored,) = app.catalog.sets()
    assert not verify_set(app.catalog, stored, Counted(), NOW).problems
    assert len(calls) > 200


def test_damage_that_cannot_be_noted_is_told(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = app.catalog.find(published(app.catalog))
    (path,) = (app.settings.root / "daily").glob("*.tar.gz")
    whole = path.read_bytes()

    def fails(*_: object) -> None:
        raise StoreError("the disk is read-only")

    monkeypatch.setattr(Catalog, "record_verdict", fails)
    assert verify_set(app.catalog, stored, Silent(), NOW, quick=True).problems == ()
    path.write_bytes(whole[::-1])
    assert "could not be saved" in verify_set(app.catalog, stored, Silent(), NOW, quick=True).problems[-1]
