"""Incremental sets at a place: each pack is sent once, and a set is there when all that it needs is."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from backup.catalog.catalog import Catalog
from backup.catalog.retention import CleanupMemory, Decision, RetentionPolicy
from backup.errors import IntegrityError, NotTaken, RemoteFailed
from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier
from backup.operations.offsite import prune as pruning
from backup.operations.offsite import upload, verify_copies
from backup.operations.offsite.context import OffsiteContext
from backup.operations.offsite.fetch import pull_set, pull_to, temporarily
from backup.operations.offsite.remote_state import Book, BookFile, StoredObject
from backup.operations.verify.run import check_set, verify_set
from backup.progress import Silent
from tests.support.awkward_tree import look
from tests.support.increments import Stack
from tests.support.memory_remote import MemoryPlace

POLICY = RetentionPolicy({Tier.DAILY: timedelta(days=30)}, minimum=1, share=100, fresh=timedelta(days=1000))


@dataclass
class Copied:
    """A volume with three incremental sets, and a place."""

    stack: Stack
    place: MemoryPlace
    sets: list[StoredSet]

    def context(self, stack: Stack | None = None) -> OffsiteContext:
        app = (stack or self.stack).app()
        return OffsiteContext(
            place="s3",
            remote=self.place,
            catalog=app.catalog,
            records=app.records,
            lock=app.lock,
            tiers=(Tier.DAILY,),
            ages={},
            progress=Silent(),
        )

    def upload(self) -> upload.Report:
        return upload.upload_sets(upload.Request(tiers=(Tier.DAILY,)), self.context())

    def verify(self, *, read: bool = False) -> verify_copies.Report:
        return verify_copies.verify_copies(verify_copies.Request(read=read), self.context())

    def packs(self) -> list[str]:
        return sorted(key for key in self.place.objects if key.startswith("packs/"))

    def states(self) -> list[str]:
        copies = self.context().book.read().copies
        return [copies[each.id].state for each in self.sets]


@pytest.fixture
def copied(tmp_path: Path) -> Copied:
    stack, sets = Stack(tmp_path / "copied"), []
    for number in range(3):
        (stack.media / f"{number}").write_bytes(os.urandom(20_000))
        (stack.media / f"{number - 2}").unlink(missing_ok=True)
        sets.append(stack.night())
    return Copied(stack, MemoryPlace(), sets)


def test_each_pack_is_sent_once(copied: Copied) -> None:
    copied.upload()
    assert copied.states() == ["offsite"] * 3
    assert [name.partition("/")[2] for name in copied.packs()] == copied.stack.packs()
    assert sum(key.startswith("packs/") for key in copied.place.order) == 3
    for each in copied.sets:
        keys = [key for key in copied.place.order if each.id in key]
        assert keys[-1].endswith(".json")
    before = copied.place.requests["put"]
    copied.upload()
    (copied.stack.root / "state" / "offsite-s3.json").unlink()
    copied.upload()
    assert copied.place.requests["put"] == before
    copied.verify(read=True)


@pytest.mark.parametrize("known", ["all", "the book is lost", "nothing"])
def test_a_pack_is_asked_for_once_in_a_run_whichever_sets_need_it(copied: Copied, known: str) -> None:
    """Of a year, 55 sets name 300 packs each."""
    if known != "nothing":
        copied.upload()
    if known != "all":
        copied.context().book.path.unlink(missing_ok=True)
    shared = [pack.file for each in copied.sets for pack in each.manifest.packs]
    assert len(shared) > len(set(shared))
    asked, stat, read = Counter[str](), copied.place.stat, Counter[str]()
    get = copied.place.get
    copied.place.stat = lambda key: asked.update([key]) or stat(key)  # type: ignore[method-assign,func-returns-value]
    copied.place.get = lambda key: read.update([key]) or get(key)  # type: ignore[method-assign,func-returns-value]
    for key, fact in copied.place.facts.items():
        if key.startswith("packs/") and known != "all":
            copied.place.facts[key] = replace(fact, sha256="")
    copied.upload()
    assert max(asked.values(), default=0) <= 1 and max(read.values(), default=0) <= 1
    asked.clear()
    read.clear()
    copied.verify()
    assert {count for key, count in asked.items() if key.startswith("packs/")} == {1}
    assert max(read.values()) == 1


def test_the_sets_here_are_listed_and_the_book_is_read_once_for_all_that_are_there(
    copied: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied.upload()
    calls, sets, read = Counter[str](), Catalog.sets, BookFile.read
    monkeypatch.setattr(Catalog, "sets", lambda *words: calls.update(["sets"]) or sets(*words))
    monkeypatch.setattr(BookFile, "read", lambda book: calls.update(["book"]) or read(book))
    assert copied.upload().same == 3
    assert calls == {"sets": 2, "book": 3}, "and once each for what is left, for the folder, and for the time of it"


def test_what_is_known_of_a_pack_is_written_once_whichever_sets_need_it(copied: Copied) -> None:
    copied.upload()
    file = copied.context().book
    book, data = file.read(), json.loads(file.path.read_bytes())
    shared = Counter(key for copy in book.copies.values() for key in copy.items)
    assert set(data["shared"]) == {key for key, count in shared.items() if count > 1} != set()
    assert not any(set(data["shared"]) & set(copy["items"]) for copy in data["book"]["copies"].values())
    # As a release before wrote it, it is the same; one in which something is missing is none.
    file.path.write_text(book.model_dump_json())
    assert file.read() == book and {copy.held for copy in book.copies.values()} == {True}
    file.change(lambda known: known.model_copy(update={"looked": None}))
    known = file.read()
    assert known.copies == book.copies and known.looked is None
    # What one copy knows otherwise is its own.
    first, (key, item) = next(iter(book.copies.values())), next(iter(first_shared(book, shared)))
    other = first.model_copy(update={"items": first.items | {key: item.model_copy(update={"size": 1})}})
    assert file.change(lambda known: known.with_copy(other)) == file.read()
    assert file.read().copies[first.id].items[key].size == 1
    data["shared"].pop(next(iter(data["shared"])))
    file.path.write_text(json.dumps(data))
    assert file.read() == Book()


def first_shared(book: Book, shared: Counter[str]) -> Iterator[tuple[str, StoredObject]]:
    copy = next(iter(book.copies.values()))
    return ((key, item) for key, item in copy.items.items() if shared[key] > 1)


def test_a_set_is_not_there_before_its_packs_are(copied: Copied) -> None:
    def refuse(key: str) -> None:
        if key.endswith((f"{copied.sets[1].id}.tar.gz", ".json")):
            raise RemoteFailed("s3://memory does not answer")

    copied.place.fail = refuse
    with pytest.raises(RemoteFailed):
        copied.upload()
    assert not any(key.endswith(".json") for key in copied.place.objects)
    sent = len(copied.place.order)
    copied.place.fail = lambda key: None
    copied.upload()
    assert copied.states() == ["offsite"] * 3
    assert sum(key.startswith("packs/") for key in copied.place.order[:sent] + copied.place.order[sent:]) == 3


@pytest.mark.parametrize("way", ["flip", "lose"])
def test_a_bad_pack_is_told_of_all_that_need_it_and_sent_once_again(copied: Copied, way: str) -> None:
    copied.upload()
    pack = f"packs/{copied.sets[0].manifest.packs[0].file}"
    needing = [number for number, each in enumerate(copied.sets) if pack[6:] in {p.file for p in each.manifest.packs}]
    assert needing == [0, 1]
    (copied.place.flip if way == "flip" else copied.place.lose)(pack)
    with pytest.raises(IntegrityError):
        copied.verify(read=True)
    bad = "differs" if way == "flip" else "incomplete"
    assert copied.states() == [bad, bad, "offsite"]
    before = copied.place.order.count(pack)
    copied.upload()
    assert copied.place.order.count(pack) == before + 1
    assert copied.states() == ["offsite"] * 3
    copied.verify(read=True)


def test_a_pack_that_is_read_with_one_set_is_told_of_the_others(copied: Copied) -> None:
    copied.upload()
    copied.place.flip(f"packs/{copied.sets[0].manifest.packs[0].file}")
    with pytest.raises(IntegrityError):
        verify_copies.verify_copies(verify_copies.Request(share=True), copied.context())
    assert copied.states() == ["differs", "differs", "offsite"]


def test_a_set_comes_back_with_what_it_needs(copied: Copied, tmp_path: Path) -> None:
    copied.upload()
    newest = copied.sets[-1]
    other = Stack(tmp_path / "other")
    assert pull_set(copied.context(other), newest.id).set == newest.id
    assert set(other.packs()) == {pack.file for pack in newest.manifest.packs}
    assert look(other.restored(other.find(newest.id))) == look(copied.stack.media)
    pull_to(copied.context(), newest.id, tmp_path / "laid")
    (laid,) = copied.stack.app().catalog.sets_in(tmp_path / "laid")
    assert check_set(laid, Silent()).problems == []
    catalog = copied.stack.app().catalog
    with temporarily(copied.context(), newest.id, lambda folder: next(catalog.sets_in(folder))) as stored:
        assert check_set(stored, Silent()).problems == []
    assert not list((copied.stack.root / "temp").iterdir())


def test_a_copy_heals_a_pack(copied: Copied) -> None:
    copied.upload()
    path = copied.stack.root / "packs" / copied.sets[0].manifest.packs[0].file
    good = path.read_bytes()
    path.write_bytes(good[:9000] + bytes([good[9000] ^ 1]) + good[9001:])
    assert verify_set(copied.stack.app().catalog, copied.sets[0], Silent(), copied.stack.now).problems
    find = copied.stack.find
    assert [find(each.id).state for each in copied.sets] == ["damaged", "damaged", "complete"]
    pull_set(copied.context(), copied.sets[1].id)
    assert path.read_bytes() == good
    assert find(copied.sets[1].id).good
    pull_set(copied.context(), copied.sets[0].id)
    assert [find(each.id).state for each in copied.sets] == ["complete"] * 3


def test_packs_go_with_the_last_copy_that_needs_them(copied: Copied, monkeypatch: pytest.MonkeyPatch) -> None:
    copied.upload()
    before, gone = copied.packs(), {copied.sets[0].id, copied.sets[1].id}
    # Sets without a database stay; which go is decided as it is for local ones, and tried there.
    monkeypatch.setattr(
        pruning,
        "careful",
        lambda sets, *_, **__: ([Decision(s, keep=s.id not in gone, reason="") for s in sets], "", CleanupMemory()),
    )

    def prune() -> pruning.Report:
        return pruning.prune_copies(pruning.Request(), copied.context(), POLICY)

    prune()
    # The sets are still here, and a broken upload of theirs would be gone on with.
    assert copied.packs() == before
    catalog = copied.stack.app().catalog
    for each in copied.sets[:2]:
        catalog.remove(each)
    copied.place.removal = "denied"
    prune()
    assert copied.packs() == before
    copied.place.removal = "removed"
    assert prune().freed > 20_000
    assert copied.packs() == sorted(f"packs/{pack.file}" for pack in copied.sets[2].manifest.packs)
    copied.context().book.change(lambda book: book.without(copied.sets[0].id).without(copied.sets[1].id))
    copied.verify(read=True)


def test_a_cut_pack_is_sent_again_also_beside_a_manifest_that_cannot_be_read(copied: Copied) -> None:
    """What that set needs, the book tells: nobody needs what was cut."""
    copied.upload()
    pack, oldest = copied.packs()[1], f"daily/obcms_set_{copied.sets[0].id}.json"
    before = dict(copied.place.objects)
    copied.place.lay(oldest, b"{")
    copied.place.lay(pack, before[pack][:100])
    copied.upload()
    assert copied.place.objects == before
    copied.verify(read=True)
    # Without a book it may need anything.
    copied.place.lay(oldest, b"{")
    copied.place.lay(pack, before[pack][:100])
    (copied.stack.root / "state" / "offsite-s3.json").unlink()
    with pytest.raises(NotTaken, match="may need"):
        copied.upload()


def archived(copied: Copied) -> None:
    """Packs were sent in parts, of which a place tells no SHA-256, and nobody can read them at once."""
    for key in copied.packs():
        copied.place.facts[key] = replace(copied.place.facts[key], sha256="")
        copied.place.archive(key)


def test_one_set_that_nobody_knows_makes_no_pack_unknown(copied: Copied) -> None:
    copied.upload()
    archived(copied)
    copied.verify()
    copied.context().book.change(lambda book: book.without(copied.sets[0].id))
    copied.verify()
    copies = copied.context().book.read().copies
    known = {copies[each.id].items[key].sha256 for each in copied.sets[1:] for key in copied.packs()[1:2]}
    assert known == {copied.sets[1].manifest.packs[-1].stored_sha256}


def test_packs_that_nobody_can_read_are_sent_over_themselves(copied: Copied) -> None:
    """The book was lost."""
    copied.upload()
    archived(copied)
    (copied.stack.root / "state" / "offsite-s3.json").unlink()
    (copied.stack.media / "new").write_bytes(b"new")
    copied.sets.append(copied.stack.night())
    before = {key: copied.place.objects[key] for key in copied.packs()}
    copied.upload()
    assert copied.states()[-1] == "archived" and before.items() <= copied.place.objects.items()


def test_a_hostile_manifest_names_packs_alone(copied: Copied) -> None:
    copied.upload()
    newest = copied.sets[-1]
    key = f"daily/obcms_set_{newest.id}.json"
    data = copied.place.objects[key].replace(newest.manifest.packs[0].file.encode(), b"../../state/lock")
    copied.place.lay(key, data)
    with pytest.raises(IntegrityError):
        pull_to(copied.context(), newest.id, copied.stack.base / "laid")
    data = copied.place.objects[key].replace(b"../../state/lock", f"obcms_set_{newest.id}.json".encode())
    copied.place.lay(key, data)
    with pytest.raises(IntegrityError, match="which is not its own"):
        pull_to(copied.context(), newest.id, copied.stack.base / "laid")
