"""Incremental sets, made, judged, damaged, looked into and removed, of real files."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from backup.media.helper_main import run_arguments
from backup.model.manifest import Tier
from backup.operations.inspect import one_file
from backup.operations.verify.run import check_set, verify_set
from backup.progress import Silent
from tests.support.awkward_tree import fill, look
from tests.support.increments import Stack


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    yield Stack(tmp_path_factory.mktemp("stack"))


def test_a_second_set_needs_the_pack_of_the_first(stack: Stack) -> None:
    fill(stack.media)
    first = stack.night()
    second = stack.night()
    assert (first.state, second.state) == ("complete", "complete")
    assert stack.packs() == [first.manifest.packs[0].file]
    assert second.manifest.packs == first.manifest.packs
    assert (first.manifest.format, [a.kind for a in second.manifest.artifacts]) == (2, ["index", "tree"])
    assert second.verified
    stack.whole(first)
    stack.whole(second)


def test_what_is_new_is_a_pack_of_its_own(stack: Stack) -> None:
    (stack.media / "a").write_bytes(os.urandom(50_000))
    first = stack.night()
    (stack.media / "b").write_bytes(os.urandom(20_000))
    second = stack.night(tier=Tier.WEEKLY)
    assert {pack.file for pack in second.manifest.packs} == set(stack.packs())
    assert len(stack.packs()) == 2
    stack.whole(second)
    full = stack.night(full=True)
    assert len(full.manifest.packs) == 1
    assert full.manifest.packs[0].file not in {each.file for each in second.manifest.packs + first.manifest.packs}
    stack.whole(full)


def test_off_means_off_and_either_way_goes(stack: Stack) -> None:
    (stack.media / "a").write_bytes(b"a")
    plain = stack.night("full")
    assert not (stack.root / "packs").exists()
    assert b'"packs"' not in (plain.directory / f"obcms_set_{plain.id}.json").read_bytes()
    assert plain.manifest.format == 1
    stack.whole(stack.night())
    again = stack.night("full")
    assert again.manifest.artifact("volume", "media")
    assert check_set(again, Silent()).problems == []


def test_a_damaged_pack_damages_all_that_need_it_and_is_made_anew(stack: Stack) -> None:
    (stack.media / "a").write_bytes(os.urandom(50_000))
    first = stack.night()
    (stack.media / "b").write_bytes(os.urandom(50_000))
    second = stack.night()
    path = stack.root / "packs" / first.manifest.packs[0].file
    data = bytearray(path.read_bytes())
    data[30_000] ^= 1
    path.write_bytes(data)
    verdict = verify_set(stack.app().catalog, first, Silent(), stack.now)
    assert verdict.problems
    assert [stack.find(each.id).state for each in (first, second)] == ["damaged", "damaged"]
    third = stack.night()
    assert third.good
    assert path.name not in {each.file for each in third.manifest.packs}
    stack.whole(third)
    # The good copy comes back.
    data[30_000] ^= 1
    path.write_bytes(data)
    assert verify_set(stack.app().catalog, stack.find(second.id), Silent(), stack.now).problems == ()
    assert stack.find(second.id).good


@pytest.mark.parametrize("what", ["missing", "cut", "swapped"])
def test_a_pack_that_is_not_the_one_is_damage(stack: Stack, what: str) -> None:
    (stack.media / "a").write_bytes(os.urandom(50_000))
    first = stack.night()
    (stack.media / "a").write_bytes(os.urandom(50_000))
    second = stack.night()
    mine, other = (stack.root / "packs" / name for name in stack.packs())
    if what == "missing":
        mine.unlink()
    elif what == "cut":
        mine.write_bytes(mine.read_bytes()[:-1])
    else:
        data = other.read_bytes()
        mine.write_bytes(data[: len(mine.read_bytes())].ljust(mine.stat().st_size, b"\0"))
    if what == "swapped":
        assert verify_set(stack.app().catalog, stack.find(first.id), Silent(), stack.now).problems
    assert stack.find(first.id).state == "damaged"
    assert stack.find(second.id).state == "complete"
    assert check_set(stack.find(first.id), Silent()).problems
    assert check_set(stack.find(first.id), Silent(), quick=True).problems


def test_a_file_is_read_out_of_its_pack(stack: Stack) -> None:
    fill(stack.media)
    (stack.media / "x").mkdir()
    (stack.media / "x" / "big").write_bytes(os.urandom(3 << 20))
    stack.night()
    (stack.media / "later").write_bytes(b"later")
    (stack.media / "x").rename(stack.media / "y")
    stored = stack.night()
    for path in ("later", "y/big"):
        taken: list[bytes] = []
        one_file.content(stored, path, taken.append, Silent())
        assert b"".join(taken) == (stack.media / path).read_bytes()


def test_single_files_are_put_back(stack: Stack) -> None:
    (stack.media / "d").mkdir()
    (stack.media / "d" / "a").write_bytes(b"first")
    os.link(stack.media / "d" / "a", stack.media / "z")
    stored = stack.night()
    before = look(stack.media)
    (stack.media / "d" / "a").unlink()
    (stack.media / "z").unlink()
    tree, index = (stored.manifest.artifact(kind, "media") for kind in ("tree", "index"))
    assert tree and index
    words = ["put", f"--limit={1 << 40}", "--days=7", "--trusted", f"--packs={stack.root / 'packs'}"]
    places = [str(stored.directory / tree.file), str(stored.directory / index.file), "media", str(stack.media), "1"]
    run_arguments([*words, f"--path={b'z'.hex()}", "--", *places], lambda count: None)
    assert (stack.media / "z").read_bytes() == b"first"
    run_arguments([*words, f"--path={b'd'.hex()}", "--", *places[:-1], "2"], lambda count: None)
    assert {k: v[4] for k, v in look(stack.media, b".").items()} == {k: v[4] for k, v in before.items()}
