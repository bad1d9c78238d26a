"""Files appear whole and proven, never over another; what is not ours is neither read nor removed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from backup.errors import IntegrityError, NoSpace, StoreError
from backup.model.manifest import Artifact
from backup.operations.export import Output
from backup.pipeline.bounded_queue import BoundedQueue
from backup.storage import directory, rename, staged_file
from backup.storage.artifact_writer import ArtifactWriter
from backup.storage.directory import LocalStore
from backup.storage.staged_file import staged_name

DATA = os.urandom(3 << 20)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "daily")


def failing(number: int, after: int = 0) -> Callable[..., int]:
    """A system call that fails with `number`, `after` some calls that do nothing."""
    left = iter(range(after))

    def call(*_: object, **__: object) -> int:
        if next(left, None) is None:
            raise OSError(number, os.strerror(number))
        return 0

    return call


def test_a_file_appears_when_it_is_whole(store: LocalStore) -> None:
    with store.stage("a") as staged:
        staged.write(DATA)
        assert store.names() == [staged_name("a")]
        staged.seal()
        store.publish([staged])
    assert store.names() == ["a"] and store.read("a") == DATA
    assert (staged.size, staged.sha256) == (len(DATA), hashlib.sha256(DATA).hexdigest())
    assert (store.directory / "a").stat().st_mode & 0o777 == 0o600


def test_nothing_is_ever_overwritten(store: LocalStore) -> None:
    store.put("a", b"first")
    with pytest.raises(StoreError, match="exists already and was not overwritten"):
        store.put("a", b"second")
    assert store.read("a") == b"first" and store.names() == ["a"]


@pytest.mark.parametrize("flag", [True, False], ids=["in one step", "looked for first"])
def test_nor_is_what_comes_in_the_last_moment(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flag: bool
) -> None:
    """A file system that knows no such flag is asked before; there is nothing better there."""
    real = rename.renameat2

    def late(source: int, old: bytes, target: int, new: bytes, flags: int) -> bool:
        assert flags == rename.NO_REPLACE
        Path(os.fsdecode(new)).write_bytes(b"somebody's")
        return flag and real(source, old, target, new, flags)

    monkeypatch.setattr(rename, "renameat2", late)
    with pytest.raises(StoreError, match="exists already and was not overwritten"):
        store.put("a", b"ours")
    assert store.read("a") == b"somebody's" and store.names() == ["a"]
    out = tmp_path / "out.sql"
    with pytest.raises(StoreError, match="File exists"), Output(out) as written:
        written.write(b"ours")
    assert out.read_bytes() == b"somebody's" and [path.name for path in tmp_path.iterdir() if path.is_file()] == [
        out.name
    ]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
@pytest.mark.parametrize("flag", [True, False], ids=["in one step", "looked for first"])
def test_no_link_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, flag: bool) -> None:
    real = rename.renameat2
    monkeypatch.setattr(os, "link", failing(number))
    monkeypatch.setattr(rename, "renameat2", lambda *words: flag and real(*words))
    with Output(tmp_path / "out.sql") as written:
        written.write(b"ours")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out.sql", b"ours")]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_nor_anything_else_of_that_name(store: LocalStore, make: Callable[[Path], None]) -> None:
    store.directory.mkdir()
    make(store.directory / "a")
    before = (store.directory / "a").lstat()
    with pytest.raises(StoreError, match="exists already"):
        store.put("a", b"second")
    assert (store.directory / "a").lstat().st_ino == before.st_ino and store.names() == []


@pytest.mark.parametrize("offset", [0, 1, len(DATA) // 2, len(DATA) - 1])
def test_a_byte_changed_on_the_disk_is_found(store: LocalStore, offset: int) -> None:
    with pytest.raises(IntegrityError, match="differ") as caught, store.stage("a") as staged:
        staged.write(DATA)
        staged.flush()
        with staged.path.open("r+b") as second:
            second.seek(offset)
            second.write(bytes([DATA[offset] ^ 1]))
        staged.seal()
    assert caught.value.exit_code == 40 and store.names() == []


@pytest.mark.parametrize("length", [0, len(DATA) - 1, len(DATA) + 1])
def test_lost_or_added_bytes_are_found(store: LocalStore, length: int) -> None:
    with pytest.raises(IntegrityError), store.stage("a") as staged:
        staged.write(DATA)
        staged.flush()
        os.truncate(staged.path, length)
        staged.seal()
    assert store.names() == []


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("length", [0, 1, len(DATA), 40 << 20])
@pytest.mark.long
def test_what_the_disk_returns_is_given(store: LocalStore, length: int, left: bool) -> None:
    data, taken = (DATA * 14)[:length], bytearray()

    def take(blocks: Iterator[memoryview]) -> None:
        for block in blocks:
            taken.extend(block)
            if left:
                break

    with store.stage("a", take) as staged:
        staged.write(data)
        staged.seal()
        store.publish([staged])
    assert taken == data[: 1 << 20 if left else None] and store.read("a") == data


def test_what_a_taker_has_in_hand_stays_as_it_is(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far ahead the reader is, and also where a piece ends amid a block."""
    data, read, moved, whole = os.urandom(20 << 20), 0, threading.Condition(), os.preadv

    def counted(fd: int, views: list[memoryview], at: int) -> int:
        nonlocal read
        count = whole(fd, views, at)
        with moved:
            read += count
            moved.notify()
        return count

    def take(blocks: Iterator[memoryview]) -> None:
        taken = 0
        for block in blocks:
            # All other blocks are full, and the reader waits for one.
            furthest = min(len(data), taken + (staged_file._AHEAD << 20))
            with moved:
                assert moved.wait_for(lambda: read >= furthest, 60)  # noqa: B023 - called at once
            assert block == data[taken : taken + len(block)]
            taken += len(block)
        assert taken == len(data)

    monkeypatch.setattr(os, "preadv", counted)
    monkeypatch.setattr(staged_file, "_PIECE", 5 << 20)
    monkeypatch.setattr(staged_file, "_GATHERED", 5 << 19)
    with store.stage("a", take) as staged:
        staged.write(data)
        staged.seal()


def test_what_a_taker_raises_is_raised(store: LocalStore) -> None:
    def take(_: Iterator[memoryview]) -> None:
        raise IntegrityError("it is not what it should be")

    with pytest.raises(IntegrityError, match="not what it should be"), store.stage("a", take) as staged:
        staged.write(DATA)
        staged.seal()
    assert store.names() == []


def test_what_is_thrown_away_is_read_no_further(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, begun, thrown_away = 0, threading.Event(), threading.Event()

    def take(given: Iterator[memoryview]) -> None:
        nonlocal blocks
        for _ in given:
            blocks += 1
            begun.set()
            assert thrown_away.wait(60)

    monkeypatch.setattr(staged_file, "_PIECE", 4 << 20)
    staged = store.stage("a", take)
    staged.write(bytes(40 << 20))
    assert begun.wait(60)
    join = threading.Thread.join

    def joined(self: threading.Thread) -> None:
        thrown_away.set()
        join(self)

    monkeypatch.setattr(threading.Thread, "join", joined)
    staged.discard()
    # One is in hand, and one more was read than waits.
    assert blocks <= staged_file._AHEAD + 2 and store.names() == []


def test_a_taker_that_fails_long_before_the_end_keeps_nobody_busy(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def take(blocks: Iterator[memoryview]) -> None:
        next(blocks)
        failed.set()
        raise IntegrityError("it is not what it should be")

    def polled(_: object) -> None:
        raise AssertionError("it looks again and again whether the reader has ended")

    monkeypatch.setattr(staged_file, "_PIECE", len(DATA))
    monkeypatch.setattr(staged_file, "_GATHERED", len(DATA))
    monkeypatch.setattr(BoundedQueue, "drop", polled)
    with pytest.raises(IntegrityError, match="not what it should be"), store.stage("a", take) as staged:
        staged.write(DATA)
        assert failed.wait(60)
        staged.write(DATA * 3)
        staged.seal()
    assert store.names() == []


def test_a_file_that_is_closed_holds_no_buffers(store: LocalStore) -> None:
    """Hundreds are sealed before the first is published."""

    def buffers() -> int:
        gc.collect()
        return sum(isinstance(each, memoryview) and each.nbytes >= 1 << 20 for each in gc.get_objects())

    before = buffers()
    with store.stage("a", list) as staged:
        staged.write(DATA * 14)
        assert buffers() > before
        staged.seal()
        assert buffers() <= before


@pytest.mark.parametrize("name", ["read-back", "read-ahead"])
def test_a_thread_that_cannot_be_had_is_said(store: LocalStore, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    start, there = threading.Thread.start, set(os.listdir("/proc/self/fd"))

    def refused(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(RuntimeError, match="can't start new thread"), store.stage("a", list) as staged:
        staged.write(DATA * 14)
        staged.seal()
    assert store.names() == [] and set(os.listdir("/proc/self/fd")) == there


def test_a_small_file_takes_no_thread(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    store.put("a", DATA)
    assert store.read("a") == DATA


def test_an_error_of_the_disk_is_no_error_of_a_taker(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def take(blocks: Iterator[memoryview]) -> None:
        with contextlib.suppress(OSError):
            for _ in blocks:
                pass

    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(NoSpace), store.stage("a", take) as staged:
        staged.write(DATA)
        staged.seal()


def test_where_reading_past_the_page_cache_fails_it_is_read_the_ordinary_way(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.preadv

    def refused(fd: int, *words: Any) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "refused")
        return whole(fd, *words)

    monkeypatch.setattr(os, "preadv", refused)
    monkeypatch.setattr(staged_file, "_PIECE", len(DATA))
    store.put("a", DATA)
    # Shorter than asked for, so that what follows begins amid a page.
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: whole(fd, [views[0][:1001]], at))
    store.put("b", DATA)


def test_a_second_writer_of_the_same_name_is_refused(store: LocalStore) -> None:
    with store.stage("a"), pytest.raises(StoreError, match="File exists"):
        store.stage("a")


def test_a_staged_name_that_is_a_link_is_not_followed(store: LocalStore, tmp_path: Path) -> None:
    store.directory.mkdir()
    (store.directory / staged_name("a")).symlink_to(tmp_path / "target")
    with pytest.raises(StoreError):
        store.stage("a")
    assert not (tmp_path / "target").exists()


def test_an_unsealed_file_goes_at_once(store: LocalStore) -> None:
    with pytest.raises(KeyboardInterrupt), store.stage("a") as staged:
        staged.write(DATA)
        raise KeyboardInterrupt
    assert store.names() == []


@pytest.mark.parametrize(
    ("call", "number", "kind"),
    [
        ("write", errno.ENOSPC, NoSpace),
        ("write", errno.EDQUOT, NoSpace),
        ("write", errno.EIO, StoreError),
        ("fsync", errno.EIO, StoreError),
        ("fsync", errno.ENOSPC, NoSpace),
        ("preadv", errno.EIO, StoreError),
        ("close", errno.EIO, StoreError),
    ],
)
def test_a_failing_disk_is_said_and_not_asked_twice(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, call: str, number: int, kind: type[StoreError]
) -> None:
    calls = []

    def once(*arguments: object) -> int:
        calls.append(arguments)
        raise OSError(number, os.strerror(number))

    with pytest.raises(kind) as caught, store.stage("a") as staged:
        staged.write(DATA)
        monkeypatch.setattr(os, call, once)
        staged.seal()
    monkeypatch.undo()
    # A descriptor whose closing failed is closed all the same; there are two of them, for writing and for reading.
    assert caught.value.exit_code == 30 and len(calls) == (2 if call == "close" else 1) and store.names() == []


def test_an_error_that_also_forbids_cleaning_up_is_the_one_that_is_said(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that turns read-only after an I/O error."""
    with pytest.raises(StoreError, match="Input/output error"), store.stage("a") as staged:
        monkeypatch.setattr(os, "write", failing(errno.EIO))
        monkeypatch.setattr(Path, "unlink", failing(errno.EROFS))
        staged.write(DATA)
        staged.flush()
    with pytest.raises(StoreError, match="Input/output error"), ArtifactWriter(store, "b", "volume") as writer:
        for _ in range(10):
            writer.write(DATA)
        writer.finish()


def test_a_short_write_is_continued(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    with store.stage("a") as staged:
        monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, data[:70_000]))
        staged.write(DATA)
        staged.flush()
        monkeypatch.undo()
        staged.seal()


@pytest.mark.parametrize(("module", "call"), [(directory, "rename_new"), (os, "fsync")], ids=["rename", "fsync"])
def test_a_directory_that_cannot_be_changed_is_an_error(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, module: ModuleType, call: str
) -> None:
    with pytest.raises(StoreError), store.stage("a") as staged:
        staged.write(DATA)
        staged.seal()
        monkeypatch.setattr(module, call, failing(errno.EIO))
        store.publish([staged])


def test_only_regular_files_are_ours(store: LocalStore, tmp_path: Path) -> None:
    store.put("file", b"x")
    (tmp_path / "secret").write_text("secret")
    (store.directory / "link").symlink_to(tmp_path / "secret")
    (store.directory / "dangling").symlink_to(tmp_path / "nothing")
    (store.directory / "directory").mkdir()
    os.mkfifo(store.directory / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(store.directory / "socket"))
    assert store.names() == ["file"]
    for name in ("link", "dangling", "directory", "pipe", "socket"):
        with pytest.raises(StoreError):
            store.read(name)


def test_a_large_file_is_not_read_into_memory(store: LocalStore) -> None:
    store.put("a", b"x" * 101)
    assert store.read("a", limit=101) == b"x" * 101
    with pytest.raises(StoreError, match="larger than"):
        store.read("a", limit=100)


def test_a_missing_directory_has_no_names(store: LocalStore) -> None:
    assert store.names() == []


def test_private_from_the_first_instant(store: LocalStore) -> None:
    before = os.umask(0)
    try:
        with store.stage("a") as staged:
            assert staged.path.stat().st_mode & 0o777 == 0o600
            assert store.directory.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


# --- an artifact: what is compressed on its way into a staged file -----------------------------------------------


def test_an_artifact_says_what_is_on_the_disk(store: LocalStore) -> None:
    with ArtifactWriter(store, "a.gz", "database") as writer:
        writer.write(DATA)
        artifact = writer.finish()
    assert isinstance(artifact, Artifact)
    assert (artifact.plain_size, artifact.plain_sha256) == (len(DATA), hashlib.sha256(DATA).hexdigest())
    stored = writer.staged.path.read_bytes()
    assert (artifact.stored_size, artifact.stored_sha256) == (len(stored), hashlib.sha256(stored).hexdigest())


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_disk_that_is_full_at_any_write_of_an_artifact_leaves_nothing(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The first block, one in the middle, the end."""
    real, count = os.write, iter(range(after))

    def write(descriptor: int, data: bytes) -> int:
        if next(count, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(NoSpace), ArtifactWriter(store, "a.gz", "volume") as writer:
        for start in range(0, 3 * len(DATA), 1 << 20):
            writer.write((DATA * 3)[start : start + (1 << 20)])
        writer.finish()
    assert store.names() == []


def test_a_producer_that_fails_leaves_nothing(store: LocalStore) -> None:
    with pytest.raises(ValueError, match="broken"), ArtifactWriter(store, "a.gz", "volume") as writer:
        writer.write(DATA)
        raise ValueError("broken")
    assert store.names() == []


def test_a_compressor_that_loses_everything_is_found(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IntegrityError, match="wrote nothing"), ArtifactWriter(store, "a.gz", "volume") as writer:
        writer.write(DATA)
        monkeypatch.setattr(writer._gzip, "close", lambda: None)
        monkeypatch.setattr(directory.StagedFile, "write", lambda *_: 0)
        writer.staged.size = 0
        writer.finish()
