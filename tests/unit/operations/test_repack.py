"""Packs written anew without what no set names: every set is as good as before, whenever whoever does it is killed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.catalog.catalog import Catalog
from backup.errors import AlreadyHere
from backup.media.rewritten_packs import REPACKED
from backup.model.backup_set import StoredSet
from backup.model.manifest import Artifact, Tier
from backup.operations import repack as module
from backup.operations.export import files_to_export, to_folder
from backup.operations.inspect import one_file
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
        fill(stack.media / "awkward")
        self.large = large
        for _ in range(nights):
            self.night()

    def night(self) -> None:
        night, media = len(self.sets), self.stack.media
        (media / f"upload-{night}").write_bytes(os.urandom(20_000))
        (media / "report").write_bytes(os.urandom(self.large))
        (media / "zeta").write_bytes(b"%d" % night * 5000)
        self.sets.append(self.stack.night())
        self.looks[self.sets[-1].id] = look(media)

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
    churn = Churn(stack, large=40_000)
    churn.remove(1)
    opened, opening = list[str](), module.open_file
    monkeypatch.setattr(module, "open_file", lambda stored, name: opened.append(name) or opening(stored, name))
    assert churn.repack() == 0 and opened == []
    churn.remove(2)
    assert churn.repack() > 50_000
    assert len(opened) == 2, "of the last set, which alone names anything of them"
    churn.all_whole()


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


def test_a_pack_is_written_anew_whenever_little_is_left_of_it(stack: Stack) -> None:
    """A place may have any of its files: all of them stay known, and none of them is sent again or over another."""
    (stack.media / "second").write_bytes(os.urandom(6_000_000))
    churn = Churn(stack, 1, large=7_000_000)
    pack, places = churn.sets[0].manifest.packs[0], list[Copied]()
    for number in range(3):
        places.append(Copied(stack, MemoryPlace(), churn.sets))
        (stack.root / "state" / "offsite-s3.json").unlink(missing_ok=True)
        places[-1].upload()
        if number < 2:
            (stack.media / "second").write_bytes(b"") if number else None
            churn.night()
            churn.remove(number)
            assert churn.repack() > 5_000_000
            churn.all_whole()
    known = stack.app().catalog.packs.versions(pack)
    assert len({each.stored_size for each in known}) == 3
    for place, version in zip(places, known, strict=True):
        held = place.place.objects[f"packs/{pack.file}"]
        assert hashlib.sha256(held).hexdigest() == version.stored_sha256
        (stack.root / "state" / "offsite-s3.json").unlink()
        place.upload()
        assert place.place.objects[f"packs/{pack.file}"] is held
        place.verify(read=True)
    # It comes back as it was for a set that needs all of it, and is written anew as before once that has gone.
    assert pull_set(places[0].context(), churn.sets[0].id).set == churn.sets[0].id
    churn.all_whole()
    churn.remove(0)
    assert churn.repack() > 12_000_000
    assert set(stack.app().catalog.packs.versions(pack)) >= set(known)
    churn.all_whole()


def test_a_file_of_the_size_of_an_earlier_one_takes_no_place(stack: Stack) -> None:
    """By its size is known which of them lies there."""
    churn = Churn(stack)
    churn.remove(1, 2)
    before = {path: path.read_bytes() for path in (stack.root / "packs").iterdir()}
    assert churn.repack() > 600_000
    made = {path: path.stat().st_size for path, data in before.items() if path.read_bytes() != data}
    for path, data in before.items():
        path.write_bytes(data)
    for path in made:
        # As if it had been another one of that size.
        note = path.with_name(path.name + REPACKED)
        note.write_bytes(note.read_bytes().replace(sha256_of(note), b"0" * 64))
    assert made and churn.repack() == 0
    assert {path: path.read_bytes() for path in before} == before
    churn.all_whole()


def sha256_of(note: Path) -> bytes:
    digest: str = json.loads(note.read_bytes())["files"][0][1]
    return digest.encode()


@pytest.mark.parametrize("what", ["unreadable", "aside", "tree", "damaged"])
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


def test_a_copy_goes_as_the_pack_is_and_brings_back_what_is_gone(stack: Stack, tmp_path: Path) -> None:
    churn = Churn(stack)
    copied = Copied(stack, MemoryPlace(), churn.sets)
    copied.upload()
    churn.remove(1, 2)
    freed = churn.repack()
    assert freed > 0
    # What is there stays as it was, and is what sets there name.
    before = copied.place.requests["put"]
    copied.upload()
    assert copied.place.requests["put"] == before
    copied.verify(read=True)
    # A set that was removed here comes back with the content that only the place has.
    assert pull_set(copied.context(), churn.sets[1].id).set == churn.sets[1].id
    churn.all_whole()
    # Once that has gone, what came back is written anew as before.
    churn.remove(1)
    assert freed > churn.repack() > 300_000
    copied.upload()
    assert copied.place.requests["put"] == before
    churn.all_whole()


def test_what_is_not_at_a_place_yet_goes_as_it_is_now(stack: Stack, tmp_path: Path) -> None:
    churn = Churn(stack)
    first = Copied(stack, MemoryPlace(), churn.sets)
    first.upload()
    churn.remove(1, 2)
    assert churn.repack() > 0
    other = Copied(stack, MemoryPlace(), churn.sets)
    (stack.root / "state" / "offsite-s3.json").unlink()
    other.upload()
    other.verify(read=True)
    restored = Stack(tmp_path / "other")
    newest = churn.sets[-1]
    pull_set(other.context(restored), newest.id)
    assert look(restored.restored(restored.find(newest.id))) == churn.looks[newest.id]
    # There is a pack as it was written anew. One that is here as it was, for sets that need all of it, stays.
    apart = Stack(tmp_path / "apart")
    assert pull_set(first.context(apart), churn.sets[1].id).set == churn.sets[1].id
    with pytest.raises(AlreadyHere, match="written anew elsewhere"):
        pull_set(other.context(apart), newest.id)
    kept = apart.find(churn.sets[1].id)
    assert kept.good and look(apart.restored(kept)) == churn.looks[kept.id]
    # Where it came back as it was, it is not sent over the other one.
    assert pull_set(first.context(), churn.sets[1].id).set == churn.sets[1].id
    before = other.place.requests["put"]
    other.upload()
    other.verify(read=True)
    assert other.place.requests["put"] - before <= 8, "the set alone: its packs are there"
