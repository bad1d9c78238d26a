"""A base backup that is not as it was written does not stay."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pyrage
import pytest

from backup.catalog.wal_archive import WalArchive
from backup.errors import IntegrityError, NoSpace
from backup.model.manifest import Artifact
from backup.model.wal import Base
from backup.operations.pitr import base as module
from backup.pipeline import age
from backup.progress import Silent
from backup.storage.artifact_writer import ArtifactWriter
from tests.support.facts import NOW
from tests.support.windows import SYSTEM, a_base, on_disk

KEY, OTHER = (pyrage.x25519.Identity.generate() for _ in range(2))


class Locks(NamedTuple):
    """To whom a base is encrypted, and which key is here."""

    to: Any
    key: Any


LOCKS = [Locks(None, None), Locks(None, KEY), Locks(KEY, KEY)]


def taken(root: Path, locks: Locks, spoil: Callable[[bytes], bytes] = bytes) -> tuple[module._Unpacked, Artifact]:
    """A base backup of two megabytes that pack a little; what the disk gives back is `spoil`t."""
    key = root / "key"
    key.write_text(str(locks.key))
    unpacked = module._Unpacked(key if locks.key else None)
    archive = WalArchive(root, SYSTEM)
    archive.prepare()

    def take(blocks: Iterator[memoryview]) -> None:
        unpacked.take(iter([memoryview(spoil(b"".join(map(bytes, blocks))))]))

    recipients = age.recipients([str(locks.to.to_public())] if locks.to else [])
    with ArtifactWriter(archive.bases, "b.tar.gz", "base", recipients=recipients, taker=take) as writer:
        writer.write(random.Random(1).randbytes(1 << 20) + bytes(1 << 20))
        return unpacked, writer.finish()


@pytest.mark.parametrize("locks", LOCKS)
def test_one_that_is_as_it_was_written_is_one(tmp_path: Path, locks: Locks) -> None:
    unpacked, artifact = taken(tmp_path, locks)
    assert artifact.plain_sha256 == "", "its own manifest has the sums of its files"
    unpacked.require(artifact)
    assert not unpacked.locked


@pytest.mark.parametrize("locks", LOCKS)
@pytest.mark.parametrize("place", [12, 5000, -6])
def test_any_damage_is_seen(tmp_path: Path, locks: Locks, place: int) -> None:
    def spoil(data: bytes) -> bytes:
        spoilt = bytearray(data)
        spoilt[place] ^= 1
        return bytes(spoilt)

    unpacked, artifact = taken(tmp_path, locks, spoil)
    with pytest.raises(IntegrityError, match="was not kept"):
        unpacked.require(artifact)


@pytest.mark.parametrize("locks", LOCKS)
@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data + b"x", lambda _: b""])
def test_none_that_is_shorter_or_longer_counts(tmp_path: Path, locks: Locks, spoil: Callable[[bytes], bytes]) -> None:
    unpacked, artifact = taken(tmp_path, locks, spoil)
    with pytest.raises(IntegrityError, match="was not kept"):
        unpacked.require(artifact)


@pytest.mark.parametrize("whole", [True, False])
def test_none_is_kept_that_does_not_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, whole: bool) -> None:
    archive = WalArchive(tmp_path, SYSTEM)
    archive.prepare()
    content = SimpleNamespace(manifest=b"")
    reader = SimpleNamespace(feed=lambda _: None, finish=lambda: content, abandon=lambda: None)
    output = SimpleNamespace(chunks=lambda _: iter([b"x" * 100]))
    clients = SimpleNamespace(base_backup=lambda *_: nullcontext(output))
    context = SimpleNamespace(
        clock=lambda: NOW, steady=lambda: 0.0, patience=1.0, progress=Silent(), level=1, recipients=(),
        catalog=SimpleNamespace(identity=None),
    )  # fmt: skip
    taking = SimpleNamespace(
        context=context, archive=archive, run=SimpleNamespace(started=NOW, id="r"), facts=SimpleNamespace(bytes=1),
        source=SimpleNamespace(clients=clients),
    )  # fmt: skip
    monkeypatch.setattr(module, "BaseReader", lambda: reader)
    monkeypatch.setattr(
        module, "_record", lambda *given: a_base(1, NOW).model_copy(update={"id": "b", "artifact": given[4]})
    )
    if not whole:
        monkeypatch.setattr(module.gzip, "unpack", lambda *_, **__: iter([b"x" * 99]))
    with nullcontext() if whole else pytest.raises(IntegrityError, match="was not kept"):
        module._receive(cast(Any, taking), module.Choice("it is the first"))
    assert len(archive.list_bases()) == int(whole)


@pytest.mark.parametrize("key", [None, OTHER])
def test_one_that_no_key_here_opens_is_kept_and_that_is_told(tmp_path: Path, key: Any) -> None:
    unpacked, artifact = taken(tmp_path, Locks(KEY, key))
    unpacked.require(artifact)
    assert unpacked.locked


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
