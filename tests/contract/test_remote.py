"""The contract of a place of copies, for each kind of place: a folder, Ceph's gateway, moto."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.errors import IntegrityError, RemoteDamaged, RemoteFailed, RemoteMissing
from backup.storage.folder import Folder
from backup.storage.remote import Remote
from backup.storage.s3 import open_bucket
from tests.support.fatlike import mounted

KEY = "daily/obcms_backup_daily_2025-10-20_02-00-00.sql.gz"
MIB = 1 << 20
BLOCK = os.urandom(MIB)


@pytest.fixture(params=["folder", "fatlike", "ceph18", "ceph20", "moto"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Remote]:
    """An empty place; a bucket is used below a prefix, beside somebody else's objects."""
    (tmp_path / "copies").mkdir()
    if request.param == "folder":
        yield Folder(tmp_path / "copies")
        return
    if request.param == "fatlike":
        with mounted(tmp_path / "copies") as folder:
            yield Folder(folder)
        return
    release = request.param.removeprefix("ceph")
    service = (
        request.getfixturevalue("gateways")(int(release)) if release.isdigit() else request.getfixturevalue("moto")
    )
    bucket = service.bucket()
    service.client().put_object(Bucket=bucket, Key="stack", Body=b"no folder of ours")
    service.client().put_object(Bucket=bucket, Key="stack-two/daily/x", Body=b"another stack's")
    place: Remote = open_bucket(service.options(bucket, prefix="stack"))
    yield place


def failing(blocks: int) -> Iterator[bytes]:
    """A source that dies."""
    yield from [BLOCK] * blocks
    raise OSError("the source has died")


def _notes(remote: Remote) -> bool:
    """Whether a place can note a SHA-256 that it is told: a disk without attributes cannot."""
    return not os.path.ismount(remote.name)


# Nothing, one part, exactly one part of 12 MiB, a byte more than that, several parts with odd chunks.
SIZES = [0, 1, 12 * MIB, 12 * MIB + 1, 28 * MIB + 7]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_what_was_put_is_there_and_comes_back(remote: Remote, size: int, known: bool) -> None:
    data = (BLOCK * (size // MIB + 1))[:size]
    digest, told = hashlib.sha256(data).hexdigest(), []
    chunks = [data[start : start + 300_001] for start in range(0, size, 300_001)]
    entry = remote.put(KEY, chunks, *([size] if known else [None]), told.append, digest if known else "")
    assert (entry.key, entry.size, entry.sha256, sum(told)) == (KEY, size, digest, size)
    found = remote.stat(KEY)
    assert found and (found.size, found.checksum or entry.checksum) == (size, entry.checksum)
    assert found.sha256 == digest or (not (known and _notes(remote)) and not found.sha256)
    assert b"".join(remote.get(KEY)) == data
    assert [(each.key, each.size, each.archived) for each in remote.entries()] == [(KEY, size, False)]


def test_a_listing_tells_the_same_time_as_the_object(remote: Remote) -> None:
    """By it an object is known to be the same without asking for it."""
    put = remote.put(KEY, [b"x"])
    found = remote.stat(KEY)
    assert found and [each.modified for each in remote.entries()] == [found.modified] == [put.modified]


def test_a_known_sha256_is_told_of_any_size(remote: Remote) -> None:
    digest = hashlib.sha256(BLOCK * 13).hexdigest()
    remote.put(KEY, [BLOCK] * 13, 13 * MIB, sha256=digest)
    found = remote.stat(KEY)
    assert found and found.sha256 == (digest if _notes(remote) else "")


@pytest.mark.parametrize("blocks", [0, 3, 20])
def test_a_source_that_dies_leaves_nothing(remote: Remote, blocks: int) -> None:
    with pytest.raises(OSError, match="the source has died"):
        remote.put(KEY, failing(blocks))
    assert remote.stat(KEY) is None
    assert remote.entries() == []


@pytest.mark.parametrize("blocks", [0, 20])
def test_a_source_that_dies_leaves_what_was_there(remote: Remote, blocks: int) -> None:
    remote.put(KEY, [b"earlier"])
    with pytest.raises(OSError, match="the source has died"):
        remote.put(KEY, failing(blocks))
    assert b"".join(remote.get(KEY)) == b"earlier"


@pytest.mark.parametrize("blocks", [1, 10])
@pytest.mark.parametrize("size", [-1, 1])
def test_other_bytes_than_required_are_not_kept(remote: Remote, blocks: int, size: int) -> None:
    with pytest.raises(IntegrityError):
        remote.put(KEY, [BLOCK] * blocks, blocks * MIB + size)
    with pytest.raises(IntegrityError):
        remote.put(KEY, [BLOCK] * blocks, blocks * MIB, sha256="0" * 64)
    assert remote.entries() == []


def test_another_object_replaces_the_first(remote: Remote) -> None:
    first, second = remote.put(KEY, [b"first"]), remote.put(KEY, [BLOCK] * 9)
    assert first.checksum != second.checksum
    assert b"".join(remote.get(KEY)) == BLOCK * 9


def test_listings_have_their_prefix_and_order(remote: Remote) -> None:
    for name in ("weekly/b", "daily/a", "daily/ä", "daily-x/a"):
        remote.put(name, [b"x"])
    assert [entry.key for entry in remote.entries()] == ["daily-x/a", "daily/a", "daily/ä", "weekly/b"]
    assert [entry.key for entry in remote.entries("daily/")] == ["daily/a", "daily/ä"]
    assert remote.entries("monthly/") == []


def test_what_is_not_there(remote: Remote) -> None:
    assert remote.stat(KEY) is None
    assert remote.remove(KEY) == "removed"
    assert remote.sweep() == 0
    with pytest.raises(RemoteMissing):
        b"".join(remote.get(KEY))


def test_removed_is_gone(remote: Remote) -> None:
    remote.put(KEY, [b"x"])
    assert remote.remove(KEY) == "removed"
    assert (remote.stat(KEY), remote.entries()) == (None, [])


@pytest.mark.parametrize("key", ["", "/etc/x", "../x", "daily/../../x", "daily//x", "daily/\n", "x" * 800])
def test_names_that_lead_elsewhere_are_refused(remote: Remote, key: str) -> None:
    for call in (lambda: remote.put(key, [b"x"]), lambda: remote.stat(key), lambda: remote.remove(key)):
        with pytest.raises(ValueError, match="is no key"):
            call()


def test_no_secret_is_shown(remote: Remote) -> None:
    assert "canary" not in f"{remote.name} {remote!r} {vars(remote)}"


class TestFolder:
    """What only a folder has: links, mounts, permissions."""

    def test_links_are_not_followed(self, tmp_path: Path) -> None:
        folder, other = Folder(tmp_path / "copies"), tmp_path / "other"
        (tmp_path / "copies").mkdir()
        other.mkdir()
        (other / "a").write_text("private")
        (tmp_path / "copies/daily").symlink_to(other)
        (tmp_path / "copies/b").symlink_to(other / "a")
        assert folder.entries() == []
        for key in ("daily/a", "b"):
            with pytest.raises(RemoteFailed):
                b"".join(folder.get(key))
        with pytest.raises(RemoteFailed, match="not followed"):
            folder.put("daily/a", [b"x"])
        with pytest.raises(RemoteFailed, match="not followed"):
            folder.remove("daily/a")
        folder.put("b", [b"x"])
        assert (other / "a").read_text() == "private"

    def test_a_folder_that_is_no_mount(self, tmp_path: Path) -> None:
        with pytest.raises(RemoteFailed, match="not a mount"):
            Folder(tmp_path, mounted=True).put("a", [b"x"])
        with pytest.raises(RemoteFailed, match="does not exist"):
            Folder(tmp_path / "gone").entries()

    def test_a_changed_file_tells_no_sha256_and_a_rotten_one_is_not_read(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        folder.put("a", [b"right"])
        before = (tmp_path / "a").stat()
        (tmp_path / "a").write_bytes(b"wrong")
        os.utime(tmp_path / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(RemoteDamaged, match="does not match what was stored"):
            b"".join(folder.get("a"))
        (tmp_path / "a").write_bytes(b"other")
        found = folder.stat("a")
        assert found and found.sha256 == ""
