"""Real trees archived, extracted by GNU tar and by Python, compared; trees that change, refuse, or lie while read."""

# Names are bytes here, which Path does not take.
# ruff: noqa: PTH102, PTH115, PTH118, PTH211

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.errors import MediaFailed
from backup.media.archive_tree import MediaReport, archive, measure_tree
from backup.media.tar_writer import parse_index
from backup.media.walk import Change
from tests.support.examples import examples

_MIB = 1 << 20
# More than calls may be deep while these are archived.
LEVELS = 400
_ODD_NAMES = [
    *(b"new\nline", b"car\rriage", b"tab\t", b"-rf", b"--help", b" ", b" lead and trail ", b"\\", b"back\\nslash"),
    *(b"'\"`$(x);&|", b"\xff\xfe\x80", b"latin-\xe9", "NFC-\u00e9".encode(), "NFD-e\u0301".encode()),
    *("\u202eltr".encode(), b"*", b"?", b"[a]", b"\x01\x1b[31m", b"%s%n", b"~", b"#", b"a=b", b"..."),
    *(b"x" * 255, ("\u20ac" * 85).encode(), b"con", b"A", b"a"),
]


class Kept:
    """A sink in memory."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    @property
    def all(self) -> bytes:
        return b"".join(self.writes)


class Backup:
    """One archive of `root` in files beside it: `media.tar` and the index."""

    def __init__(self, root: Path, work: Path, **options: object) -> None:
        work.mkdir(exist_ok=True)
        self.tar, self.index, self.out = work / "media.tar", work / "media.files", work / "out"
        with open(self.tar, "wb") as sink, open(self.index, "wb") as index:
            self.report: MediaReport = archive(root, "media", sink, index, **options)  # type: ignore[arg-type]

    def extract(self) -> Path:
        """By GNU tar, silent and successful."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        flags = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"]
        result = subprocess.run(["tar", "-C", self.out, *flags, self.tar], capture_output=True)
        warnings = result.stderr.replace(b"tar: Ignoring unknown extended header keyword 'hdrcharset'\n", b"")
        assert (result.returncode, warnings) == (0, b"")
        return self.out / "media"

    def checked(self) -> int:
        """Lines of the index that sha256sum confirms on the extracted tree: all of them, or it fails."""
        rule = r"s/^(\\?[0-9a-f]{64})  [0-9]+  /\1  /"
        text = subprocess.run(["sed", "-E", rule, self.index], capture_output=True, check=True).stdout
        if text:
            subprocess.run(["sha256sum", "-c", "--strict", "--quiet"], input=text, cwd=self.out, check=True)
        return text.count(b"\n")

    def names(self) -> list[bytes]:
        with tarfile.open(self.tar) as opened:
            return [os.fsencode(member.name) for member in opened]

    def indexed(self) -> dict[bytes, tuple[int, str]]:
        with open(self.index, "rb") as lines:
            return {entry.path: (entry.size, entry.sha256) for entry in parse_index(lines)}


def tree(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything about every entry that a restore must bring back, by path."""
    names: dict[tuple[int, int], bytes] = {}
    found = {}
    top = os.fsencode(root)
    paths = [top, *(os.path.join(at, name) for at, dirs, files in os.walk(top) for name in (*dirs, *files))]
    for path in sorted(paths):
        at = os.lstat(path)
        link = os.readlink(path) if stat.S_ISLNK(at.st_mode) else b""
        digest = size = first = None
        if stat.S_ISREG(at.st_mode):
            with open(path, "rb") as file:
                digest, size = hashlib.file_digest(file, "sha256").hexdigest(), at.st_size
            first = names.setdefault((at.st_dev, at.st_ino), path[len(top) :])
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in _attributes(path)}
        who = (at.st_mode, at.st_uid, at.st_gid, at.st_mtime_ns)
        found[path[len(top) :]] = (*who, size, digest, link, first, attributes)
    return found


def _attributes(path: bytes) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    return tmp_path / "volume"


def _acl(user: int) -> bytes:
    entries = [(1, 6, -1), (2, 4, user), (4, 4, -1), (16, 4, -1), (32, 0, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


def _rich(root: Path) -> None:
    for number, name in enumerate(_ODD_NAMES):
        path = os.path.join(os.fsencode(root), name)
        os.mkdir(path) if number % 3 == 0 else Path(os.fsdecode(path)).write_bytes(name * number)
        inner = os.path.join(path, name) if number % 3 == 0 else path + b"~" if len(name) < 255 else b""
        if inner:
            os.symlink(name, inner)
    (root / "folder").mkdir(mode=0o1777)
    (root / "folder/large").write_bytes(os.urandom(5 * _MIB + 17))
    (root / "folder/exact").write_bytes(os.urandom(4 * _MIB))
    (root / "folder/empty").touch()
    (root / "folder/setuid").write_bytes(b"#!/bin/sh\n")
    (root / "folder/setuid").chmod(0o6755)
    (root / "folder/locked").write_bytes(b"nobody reads this")
    (root / "folder/locked").chmod(0)
    os.link(root / "folder/large", root / "another name")
    os.link(root / "folder/large", root / ("z" * 200))
    (root / "link to nothing").symlink_to("/nowhere/" + "long" * 60)
    (root / "link out").symlink_to("../../../etc/passwd")
    long = root / ("d" * 99) / ("e" * 120) / ("f" * 250)
    long.mkdir(parents=True)
    (long / ("g" * 100)).write_bytes(b"long path")
    for path in (root / "folder", root / "folder/large", root / "folder/empty"):
        os.setxattr(path, "user.note", b"\xff\0binary\n")
    os.setxattr(root / "folder/exact", "system.posix_acl_access", _acl(1234))
    os.setxattr(root / "folder", "system.posix_acl_default", _acl(4321))
    os.chown(root / "folder/empty", 2**31, 2**22)
    os.chown(root / "link out", 1000, 1001, follow_symlinks=False)
    os.utime(root / "folder/empty", ns=(1, 1_500_000_001))
    os.utime(root / "link out", ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)
    os.utime(root / "folder", ns=(1, 1_000_000_000_000_000_001))
    os.chown(root, 1000, 1000)
    root.chmod(0o2750)


def test_gnu_tar_brings_back_everything(root: Path, tmp_path: Path) -> None:
    _rich(root)
    made = Backup(root, tmp_path / "b")
    out = made.extract()
    assert tree(out) == tree(root)
    subprocess.run(["diff", "-r", "--no-dereference", root, out], check=True)
    assert made.report.changed == made.report.skipped == ()
    assert made.report.hard_links == 2
    assert made.checked() == made.report.files + made.report.hard_links
    kinds = [stat.S_IFMT(os.lstat(os.fsencode(root) + path).st_mode) for path in tree(root)]
    assert made.report.directories == kinds.count(stat.S_IFDIR)
    assert made.report.links == kinds.count(stat.S_IFLNK)
    size = measure_tree(root, ())
    assert (size.files, size.bytes) == (made.report.files, made.report.bytes)


def test_python_brings_back_everything_but_nanoseconds_and_attributes(root: Path, tmp_path: Path) -> None:
    _rich(root)
    made = Backup(root, tmp_path / "b")
    with tarfile.open(made.tar) as opened:
        opened.extractall(tmp_path / "py", numeric_owner=True, filter="fully_trusted")  # noqa: S202
    ours, theirs = tree(root), tree(tmp_path / "py/media")
    assert theirs.keys() == ours.keys()
    for path, values in ours.items():
        assert theirs[path][:3] == values[:3]
        assert theirs[path][4:8] == values[4:8]


def test_the_stream_is_whole_records_and_ends_in_zeros(root: Path) -> None:
    sink, index = Kept(), Kept()
    (root / "a").write_bytes(b"x")
    archive(root, "media", sink, index)
    assert len(sink.all) % 10240 == 0
    assert not any(sink.all[-1024:])
    assert index.all == b"%s  1  media/a\n" % hashlib.sha256(b"x").hexdigest().encode()


def test_an_empty_volume_is_an_archive_of_its_root(root: Path, tmp_path: Path) -> None:
    made = Backup(root, tmp_path / "b")
    assert tree(made.extract()) == tree(root)
    assert (made.report.files, made.report.directories, made.names()) == (0, 1, [b"media"])


_NAME = st.binary(min_size=1, max_size=255).filter(
    lambda name: not set(name) & set(b"/\0") and name not in (b".", b"..")
)


@examples(20)
@given(files=st.dictionaries(_NAME, st.binary(max_size=3000), max_size=8))
def test_any_names_and_contents(files: dict[bytes, bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    work = tmp_path_factory.mktemp("any")
    (work / "volume").mkdir()
    for name, content in files.items():
        (work / "volume" / os.fsdecode(name)).write_bytes(content)
    made = Backup(work / "volume", work / "b", excludes=())
    assert tree(made.extract()) == tree(work / "volume")
    assert made.checked() == len(files)
    assert made.names() == [b"media", *(b"media/" + name for name in sorted(files))]
    shutil.rmtree(work)


@contextlib.contextmanager
def _few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    calls = sys.getrecursionlimit()
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    sys.setrecursionlimit(LEVELS)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sys.setrecursionlimit(calls)


@pytest.mark.long
def test_many_levels_with_few_descriptors(root: Path, tmp_path: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    for _ in range(LEVELS):
        for name in ("a", "d", "z"):
            os.mkdir(name, dir_fd=fd) if name == "d" else os.close(os.open(name, os.O_CREAT, dir_fd=fd))
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with _few_descriptors():
        made = Backup(root, tmp_path / "b")
    assert (made.report.directories, made.report.files, made.report.changed) == (LEVELS + 1, 2 * LEVELS, ())
    out = made.extract()
    subprocess.run(["diff", "-r", root, out], check=True)
    assert made.checked() == 2 * LEVELS


def test_paths_beyond_path_max(root: Path, tmp_path: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    name = "n" * 250
    for _ in range(30):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    with os.fdopen(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd), "wb") as leaf:
        leaf.write(b"deep")
    os.close(fd)
    made = Backup(root, tmp_path / "b")
    expected = b"media/" + (name.encode() + b"/") * 30 + b"leaf"
    assert made.names()[-1] == expected
    assert made.indexed() == {expected: (4, hashlib.sha256(b"deep").hexdigest())}


def _holes(path: Path, size: int, *offsets: int) -> None:
    with open(path, "wb") as file:
        for offset in offsets:
            os.pwrite(file.fileno(), b"abc", offset)
        file.truncate(size)


@pytest.mark.long
def test_a_sparse_file_of_a_gb_is_not_inflated(root: Path, tmp_path: Path) -> None:
    size = 1 << 30
    _holes(root / "sparse", size, 0, 4096 * 1000 + 100, size // 2, size - 3)
    calls: list[int] = []
    made = Backup(root, tmp_path / "b", progress=calls.append)
    assert made.tar.stat().st_size < 50_000
    assert sum(calls) == made.report.bytes == measure_tree(root, ()).bytes < 50_000
    assert len(calls) > 1000, "signs of life within the holes"
    copy = made.extract() / "sparse"
    assert (copy.stat().st_size, copy.stat().st_blocks) == (size, (root / "sparse").stat().st_blocks)
    assert made.indexed()[b"media/sparse"][0] == size


def test_entries_without_content_are_a_sign_of_life(root: Path, tmp_path: Path) -> None:
    for number in range(10):
        (root / f"d{number}").mkdir()
        (root / f"empty{number}").touch()
        (root / f"link{number}").symlink_to("d0")
        os.link(root / "empty0", root / f"name{number}")
    calls: list[int] = []
    Backup(root, tmp_path / "b", progress=calls.append)
    assert len(calls) >= 41 and not any(calls)


def test_sparse_files_keep_their_holes_and_their_content(root: Path, tmp_path: Path) -> None:
    _holes(root / "hole", _MIB + 5)
    _holes(root / "hole at end", 3 * _MIB + 5, 0, 70_000)
    _holes(root / "hole at begin", 30 * _MIB, 5 * _MIB, 30 * _MIB - 3)
    _holes(root / ("\udcff" * 100), 2 * _MIB, _MIB)
    made = Backup(root, tmp_path / "b")
    with tarfile.open(made.tar) as opened:
        opened.extractall(tmp_path / "py", filter="fully_trusted")  # noqa: S202
    for out in (made.extract(), tmp_path / "py/media"):
        for path in root.iterdir():
            assert (out / path.name).stat().st_blocks == path.stat().st_blocks
        subprocess.run(["diff", "-r", root, out], check=True)
    assert made.checked() == 4


def test_what_is_not_a_file_is_listed_and_never_opened(root: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(root, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/sock\n")
        os.close(here)
        made = Backup(root, tmp_path / "b")
    assert made.report.skipped == (
        Change("fifo", "FIFO skipped"),
        Change("null", "device skipped"),
        Change("sock\\n", "socket skipped"),
    )
    assert made.names() == [b"media"]


def test_lists_are_capped_and_totals_exact(root: Path, tmp_path: Path) -> None:
    for number in range(1010):
        os.mkfifo(root / f"{number:04}")
    report = Backup(root, tmp_path / "b").report
    assert (len(report.skipped), report.skipped_total, report.skipped[-1].path) == (1000, 1010, "0999")


def test_excludes(root: Path, tmp_path: Path) -> None:
    for name in (
        "keep",
        "a.pyc",
        "sub/b.pyc",
        "sub/__pycache__/x",
        "sub/cache/c",
        "cache/c",
        "sub/.DS_Store",
        "sub/pyc",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"12")
    made = Backup(root, tmp_path / "b")
    assert list(made.indexed()) == [b"media/cache/c", b"media/keep", b"media/sub/cache/c", b"media/sub/pyc"]
    excludes = ("*.pyc", "/cache/", "sub/*")
    made = Backup(root, tmp_path / "b", excludes=excludes)
    assert made.names() == [b"media", b"media/keep", b"media/sub"]
    assert measure_tree(root, excludes).files == 1
    assert measure_tree(root, ()).bytes == 16


def test_the_backup_volume_inside_the_tree_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "sub/backups").mkdir(parents=True)
    found = (root / "sub/backups").stat()
    forbidden = frozenset({(found.st_dev, found.st_ino)})
    for act in (
        lambda: archive(root, "media", Kept(), Kept(), forbidden=forbidden),
        lambda: measure_tree(root, (), forbidden),
        lambda: measure_tree(root / "sub/backups", (), forbidden),
    ):
        with pytest.raises(MediaFailed, match="sub/backups is where backups are stored"):
            act()
    assert Backup(root, tmp_path / "b", forbidden=forbidden, excludes=("backups",)).report.directories == 2


def test_a_root_that_is_missing_or_no_directory(root: Path) -> None:
    (root / "file").touch()
    for path, reason in ((root / "none", "No such file"), (root / "file", "Not a directory")):
        with pytest.raises(MediaFailed, match=reason) as caught:
            archive(path, "media", Kept(), Kept())
        assert str(path) in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_a_name_that_is_no_folder_is_a_bug(root: Path, name: str) -> None:
    with pytest.raises(ValueError, match="folder"):
        archive(root, name, Kept(), Kept())


def _as_nobody(act: Callable[[], None]) -> None:
    """Run `act` in a child without any privilege; what it raises there fails the test here."""
    read, write = os.pipe()
    if not (child := os.fork()):
        with contextlib.suppress(BaseException):
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                act()
            except BaseException as error:  # noqa: BLE001
                os.write(write, repr(error).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read, "rb") as problem:
        assert problem.read() == b""


@pytest.mark.parametrize(("denied", "mode"), [("secret", 0o600), ("closed", 0o700), ("listed", 0o744)])
def test_what_cannot_be_read_fails_the_run(root: Path, monkeypatch: pytest.MonkeyPatch, denied: str, mode: int) -> None:
    (root / "readable").write_bytes(b"x")
    (root / denied).mkdir() if denied != "secret" else (root / denied).touch()
    if denied == "listed":
        (root / denied / "inner").touch()
    (root / denied).chmod(mode)
    root.parent.chmod(0o755)
    monkeypatch.chdir(root.parent)

    def act() -> None:
        with pytest.raises(MediaFailed, match=f"volume/{denied}.* cannot be read: Permission denied") as caught:
            archive(Path("volume"), "media", Kept(), Kept())
        assert "DAC_READ_SEARCH" in caught.value.hint

    _as_nobody(act)


def test_files_of_others_are_read_without_the_right_to_spare_the_access_time(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "sub").mkdir()
    (root / "sub/readable").write_bytes(b"x")
    root.parent.chmod(0o755)
    monkeypatch.chdir(root.parent)

    def act() -> None:
        assert archive(Path("volume"), "media", Kept(), Kept()).files == 1

    _as_nobody(act)


def test_the_access_time_is_spared(root: Path, tmp_path: Path) -> None:
    (root / "a").write_bytes(b"x")
    os.utime(root / "a", ns=(5, 10**18))
    Backup(root, tmp_path / "b")
    assert (root / "a").stat().st_atime_ns == 5


def test_what_the_sink_raises_comes_through(root: Path) -> None:
    (root / "a").write_bytes(bytes(_MIB))

    class Full(Kept):
        def write(self, data: bytes) -> None:
            raise FileNotFoundError("the sink's own")

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError, match="the sink's own"):
        archive(root, "media", Full(), Kept())
    assert len(os.listdir("/proc/self/fd")) == before


def _flat(root: Path) -> int:
    """Peak memory in MiB of a process that archives `root`, above what it has before."""
    code = (
        "import resource, sys; from pathlib import Path; from backup.media.archive_tree import archive\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "with open('/dev/null', 'wb') as null: archive(Path(sys.argv[1]), 'media', null, null)\n"
        "sys.exit((peak() - before) // 1024)"
    )
    repository = Path(__file__).parents[3]
    return subprocess.run([sys.executable, "-c", code, root], cwd=repository, stderr=subprocess.PIPE).returncode


@pytest.mark.long
def test_memory_is_flat_for_a_large_file(root: Path, tmp_path: Path) -> None:
    with open(root / "large", "wb") as file:
        for _ in range(300):
            file.write(os.urandom(1024) * 1024)
    assert 0 <= _flat(root) < 20


@pytest.mark.long
def test_memory_is_flat_for_many_files(memory: Path) -> None:
    root = memory
    for number in range(10_000):
        if number % 1000 == 0:
            (root / f"{number:05}").mkdir()
        os.close(os.open(root / f"{number // 1000 * 1000:05}" / str(number), os.O_CREAT))
    assert 0 <= _flat(root) < 4


# --- trees in use ---------------------------------------------------------------------------------------------


def of_files(report: MediaReport) -> tuple[Change, ...]:
    """What changed, but for directories in which something did."""
    return tuple(each for each in report.changed if each.what != "changed while read")


class Meddling:
    """Acts at the system calls of the run itself, by Python's audit hooks: just before a name is opened, say."""

    # One for all: a hook stays for the life of the process, and is asked about each call of every later test.
    _acts: ClassVar[dict[object, Callable[[], object]]] = {}
    _hooked: ClassVar[bool] = False

    def __init__(self) -> None:
        self._acts.clear()
        if not self._hooked:
            sys.addaudithook(self._seen)
            Meddling._hooked = True

    def before_opening(self, name: bytes, act: Callable[[], object]) -> None:
        self._acts["open", name] = act

    def before_listing(self, act: Callable[[], object]) -> None:
        """Before the next listing of a directory by its descriptor."""
        self._acts["os.listdir", int] = act

    def _seen(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._acts and event in ("open", "os.listdir"):
            what = arguments[0] if event == "open" else type(arguments[0])
            if isinstance(what, bytes | type) and (act := self._acts.pop((event, what), None)):
                act()


class Once:
    """A progress hook that acts at the first, or at every, read of content."""

    def __init__(self, act: Callable[[], object], *, always: bool = False) -> None:
        self._act, self._always, self.calls = act, always, 0

    def __call__(self, count: int) -> None:
        if not count:
            return
        self.calls += 1
        if self.calls == 1 or self._always:
            self._act()


def _overwrite(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(os.urandom(100))


def _append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def _replace(path: Path) -> None:
    path.with_name("new").write_bytes(b"new content")
    path.with_name("new").rename(path)


_LARGE = [
    (_append, "grew while read"),
    (lambda path: os.truncate(path, 2 * _MIB + 5), "shrank while read"),
    (_overwrite, "rewritten while read"),
    (lambda path: path.unlink(), "removed while read"),
]


@pytest.mark.parametrize(("act", "what"), _LARGE)
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.long
def test_a_large_file_that_changes_is_listed(
    root: Path, tmp_path: Path, act: Callable[[Path], object], what: str, sparse: bool
) -> None:
    path, size = root / "a", 6 * _MIB + 7
    path.write_bytes(os.urandom(size))
    if sparse:
        os.truncate(path, 8 * _MIB)
        _pwrite(path, b"end", 8 * _MIB - 3)
        size = 8 * _MIB
    (root / "b").write_bytes(b"after it")
    made = Backup(root, tmp_path / "b", progress=Once(lambda: act(path)))
    assert of_files(made.report) == (Change("a", what),)
    out = made.extract()
    assert (out / "a").stat().st_size == size == made.indexed()[b"media/a"][0]
    assert (out / "b").read_bytes() == b"after it"
    assert made.checked() == 2, "the index is about what was stored"
    if what.startswith("shrank"):
        assert not any((out / "a").read_bytes()[2 * _MIB + 5 :])


def _pwrite(path: Path, data: bytes, offset: int) -> None:
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), data, offset)


@pytest.mark.parametrize("act", [_append, _overwrite, lambda path: os.truncate(path, 10), lambda path: path.unlink()])
def test_a_small_file_that_changes_once_is_read_again(
    root: Path, tmp_path: Path, act: Callable[[Path], object]
) -> None:
    path = root / "a"
    path.write_bytes(bytes(1000))
    kept = os.open(path, os.O_RDONLY)
    made = Backup(root, tmp_path / "b", progress=Once(lambda: act(path)))
    assert of_files(made.report) == ()
    assert (made.extract() / "a").read_bytes() == os.pread(kept, 5000, 0)
    os.close(kept)
    assert made.checked() == 1


@pytest.mark.parametrize(("act", "what"), [(_append, "grew while read"), (_overwrite, "rewritten while read")])
def test_a_small_file_that_never_rests_is_listed(
    root: Path, tmp_path: Path, act: Callable[[Path], object], what: str
) -> None:
    (root / "a").write_bytes(bytes(1000))
    hook = Once(lambda: act(root / "a"), always=True)
    made = Backup(root, tmp_path / "b", progress=hook)
    assert made.report.changed == (Change("a", what),)
    assert hook.calls == 3
    made.extract()
    assert made.checked() == 1


def test_a_file_written_this_instant_is_left_to_age_until_its_time_stamps_tell(root: Path, tmp_path: Path) -> None:
    reads: list[int] = []
    (root / "a").write_bytes(b"fresh")
    Backup(root, tmp_path / "b", progress=lambda count: reads.append(time.time_ns()) if count else None)
    assert reads[0] - (root / "a").stat().st_ctime_ns >= 20_000_000


def test_a_small_file_that_grows_large_is_streamed(root: Path) -> None:
    (root / "a").write_bytes(b"small")
    content, sink = os.urandom(5 * _MIB), Kept()
    report = archive(root, "media", sink, Kept(), progress=Once(lambda: (root / "a").write_bytes(content)))
    assert report.changed == ()
    assert content in sink.all
    assert max(map(len, sink.writes)) <= _MIB


def test_directories_that_vanish_before_they_are_listed(root: Path, tmp_path: Path) -> None:
    (root / "sub").mkdir()
    meddling = Meddling()
    meddling.before_opening(b"sub", lambda: meddling.before_listing((root / "sub").rmdir))
    assert of_files(Backup(root, tmp_path / "b").report) == (Change("sub", "vanished"),)
    meddling.before_listing(root.rmdir)
    with pytest.raises(MediaFailed, match="volume cannot be read: No such file"):
        archive(root, "media", Kept(), Kept())


def test_files_that_vanish_are_listed_and_the_run_goes_on(root: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "d/e", "z"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"content")

    def act() -> None:
        (root / "b").unlink()
        shutil.rmtree(root / "d")

    made = Backup(root, tmp_path / "b", progress=Once(act))
    assert of_files(made.report) == (Change("b", "vanished"), Change("d", "vanished"))
    assert list(made.indexed()) == [b"media/a", b"media/z"]
    assert tree(made.extract()).keys() == tree(root).keys()


def test_a_further_name_of_what_was_not_stored_has_the_content(root: Path, tmp_path: Path) -> None:
    (root / "0").write_bytes(b"first")
    (root / "a").write_bytes(b"linked")
    os.link(root / "a", root / "b")
    os.link(root / "a", root / "c")
    made = Backup(root, tmp_path / "b", progress=Once(lambda: (root / "a").unlink()))
    assert of_files(made.report) == (Change("a", "vanished"),)
    assert (made.report.files, made.report.hard_links) == (2, 1)
    ours, theirs = tree(root), tree(made.extract())
    assert ours.pop(b"") != theirs.pop(b""), "its time moved when the name went"
    assert ours == theirs


def test_a_further_name_of_what_changed_since_has_its_own_content(root: Path, tmp_path: Path) -> None:
    (root / "a").write_bytes(b"linked")
    (root / "b").write_bytes(b"between")
    os.link(root / "a", root / "c")
    seen: list[int] = []

    def progress(count: int) -> None:
        if not count:
            return
        seen.append(count)
        if len(seen) == 2:
            (root / "a").write_bytes(b"another")

    made = Backup(root, tmp_path / "b", progress=progress)
    assert made.report.changed == (Change("c", "rewritten while read"),)
    out = made.extract()
    assert ((out / "a").read_bytes(), (out / "c").read_bytes()) == (b"linked", b"another")
    assert made.checked() == 3


_SWAPS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.unlink(), "vanished"),
    (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "replaced while read"),
    (lambda path: (path.unlink(), os.mkfifo(path)), "replaced while read"),
    (lambda path: (path.unlink(), path.mkdir()), "replaced while read"),
    (lambda path: (path.unlink(), socket.socket(socket.AF_UNIX).bind(str(path))), "replaced while read"),
]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("act", "what"), _SWAPS)
def test_a_file_swapped_between_the_look_and_the_open(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], object], what: str
) -> None:
    monkeypatch.chdir(root)
    (root / "swapped").write_bytes(b"seen")
    (root / "z").write_bytes(b"after it")
    Meddling().before_opening(b"swapped", lambda: act(Path("swapped")))
    made = Backup(root, tmp_path / "b")
    assert of_files(made.report)[0] == Change("swapped", what)
    assert [name for name in made.names() if name != b"media/swapped"] == [b"media", b"media/z"]
    assert (b"media/swapped" in made.names()) is (Path("swapped").is_symlink() or Path("swapped").is_dir())


def test_a_file_replaced_by_another_is_stored_and_listed(root: Path, tmp_path: Path) -> None:
    (root / "swapped").write_bytes(b"seen")
    Meddling().before_opening(b"swapped", lambda: _replace(root / "swapped"))
    made = Backup(root, tmp_path / "b")
    assert of_files(made.report) == (Change("swapped", "replaced while read"),)
    assert (made.extract() / "swapped").read_bytes() == b"new content"
    assert made.checked() == 1


def test_a_directory_swapped_for_a_link_does_not_lead_outside(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "swapped").mkdir()
    (root / "swapped/secret").write_bytes(b"public")

    def act() -> None:
        (root / "swapped").rename(tmp_path / "away")
        (root / "swapped").symlink_to(outside)

    Meddling().before_opening(b"swapped", act)
    made = Backup(root, tmp_path / "b")
    assert of_files(made.report) == (Change("swapped", "replaced while read"), Change("swapped", "came while read"))
    assert made.names() == [b"media", b"media/swapped"] and os.readlink(made.extract() / "swapped") == str(outside)


def test_a_directory_swapped_after_the_open_is_still_the_one_looked_at(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/b").write_bytes(b"secret")
    (root / "sub").mkdir()
    (root / "sub/a").write_bytes(b"1")
    (root / "sub/b").write_bytes(b"2")

    def act() -> None:
        (root / "sub").rename(root / "moved")
        (root / "sub").symlink_to(tmp_path / "outside")

    made = Backup(root, tmp_path / "b", progress=Once(act))
    assert (made.extract() / "sub/b").read_bytes() == b"2"


def test_swapping_without_pause_never_leads_outside(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x").write_bytes(b"secret")
    (root / "sub").mkdir()
    (root / "sub/x").write_bytes(b"public")
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            (root / "sub").rename(tmp_path / "aside")
            (root / "sub").symlink_to(tmp_path / "outside")
            (root / "sub").unlink()
            (tmp_path / "aside").rename(root / "sub")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(300):
            sink = Kept()
            archive(root, "media", sink, Kept())
            assert b"secret" not in sink.all
    finally:
        over.set()
        thread.join()


def test_what_is_moved_to_where_the_walk_has_been_is_archived_after_it(root: Path, tmp_path: Path) -> None:
    for name in ("done", "later", "later/folder"):
        (root / name).mkdir()
    for number in range(50):
        (root / f"later/{number:02}").write_bytes(b"%d" % number)
    (root / "later/folder/below").write_bytes(b"below")
    (root / "done/a").write_bytes(b"a")

    def act() -> None:
        for number in range(0, 50, 2):
            (root / f"later/{number:02}").rename(root / f"done/{number:02}")
        (root / "later/folder").rename(root / "done/folder")

    made = Backup(root, tmp_path / "b", progress=Once(act))
    report = made.report
    assert {each.path for each in report.changed if each.what == "changed while read"} == {"done"}
    assert len(of_files(report)) == 26 and {each.what for each in of_files(report)} == {"came while read"}
    assert tree(made.extract()).keys() == tree(root).keys()
    assert made.checked() == 52 == report.files and report.directories == 4


def test_a_file_that_has_become_a_directory_is_in_the_archive_as_it_was_met(root: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (root / name).write_bytes(name.encode())

    def act() -> None:
        (root / "a").unlink()
        (root / "a/below").mkdir(parents=True)
        (root / "a/below/file").write_bytes(b"new")

    calls: list[int] = []
    made = Backup(
        root, tmp_path / "b", progress=lambda count: act() if calls.append(count) is None and len(calls) == 4 else None
    )
    assert made.report.changed == (Change(".", "changed while read"), Change("a", "changed while read"))
    assert (made.extract() / "a").read_bytes() == b"a" and made.checked() == 3


def test_a_quiet_tree_has_not_changed(root: Path, tmp_path: Path) -> None:
    """Though it has been made within the same tick of the clock, and what came before its directory was listed."""
    (root / "sub/deep").mkdir(parents=True)
    (root / "sub/deep/file").write_bytes(b"file")
    (root / "a").write_bytes(b"a")
    made = Backup(root, tmp_path / "b", progress=Once(lambda: (root / "sub/deep/more").write_bytes(b"more")))
    made.extract()
    assert made.report.changed == () and made.checked() == 3


def test_a_deep_directory_moved_away_costs_only_what_lay_around_it(root: Path, tmp_path: Path) -> None:
    deep = root / "/".join("d" * 80)
    deep.mkdir(parents=True)
    (deep / "leaf").write_bytes(b"leaf")
    (root / "z").write_bytes(b"after it")
    (root / "/".join("d" * 70) / "y").write_bytes(b"lost")
    time.sleep(0.03)  # its directory is no longer one that has changed this instant
    made = Backup(root, tmp_path / "b", progress=Once(lambda: (root / "/".join("d" * 75)).rename(tmp_path / "away")))
    above = "/".join("d" * 70)
    assert of_files(made.report) == (Change(above, "moved while read"), Change(f"{above}/y", "came while read"))
    assert list(made.indexed()) == [b"media/" + b"d/" * 80 + b"leaf", b"media/z", f"media/{above}/y".encode()]
