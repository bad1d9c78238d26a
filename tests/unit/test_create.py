"""A run leaves a record of how it ended, whatever it fails at."""

from __future__ import annotations

from pathlib import Path

import pytest

from backup import config
from backup.catalog import Catalog
from backup.errors import BackupError, NoSpace, StoreError
from backup.manifest import Tier
from backup.operations.backup import Request, create
from backup.operations.verify import verify
from backup.progress import Silent
from backup.records import Outcome, Records, Run
from backup.wiring import App
from tests.unit.test_catalog import NOW, published


@pytest.fixture
def app(tmp_path: Path) -> App:
    (tmp_path / "volumes" / "media").mkdir(parents=True)
    (tmp_path / "volumes" / "media" / "a").write_text("a")
    return App(config.load({"BACKUP_DIR": str(tmp_path / "b"), "BACKUP_VOLUMES_DIR": str(tmp_path / "volumes")}))


def media(app: App) -> Run:
    return create(Request(tier=Tier.DAILY, only="media"), app.workshop(Silent()))


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


def test_damage_that_cannot_be_noted_is_told(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = app.catalog.find(published(app.catalog))
    (path,) = (app.settings.root / "daily").glob("*.tar.gz")
    whole = path.read_bytes()

    def fails(*_: object) -> None:
        raise StoreError("the disk is read-only")

    monkeypatch.setattr(Catalog, "record_verdict", fails)
    assert verify(app.catalog, stored, Silent(), NOW, quick=True).problems == ()
    path.write_bytes(whole[::-1])
    assert "could not be kept" in verify(app.catalog, stored, Silent(), NOW, quick=True).problems[-1]
