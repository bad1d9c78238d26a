"""Sets outside of the backup volume are named by their path, also in what a person is told to type next."""

from __future__ import annotations

import shlex
import shutil
from datetime import UTC, datetime
from pathlib import Path

from backup.catalog import resolve
from backup.model.manifest import Tier
from backup.operations.restore.plan import Facts, plan
from tests.support.set_factory import UTC_ZONE, on_disk

NOW = datetime(2026, 3, 1, 5, tzinfo=UTC)


def test_hints_for_a_set_elsewhere_name_its_path(tmp_path: Path) -> None:
    root, carried = tmp_path / "backups", tmp_path / "from the old machine"
    identifier = on_disk(root, Tier.DAILY, NOW, "verified")
    shutil.copytree(root / "daily", carried)
    catalog = resolve.Catalog(root, UTC_ZONE)
    here, there = resolve.find(catalog, identifier, []), resolve.find(catalog, str(carried), [])
    assert here.id == there.id and here.query == identifier
    assert shlex.split(there.query) == [str(carried)]
    (hint,) = [r.hint for r in plan(Facts(NOW, UTC_ZONE, there)).warnings if "no drill" in r.text]
    assert f"drill {there.query}" in hint
    assert resolve.find(catalog, there.path, []).id == identifier, "what the hint says works"


def test_so_do_those_for_files_that_are_no_set(tmp_path: Path) -> None:
    path = tmp_path / "my dump.sql"
    path.write_text("--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 17.1\n")
    found = resolve.find(resolve.Catalog(tmp_path / "backups", UTC_ZONE), str(path), [])
    assert shlex.split(found.query) == [str(path)]
