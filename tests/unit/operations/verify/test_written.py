"""A set just made is judged by what the disk gave back while it was written; what does not fit is read anew."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from backup.catalog.catalog import Catalog
from backup.errors import IntegrityError
from backup.media import archive_tree
from backup.media.archive_tree import Archiver
from backup.model.backup_set import SEALED
from backup.model.manifest import Manifest
from backup.operations.create import media
from backup.operations.verify import set_files, written
from backup.operations.verify.stored_bytes import Stored
from backup.operations.verify.written import ArchiveMembers
from backup.pipeline import gzip
from backup.storage.directory import LocalStore
from tests.support.increments import Stack
from tests.support.keys import key_pair

DAMAGED = "damaged right after it was written"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path / "packs")
    (made.media / "a").write_bytes(os.urandom(50_000))
    (made.media / "empty").touch()
    (made.media / "link").symlink_to("a")
    with (made.media / "holes").open("wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"data")
    yield made


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The endings of the files that a judgement reads."""
    found = list[str]()

    def noted(store: LocalStore, name: str, *words: Any) -> Stored:
        found.append(name.partition(".")[2])
        return Stored(store, name, *words)

    monkeypatch.setattr(set_files, "Stored", noted)
    return found


def test_an_archive_is_read_when_it_is_written_and_not_again(stack: Stack, opened: list[str]) -> None:
    stored = stack.night("full")
    assert stored.verdict and stored.verdict.problems == () and set(opened) == {"files.gz"}


def test_one_with_hard_links_is_read(stack: Stack, opened: list[str]) -> None:
    os.link(stack.media / "a", stack.media / "b")
    stored = stack.night("full")
    assert stored.verdict and stored.verdict.problems == () and "tar.gz" in opened


def test_nor_is_what_nobody_here_can_open(stack: Stack, opened: list[str]) -> None:
    stack.settings = {
        "BACKUP_MEDIA": "full",
        "BACKUP_ENCRYPT": "all",
        "BACKUP_AGE_RECIPIENTS": key_pair(stack.base / "key"),
    }
    stored = stack.night("full")
    assert stored.verdict and stored.verdict.problems == () and stored.verdict.unchecked == (SEALED,) and not opened
    assert stack.find(stored.id).verdict == stored.verdict


def test_one_that_was_written_to_since_is_read(
    stack: Stack, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Catalog.publish

    def damaged(self: Catalog, manifest: Manifest, staged: Sequence[Any], new: Sequence[Any] = ()) -> None:
        publish(self, manifest, staged, new)
        archive = manifest.artifact("volume")
        assert archive
        with (stack.root / "daily" / archive.file).open("r+b") as file:
            file.seek(1000)
            file.write(b"damage")

    monkeypatch.setattr(Catalog, "publish", damaged)
    with pytest.raises(IntegrityError, match=DAMAGED):
        stack.night("full")
    assert "tar.gz" in opened


def test_what_the_index_says_otherwise_is_found(
    stack: Stack, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Archiver._list
    monkeypatch.setattr(Archiver, "_list", lambda self, file, what: listed(self, file._replace(sha256="0" * 64), what))
    with pytest.raises(IntegrityError, match=f"{DAMAGED}.*has other content than when it was stored"):
        stack.night("full")
    assert "tar.gz" in opened


@pytest.mark.parametrize("more", [-1, 1])
def test_files_that_one_of_both_has_alone_are_found(stack: Stack, monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    listed = Archiver._list

    def once_more(self: Archiver, *words: Any) -> None:
        for _ in range(1 + more):
            listed(self, *words)

    monkeypatch.setattr(Archiver, "_list", once_more)
    with pytest.raises(IntegrityError, match=f"{DAMAGED}.*the archive holds"):
        stack.night("full")


def test_what_the_manifest_says_otherwise_is_found(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    part = media._part
    monkeypatch.setattr(media, "_part", lambda *words: part(*words).model_copy(update={"links": 2}))
    with pytest.raises(IntegrityError, match="holds 1 links instead of 2"):
        stack.night("full")


def test_hard_links_that_the_index_does_not_list_are_found(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    os.link(stack.media / "a", stack.media / "z")
    line = archive_tree.index_line
    monkeypatch.setattr(archive_tree, "index_line", lambda *words: b"" if words[2] == b"media/z" else line(*words))
    with pytest.raises(IntegrityError, match=f"{DAMAGED}.*the archive holds media/z where the file index has its end"):
        stack.night("full")


def test_a_pack_that_the_manifest_says_is_another_is_read(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = media._take_pack
    other = {"stored_sha256": "0" * 64}
    monkeypatch.setattr(media, "_take_pack", lambda *words: taken(*words).model_copy(update=other))
    with pytest.raises(IntegrityError, match=f"{DAMAGED}.*its SHA-256 differs from the manifest's"):
        stack.night()


def test_one_that_is_left_at_its_end_was_not_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, kind in (("media", tarfile.DIRTYPE), ("media/a", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            archive.addfile(member)
    pieces = [made.getvalue(), b"what follows the end"]
    monkeypatch.setattr(gzip, "unpack", lambda packed, single: iter(pieces))
    monkeypatch.setattr(written, "_ENOUGH", len(pieces[0]))
    members = ArchiveMembers(b"media")
    members.take([])
    assert members.files == 1 and not members.whole


def test_a_doubt_is_settled_by_reading(stack: Stack, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ArchiveMembers, "agrees", lambda self, index: False)
    stored = stack.night("full")
    assert stored.verdict and stored.verdict.problems == () and "tar.gz" in opened
