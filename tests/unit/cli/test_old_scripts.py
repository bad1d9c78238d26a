"""Files of the old scripts by the command line: one set of a dump and its archives, by any of their names."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup.catalog.catalog import Catalog
from backup.cli import main
from backup.model.backup_set import Proof, Verdict
from backup.model.manifest import Tier
from tests.support.schemas import checked
from tests.support.set_factory import UTC_ZONE
from tests.unit.catalog.test_old_scripts import DUMP, ID, LATER, MEDIA, OLDER, PILOT
from tests.unit.catalog.test_old_scripts import catalog as catalog

NOW = datetime(2025, 10, 21, 5, tzinfo=UTC)


@pytest.fixture
def root(catalog: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    volumes = tmp_path_factory.mktemp("volumes")
    (volumes / "media").mkdir()
    for name, value in {"BACKUP_DIR": catalog.root, "BACKUP_VOLUMES_DIR": volumes, "TZ": "UTC"}.items():
        monkeypatch.setenv(name, str(value))
    return catalog.root


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main([*words]) == code, capsys.readouterr()
    found = capsys.readouterr()
    return found.out if "--json" in words or not code else found.out + found.err


def test_what_was_found_is_told_by_every_list(root: Path, catalog: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "verify", MEDIA)
    said(capsys, "verify", OLDER)
    assert f"{ID}\t2025-10-20T02:00:00Z" in (listed := said(capsys, "list")) and LATER not in listed
    assert listed.count("old script, verified") == 2 and listed.count("\n") == 3
    catalog.record_verdict(catalog.find(ID), Verdict(checked=NOW, proof=Proof(tried=NOW, seconds={"total": 3})), NOW)
    shown = said(capsys, "show", LATER)
    assert DUMP in shown and MEDIA in shown and "equal" in shown and "every byte as written" not in shown
    assert "2025-10-21 05:00:00: unpacks to its end" in shown
    found = checked(said(capsys, "show", ID, "--json"))
    assert found["proven"] and not found["good"] and found["verdict"]["proof"]["differences"] == []
    status, listed = (checked(said(capsys, command, "--json"))["sets"] for command in ("status", "list"))
    known = {each["id"]: each for each in status}
    assert listed == status and found | known[ID] == found, "a set has one form"
    assert known[ID]["proven"] and known[ID]["drilled"] and known[ID]["verified"] and len(known) == 3
    report = said(capsys, "monitor", "--report")
    assert "old script, proven" in report and "old script, verified" in report
    used = {each["id"]: each for each in checked(said(capsys, "du", "--json"))["sets"]}
    assert set(used) == {ID, "daily_2025-10-20_14-00-00", "daily_2025-10-20_16-00-00"}, "its files are one set's"
    assert used[ID]["kind_bytes"]["database"] and used[ID]["kind_bytes"]["media"]
    assert "never" in said(capsys, "show", PILOT)


def test_two_files_are_named_at_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{OLDER} + {MEDIA}" in said(capsys, "verify", OLDER, MEDIA), "of two sets, because a person says so"
    assert "2 dumps were named" in said(capsys, "verify", OLDER, PILOT, code=44)
    for command in ("restore", "drill"):
        assert "is a set" in said(capsys, command, ID, OLDER, code=44)
    assert f"{ID}: " in said(capsys, "verify", DUMP, MEDIA)


def test_they_are_imported_as_they_are(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old := tmp_path / "old" / "weekly").mkdir(parents=True)
    for name in (DUMP, MEDIA, OLDER):
        (old / name.replace("daily", "weekly")).write_bytes((root / "daily" / name).read_bytes())
    said(capsys, "import", str(old.parent))
    there = Catalog(root, UTC_ZONE).sets(Tier.WEEKLY)
    pair = tuple(name.replace("daily", "weekly") for name in (DUMP, MEDIA))
    assert [each.files for each in there] == [(OLDER,), pair]
    assert all(each.shown == "verified" for each in there), "as each was read"
    assert "2" in said(capsys, "import", str(old.parent)), "they are known"
    assert said(capsys, "import", str(old / OLDER)).count("here already")


def test_an_archive_under_an_older_dumps_name_is_damage(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever restored it would get no database."""
    (root / "daily" / PILOT).write_bytes((root / "daily" / MEDIA).read_bytes())
    assert "an archive under a dump's name" in said(capsys, "verify", PILOT, code=40)
