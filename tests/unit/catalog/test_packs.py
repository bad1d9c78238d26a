"""Packs go when no manifest names them any more, and not before, whenever whoever removes or publishes is killed."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.catalog import packs
from backup.catalog.catalog import Catalog
from backup.media.rewritten_packs import read_note
from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier
from backup.operations.prune import PruneContext, Request, prune_sets, retention_policy
from backup.operations.repack import repack
from backup.operations.verify.run import check_set
from backup.progress import Silent
from backup.storage import directory
from backup.storage.filesystem import statuses_of
from tests.support.awkward_tree import look
from tests.support.examples import every
from tests.support.increments import Stack

CALLS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
EVERY = every(4)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    yield Stack(tmp_path / "packs")


def three(stack: Stack) -> tuple[list[StoredSet], list[object]]:
    """Three sets, each with something new, and what each looks like restored."""
    sets, looks = [], []
    for number in range(3):
        (stack.media / f"{number}").write_bytes(os.urandom(20_000))
        (stack.media / f"{number - 2}").unlink(missing_ok=True)
        sets.append(stack.night())
        looks.append(look(stack.media))
    return sets, looks


def remove(stack: Stack, stored: StoredSet) -> int:
    catalog = stack.app().catalog
    assert catalog.remove(stored)
    return catalog.remove_unneeded()


def test_a_pack_goes_with_the_last_set_that_needs_it(stack: Stack) -> None:
    sets, looks = three(stack)
    packs = stack.packs()
    assert remove(stack, sets[0]) == 0
    assert stack.packs() == packs
    assert look(stack.restored(sets[1])) == looks[1]
    # The first file is in the first two sets alone.
    freed = (stack.root / "packs" / packs[0]).stat().st_size
    assert remove(stack, sets[1]) == freed
    assert stack.packs() == packs[1:]
    assert look(stack.restored(sets[2])) == looks[2]
    remove(stack, sets[2])
    assert list((stack.root / "packs").iterdir()) == []


def test_nothing_goes_while_a_manifest_cannot_be_read(stack: Stack) -> None:
    sets, _ = three(stack)
    packs = stack.packs()
    path = sets[1].directory / f"obcms_set_{sets[1].id}.json"
    data = path.read_bytes()
    path.write_bytes(b"{")
    assert remove(stack, sets[0]) == 0
    path.unlink()
    assert stack.app().catalog.remove_unneeded() == 0
    path.write_bytes(data)
    # One that is being removed, or aside for a better copy, still needs its packs.
    for other in (path.with_name(f".{path.name}.removing"), stack.root / "damaged" / sets[1].id / path.name):
        other.parent.mkdir(parents=True, exist_ok=True)
        path.rename(other)
        assert stack.app().catalog.remove_unneeded() == 0
        other.rename(path)
    assert stack.packs() == packs


def test_a_cleanup_removes_what_no_set_needs(stack: Stack) -> None:
    three(stack)
    orphan = stack.root / "packs" / "obcms_media_daily_2020-01-01_02-00-00.tar.gz"
    orphan.write_bytes(b"left by a run that was killed")
    foreign = orphan.with_name("notes.txt")
    foreign.write_text("somebody's")
    main = stack.app()
    context = PruneContext(
        catalog=main.catalog, records=main.records, lock=main.lock, policy=retention_policy(main.settings)
    )
    report = prune_sets(Request(), context)
    assert (report.packs, report.removed) == (29, [])
    assert report.words.startswith("removed files that no set needs any more, 29 ")
    assert foreign.exists() and not orphan.exists()


def test_the_name_of_a_pack_that_no_set_names_is_not_given_again(stack: Stack) -> None:
    (stack.media / "a").write_bytes(b"a")
    pack = stack.root / "packs" / f"obcms_media_daily_{stack.now + timedelta(seconds=1):%Y-%m-%d_%H-%M-%S}.tar.gz"
    pack.parent.mkdir(parents=True)
    pack.write_bytes(b"left by a run that was killed")
    assert stack.night().good
    assert pack.read_bytes() == b"left by a run that was killed"


def test_a_pack_is_looked_at_once_whichever_tiers_need_it(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its note is read once: of a year, most packs were written anew."""
    (stack.media / "stays").write_bytes(os.urandom(1000))
    (stack.media / "goes").write_bytes(os.urandom(100_000))
    first = stack.night()
    (stack.media / "goes").unlink()
    for tier in (Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY):
        (stack.media / tier).write_bytes(os.urandom(1000))
        stack.night(tier=tier)
    remove(stack, first)
    assert repack(stack.app().catalog, Silent()) > 0
    looks, notes = Counter[str](), Counter[str]()
    monkeypatch.setattr(packs, "statuses_of", lambda folder, names: looks.update(names) or statuses_of(folder, names))
    monkeypatch.setattr(packs, "read_note", lambda store, pack: notes.update([pack]) or read_note(store, pack))
    assert all(stored.good for stored in stack.app().catalog.sets())
    assert looks == Counter(stack.packs()) and sum(notes.values()) == 1


def test_a_pack_that_comes_while_tiers_are_read_is_there(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of packs is listed with the first tier that needs any."""
    three(stack)
    catalog, read, comes = stack.app().catalog, Catalog.sets_in, [Tier.WEEKLY]

    def reading(catalog: Catalog, folder: Path, tier: Tier, **words: Any) -> Iterator[StoredSet]:
        if tier in comes:
            comes.clear()
            (stack.media / "new").write_bytes(b"new")
            stack.night(tier=tier)
        return read(catalog, folder, tier, **words)

    monkeypatch.setattr(Catalog, "sets_in", reading)
    assert (found := catalog.sets()[0]).tier is Tier.WEEKLY and found.good


def test_the_folder_is_not_listed_for_each_pack_that_is_noted(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    sets, _ = three(stack)
    folder, listing, listed = stack.app().catalog.packs, directory.LocalStore.listing, list[Path]()

    def counted(store: directory.LocalStore) -> dict[str, bool]:
        listed.append(store.directory)
        return listing(store)

    monkeypatch.setattr(directory.LocalStore, "listing", counted)
    all_packs = {pack for stored in sets for pack in stored.manifest.packs}
    now = datetime.now(UTC)
    for pack in all_packs:
        folder.note(pack.file, ["rotten"], now)
        assert folder.problems([pack]) == [f"the pack {pack.file} is damaged"] and not folder.last_read(pack.file)
    for pack in all_packs:
        folder.note(pack.file, [], now)
        assert folder.problems([pack]) == [] and folder.last_read(pack.file) == now
    assert listed.count(folder.store.directory) == 1
    assert folder.names == set(stack.app().catalog.packs.names)


class Killing:
    """Runs something in a child that dies at its nth call that changes a file."""

    def __init__(self, stack: Stack) -> None:
        self.origin = stack.root.with_name("origin")
        shutil.copytree(stack.root, self.origin)
        self.stack = stack

    def each(self, act: Callable[[], object]) -> Iterator[int]:
        """Once for each call, or a sample of them; the volume is as the kill left it."""
        number = random.randrange(EVERY)
        while True:
            shutil.rmtree(self.stack.root)
            shutil.copytree(self.origin, self.stack.root)
            number += EVERY
            code = self._child(number, act)
            yield number
            if code == 0:
                assert number > 20
                return
            assert code == 9

    def _child(self, number: int, act: Callable[[], object]) -> int:
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        left = number

        def counted(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in CALLS or writes:
                left -= 1
                if not left:
                    os._exit(9)

        def counting(name: str, call: Callable[..., object]) -> Callable[..., object]:
            def run(*arguments: object) -> object:
                counted("os.rename", ())
                return call(*arguments)

            return run

        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.addaudithook(counted)
        os.fsync = counting("fsync", os.fsync)  # type: ignore[assignment]
        directory.rename_new = counting("rename", directory.rename_new)  # type: ignore[assignment]
        try:
            act()
        except BaseException:  # noqa: BLE001 - told by its code
            os._exit(1)
        os._exit(0)


@pytest.mark.search
@pytest.mark.long
def test_a_kill_while_a_set_is_made_leaves_all_sets_whole(stack: Stack) -> None:
    sets, looks = three(stack)
    (stack.media / "new").write_bytes(os.urandom(10_000))
    killing, now = Killing(stack), stack.now
    for number in killing.each(lambda: stack.night()):
        for stored, expected in zip(sets[1:], looks[1:], strict=True):
            assert stack.find(stored.id).good, number
            assert look(stack.restored(stack.find(stored.id))) == expected
        assert check_set(stack.find(sets[0].id), Silent()).problems == []
        stack.now = now
        made = stack.night(tier=Tier.WEEKLY)
        assert not list((stack.root / "packs").glob(".*")), number
        assert made.good
        assert look(stack.restored(made)) == look(stack.media)
        stack.now = now
        stack.app().catalog.remove_unneeded()
        listed = {pack.file for each in stack.app().catalog.sets() for pack in each.summary.packs}
        assert set(stack.packs()) == listed, number


@pytest.mark.search
def test_a_kill_while_a_set_is_removed_leaves_the_others_whole(stack: Stack) -> None:
    sets, looks = three(stack)
    for number in Killing(stack).each(lambda: (remove(stack, sets[0]), remove(stack, sets[1]))):
        assert look(stack.restored(stack.find(sets[2].id))) == looks[2], number
        catalog = stack.app().catalog
        for stored, expected in zip(sets[:2], looks[:2], strict=True):
            if any(each.id == stored.id and each.good for each in catalog.sets()):
                assert look(stack.restored(stack.find(stored.id))) == expected, number
        catalog.finish_removing()
        catalog.remove_unneeded()
        listed = {pack.file for each in catalog.sets() for pack in each.summary.packs}
        assert set(stack.packs()) == listed, number
        assert Path(stack.root / "packs").is_dir()
