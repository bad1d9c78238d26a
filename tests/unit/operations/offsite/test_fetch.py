"""A set comes back whole, or not at all."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from backup.catalog import resolve
from backup.errors import (
    AlreadyHere,
    BackupError,
    IntegrityError,
    NoSpace,
    NotFound,
    RemoteArchived,
    RemoteFailed,
    RemoteMissing,
    StoreError,
)
from backup.logging import logger
from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier
from backup.operations import runs
from backup.operations.offsite import fetch
from backup.operations.offsite.copy_status import newest_held
from backup.operations.offsite.fetch import pull_to, temporarily
from backup.operations.offsite.remote_state import BookFile
from backup.operations.temporary import sweep_temporary
from backup.storage.staged_file import StagedFile
from tests.unit.operations.offsite.conftest import Stack


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_folder_gets_what_was_sent(stack: Stack, tmp_path: Path) -> None:
    made = stack.make()
    sent = {path.name: path.read_bytes() for path in (stack.root / "daily").iterdir() if path.suffix != ".verdict"}
    stack.upload()
    to = tmp_path / "to"
    pull_to(stack.context(), "latest", to)
    assert {path.name: path.read_bytes() for path in to.iterdir() if path.name != "RESTORE.txt"} == sent
    assert made in (to / "RESTORE.txt").read_text()
    with pytest.raises(StoreError, match="is not empty"):
        pull_to(stack.context(), "latest", to)


def test_a_copy_dated_ahead_of_the_clock_is_not_the_newest(stack: Stack, tmp_path: Path) -> None:
    made = stack.make()
    stack.now += timedelta(days=9)
    ahead = stack.make()
    stack.upload()
    stack.now -= timedelta(days=9)
    assert pull_to(stack.context(), "latest", tmp_path / "to").id == made
    assert pull_to(stack.context(), ahead, tmp_path / "ahead").id == ahead
    book = BookFile(stack.root, "s3").read()
    for now, newest in ((stack.now, made), (stack.now + timedelta(days=9), ahead)):
        held = newest_held(book, now)
        assert held and held.id == newest


def test_a_set_that_is_here_is_not_overwritten(stack: Stack) -> None:
    made = stack.make()
    stack.upload()
    before = {path: path.read_bytes() for path in (stack.root / "daily").iterdir()}
    with pytest.raises(AlreadyHere, match="is here already and was not overwritten") as refused:
        fetch.pull_set(stack.context(), made)
    assert refused.value.exit_code == 46
    assert {path: path.read_bytes() for path in (stack.root / "daily").iterdir()} == before


def test_the_copy_of_a_damaged_set_takes_its_place_and_the_damaged_files_stay_until_it_is_verified(
    stack: Stack,
) -> None:
    made = stack.make(kind="damaged")
    stack.upload()
    assert not stack.keys(made)  # what is damaged is not sent
    sound = stack.make(1)
    stack.upload()
    dump = f"obcms_backup_{sound}.sql.gz"
    (stack.root / "daily" / dump).write_text("damaged")
    damaged = {name: (stack.root / "daily" / name).read_bytes() for name in names(stack.root / "daily")}
    stack.place.flip(f"daily/{dump}")
    with pytest.raises(IntegrityError, match="differs from what was sent"):  # nothing here was touched for a bad copy
        fetch.pull_set(stack.context(), sound)
    assert {name: (stack.root / "daily" / name).read_bytes() for name in names(stack.root / "daily")} == damaged
    stack.place.flip(f"daily/{dump}")
    with pytest.raises(IntegrityError):  # these small files are no dumps: the copy is not verified
        fetch.pull_set(stack.context(), sound)
    assert (stack.root / "daily" / dump).read_text() == sound
    assert (stack.root / "damaged" / sound / dump).read_text() == "damaged"
    with pytest.raises(IntegrityError, match="is not good either") as refused:
        fetch.pull_set(stack.context(), sound)
    assert str(stack.root / "damaged" / sound) in refused.value.hint
    stack.catalog.remove(stack.catalog.find(sound))
    assert stack.catalog.settle() == [] and names(stack.root / "damaged") == [], "what is removed stays removed"


def test_damaged_files_come_back_after_a_kill_between_them_and_the_copy(stack: Stack) -> None:
    made = stack.make(kind="unreadable")
    before = {name: (stack.root / "daily" / name).read_bytes() for name in names(stack.root / "daily")}
    stack.catalog.put_aside(stack.catalog.find(made))
    assert names(stack.root / "daily") == [] and len(names(stack.root / "damaged" / made)) == len(before)
    runs.recover(stack.catalog, stack.records, stack.now)
    assert {name: (stack.root / "daily" / name).read_bytes() for name in names(stack.root / "daily")} == before
    assert names(stack.root / "damaged") == []


@pytest.mark.parametrize(
    ("mishap", "error", "words"),
    [
        ("flip", IntegrityError, "differs from what was sent there"),
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
        fetch.pull_set(stack.context(), made)
    assert names(stack.root / "daily") == []
    with pytest.raises(error, match=words):
        pull_to(stack.context(), made, tmp_path / "to")
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
        pull_to(stack.context(), made, tmp_path / "to")
    assert all(f"s3://memory/{key}" in refused.value.hint for key in keys)
    for key in keys:
        stack.place.thaw(key)
    assert pull_to(stack.context(), made, tmp_path / "to").id == made


def test_latest_is_the_newest_that_can_be_had_and_those_passed_over_are_told(stack: Stack, tmp_path: Path) -> None:
    whole, files, archived, flipped = stack.make(5), stack.make(4, halves="m"), stack.make(3), stack.make(2)
    described, unended, broken = stack.make(1.5), stack.make(1), stack.make(0.5)
    stack.upload()
    stack.place.archive(f"daily/obcms_backup_{archived}.sql.gz")
    stack.place.flip(f"daily/obcms_backup_{flipped}.sql.gz")
    stack.place.lay(f"daily/obcms_set_{described}.json", b"no manifest")
    stack.place.lose(f"daily/obcms_set_{unended}.json")
    stack.place.lose(f"daily/obcms_media_{broken}.tar.gz")
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    assert pull_to(stack.context(), "latest", tmp_path / "to").id == whole
    logger.remove(sink)
    passed = [line.split()[1].strip(":") for line in lines if line.startswith("skipped")]
    assert passed == [broken, unended, described, flipped, archived] and files not in passed
    stack.place.broken.add(f"daily/obcms_backup_{whole}.sql.gz")
    with pytest.raises(RemoteFailed, match="cannot be read"):  # a place that fails is no reason to go on
        pull_to(stack.context(), "latest", tmp_path / "another")
    stack.place.broken.clear()
    stack.place.flip(f"daily/obcms_backup_{whole}.sql.gz")
    with pytest.raises(IntegrityError, match=broken):  # that of the newest
        pull_to(stack.context(), "latest", tmp_path / "another")
    for key in list(stack.place.objects):
        stack.place.lose(key)
    with pytest.raises(NotFound, match="no complete set"):
        pull_to(stack.context(), "latest", tmp_path / "none")
    with pytest.raises(NotFound, match="no set at"):
        pull_to(stack.context(), "daily_2025-10-01_02-00-00", tmp_path / "none")


def test_a_temporary_folder_is_gone_afterwards(stack: Stack) -> None:
    made = stack.make()
    stack.upload()

    def find(folder: Path) -> StoredSet:
        return resolve.find_set(stack.catalog, str(folder), ["media"])

    with temporarily(stack.context(), "latest", find) as stored:
        assert stored.id == made and stored.good and stored.directory.parent == stack.root / "temp"
        sweep_temporary(stack.root)  # not of one that is at work
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
    sweep_temporary(stack.root)
    assert not left.exists() and outside.exists()
    assert names(stack.root / "temp") in ([], ["link"])


def test_the_tier_comes_back_to_its_folder(stack: Stack) -> None:
    made = stack.make(tier=Tier.MONTHLY)
    stack.upload()
    for path in list((stack.root / "monthly").iterdir()):
        path.unlink()
    with pytest.raises(IntegrityError):  # these small files are no dumps: it is published, then found so
        fetch.pull_set(stack.context(), made)
    assert stack.catalog.find(made).state == "damaged" and stack.catalog.find(made).tier is Tier.MONTHLY
