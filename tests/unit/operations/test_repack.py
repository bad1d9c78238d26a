"""Packs written anew without what no set names: every set is as good as before, whenever whoever does it is killed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.catalog.catalog import Catalog
from backup.errors import AlreadyHere, NotTaken
from backup.model.backup_set import StoredSet
from backup.model.manifest import Artifact, Tier
from backup.operations import repack as module
from backup.operations.export import files_to_export, to_folder
from backup.operations.inspect import one_file
from backup.operations.offsite import upload
from backup.operations.offsite.fetch import pull_set
from backup.operations.repack import repack
from backup.operations.verify.run import check_set
from backup.operations.whole_copy import without_packs
from backup.progress import Silent
from tests.support.awkward_tree import fill, look
from tests.support.increments import Stack
from tests.support.memory_remote import MemoryPlace
from tests.unit.catalog.test_packs import Killing
from tests.unit.operations.offsite.test_packs import Copied


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    yield Stack(tmp_path / "repack")


class Churn:
    """A volume of which a large file is another one each night; what each set looked like."""

    def __init__(self, stack: Stack, nights: int = 4, large: int = 300_000) -> None:
        self.stack = stack
        self.looks: dict[str, object] = {}
        self.sets: list[StoredSet] = []
        (stack.media / "awkward").mkdir()
        fill(stack.media / "awkward", 1 << 18)
        for night in range(nights):
            (stack.media / f"upload-{night}").write_bytes(os.urandom(20_000))
            (stack.media / "report").write_bytes(os.urandom(large))
            (stack.media / "zeta").write_bytes(b"%d" % night * 5000)
            self.sets.append(stack.night())
            self.looks[self.sets[-1].id] = look(stack.media)

    def remove(self, *numbers: int) -> None:
        catalog = self.stack.app().catalog
        for number in numbers:
            assert catalog.remove(self.sets[number])
        catalog.remove_unneeded()

    def repack(self) -> int:
        return repack(self.stack.app().catalog, Silent())

    def all_whole(self) -> None:
        """Each set that is there is verified wholly, and restores to what there was."""
        sets = self.stack.app().catalog.sets()
        assert sets
        for each in sets:
            assert each.good, each.problem
            assert check_set(each, Silent()).problems == []
            assert check_set(each, Silent(), quick=True).problems == []
            assert look(self.stack.restored(self.stack.find(each.id))) == self.looks[each.id]

    def size(self) -> int:
        return sum(path.stat().st_size for path in (self.stack.root / "packs").iterdir())


def test_packs_that_snapshots_alone_need_are_left(stack: Stack) -> None:
    """They go within a week; to write them anew, the trees of all snapshots of a day would be read for each."""
    (stack.media / "a").write_bytes(b"a")
    stack.night()
    for number in range(3):
        (stack.media / f"upload-{number}").write_bytes(os.urandom(20_000))
        (stack.media / "report").write_bytes(os.urandom(300_000))
        stack.snapshot()
    catalog = stack.app().catalog
    last, *others = catalog.sets(Tier.SNAPSHOT)
    for each in others:
        assert catalog.remove(each)
    catalog.remove_unneeded()
    assert len(stack.packs()) == 4 and repack(stack.app().catalog, Silent()) == 0
    assert not list((stack.root / "packs").glob("*.repacked"))
    # One that a person keeps is written anew with what it needs.
    kept = last.manifest.model_copy(update={"id": last.id.replace("snapshot", "manual"), "tier": Tier.MANUAL})
    catalog.publish(kept.model_copy(update={"artifacts": copied(catalog, last, kept.id)}), [])
    assert repack(stack.app().catalog, Silent()) > 500_000


def copied(catalog: Catalog, stored: StoredSet, identifier: str) -> tuple[Artifact, ...]:
    found = []
    for each in stored.manifest.artifacts:
        name = each.file.replace(stored.id, identifier)
        catalog.store(Tier.MANUAL).put(name, (stored.directory / each.file).read_bytes())
        found.append(each.model_copy(update={"file": name}))
    return tuple(found)


def test_what_no_set_names_goes_and_all_else_stays(stack: Stack) -> None:
    churn = Churn(stack)
    assert churn.repack() == 0
    before = churn.size()
    churn.remove(1, 2)
    packs = stack.packs()
    freed = churn.repack()
    assert freed > 600_000
    assert before - churn.size() > freed - 5000
    assert stack.packs() == packs
    churn.all_whole()
    assert churn.repack() == 0
    # The next set goes on from there, and stores nothing of it again.
    (stack.media / "new").write_bytes(b"new")
    made = stack.night()
    assert {pack.file for pack in made.manifest.packs} == {*packs[1:], *packs[:1], stack.packs()[-1]}
    stack.whole(made)


def test_no_tree_is_read_for_less_than_a_hundredth_of_all_packs(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor each night again for what cannot be written anew: it waits until there is more."""
    (stack.media / "weight").write_bytes(os.urandom(4 << 20))
    churn = Churn(stack, large=40_000)
    churn.remove(1)
    opened, opening = list[str](), module.open_file
    monkeypatch.setattr(module, "open_file", lambda stored, name: opened.append(name) or opening(stored, name))
    assert churn.repack() == 0 and opened == []
    churn.remove(2)
    assert churn.repack() > 50_000
    assert len(opened) == 2, "of the last set, which alone names anything of them"
    churn.all_whole()


@pytest.mark.long
def test_what_a_set_is_read_for_is_found_in_a_pack_that_was_written_anew(stack: Stack, tmp_path: Path) -> None:
    churn = Churn(stack)
    (stack.media / "large").write_bytes(os.urandom(9 << 20))
    (stack.media / "after").write_bytes(os.urandom(10 << 20))
    churn.sets.append(stack.night())
    (stack.media / "after").unlink()
    (stack.media / "last").write_bytes(b"last")
    churn.sets.append(stack.night())
    churn.looks[churn.sets[-1].id] = look(stack.media)
    churn.remove(1, 2, 4)
    assert churn.repack() > 9 << 20
    churn.all_whole()
    newest = stack.find(churn.sets[-1].id)
    taken: list[bytes] = []
    one_file.content(newest, "large", taken.append, Silent())
    assert b"".join(taken) == (stack.media / "large").read_bytes()
    with without_packs(newest, stack.app().catalog, "run", Silent()) as whole:
        to_folder(whole, files_to_export(whole, newest.id), tmp_path, Silent())
    page = (newest.directory / "RESTORE.txt").read_text()
    script = "".join(f"{line[4:]}\n" for line in page.splitlines() if line.startswith("    "))

    def by_hand() -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "TARGET": str(stack.base / "hand")}
        words = ["sh", "-eu"]
        return subprocess.run(
            words, input=script, cwd=newest.directory, env=environment, capture_output=True, text=True
        )

    done = by_hand()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tar.gz: OK") == len(newest.manifest.packs)
    assert (stack.base / "hand" / "media" / "large").read_bytes() == (stack.media / "large").read_bytes()
    pack = stack.root / "packs" / churn.sets[1].manifest.packs[-1].file
    pack.write_bytes(pack.read_bytes()[:-1] + b"x")
    done = by_hand()
    assert done.returncode != 0 and f"{pack.name}: FAILED" in done.stdout


def test_a_pack_is_written_anew_once_and_never_again(stack: Stack) -> None:
    """Else there could be a third file of that name at a place, which nobody here knows any more."""
    churn = Churn(stack, 6)
    (stack.media / "upload-1").unlink()
    (stack.media / "upload-0").unlink()
    churn.sets.append(stack.night())
    churn.looks[churn.sets[-1].id] = look(stack.media)
    churn.remove(0, 1, 2)
    assert churn.repack() > 0
    once = {name: (stack.root / "packs" / name).read_bytes() for name in stack.packs() if noted(stack, name)}
    assert once
    churn.remove(3, 4, 5)
    churn.repack()
    left = {name: (stack.root / "packs" / name).read_bytes() for name in once if name in stack.packs()}
    assert left and left.items() <= once.items()
    churn.all_whole()


def noted(stack: Stack, pack: str) -> bool:
    return (stack.root / "packs" / f"{pack}.repacked").exists()


@pytest.mark.parametrize("what", ["unreadable", "aside", "tree", "damaged"])
@pytest.mark.long
def test_nothing_is_written_anew_while_it_is_not_known_what_is_needed(stack: Stack, what: str) -> None:
    churn = Churn(stack)
    churn.remove(1, 2)
    kept = churn.sets[0]
    path = kept.directory / f"obcms_set_{kept.id}.json"
    if what == "unreadable":
        path.write_bytes(b"{")
    elif what == "aside":
        other = stack.root / "damaged" / kept.id / path.name
        other.parent.mkdir(parents=True)
        path.rename(other)
    elif what == "tree":
        tree = kept.directory / next(each.file for each in kept.manifest.artifacts if each.kind == "tree")
        tree.write_bytes(tree.read_bytes()[:-9] + bytes(9))
    else:
        for name in stack.packs():
            (stack.root / "packs" / f"{name}.damaged").touch()
    before = {name: (stack.root / "packs" / name).read_bytes() for name in stack.packs()}
    if what == "tree":
        # Its own packs alone are unknown; those of the others are known.
        churn.repack()
        assert before[kept.manifest.packs[0].file] == (stack.root / "packs" / kept.manifest.packs[0].file).read_bytes()
    else:
        assert (churn.repack() == 0) or what == "aside"
    for pack in kept.manifest.packs:
        assert (stack.root / "packs" / pack.file).read_bytes() == before[pack.file]


@pytest.mark.search
@pytest.mark.long
def test_a_kill_at_any_call_leaves_every_set_whole(stack: Stack) -> None:
    churn = Churn(stack, 4, large=60_000)
    churn.remove(1, 2)
    for number in Killing(stack).each(churn.repack):
        churn.all_whole()
        stack.app().catalog.sweep()
        assert not list((stack.root / "packs").glob(".*")), number
        churn.repack()
        churn.all_whole()
        assert churn.repack() == 0


@pytest.mark.long
def test_a_copy_goes_as_the_pack_is_and_brings_back_what_is_gone(stack: Stack, tmp_path: Path) -> None:
    churn = Churn(stack)
    copied = Copied(stack, MemoryPlace(), churn.sets)
    copied.upload()
    churn.remove(1, 2)
    assert churn.repack() > 0
    # What is there stays as it was, and is what sets there name.
    before = copied.place.requests["put"]
    copied.upload()
    assert copied.place.requests["put"] == before
    copied.verify(read=True)
    # A set that was removed here comes back with the content that only the place has.
    assert pull_set(copied.context(), churn.sets[1].id).set == churn.sets[1].id
    churn.all_whole()
    # It may be elsewhere as it was written anew: it is not written anew once more.
    churn.remove(1)
    assert churn.repack() == 0
    copied.upload()
    assert copied.place.requests["put"] == before
    churn.all_whole()


def two_places(churn: Churn) -> tuple[Copied, Copied]:
    """A place that has the packs as they were, and one that has them as they were written anew."""
    whole = Copied(churn.stack, MemoryPlace(), churn.sets)
    whole.upload()
    churn.remove(1, 2)
    assert churn.repack() > 0
    anew = Copied(churn.stack, MemoryPlace(), churn.sets)
    (churn.stack.root / "state" / "offsite-s3.json").unlink()
    anew.upload()
    return whole, anew


def test_what_is_not_at_a_place_yet_goes_as_it_is_now(stack: Stack, tmp_path: Path) -> None:
    churn = Churn(stack)
    whole, anew = two_places(churn)
    anew.verify(read=True)
    restored = Stack(tmp_path / "other")
    newest = churn.sets[-1]
    pull_set(anew.context(restored), newest.id)
    assert look(restored.restored(restored.find(newest.id))) == churn.looks[newest.id]
    # There is a pack as it was written anew. One that is here as it was, for sets that need all of it, stays.
    apart = Stack(tmp_path / "apart")
    assert pull_set(whole.context(apart), churn.sets[1].id).set == churn.sets[1].id
    with pytest.raises(AlreadyHere, match="written anew elsewhere"):
        pull_set(anew.context(apart), newest.id)
    kept = apart.find(churn.sets[1].id)
    assert kept.good and look(apart.restored(kept)) == churn.looks[kept.id]


@pytest.mark.long
def test_a_pack_that_sets_at_a_place_need_is_not_replaced_there(stack: Stack, tmp_path: Path) -> None:
    """Each place has a pack as it was when it was sent: one without what only the other's sets need."""
    churn = Churn(stack)
    whole, anew = two_places(churn)
    # Sets that came back with content that the pack there lacks are no copies there. A newer one is, so that is said
    # and no failure, and older ones do not wait.
    for number in (1, 2):
        assert pull_set(whole.context(), churn.sets[number].id).set == churn.sets[number].id
    before = dict(anew.place.objects)
    oldest = f"daily/obcms_set_{churn.sets[0].id}.json"
    del anew.place.objects[oldest], anew.place.facts[oldest]
    report = anew.upload()
    assert report.refused == [churn.sets[2].id, churn.sets[1].id] and "2 older sets not taken there" in report.words
    assert anew.place.objects == before
    # One that is there, with the pack as it is there, stays so, whatever of it has to be sent again.
    page = f"daily/RESTORE_{churn.sets[3].id}.txt"
    del anew.place.objects[page], anew.place.facts[page]
    anew.upload()
    assert anew.place.objects == before
    alone = upload.Request(tiers=(Tier.DAILY,), only=churn.sets[2].id)
    with pytest.raises(NotTaken, match=f"{churn.sets[2].id} was not sent: .* may need .* nothing was overwritten"):
        upload.upload_sets(alone, anew.context())
    anew.verify(read=True)
    # On another machine a set goes on from one of those; it is sent over nothing that others need.
    other = Stack(tmp_path / "other")
    other.now = stack.now
    newest = churn.sets[-1]
    pull_set(anew.context(other), newest.id)
    shutil.copytree(other.restored(other.find(newest.id)), other.media, dirs_exist_ok=True, symlinks=True)
    (other.media / "new").write_bytes(b"new")
    later = Copied(other, whole.place, [other.night()])
    (other.root / "state" / "offsite-s3.json").unlink(missing_ok=True)
    before = {key: data for key, data in whole.place.objects.items() if key.startswith("packs/")}
    with pytest.raises(NotTaken, match="was not sent"):
        later.upload()
    assert before.items() <= whole.place.objects.items()
    apart = Stack(tmp_path / "apart")
    pull_set(whole.context(apart), churn.sets[1].id)
    assert look(apart.restored(apart.find(churn.sets[1].id))) == churn.looks[churn.sets[1].id]
    # One that needs no earlier pack is sent, and can be had from there.
    full = other.night(full=True)
    assert len(later.upload().refused) == 1
    assert pull_set(whole.context(apart), full.id).set == full.id
