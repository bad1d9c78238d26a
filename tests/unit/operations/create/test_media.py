"""Incremental sets, made, judged, damaged, looked into and removed, of real files."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup.catalog.catalog import Catalog
from backup.errors import IntegrityError
from backup.media.helper_main import run_arguments
from backup.model.backup_set import manifest_name
from backup.model.manifest import Tier, file_name, to_json
from backup.operations.context import Context
from backup.operations.export import files_to_export, to_folder
from backup.operations.import_ import adopt
from backup.operations.inspect import one_file
from backup.operations.inspect.disk_usage import usage
from backup.operations.offsite.layout import sums
from backup.operations.set_artifacts import open_file
from backup.operations.verify.run import check_set, verify_set
from backup.operations.whole_copy import without_packs
from backup.progress import Silent
from tests.support.awkward_tree import fill, look
from tests.support.increments import Stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    yield Stack(tmp_path / "stack")


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


def test_the_sets_there_are_read_once_before_a_set_is_made_and_once_after(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many volumes there are; the new set itself is found without the others."""
    for name in ("media", "second", "third"):
        (stack.media.parent / name).mkdir(exist_ok=True)
        (stack.media.parent / name / "a").write_bytes(b"a")
    stack.night()
    readings, sets = list[Catalog](), Catalog.sets
    monkeypatch.setattr(Catalog, "sets", lambda catalog, *tier: readings.append(catalog) or sets(catalog, *tier))
    monkeypatch.setattr(Stack, "find", lambda stack, name: name)
    assert stack.night()
    assert len(readings) == 2


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
    fill(stack.media, 1 << 18)
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


def test_an_export_needs_no_packs(stack: Stack) -> None:
    fill(stack.media, 1 << 18)
    stack.night()
    (stack.media / "later").write_bytes(b"later")
    stored = stack.night()
    out, main = stack.base / "exported", stack.app()
    out.mkdir()
    with without_packs(stored, main.catalog, "run", Silent()) as whole:
        assert (whole.manifest.format, whole.manifest.packs) == (1, ())
        to_folder(whole, files_to_export(whole, stored.id), out, Silent())
    assert not list((stack.root / "temp").iterdir())
    (copied,) = main.catalog.sets_in(out)
    assert check_set(copied, Silent()).problems == []
    archive = copied.manifest.artifact("volume", "media")
    assert archive
    full = stack.night("full", tier=Tier.MANUAL).manifest.artifact("volume", "media")
    assert full and full.plain_size == archive.plain_size
    with open_file(copied, archive.file) as mine, open_file(stack.find("latest"), full.file) as theirs:
        assert b"".join(mine.content()) == b"".join(theirs.content())
    other = Stack(stack.base / "other")
    place = other.app()
    context = Context(catalog=place.catalog, records=place.records, lock=place.lock)
    assert adopt([out], None, context).new == [stored.id]
    third = Stack(stack.base / "third")
    third.root.mkdir()
    with pytest.raises(IntegrityError, match="is incremental, and the packs that it needs are no part of it"):
        adopt([stored.directory], None, replace(context, catalog=third.app().catalog))


def test_the_sets_here_are_read_once_however_many_are_imported(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    (stack.media / "a").write_bytes(b"a")
    made = [stack.night("full").id for _ in range(3)]
    place = Stack(stack.base / "other").app()
    readings, sets = list[Catalog](), Catalog.sets
    monkeypatch.setattr(Catalog, "sets", lambda catalog, *tier: readings.append(catalog) or sets(catalog, *tier))
    context = Context(catalog=place.catalog, records=place.records, lock=place.lock)
    done = adopt([stack.root / "daily"], None, context)
    assert done.new == made and len(readings) == 1
    assert done.newest and done.newest.id == made[-1]


def test_a_damaged_pack_is_not_exported(stack: Stack) -> None:
    (stack.media / "a").write_bytes(os.urandom(50_000))
    stored = stack.night()
    path = stack.root / "packs" / stored.manifest.packs[0].file
    data = bytearray(path.read_bytes())
    data[30_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError), without_packs(stored, stack.app().catalog, "run", Silent()):
        pass
    assert not list((stack.root / "temp").iterdir())


def test_the_space_that_sets_share_is_told(stack: Stack) -> None:
    (stack.media / "a").write_bytes(os.urandom(50_000))
    first = stack.night()
    (stack.media / "b").write_bytes(os.urandom(20_000))
    second = stack.night()
    use = usage(stack.app().catalog)
    sizes = [pack.stored_size for pack in sorted(second.manifest.packs, key=lambda each: each.file)]
    assert [(use.sets[each.id].needs, use.sets[each.id].alone) for each in (first, second)] == [
        (sizes[0], 0),
        (sum(sizes), sizes[1]),
    ]
    assert use.other["packs"] > sum(sizes)


@pytest.mark.long
def test_the_page_restores_a_chain_by_hand(stack: Stack) -> None:
    fill(stack.media, 1 << 18)
    for number in range(30):
        (stack.media / f"n{number}").write_bytes(os.urandom(2000))
        if number % 10 == 9:
            (stack.media / f"n{number - 3}").unlink()
        stored = stack.night()
    (stack.media / "n28").rename(stack.media / "it's a \\ tab\t")
    (stack.media / "n29").chmod(0o4750)
    os.utime(stack.media / "n29", ns=(0, -1_500_000_000))
    os.link(stack.media / "n29", stack.media / "further")
    stored = stack.night()
    assert len(stored.manifest.packs) > 25
    page = (stored.directory / "RESTORE.txt").read_text()
    script = "".join(f"{line[4:]}\n" for line in page.splitlines() if line.startswith("    "))
    done = subprocess.run(
        ["sh", "-eu"],
        input=script,
        cwd=stored.directory,
        env={"PATH": os.environ["PATH"], "TARGET": str(stack.base / "hand")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(stack.base / "hand")) == ["media"]

    def known(path: Path) -> dict[bytes, object]:
        """All but attributes, and how large holes are."""
        return {name: (*seen[:4], (seen[4] or ("", 0))[:2], *seen[5:7]) for name, seen in look(path).items()}  # type: ignore[index]

    assert known(stack.base / "hand" / "media") == known(stack.media)


@pytest.mark.parametrize("what", ["swapped", "elsewhere", "foreign"])
def test_a_tree_that_lies_is_told(stack: Stack, what: str) -> None:
    for name in ("a", "b"):
        (stack.media / name).write_bytes(os.urandom(3000))
    stored = stack.night()
    tree = stored.manifest.artifact("tree")
    assert tree
    lines = gzip.decompress((stored.directory / tree.file).read_bytes()).splitlines(keepends=True)
    fields = [line.split(b"\t") for line in lines]
    first, second = (each for each in fields if each[0] == b"f")
    start = int(first[7])
    if what == "swapped":
        first[7], second[7] = b"%d" % (start + 3072 + int(second[7])), b"%d" % -(3072 + int(second[7]) + 3072)
    elif what == "elsewhere":
        first[7] = b"%d" % (start + 1)
    else:
        (named,) = (each for each in fields if each[0] == b"p")
        named[2] = b"obcms_media_daily_2020-01-01_00-00-00.tar.gz\n"
        fields.pop()
    plain = b"".join(b"\t".join(each) for each in fields)
    packed = gzip.compress(plain)
    (stored.directory / tree.file).write_bytes(packed)
    told = {
        "stored_size": len(packed),
        "stored_sha256": hashlib.sha256(packed).hexdigest(),
        "plain_size": len(plain),
        "plain_sha256": hashlib.sha256(plain).hexdigest(),
    }
    artifacts = tuple(a.model_copy(update=told) if a.kind == "tree" else a for a in stored.manifest.artifacts)
    manifest = stored.manifest.model_copy(update={"artifacts": artifacts})
    (stored.directory / manifest_name(stored.id)).write_bytes(to_json(manifest))
    (stored.directory / file_name("set", stored.id, "sha256")).write_bytes(sums(manifest))
    problems = check_set(stack.find(stored.id), Silent()).problems
    words = "is no pack that the manifest names" if what == "foreign" else "has other content than when it was stored"
    assert any(words in problem for problem in problems), problems


def test_a_set_of_packs_has_no_archive_and_one_with_archives_no_tree(stack: Stack) -> None:
    (stack.media / "a").write_bytes(b"a")
    for mode in ("incremental", "full"):
        stored = stack.night(mode)
        path = stored.directory / manifest_name(stored.id)
        path.write_bytes(path.read_bytes().replace(b'"format": 2', b'"format": 1', 1) if mode == "incremental" else
                         path.read_bytes().replace(b'"format": 1', b'"format": 2', 1))  # fmt: skip
        problems = check_set(stack.find(stored.id), Silent()).problems
        assert any("contradicts itself about the volumes" in problem for problem in problems), problems


def test_a_pack_is_read_where_a_set_is_made_that_needs_it_unless_it_was_lately(stack: Stack) -> None:
    (stack.media / "a").write_bytes(os.urandom(50_000))
    first = stack.night()
    path = stack.root / "packs" / first.manifest.packs[0].file
    status, data = path.stat(), bytearray(path.read_bytes())
    data[30_000] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    # As rot does, nothing shows it but its bytes; and those were read a moment ago.
    assert stack.night().good
    note = path.with_name(f"{path.name}.checked")
    long_ago = datetime.now(UTC) - timedelta(days=8)
    note.write_text(re.sub(r'"time":"[^"]*"', f'"time":"{long_ago.isoformat()}"', note.read_text()))
    with pytest.raises(IntegrityError, match="damaged right after it was written"):
        stack.night()
    assert {each.state for each in stack.app().catalog.sets()} == {"damaged"}
    stack.whole(stack.night())
