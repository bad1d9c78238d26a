"""However often an exchange is interrupted: going on gives exactly one tree, turning round exactly the other."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.errors import IntegrityError, LockHeld, NotFound, RestoreFailed, RestoreUnfinished
from backup.logging import logger
from backup.media import archive_tree, swap
from backup.media.helper import FileTrees, in_child
from backup.media.metadata import Metadata, Notes, apply_metadata
from backup.media.reserved_names import PREFIX
from backup.media.swap import single_files
from backup.media.tar_writer import parse_index
from backup.media.walk import BY_PATTERN, OF_A_RESTORE
from tests.support.awkward_tree import acl, fill, look
from tests.support.examples import examples

STAMP = "20261123-1047"
SKIP = PREFIX.encode()
Look = dict[bytes, tuple[object, ...]]


class Volume:
    """A volume with a small live tree, and another one, nasty, extracted beside it."""

    def __init__(self, base: Path) -> None:
        self.root = base / "volume"
        self.staging = self.root / (PREFIX + STAMP)
        self.root.mkdir(parents=True)
        for name in ("both", "only before", "folder/inner"):
            path = self.root / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"before " + name.encode())
        os.setxattr(self.root, "user.root", b"before")
        os.setxattr(self.root, "system.posix_acl_default", acl(7))
        self.root.chmod(0o3775)
        os.utime(self.root, ns=(1, 1_300_000_000_000_000_001))
        self.old = self.live()
        swap.prepare_tree(self.root, STAMP)
        new = self.staging / "new"
        for name in ("both", "only after", "folder/other", "z"):
            path = new / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"after " + name.encode())
        (new / "link").symlink_to("/nowhere")
        fd = os.open(new, os.O_RDONLY)
        apply_metadata(fd, Metadata(0o2751, 1001, 1002, 1_400_000_000_000_000_007, {b"user.root": b"after"}), Notes())
        os.close(fd)
        self.new = self.seen(new)
        with swap.StagedTrees(self.root, STAMP) as staging:
            staging.note_extracted()

    def live(self) -> Look:
        return self.seen(self.root)

    def kept(self, side: str) -> Look:
        """What is kept, without its root."""
        return _inner(self.seen(self.staging / side))

    @staticmethod
    def seen(root: Path) -> Look:
        return look(root, SKIP)

    def is_new(self) -> None:
        assert self.live() == self.new and self.kept("old") == _inner(self.old) and self.kept("new") == {}
        assert swap.tree_state(self.root, STAMP) == "exchanged"

    def is_old(self) -> None:
        assert self.live() == self.old and self.kept("new") == _inner(self.new) and self.kept("old") == {}
        assert swap.tree_state(self.root, STAMP) == "ready"


def _inner(found: Look) -> Look:
    return {path: what for path, what in found.items() if path}


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path)


def test_there_and_back_and_there(volume: Volume) -> None:
    volume.is_old()
    for _ in range(2):
        for _ in range(2):  # done already, it does nothing
            swap.exchange_tree(volume.root, STAMP)
            volume.is_new()
        for _ in range(2):
            swap.exchange_back(volume.root, STAMP)
            volume.is_old()


def test_what_the_application_changes_between_is_kept_too(volume: Volume) -> None:
    swap.exchange_tree(volume.root, STAMP)
    (volume.root / "uploaded since").write_bytes(b"since")
    volume.root.chmod(0o700)
    volume.new = volume.live()
    swap.exchange_back(volume.root, STAMP)
    volume.is_old()
    swap.exchange_tree(volume.root, STAMP)
    volume.is_new()


@pytest.mark.parametrize("exchanged", [False, True])
def test_discard_leaves_the_live_tree(volume: Volume, exchanged: bool) -> None:
    if exchanged:
        swap.exchange_tree(volume.root, STAMP)
    before = volume.live()
    swap.discard_tree(volume.root, STAMP)
    assert volume.live() == before and swap.tree_state(volume.root, STAMP) == "absent"
    swap.discard_tree(volume.root, STAMP)
    swap.exchange_back(volume.root, STAMP)
    with pytest.raises(NotFound):
        swap.exchange_tree(volume.root, STAMP)
    assert volume.live() == before and swap.kept(volume.root) == []


def test_an_unfinished_extraction_is_not_exchanged(tmp_path: Path) -> None:
    (tmp_path / "live").touch()
    swap.prepare_tree(tmp_path, STAMP)
    assert swap.tree_state(tmp_path, STAMP) == "extracting"
    (tmp_path / (PREFIX + STAMP) / "new/part").touch()
    with pytest.raises(RestoreFailed, match="not extracted completely"):
        swap.exchange_tree(tmp_path, STAMP)
    swap.exchange_back(tmp_path, STAMP)
    swap.prepare_tree(tmp_path, STAMP)  # begins anew
    assert list((tmp_path / (PREFIX + STAMP) / "new").iterdir()) == []
    swap.discard_tree(tmp_path, STAMP)
    assert [path.name for path in tmp_path.iterdir()] == ["live"]


def test_a_tree_that_is_kept_is_not_prepared_over(volume: Volume) -> None:
    with pytest.raises(RestoreFailed, match="holds a tree already"):
        swap.prepare_tree(volume.root, STAMP)
    volume.is_old()


def test_several_restores_side_by_side(volume: Volume) -> None:
    swap.exchange_tree(volume.root, STAMP)
    swap.prepare_tree(volume.root, "other")
    (volume.root / (PREFIX + "other") / "new/x").write_bytes(b"12345")
    with swap.StagedTrees(volume.root, "other") as staging:
        staging.note_extracted()
    swap.exchange_tree(volume.root, "other")
    assert sorted(volume.live()) == [b"", b"/x"]
    size = sum(len(path.read_bytes()) for path in volume.staging.rglob("*") if path.is_file() and path.name != "state")
    kept = {each.stamp: each for each in swap.kept(volume.root)}
    assert kept[STAMP] == swap.KeptTrees(STAMP, "exchanged", size) and kept["other"].state == "exchanged"
    swap.exchange_back(volume.root, "other")
    volume.is_new()


def called_so(root: Path) -> dict[str, Path]:
    """What an application called as we call what is ours: a file, a link, and directories that are not ours alone."""
    made = {kind: root / f"{PREFIX}{kind}" for kind in ("file", "link", "open", "file-more", "theirs")}
    made["file"].write_text("file")
    made["link"].symlink_to("both")
    for kind in ("open", "file-more", "theirs"):
        (made[kind] / "new").mkdir(parents=True)
        made[kind].chmod(0o755 if kind == "open" else 0o700)
        (made[kind] / "new/a").write_text(kind)
    (made["file-more"] / "more").write_text("more")
    os.chown(made["theirs"], 1234, 1234)
    return made


def test_only_what_is_ours_is_left_out_of_archives_and_listed(volume: Volume) -> None:
    (volume.root / "folder" / (PREFIX + "x")).touch()
    (volume.root / "folder/a.pyc").touch()
    called_so(volume.root)
    tar, index = io.BytesIO(), io.BytesIO()
    report = archive_tree.archive(volume.root, "media", tar, index, excludes=("*.pyc",))
    paths = {entry.path for entry in parse_index(index.getvalue().splitlines(keepends=True))}
    names = {b"both", b"only before", b"folder/inner", b"folder/.obcms-restore-x"}
    names |= {b".obcms-restore-%s/new/a" % kind for kind in (b"open", b"file-more", b"theirs")}
    names |= {b".obcms-restore-file", b".obcms-restore-file-more/more"}
    assert paths == {b"media/" + name for name in names} and report.links == 1
    assert [(each.path, each.what) for each in report.skipped] == [
        (PREFIX + STAMP, OF_A_RESTORE),
        ("folder/a.pyc", BY_PATTERN),
    ]
    assert report.skipped_total == 2


def test_what_is_only_called_so_is_exchanged_and_never_removed(volume: Volume) -> None:
    made = called_so(volume.root)
    (volume.root / "lost+found").mkdir()
    (volume.root / "lost+found/mine").write_text("an application's own")
    assert single_files.tidy(volume.root, days=0) == [] and made["file-more"].exists()
    assert not single_files.has_begun(volume.root) and [each.stamp for each in swap.kept(volume.root)] == [STAMP]
    swap.exchange_tree(volume.root, STAMP)
    assert not any(os.path.lexists(path) for path in (*made.values(), volume.root / "lost+found"))
    swap.exchange_back(volume.root, STAMP)
    assert all(os.path.lexists(path) for path in made.values())
    assert (volume.root / "lost+found/mine").exists() and (made["theirs"] / "new/a").read_text() == "theirs"


def test_what_the_file_system_made_stays_where_it_is(tmp_path: Path) -> None:
    """ext4 counts its inodes from 11, and so does a tmpfs of its own, after ten others."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", tmp_path], check=True)
    try:
        made = next(path for path in (tmp_path / str(number) for number in range(20)) if _inode_of_new(path) == 11)
        found = made.rename(tmp_path / "lost+found")
        swap.prepare_tree(tmp_path, STAMP)
        (tmp_path / (PREFIX + STAMP) / "new/lost+found").mkdir()
        with swap.StagedTrees(tmp_path, STAMP) as staging:
            staging.note_extracted()
        for turn in (swap.exchange_tree, swap.exchange_back):
            turn(tmp_path, STAMP)
            assert found.stat().st_ino == 11 and (tmp_path / "0").exists() == (turn is swap.exchange_back)
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def _inode_of_new(path: Path) -> int:
    path.mkdir()
    return path.stat().st_ino


# --- interrupted ----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ends here: nothing after it is done, nothing is tidied up."""


_CALLS = ("rename", "fsync", "open", "fchown", "fchmod", "utime", "setxattr", "removexattr")


@contextlib.contextmanager
def killed_at(number: int) -> Iterator[None]:
    """The system call of that number, of those that change something, is not made any more."""
    left = [number]
    real = {name: getattr(os, name) for name in _CALLS}

    def guarded(name: str) -> object:
        def call(*arguments: object, **options: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real[name](*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in _CALLS:
            patch.setattr(os, name, guarded(name))
        with contextlib.suppress(Killed):
            yield


@examples(40)
@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["exchange_tree", "exchange_back"]), st.integers(0, 70)), min_size=1, max_size=6
    ),
    forward=st.booleans(),
)
def test_any_number_of_interruptions(moves: list[tuple[str, int]], forward: bool) -> None:
    base = Path(tempfile.mkdtemp(dir="/dev/shm"))
    volume = Volume(base)
    for verb, number in moves:
        with killed_at(number):
            getattr(swap, verb)(volume.root, STAMP)
        if swap.tree_state(volume.root, STAMP) == "moving":
            with pytest.raises(RestoreUnfinished):
                swap.discard_tree(volume.root, STAMP)
    (swap.exchange_tree if forward else swap.exchange_back)(volume.root, STAMP)
    (volume.is_new if forward else volume.is_old)()
    shutil.rmtree(base)


def _halfway(volume: Volume) -> None:
    with killed_at(18):
        swap.exchange_tree(volume.root, STAMP)
    assert swap.tree_state(volume.root, STAMP) == "moving"


def test_what_came_between_is_never_overwritten(volume: Volume) -> None:
    _halfway(volume)
    names = {name for name in os.listdir(volume.staging / "old")}
    assert names
    (volume.root / min(names)).write_bytes(b"uploaded in the moment")
    with pytest.raises(RestoreUnfinished, match="nothing was overwritten") as caught:
        (swap.exchange_back if not (volume.root / "z").exists() else swap.exchange_tree)(volume.root, STAMP)
    assert caught.value.hint
    assert (volume.root / min(names)).read_bytes() == b"uploaded in the moment"
    (volume.root / min(names)).unlink()
    swap.exchange_back(volume.root, STAMP)
    volume.is_old()


def test_a_failing_disk_leaves_it_resumable(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(RestoreFailed, match="as they were") as caught:
            swap.exchange_tree(volume.root, STAMP)
        assert "free space" in caught.value.hint
    volume.is_old()
    real = os.rename

    def second(*names: str | bytes, **options: int) -> None:
        if names[0] == b"folder":
            failing()
        real(*names, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", second)
        with pytest.raises(RestoreUnfinished, match="between two states"):
            swap.exchange_tree(volume.root, STAMP)
    swap.exchange_tree(volume.root, STAMP)
    volume.is_new()


# --- what else may lie there ----------------------------------------------------------------------------------------


def test_a_mount_within_the_volume_is_refused_before_anything_moves(volume: Volume) -> None:
    (volume.root / "folder/in ner").mkdir()
    point = volume.root / "folder/in ner"
    volume.old = volume.live()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", point], check=True)
    try:
        with pytest.raises(RestoreFailed, match="in ner' is mounted within") as caught:
            swap.exchange_tree(volume.root, STAMP)
        assert "nothing was moved" in caught.value.message
    finally:
        subprocess.run(["umount", point], check=True)
    volume.is_old()


def _put(place: Path, kind: str) -> Path:
    if kind == "link":
        place.symlink_to("/etc")
    elif kind == "directory":
        place.mkdir()
        (place / "within").write_text("stray")
    else:
        place.write_text("stray")
    return place


def _is_there(place: Path, kind: str) -> bool:
    if kind == "link":
        return place.is_symlink() and place.readlink() == Path("/etc")
    return (place / "within" if kind == "directory" else place).read_text() == "stray"


KINDS = ["file", "directory", "link"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_somebody_puts_beside_the_trees_stops_nothing_and_stays(volume: Volume, kind: str) -> None:
    """Before and between; and when all of ours is removed, where it lies is told."""
    first = _put(volume.staging / "notes.txt", kind)
    assert swap.exchange_tree(volume.root, STAMP) == []
    volume.is_new()
    second = _put(volume.staging / "Thumbs.db", kind)
    assert swap.exchange_back(volume.root, STAMP) == []
    volume.is_old()
    swap.exchange_tree(volume.root, STAMP)
    assert [each.stamp for each in swap.kept(volume.root)] == [STAMP]
    (told,) = swap.discard_tree(volume.root, STAMP)
    assert str(volume.staging) in told and "notes.txt" in told and "Thumbs.db" in told
    assert sorted(volume.staging.iterdir()) == sorted([first, second])
    assert _is_there(first, kind) and _is_there(second, kind) and volume.live() == volume.new
    assert swap.tree_state(volume.root, STAMP) == "absent" and swap.kept(volume.root) == []
    assert swap.discard_tree(volume.root, STAMP) == [] and _is_there(first, kind)
    with pytest.raises(NotFound):
        swap.exchange_tree(volume.root, STAMP)
    with pytest.raises(RestoreFailed, match=STAMP):
        swap.prepare_tree(volume.root, STAMP)
    # From now on it is somebody's file as others are.
    report = archive_tree.archive(volume.root, "media", io.BytesIO(), io.BytesIO())
    assert not report.skipped


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["both", "state", "a stray of its own"])
def test_what_somebody_puts_where_the_live_tree_comes_back_to_is_set_aside(
    volume: Volume, kind: str, name: str
) -> None:
    _put(volume.staging / "old" / name, kind)
    (told,) = swap.exchange_tree(volume.root, STAMP)
    assert repr(name) in told and not os.path.lexists(volume.root / "a stray of its own")
    volume.is_new()
    (aside,) = (path for path in volume.staging.iterdir() if path.name not in ("new", "old", "state"))
    assert str(aside) in told and _is_there(aside, kind)
    _put(volume.staging / "new" / name, kind)
    swap.exchange_back(volume.root, STAMP)
    volume.is_old()
    _put(volume.staging / "old" / name, kind)
    (told,) = swap.discard_tree(volume.root, STAMP)
    found = list(volume.staging.iterdir())
    assert len(found) == 3 and all(_is_there(path, kind) and repr(path.name) in told for path in found)
    assert volume.live() == volume.old


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("forward", [True, False])
def test_nor_does_it_stop_what_ends_an_exchange_that_was_killed(volume: Volume, kind: str, forward: bool) -> None:
    _halfway(volume)
    stray = _put(volume.staging / "stray", kind)
    assert swap.tree_state(volume.root, STAMP) == "moving"
    (swap.exchange_tree if forward else swap.exchange_back)(volume.root, STAMP)
    (volume.is_new if forward else volume.is_old)()
    with killed_at(7):
        swap.discard_tree(volume.root, STAMP)
    assert swap.tree_state(volume.root, STAMP) == "discarding"
    (told,) = swap.discard_tree(volume.root, STAMP)
    assert "stray" in told and list(volume.staging.iterdir()) == [stray] and _is_there(stray, kind)


@pytest.mark.long
def test_what_is_in_the_way_is_said_by_what_changes_the_files(volume: Volume) -> None:
    """By the command that a helper runs, in the log of who started it."""
    said: list[str] = []
    sink = logger.add(lambda line: said.append(str(line)))
    files = FileTrees(volume.root.parent, in_child, lambda count: None)
    _put(volume.staging / "old/stray", "file")
    try:
        files.exchange("volume", STAMP)
        assert "'stray'" in said.pop() and said == []
        assert files.exchanged("volume", STAMP)
        files.exchange_back("volume", STAMP)
        assert said == []
        files.discard("volume", STAMP)
        assert "'stray'" in said.pop()
    finally:
        logger.remove(sink)


@pytest.mark.parametrize("kind", ["link", "file", "open to all", "another owner"])
def test_what_others_made_in_its_place_is_not_used(tmp_path: Path, kind: str) -> None:
    name = tmp_path / "volume" / (PREFIX + STAMP)
    other = tmp_path / "other"
    (tmp_path / "volume").mkdir()
    (other / "new").mkdir(parents=True)
    other.chmod(0o700)
    (other / "state").write_text('{"version": 1, "step": "settled", "live": "old", "roots": {}}')
    if kind == "link":
        name.symlink_to(other)
    elif kind == "file":
        name.touch()
    else:
        other.rename(name)
        name.chmod(0o755 if kind == "open to all" else 0o700)
        os.chown(name, 0 if kind == "open to all" else 1000, 0)
    before = look(tmp_path)
    for act in (swap.exchange_tree, swap.exchange_back, swap.discard_tree, swap.prepare_tree, swap.tree_state):
        with pytest.raises(RestoreFailed):
            act(tmp_path / "volume", STAMP)
    assert swap.kept(tmp_path / "volume") == []
    assert look(tmp_path) == before


@pytest.mark.parametrize("stamp", ["", "..", "a/b", "a\n", "x" * 65, "../../etc"])
def test_a_stamp_is_a_name(tmp_path: Path, stamp: str) -> None:
    for act in (swap.tree_state, swap.prepare_tree, swap.exchange_tree):
        with pytest.raises(NotFound):
            act(tmp_path, stamp)
    assert list(tmp_path.iterdir()) == []


def test_one_at_a_time(volume: Volume) -> None:
    with swap.StagedTrees(volume.root, STAMP):
        for act in (swap.exchange_tree, swap.exchange_back, swap.discard_tree):
            with pytest.raises(LockHeld):
                act(volume.root, STAMP)
        assert swap.tree_state(volume.root, STAMP) == "ready"
    volume.is_old()
    with swap.StagedTrees(volume.root, STAMP) as staging:
        fcntl.flock(staging.folder, fcntl.LOCK_UN)


@pytest.mark.parametrize("text", ["", "{}", '{"version": 2}', '{"version": 1, "step": "in", "live": "x", "roots": {}}'])
def test_a_damaged_note_moves_nothing(volume: Volume, text: str) -> None:
    (volume.staging / "state").write_text(text)
    for act in (swap.exchange_tree, swap.exchange_back, swap.discard_tree):
        with pytest.raises(IntegrityError, match="nothing was moved"):
            act(volume.root, STAMP)
    assert volume.live() == volume.old


@pytest.mark.long
def test_discard_of_a_deep_and_odd_tree(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious").touch()
    root = tmp_path / "volume"
    root.mkdir()
    swap.prepare_tree(root, STAMP)
    new = root / (PREFIX + STAMP) / "new"
    fill(new)
    (new / "to outside").symlink_to(tmp_path / "outside")
    fd = os.open(new, os.O_RDONLY)
    for _ in range(1100):  # more than Python calls may be deep
        os.mkdir("d" * 200, dir_fd=fd)
        os.symlink("/etc", "link", dir_fd=fd)
        above, fd = fd, os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(above)
    os.close(fd)
    swap.discard_tree(root, STAMP)
    assert list(root.iterdir()) == []
    assert (tmp_path / "outside/precious").exists()
