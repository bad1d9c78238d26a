"""A base backup that is not as it was written does not stay."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backup.catalog.wal_archive import WalArchive
from backup.errors import IntegrityError, NoSpace
from backup.model.wal import Base
from backup.operations.pitr import base as module
from backup.progress import Silent
from backup.storage.artifact_writer import ArtifactWriter
from tests.support.facts import NOW
from tests.support.windows import SYSTEM, a_base, on_disk

CONTEXT = cast(Any, SimpleNamespace(catalog=SimpleNamespace(identity=None), progress=Silent()))


def kept(root: Path) -> tuple[WalArchive, Base]:
    """A base backup of two megabytes that pack a little."""
    archive = WalArchive(root, SYSTEM)
    archive.prepare()
    with ArtifactWriter(archive.bases, "b.tar.gz", "base") as writer:
        writer.write(random.Random(1).randbytes(1 << 20) + bytes(1 << 20))
        artifact = writer.finish()
        base = a_base(1, NOW).model_copy(update={"id": "b", "artifact": artifact})
        archive.keep_base(base, writer.staged)
    return archive, base


def test_one_that_is_as_it_was_written_stays(tmp_path: Path) -> None:
    archive, base = kept(tmp_path)
    assert base.artifact.plain_sha256 == "", "its own manifest has the sums of its files"
    module._read_back(CONTEXT, archive, base)
    assert archive.list_bases() == [base]


@pytest.mark.parametrize("place", [12, 5000, -6])
def test_any_damage_is_seen_and_it_is_removed(tmp_path: Path, place: int) -> None:
    archive, base = kept(tmp_path)
    path = archive.bases.directory / base.artifact.file
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="was removed"):
        module._read_back(CONTEXT, archive, base)
    assert archive.list_bases() == [] and not path.exists()


def test_one_of_another_size_is_removed(tmp_path: Path) -> None:
    archive, base = kept(tmp_path)
    artifact = base.artifact.model_copy(update={"plain_size": base.artifact.plain_size + 1})
    with pytest.raises(IntegrityError, match="was removed"):
        module._read_back(CONTEXT, archive, base.model_copy(update={"artifact": artifact}))


DAY = timedelta(days=1)


def nights(kinds: str) -> list[Base]:
    """One base a night up to now: F full, i on the one of the night before."""
    found: list[Base] = []
    for number, kind in enumerate(kinds):
        made = a_base(5, NOW - (len(kinds) - 1 - number) * DAY, size=10)
        found.append(made.model_copy(update={"parent": found[-1].id if kind == "i" else ""}))
    return found


@pytest.mark.parametrize(
    ("kinds", "left"),
    [
        # Of seven days and the one that the oldest moment needs.
        ("FFFFFFFFFF", "..FFFFFFFF"),
        # That one is the second: all before it stay, too.
        ("FiiiiiiFii", "FiiiiiiFii"),
        ("FiFiiiiiiFi", "..FiiiiiiFi"),
        # Two a night.
        ("FiiiFiiiiiii", "Fi..Fiiiiiii"),
    ],
)
def test_what_no_moment_needs_goes_but_nothing_that_another_one_builds_on(
    tmp_path: Path, kinds: str, left: str
) -> None:
    bases = nights(kinds)
    archive = on_disk(tmp_path, bases, {number: NOW for number in (5, 6, 7)})
    context = cast(Any, SimpleNamespace(clock=lambda: NOW, days=7, catalog=SimpleNamespace(root=tmp_path)))
    module.prune(context, archive)
    there = {each.id for each in archive.list_bases()}
    assert "".join(kind if each.id in there else "." for kind, each in zip(kinds, bases, strict=True)) == left


def test_one_that_lacks_its_parent_goes_when_it_is_too_old(tmp_path: Path) -> None:
    bases = nights("FiiiFiiiiiii")
    archive = on_disk(tmp_path, bases, {number: NOW for number in (5, 6, 7)})
    archive.remove_base(bases[0])
    context = cast(Any, SimpleNamespace(clock=lambda: NOW, days=7, catalog=SimpleNamespace(root=tmp_path)))
    module.prune(context, archive)
    assert archive.list_bases() == bases[4:]


def test_what_a_kill_left_of_a_base_goes_with_the_next(tmp_path: Path) -> None:
    """Before its record was there, or while it was removed; what has one stays, though that cannot be read."""
    archive = on_disk(tmp_path, nights("FF"), {number: NOW for number in (5, 6, 7)})
    folder = archive.bases.directory
    before = set(archive.bases.names())
    kept = {"20261101T010000Z.json", "20261101T010000Z.tar.gz", "20261101T010000Z.manifest", "notes.tar.gz"}
    kept |= {"20261102T010000Z.json.bak", "20261102T010000Z.tar.gz.old"}
    left = {"20261102T010000Z.tar.gz.age", "20261102T010000Z.manifest", ".20261103T010000Z.tar.gz.partial"}
    for name in kept | left | {".20261102T010000Z.json.partial"}:
        (folder / name).write_bytes(b"x")
    context = cast(Any, SimpleNamespace(clock=lambda: NOW, days=7, catalog=SimpleNamespace(root=tmp_path)))
    module.prune(context, archive)
    assert set(archive.bases.names()) == before | kept


def test_where_there_is_no_room_for_the_manifest_nothing_of_the_base_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = WalArchive(tmp_path, SYSTEM)

    def full(name: str, _data: bytes) -> None:
        raise NoSpace(f"no room for {name}", "")

    monkeypatch.setattr(archive.bases, "put", full)
    with pytest.raises(NoSpace), ArtifactWriter(archive.bases, "b.tar.gz", "base") as writer:
        writer.write(b"base")
        base = a_base(1, NOW).model_copy(update={"id": "b", "artifact": writer.finish()})
        archive.keep_base(base, writer.staged, b"manifest")
    assert archive.bases.names() == []


@pytest.mark.parametrize("whole", [True, False])
def test_what_was_cut_is_known_only_while_the_summaries_are_there(
    monkeypatch: pytest.MonkeyPatch, *, whole: bool
) -> None:
    """A server that keeps them for a day removes those of the parent's first minutes while the next one is taken."""
    parent = a_base(1, NOW)
    content = SimpleNamespace(timeline=1, start="0/3000028", parent=parent.start, taken={}, lengths={})
    taking = cast(Any, SimpleNamespace(source=SimpleNamespace(login=None)))
    monkeypatch.setattr(module, "cut_files", lambda *_: {})
    monkeypatch.setattr(module, "summarized", lambda *asked: whole and asked[2:] == (parent.start, "0/3000028"))
    if whole:
        assert module._require_sound(taking, parent, cast(Any, content)) == ()
    else:
        with pytest.raises(module._Refused, match="were removed meanwhile"):
            module._require_sound(taking, parent, cast(Any, content))
