"""Many sets of one chain judged in one command: what they share is read and judged once, and not the less for it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backup.catalog.catalog import Catalog
from backup.catalog.set_reader import SetReader
from backup.cli import main
from backup.errors import IntegrityError
from backup.model.backup_set import StoredSet, manifest_name
from backup.model.manifest import Manifest
from backup.model.pack import Pack
from backup.operations.verify import packs, volume_archive, written
from backup.operations.verify.packs import PackChecks
from backup.operations.verify.run import check_set
from backup.operations.verify.stored_bytes import Stored
from backup.operations.verify.written import PackContents
from backup.progress import Silent
from backup.storage.directory import LocalStore
from tests.support.facts import NOW
from tests.support.increments import Stack
from tests.support.windows import a_base, on_disk


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    yield Stack(tmp_path / "packs")


class Counting(Silent):
    """How many stored bytes were read."""

    def __init__(self) -> None:
        self.bytes = 0

    def advance(self, count: int) -> None:
        self.bytes += count


def chain(stack: Stack, nights: int) -> list[StoredSet]:
    """So many sets, each with one file more, and one that is gone."""
    for number in range(100):
        (stack.media / f"{number:03}").write_bytes(os.urandom(10_000))
    made = []
    for night in range(nights):
        (stack.media / f"night-{night}").write_bytes(os.urandom(1000))
        (stack.media / f"{3 * night:03}").unlink()
        made.append(stack.night())
    return made


def judge(stack: Stack, sets: list[StoredSet]) -> tuple[int, list[list[str]]]:
    """The bytes that were read for it, and the problems of each."""
    progress = Counting()
    packs = PackChecks(stack.app().catalog.packs, progress, several=True)
    found = [check_set(stack.find(each.id), progress, packs=packs).problems for each in sets]
    return progress.bytes, found


@pytest.mark.long
def test_what_sets_share_is_read_once_and_judged_once(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = chain(stack, 12)
    one, _ = judge(stack, sets[:1])
    judged = 0
    holds = volume_archive._TreeComparison._holds

    def counted(*words: object) -> bool:
        nonlocal judged
        judged += 1
        return holds(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(volume_archive._TreeComparison, "_holds", counted)
    several, problems = judge(stack, sets)
    assert problems == [[]] * 12
    assert several < 1.3 * one
    assert judged == 100 + 11


def test_a_damaged_pack_damages_all_and_one_tree_that_lies_its_set_alone(stack: Stack) -> None:
    sets = chain(stack, 4)
    tree = next(each for each in sets[2].manifest.artifacts if each.kind == "tree")
    path = sets[2].directory / tree.file
    whole = path.read_bytes()
    path.write_bytes(whole[:-30] + bytes(30))
    assert [bool(problems) for problems in judge(stack, sets)[1]] == [False, False, True, False]
    path.write_bytes(whole)
    pack = stack.root / "packs" / sets[1].manifest.packs[0].file
    data = bytearray(pack.read_bytes())
    data[50_000] ^= 1
    pack.write_bytes(data)
    assert all(judge(stack, sets)[1])


def test_all_sets_are_verified_by_one_command(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKUP_DIR", str(stack.root))
    monkeypatch.setenv("BACKUP_VOLUMES_DIR", str(stack.base / "volumes"))
    assert main(["verify", "all"]) == 44 and "nothing was verified" in "".join(capfd.readouterr())
    (stack.media / "a").write_bytes(os.urandom(50_000))
    first = stack.night()
    (stack.media / "a").write_bytes(os.urandom(50_000))
    second = stack.night("full")
    assert main(["verify", "all"]) == 0
    said = "".join(capfd.readouterr())
    assert all(f"{each.id}: every byte is as it was written" in said for each in (first, second))
    # No base is of the SHA-256 that its record has.
    archive = on_disk(stack.root, [a_base(1, NOW, size=10)], {1: NOW})
    assert main(["verify", "all"]) == 40 and archive.list_bases() == []
    assert "of base backups and WAL: base_" in (said := "".join(capfd.readouterr())) and "was set aside" in said
    assert main(["verify", "all"]) == 40 and "does not count" in "".join(capfd.readouterr())
    for path in archive.bases.directory.iterdir():
        path.unlink()
    assert main(["verify", "all"]) == 0
    assert "base backups and WAL: every stored byte is as it was written" in "".join(capfd.readouterr())
    (stack.root / "packs" / first.manifest.packs[0].file).unlink()
    assert main(["verify", "all"]) == 40
    said = "".join(capfd.readouterr())
    assert f"{second.id}: every byte is as it was written" in said
    assert f"not good: 1 of 2 sets:\n  - {first.id} is damaged: the pack" in said
    assert main(["verify", "all", "--json"]) == 2


def test_no_set_is_read_again_for_another(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each is listed, and once more looked at before it is judged: it may have gone by then."""
    sets, read = chain(stack, 5), list[str]()
    gone, whole = sets[1], SetReader._manifest

    def reading(reader: SetReader, name: str, *rest: Any) -> Any:
        read.append(name)
        if len(read) == len(sets):
            assert stack.app().catalog.remove(gone)
        return whole(reader, name, *rest)

    monkeypatch.setenv("BACKUP_DIR", str(stack.root))
    monkeypatch.setattr(SetReader, "_manifest", reading)
    assert main(["verify", "all", "--quick"]) == 40
    assert Counter(read) == {manifest_name(each.id): 2 - (each is gone) for each in sets}
    assert f"not good: 1 of 5 sets:\n  - {gone.id} was removed before" in "".join(capfd.readouterr())
    assert not list(gone.directory.glob(f"*{gone.id}*"))


def test_what_a_pack_holds_is_found_in_every_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "_TOGETHER", 3)
    held = PackContents()
    assert held.sha256(512, 0) is None
    for number in range(10):
        held.add(1024 * number + 512, number, bytes([number]) * 32)
    assert [held.sha256(1024 * number + 512, number) for number in range(10)] == [f"{n:02}" * 32 for n in range(10)]
    assert [held.sha256(*asked) for asked in ((0, 0), (1024, 1), (1536, 2), (9 * 1024, 9), (1 << 40, 9))] == [None] * 5


def test_a_new_pack_is_read_when_it_is_written_and_not_again(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[str]()
    whole = Stored

    def noted(store: LocalStore, name: str, *words: Any) -> Stored:
        opened.append(name)
        return whole(store, name, *words)

    monkeypatch.setattr(packs, "Stored", noted)
    (stack.media / "a").write_bytes(os.urandom(50_000))
    stored = stack.night()
    assert stored.verdict and not stored.verdict.problems and not opened
    assert stack.app().catalog.packs.last_read(stored.manifest.packs[0].file)
    # Another file under its name is read.
    publish = Catalog.publish

    def swapped(self: Catalog, manifest: Manifest, *words: Any) -> None:
        publish(self, manifest, *words)
        pack = stack.root / "packs" / manifest.packs[-1].file
        data = bytearray(pack.read_bytes())
        data[-9] ^= 1
        pack.unlink()
        pack.write_bytes(data)

    monkeypatch.setattr(Catalog, "publish", swapped)
    (stack.media / "b").write_bytes(os.urandom(50_000))
    with pytest.raises(IntegrityError, match="damaged right after it was written: .*SHA-256 differs"):
        stack.night()
    assert len(opened) == 1


@pytest.mark.parametrize("wrong", ["digest", "unpacked"])
def test_a_new_pack_that_holds_something_else_is_damage(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    add = PackContents.add

    def added(self: PackContents, offset: int, layout: int, digest: bytes) -> None:
        if wrong == "unpacked":
            raise IntegrityError("it is no archive")
        add(self, offset, layout, bytes(32) if wrong == "digest" else digest)

    monkeypatch.setattr(PackContents, "add", added)
    (stack.media / "a").write_bytes(os.urandom(50_000))
    with pytest.raises(IntegrityError, match="damaged right after it was written"):
        stack.night()
    (stored,) = stack.app().catalog.sets()
    assert stored.verdict and stored.verdict.problems


@pytest.mark.parametrize("doubt", ["small files", "size", "not whole"])
@pytest.mark.long
def test_a_doubt_is_settled_by_reading(stack: Stack, monkeypatch: pytest.MonkeyPatch, doubt: str) -> None:
    read = PackContents.read

    def doubted(self: PackContents, pieces: Iterator[bytes]) -> None:
        read(self, pieces)
        self.plain_size += doubt == "size"
        if doubt == "not whole" and not files:
            raise IntegrityError("it was cut")

    files = list[int]()
    judged = PackChecks._read

    def noted(self: PackChecks, pack: Pack, *, quick: bool) -> PackContents:
        files.append(1)
        return judged(self, pack, quick=quick)

    monkeypatch.setattr(PackContents, "read", doubted)
    monkeypatch.setattr(PackChecks, "_read", noted)
    monkeypatch.setattr(written, "_ENOUGH", 0 if doubt == "small files" else 16 << 20)
    for number in range(300):
        (stack.media / f"{number}").write_bytes(os.urandom(8192))
    stored = stack.night()
    assert stored.verdict and not stored.verdict.problems and files == [1]
