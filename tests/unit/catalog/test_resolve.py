"""Sets outside of the backup volume are named by their path, also in what a person is told to type next."""

from __future__ import annotations

import gzip
import shlex
import shutil
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup.catalog import resolve
from backup.catalog.catalog import Catalog
from backup.errors import BackupError
from backup.model.backup_set import StoredSet, volumes_of
from backup.model.manifest import Tier
from backup.operations.restore.plan import RestoreFacts, plan
from backup.operations.set_artifacts import dump_of
from backup.operations.verify.run import verify_set
from backup.progress import Silent
from tests.support.set_factory import UTC_ZONE, on_disk

NOW = datetime(2026, 3, 1, 5, tzinfo=UTC)


def test_hints_for_a_set_elsewhere_name_its_path(tmp_path: Path) -> None:
    root, carried = tmp_path / "backups", tmp_path / "from the old machine"
    identifier = on_disk(root, Tier.DAILY, NOW, "verified")
    shutil.copytree(root / "daily", carried)
    catalog = resolve.Catalog(root, UTC_ZONE)
    here, there = resolve.find_set(catalog, identifier, []), resolve.find_set(catalog, str(carried), [])
    assert here.id == there.id and here.query == identifier
    assert shlex.split(there.query) == [str(carried)]
    (hint,) = [r.hint for r in plan(RestoreFacts(NOW, UTC_ZONE, there)).warnings if "no drill" in r.text]
    assert f"drill {there.query}" in hint
    assert resolve.find_set(catalog, *there.paths, []).id == identifier, "what the hint says works"


def test_so_do_those_for_files_that_are_no_set(tmp_path: Path) -> None:
    path = tmp_path / "my dump.sql"
    path.write_text("--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 17.1\n")
    found = resolve.find_set(resolve.Catalog(tmp_path / "backups", UTC_ZONE), str(path), [])
    assert shlex.split(found.query) == [str(path)]


# --- several files -----------------------------------------------------------------------------------------------

STAMPS = ("2025-10-20_02-00-00", "2025-10-20_02-20-00")
DUMP, MEDIA = f"obcms_backup_daily_{STAMPS[0]}.sql.gz", f"obcms_media_daily_{STAMPS[1]}.tar.gz"
PLAIN = b"--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 17.1\n"


def media(folder: Path, name: str = MEDIA, root: str = "media") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / name, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(f"{root}/a.txt"))
    return str(folder / name)


def dump(folder: Path, name: str = DUMP) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(gzip.compress(PLAIN))
    return str(folder / name)


def together(root: Path, *queries: str) -> StoredSet:
    return resolve.together(Catalog(root, UTC_ZONE), queries, ["media", "ocr"])


def test_two_files_of_one_folder_are_restored_together(tmp_path: Path) -> None:
    """What a run made that took so long between them that they are no set by their names."""
    for folder in (tmp_path / "elsewhere", tmp_path / "daily", tmp_path / "manual"):
        files = dump(folder), media(folder)
        for queries in (files, files[::-1], (DUMP, MEDIA) if folder.name == "daily" else files):
            found = together(tmp_path, *queries)
            assert (dump_of(found), volumes_of(found)) == (DUMP, ["media"])
            assert found.id == f"{DUMP} + {MEDIA}" and found.directory == folder
            assert shlex.split(found.query) == [*files] and together(tmp_path, *shlex.split(found.query)).id == found.id
            assert [each.time and f"{each.time:%H-%M-%S}" for each in found.loose] == ["02-00-00", "02-20-00"]
    assert verify_set(Catalog(tmp_path, UTC_ZONE), found, Silent(), NOW).problems, "cut, and nothing is noted of them"
    assert not list(tmp_path.rglob("*.verdict"))


def test_files_of_one_set_are_that_set(tmp_path: Path) -> None:
    made = on_disk(tmp_path, Tier.DAILY, NOW, "verified")
    stored = Catalog(tmp_path, UTC_ZONE).find(made)
    for names in (stored.files[:2], [str(stored.directory / name) for name in stored.files[:2]], [made], ["latest"]):
        assert together(tmp_path, *names).id == made
    pair = dump(tmp_path / "pair"), media(tmp_path / "pair", MEDIA.replace("02-20-00", "02-00-09"))
    assert together(tmp_path, *pair).id == f"daily_{STAMPS[0]}"


def test_a_folder_called_as_a_tier_is_taken_with_all_that_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "old" / "daily"
    dump(folder, "obcms_backup_20251020_020000.sql.gz")
    media(folder, "media.tar.gz")
    found = together(tmp_path / "backups", str(folder))
    assert dump_of(found) and volumes_of(found) == ["media"]
    media(folder, MEDIA.replace("02-20-00", "02-00-09"))
    (folder / "media.tar.gz").unlink()
    assert together(tmp_path / "backups", str(folder)).id == f"daily_{STAMPS[0]}"


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    made, folder = on_disk(tmp_path, Tier.DAILY, NOW, "verified"), tmp_path / "elsewhere"
    ours = f"obcms_media_{made}.tar.gz"
    one, archive = dump(folder), media(folder)
    other = dump(folder, "other.sql.gz")
    (folder / "notes.txt").write_text("notes")
    there = dump(tmp_path / "daily", "obcms_backup_20251020_020000.sql.gz")
    for queries, said in (
        ((one, other), f"2 dumps were named: {DUMP}, other.sql.gz"),
        ((one, archive, media(folder, "again.tar.gz")), f"2 archives of one volume were named: again.tar.gz, {MEDIA}"),
        ((one, media(tmp_path / "second")), f"the files lie in 2 folders: {folder}, {tmp_path / 'second'}"),
        ((made, archive), f"{made!r} is a set"),
        (("latest", archive), "'latest' is a set"),
        ((str(folder), archive), "is a folder"),
        (("s3:latest", archive), "no file is called 's3:latest'"),
        ((there, ours), f"{ours} belongs to the set {made}"),
        ((one, str(folder / "notes.txt")), "notes.txt"),
        ((one, str(folder / "gone.tar.gz")), "no file is called"),
    ):
        with pytest.raises(BackupError) as error:
            together(tmp_path, *queries)
        assert said in error.value.message and error.value.hint, (queries, error.value.message)
