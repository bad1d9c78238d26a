"""Many sets of one chain judged in one command: what they share is read and judged once, and not the less for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.cli import main
from backup.model.backup_set import StoredSet
from backup.operations.verify import packs, volume_archive
from backup.operations.verify.packs import PackChecks
from backup.operations.verify.run import check_set
from backup.progress import Silent
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


def test_what_a_pack_holds_is_found_in_every_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "_TOGETHER", 3)
    held = packs._Held()
    assert held.sha256(512, 0) is None
    for number in range(10):
        held.add(1024 * number + 512, number, bytes([number]) * 32)
    assert [held.sha256(1024 * number + 512, number) for number in range(10)] == [f"{n:02}" * 32 for n in range(10)]
    assert [held.sha256(*asked) for asked in ((0, 0), (1024, 1), (1536, 2), (9 * 1024, 9), (1 << 40, 9))] == [None] * 5
