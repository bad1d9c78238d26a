"""A set comes back whole, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backup import elsewhere
from backup.errors import (
    BackupError,
    IntegrityError,
    NoSpace,
    NotFound,
    RemoteArchived,
    RemoteFailed,
    RemoteMissing,
    StoreError,
)
from backup.manifest import Tier
from backup.operations.offsite import fetch
from backup.operations.offsite.fetch import pull_to, sweep, temporarily
from backup.operations.offsite.place import pick
from backup.sets import StoredSet
from backup.stores.staged import StagedFile
from tests.unit.offsite.conftest import Stack


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_folder_gets_what_was_sent(stack: Stack, tmp_path: Path) -> None:
    made = stack.make()
    sent = {path.name: path.read_bytes() for path in (stack.root / "daily").iterdir() if path.suffix != ".verdict"}
    stack.upload()
    to = tmp_path / "to"
    pull_to(stack.shop(), "latest", to)
    assert {path.name: path.read_bytes() for path in to.iterdir() if path.name != "RESTORE.txt"} == sent
    assert made in (to / "RESTORE.txt").read_text()
    with pytest.raises(StoreError, match="is not empty"):
        pull_to(stack.shop(), "latest", to)


def test_a_set_that_is_here_is_not_overwritten(stack: Stack) -> None:
    made = stack.make()
    stack.upload()
    before = {path: path.read_bytes() for path in (stack.root / "daily").iterdir()}
    with pytest.raises(StoreError, match="is here already and was not overwritten"):
        fetch.pull(stack.shop(), made)
    assert {path: path.read_bytes() for path in (stack.root / "daily").iterdir()} == before


@pytest.mark.parametrize(
    ("mishap", "error", "words"),
    [
        ("flip", IntegrityError, "with other bytes than were sent there"),
        ("longer", IntegrityError, "bytes instead of"),
        ("lose", IntegrityError, "is missing"),
        ("lose manifest", RemoteMissing, "incomplete: its manifest is missing"),
        ("archive", RemoteFailed, "is archived"),
        ("foreign manifest", IntegrityError, "which is not its own"),
        ("evil manifest", IntegrityError, "cannot be used"),
        ("of another", IntegrityError, "is that of"),
        ("no room", NoSpace, "free"),
        ("full", NoSpace, "full"),
    ],
)
def test_what_does_not_come_whole_leaves_nothing(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mishap: str, error: type[BackupError], words: str
) -> None:
    made = stack.make()
    stack.upload()
    for path in list((stack.root / "daily").iterdir()):
        path.unlink()
    key, manifest = f"daily/obcms_media_{made}.tar.gz", f"daily/obcms_set_{made}.json"
    described = json.loads(stack.place.objects[manifest])
    if mishap == "flip":
        stack.place.flip(key)
    elif mishap == "longer":
        stack.place.lay(key, stack.place.objects[key] + b"more")
    elif mishap == "lose":
        stack.place.lose(key)
    elif mishap == "lose manifest":
        stack.place.lose(manifest)
    elif mishap == "archive":
        stack.place.archive(key)
    elif mishap == "no room":
        monkeypatch.setattr(fetch, "free_space", lambda directory: 100)
    elif mishap == "full":
        monkeypatch.setattr(StagedFile, "seal", _full)
    else:
        if mishap == "of another":
            described["id"] = "daily_2001-01-01_00-00-00"
        else:
            described["artifacts"][0]["file"] = {"foreign manifest": "authorized_keys", "evil manifest": "../x"}[mishap]
        stack.place.lay(manifest, json.dumps(described).encode())
    with pytest.raises(error, match=words):
        fetch.pull(stack.shop(), made)
    assert names(stack.root / "daily") == []
    with pytest.raises(error, match=words):
        pull_to(stack.shop(), made, tmp_path / "to")
    assert names(tmp_path / "to") == []


def _full(self: StagedFile) -> None:
    raise NoSpace("the backup volume is full", "")


def test_what_was_archived_comes_back_once_the_store_has_its_bytes(stack: Stack, tmp_path: Path) -> None:
    made = stack.make()
    stack.upload()
    keys = [key for key in stack.keys(made) if not key.endswith(".json")]
    for key in keys:
        stack.place.archive(key)
    with pytest.raises(RemoteArchived) as refused:
        pull_to(stack.shop(), made, tmp_path / "to")
    assert all(f"s3://memory/{key}" in refused.value.hint for key in keys)
    for key in keys:
        stack.place.thaw(key)
    assert pull_to(stack.shop(), made, tmp_path / "to").id == made


def test_latest_is_the_newest_whole_set_with_a_database(stack: Stack) -> None:
    whole, files, broken = stack.make(3), stack.make(2, halves="m"), stack.make(1)
    stack.upload()
    stack.place.lose(f"daily/obcms_media_{broken}.tar.gz")
    assert pick(stack.place, "latest")[0].id == whole != files
    for key in list(stack.place.objects):
        stack.place.lose(key)
    with pytest.raises(NotFound, match="no whole set"):
        pick(stack.place, "latest")
    with pytest.raises(NotFound, match="no set at"):
        pick(stack.place, "daily_2025-10-01_02-00-00")


def test_a_temporary_folder_is_gone_afterwards(stack: Stack) -> None:
    made = stack.make()
    stack.upload()

    def find(folder: Path) -> StoredSet:
        return elsewhere.find(stack.catalog, str(folder), ["media"])

    with temporarily(stack.shop(), "latest", find) as stored:
        assert stored.id == made and stored.good and stored.directory.parent == stack.root / "temp"
        sweep(stack.root)  # not of one that is at work
        assert names(stored.directory)
    assert names(stack.root / "temp") == []


def test_what_a_kill_left_is_swept(stack: Stack) -> None:
    left = stack.root / "temp" / "20251020T120000Z-abcdef"
    left.mkdir(parents=True)
    (left / "obcms.gz").write_text("half")
    (stack.root / "temp" / "20251020T120000Z-abcdef.lock").write_text("")
    outside = stack.root / "outside"
    outside.mkdir()
    (stack.root / "temp" / "link").symlink_to(outside)
    sweep(stack.root)
    assert not left.exists() and outside.exists()
    assert names(stack.root / "temp") in ([], ["link"])


def test_the_tier_comes_back_to_its_folder(stack: Stack) -> None:
    made = stack.make(tier=Tier.MONTHLY)
    stack.upload()
    for path in list((stack.root / "monthly").iterdir()):
        path.unlink()
    with pytest.raises(IntegrityError):  # these small files are no dumps: it is published, then found so
        fetch.pull(stack.shop(), made)
    assert stack.catalog.find(made).state == "damaged" and stack.catalog.find(made).tier is Tier.MONTHLY
