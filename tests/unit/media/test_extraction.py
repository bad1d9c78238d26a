"""What the archiver stores comes back exactly; what anybody else made comes back, or is refused and nothing is hurt."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.errors import BackupError, IntegrityError, RestoreFailed, StoreError
from backup.media import archive_tree, extraction, metadata
from backup.media.archive_rules import root_of
from backup.media.extraction import Extracted, extract_archive
from backup.media.tar_reader import TarReader
from backup.media.tar_writer import Member, ending, header, index_line, padding, parse_index
from backup.pipeline.gzip import reader
from tests.support.awkward_tree import acl, fill, look
from tests.support.examples import examples

ROOT = Path(__file__).resolve().parents[3]
DIR, FILE, LINK, HARD = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
BIG = 1 << 40


def _silent(_count: int) -> None:
    pass


class Sums(io.BytesIO):
    """A sink in memory, for an archive or its index."""

    def lines(self) -> list[bytes]:
        return self.getvalue().splitlines(keepends=True)


def archived(root: Path) -> tuple[Sums, Sums]:
    tar, index = Sums(), Sums()
    archive_tree.archive(root, "media", tar, index, excludes=())
    return tar, index


def extracted(
    tar: bytes, target: Path, index: Iterable[bytes] | None = None, *, trusted: bool = True, limit: int = BIG
) -> Extracted:
    entries = None if index is None else parse_index(index)
    stream = io.BytesIO(tar)
    return extract_archive(stream, "media", target, index=entries, trusted=trusted, limit=limit, progress=_silent)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with an empty `target`, something that must not be touched, and a `volume`."""
    for name in ("target", "volume", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside/precious").write_bytes(b"precious")
    return tmp_path


# --- there and back -------------------------------------------------------------------------------------------------


def test_everything_comes_back(place: Path) -> None:
    fill(place / "volume")
    tar, index = archived(place / "volume")
    told: list[int] = []
    entries = parse_index(index.lines())
    tar.seek(0)
    done = extract_archive(tar, "media", place / "target", index=entries, trusted=True, limit=BIG, progress=told.append)
    assert look(place / "target") == look(place / "volume")
    assert done.notes == () and done.bytes == sum(told) and done.hard_links == 2
    assert done.files + done.hard_links == len(index.lines())


_NAME = st.binary(min_size=1, max_size=255).filter(
    lambda name: not set(name) & set(b"/\0") and name not in (b".", b"..")
)


@examples(25)
@given(files=st.dictionaries(_NAME, st.binary(max_size=3000), max_size=6), folders=st.lists(_NAME, max_size=3))
def test_any_names(files: dict[bytes, bytes], folders: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    work = tmp_path_factory.mktemp("any")
    (work / "target").mkdir()
    inner = work / "volume" / Path(*map(os.fsdecode, folders))
    inner.mkdir(parents=True)
    for name, content in files.items():
        path = inner / os.fsdecode(name)
        path.write_bytes(content)
    tar, index = archived(work / "volume")
    extracted(tar.getvalue(), work / "target", index.lines())
    assert look(work / "target") == look(work / "volume")
    shutil.rmtree(work)


@pytest.mark.parametrize("year", [1800, 2300, 2446, 2500, 9999])
def test_a_time_that_the_writer_takes_comes_back_or_is_the_nearest(place: Path, year: int) -> None:
    """NTFS by Samba gives files such times. One of them must not be the end of a restore."""
    seconds = int((year - 1970) * 365.2425 * 86400)
    (place / "volume/a").write_bytes(b"a")
    (place / "volume/l").symlink_to("a")
    tar, index = Sums(), Sums()
    found = os.lstat(place / "volume/a")
    odd = os.stat_result(tuple(found), {"st_mtime_ns": seconds * 10**9 + 7})
    tar.write(header(Member(b"media/", DIR, os.stat(place / "volume"))))
    tar.write(header(Member(b"media/a", FILE, odd, 1)) + b"a" + padding(1))
    tar.write(header(Member(b"media/l", LINK, odd, target=b"a")) + END)
    index.write(index_line(hashlib.sha256(b"a").hexdigest(), 1, b"media/a"))
    done = extracted(tar.getvalue(), place / "target", index.lines())
    exact = [os.lstat(place / "target" / name).st_mtime_ns == odd.st_mtime_ns for name in "al"]
    assert (place / "target/a").read_bytes() == b"a"
    assert all(exact) if not done.notes else done.notes == (f"{metadata.TIMES} (a and 1 more)",) and not any(exact)


@given(
    mode=st.integers(0, 0o7777),
    owners=st.tuples(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2)),
    mtime=st.integers(-(2**61) * 10**9, 2**61 * 10**9),
    name=_NAME,
    target=_NAME,
    attributes=st.dictionaries(_NAME.map(b"user.".__add__), st.binary(max_size=300), max_size=3),
)
def test_what_the_writer_writes_of_an_inode_the_reader_takes(
    mode: int, owners: tuple[int, int], mtime: int, name: bytes, target: bytes, attributes: dict[bytes, bytes]
) -> None:
    (uid, gid), path = owners, b"media/" + name
    found = os.stat_result((mode, 0, 0, 1, uid, gid, 0, 0, 0, 0), {"st_mtime_ns": mtime})
    tar = header(Member(path, FILE, found, attributes=attributes)) + header(Member(path, LINK, found, target=target))
    file, link = TarReader([tar + END], BIG).members()
    for each in (file, link):
        assert (each.path, each.mode, each.uid, each.gid, each.mtime_ns) == (path, mode, uid, gid, mtime)
    assert (file.attributes, link.target) == (attributes, target)


def _deep(root: Path, name: str, levels: int) -> None:
    fd = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        for file in ("a", "zz"):
            os.close(os.open(file, os.O_CREAT, dir_fd=fd))
        os.mkdir(name, 0o750, dir_fd=fd)
        os.utime(name, ns=(7, 7_000_000_007), dir_fd=fd)
        above, fd = fd, os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(above)
    os.close(fd)


@pytest.mark.long
@pytest.mark.parametrize(("name", "levels"), [("d", 400), ("n" * 250, 40)])
def test_depth_takes_no_descriptors(place: Path, name: str, levels: int) -> None:
    _deep(place / "volume", name, levels)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    tar, index = archived(place / "volume")
    calls = sys.getrecursionlimit()
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 80, hard))
    sys.setrecursionlimit(400)
    try:
        done = extracted(tar.getvalue(), place / "target", index.lines())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sys.setrecursionlimit(calls)
    assert (done.files, done.directories) == (2 * levels, levels + 1)
    # Archiving the copy reads every mode, owner and time again.
    assert archived(place / "target")[0].getvalue() == tar.getvalue()


@pytest.mark.long
def test_holes_are_not_inflated(place: Path) -> None:
    with open(place / "volume/sparse", "wb") as file:
        for offset in (0, 1 << 28):
            os.pwrite(file.fileno(), b"abc", offset)
        file.truncate(1 << 29)
    tar, index = archived(place / "volume")
    extracted(tar.getvalue(), place / "target", index.lines())
    copy, original = (place / "target/sparse").stat(), (place / "volume/sparse").stat()
    assert (copy.st_size, copy.st_blocks) == (original.st_size, original.st_blocks)


def test_who_has_no_privileges_gets_files_and_is_told(place: Path) -> None:
    (place / "volume/mine").write_bytes(b"content")
    (place / "volume/set-id").write_bytes(b"content")
    os.chown(place / "volume/mine", 1234, 1234)
    tar, index = archived(place / "volume")
    (place / "tar").write_bytes(tar.getvalue())
    (place / "target").chmod(0o777)
    code = (
        "import os, sys; from pathlib import Path; from backup.media.extraction import extract_archive\n"
        "stream = open(sys.argv[1], 'rb'); target = os.open(sys.argv[2], os.O_RDONLY)\n"
        "os.mkdir('mine', dir_fd=target); os.chown('mine', 65534, 65534, dir_fd=target)\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "done = extract_archive(stream, 'media', Path('mine'), dir_fd=target, index=None, trusted=True, limit=1 << 30,"
        " progress=len and (lambda count: None)); print(done.notes)"
    )
    command = [sys.executable, "-c", code, place / "tar", place / "target"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "owners" in done.stdout
    assert (place / "target/mine/mine").read_bytes() == b"content"
    assert (place / "target/mine/mine").stat().st_uid == 65534


def _refusing(place: Path, tar: bytes, before: str = "") -> tuple[str, ...]:
    """Extracted where the kernel refuses every owner but one: the first of a user namespace."""
    (place / "tar").write_bytes(tar)
    code = (
        "import json, sys; from pathlib import Path; from backup.media.extraction import extract_archive\n"
        f"{before}\n"
        "done = extract_archive(open(sys.argv[1], 'rb'), 'media', Path(sys.argv[2]), index=None, trusted=True,"
        " limit=1 << 30, progress=lambda count: None); print(json.dumps(done.notes))"
    )
    words = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code, place / "tar", place / "target"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout))


def test_a_value_that_the_file_system_refuses_becomes_the_nearest_with_a_word(place: Path) -> None:
    """As with a rootless engine, where most owners do not exist; and never a set-ID bit for another owner."""
    odd, long = b"n" * 300 + b".pdf", b"user." + b"a" * 300
    owned = {"uid": 7, "gid": 0, "mode": 0o6755}
    tar = TOP + member("media/own", content=b"own", **owned) + member("media/link", LINK, link="own", **owned)
    tar += pax(record(f"SCHILY.xattr.{long.decode()}", "x") + record("SCHILY.xattr.user.big", b"b" * 60_000))
    tar += member("media/attributes", content=b"a")
    tar += pax(record("SCHILY.xattr.system.posix_acl_access", "none")) + member("media/acl", content=b"acl")
    for name, kind, content in ((odd, DIR, b""), (odd + b"/x", FILE, b"x"), (odd + b"/" + odd, FILE, b"y")):
        tar += pax(record("path", b"media/" + name)) + member("media/x", kind, content)
    tar += pax(record("linkpath", b"media/" + odd + b"/" + odd)) + member("media/second", HARD) + END
    notes = _refusing(place, tar)
    kinds = (metadata.OWNERS, metadata.SET_IDS, metadata.ATTRIBUTES, extraction.NAMES)
    assert len(notes) == len(kinds) and all(any(note.startswith(kind) for note in notes) for kind in kinds), notes
    assert any(note.endswith("(own and 1 more)") for note in notes)
    found = (place / "target/own").stat()
    assert (found.st_mode & 0o7777, found.st_uid, (place / "target/own").read_bytes()) == (0o755, 0, b"own")
    assert (place / "target/acl").read_bytes() == b"acl" and os.listxattr(place / "target/attributes") == []
    (folder,) = (path for path in (place / "target").iterdir() if path.is_dir())
    assert (folder / "x").read_bytes() == b"x" and folder.name.startswith("nnn") and folder.name.endswith(".pdf")
    assert (place / "target/second").read_bytes() == b"y" and (place / "target/second").stat().st_nlink == 2
    assert all(note.isprintable() and len(note) < 300 for note in notes)


def test_a_file_system_without_links_gets_copies(place: Path) -> None:
    """As FAT, and many a network file system: it refuses with EPERM."""
    refuse = "import os\ndef no(*_, **__): raise PermissionError(1, 'Operation not permitted')\n"
    tar = TOP + member("media/a", content=b"a", mode=0o640) + member("media/b", HARD, link="media/a")
    notes = _refusing(place, tar + member("media/l", LINK, link="a") + END, refuse + "os.link = os.symlink = no")
    assert notes == (f"{extraction.COPIES} (b)", f"{extraction.LINKS} (l)")
    assert (place / "target/b").read_bytes() == b"a" and (place / "target/b").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("lacking", ["chown", "fsetid"])
def test_root_without_the_capability_fails(place: Path, lacking: str) -> None:
    (place / "volume/f").write_bytes(b"")
    os.chown(place / "volume/f", 1234, 1234)
    (place / "volume/f").chmod(0o2755)
    tar, _ = archived(place / "volume")
    (place / "tar").write_bytes(tar.getvalue())
    code = (
        "import sys; from pathlib import Path; from backup.media.extraction import extract_archive\n"
        "extract_archive(open(sys.argv[1], 'rb'), 'media', Path(sys.argv[2]), index=None, trusted=True, limit=1 << 30,"
        " progress=lambda count: None)"
    )
    rights = ["--bounding-set", f"-{lacking}", "--inh-caps", f"-{lacking}"]
    command = ["setpriv", *rights, sys.executable, "-c", code, place / "tar", place / "target"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "RestoreFailed: media/f could not be written" in done.stderr


# --- archives of others ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--format=gnu", "--sparse"),
        ("--format=posix",),
        ("--format=posix", "--sparse", "--xattrs"),
        ("--format=ustar",),
        ("--sort=name", "--owner=0"),
    ],
)
@pytest.mark.long
def test_gnu_tar(place: Path, options: tuple[str, ...]) -> None:
    root = place / "media"
    root.mkdir()
    for name in ("a", "dir/b", "dir/sub/c"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(os.urandom(3000))
    if "ustar" not in str(options):
        (root / ("l" * 130)).mkdir()
        (root / ("l" * 130) / ("m" * 200)).symlink_to("../dir/" + "n" * 120)
    (root / "hard").hardlink_to(root / "dir/b")
    (root / "dir/sub/up").symlink_to("../b")
    with open(root / "sparse", "wb") as file:
        for number in range(30):
            os.pwrite(file.fileno(), b"x", number * (1 << 20))
    subprocess.run(["tar", "-C", place, *options, "-cf", place / "t.tar", "media"], check=True)
    done = extracted((place / "t.tar").read_bytes(), place / "target", trusted=False)
    ours, theirs = look(place / "target"), look(root)
    assert ours.keys() == theirs.keys()
    for path, values in theirs.items():
        content = (values[4] and values[4][:2], *values[5:])  # type: ignore[index]
        mine = ours[path]
        assert (mine[4] and mine[4][:2], *mine[5:]) == content  # type: ignore[index]
        assert mine[0] == values[0] and mine[3] // 10**9 == values[3] // 10**9  # type: ignore[operator]
    assert done.files == 4 and done.hard_links == 1
    if "--sparse" in options:
        assert blocks(place / "target/sparse") == blocks(root / "sparse")


def blocks(path: Path) -> int:
    """What a file takes once it is on the disk: until then a file system may count less, or more."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return path.stat().st_blocks


# --- archives that try ----------------------------------------------------------------------------------------------


def member(name: str, kind: bytes = FILE, content: bytes = b"", link: str = "", **values: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, len(content), 0o755
    for key, value in values.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + content + padding(len(content))


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return member("././@PaxHeader", kind, records)


def record(key: str, value: str | bytes) -> bytes:
    body = b" " + key.encode() + b"=" + (value if isinstance(value, bytes) else value.encode()) + b"\n"
    length = len(body)
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return b"%d" % length + body


def renumbered(block: bytes, at: int, field: bytes) -> bytes:
    """The first header with another field and a checksum that fits."""
    block = block[:at] + field + block[at + len(field) :]
    total = sum(block[:148]) + 8 * 32 + sum(block[156:512])
    return block[:148] + b"%06o\0 " % total + block[156:]


TOP = member("media/", DIR)
END = bytes(1024)
SPARSE = record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.name", "media/s")


def _sparse(text: bytes, realsize: str, data: bytes = b"") -> bytes:
    content = text + padding(len(text)) + data
    return pax(SPARSE + record("GNU.sparse.realsize", realsize)) + member("x", content=content)


CRAFTED: dict[str, tuple[bytes, str]] = {
    "parent": (member("media/../outside/precious", content=b"x"), "is not a safe name"),
    "parent of all": (member("../outside/x"), "is not a safe name"),
    "absolute": (member("/etc/obcms-was-here"), "is not a safe name"),
    "empty component": (member("media//x"), "is not a safe name"),
    "dot": (member("media/./x"), "is not a safe name"),
    "file with a slash": (member("media/x/"), "is not a safe name"),
    "NUL": (pax(record("path", b"media/a\0b")) + member("media/x"), "is not a safe name"),
    "other root": (member("outside/x"), "lies outside"),
    "no root": (member("x"), "lies outside"),
    "like the root": (member("media2/x"), "lies outside"),
    "twice": (member("media/x") + member("media/x"), "is in it twice"),
    "directory twice": (member("media/d/", DIR) + member("media/d/", DIR), "is in it twice"),
    "root twice": (TOP, "is in it twice"),
    "root as a file": (member("media"), "is not a directory, but has the name"),
    "file on directory": (member("media/d/", DIR) + member("media/d"), "is in it twice"),
    "directory on file": (member("media/d") + member("media/d/", DIR), "is in it twice"),
    "below a file": (member("media/d") + member("media/d/x"), "below something that is not a directory"),
    "below a link": (member("media/l", LINK, link="d") + member("media/l/x"), "below something that is not a dir"),
    "below a link out": (member("media/l", LINK, link="/tmp") + member("media/l/x"), "below|may lead outside"),
    "over a link": (member("media/l", LINK, link="d") + member("media/l", content=b"x"), "is in it twice"),
    "no directory": (member("media/d/x"), "directory that is not in it"),
    "empty link": (member("media/l", LINK), "symbolic link to nothing"),
    "hard link outside": (member("media/h", HARD, link="outside/precious"), "lies outside"),
    "hard link up": (member("media/h", HARD, link="media/../../outside/precious"), "is not a safe name"),
    "hard link absolute": (member("media/h", HARD, link="/etc/passwd"), "is not a safe name"),
    "hard link to nothing": (member("media/h", HARD, link="media/x"), "not a file of the archive"),
    "hard link to itself": (member("media/h", HARD, link="media/h"), "not a file of the archive"),
    "hard link to a directory": (member("media/h", HARD, link="media"), "not a file of the archive"),
    "hard link through a link": (
        member("media/l", LINK, link=".") + member("media/x") + member("media/h", HARD, link="media/l/x"),
        "not in the archive",
    ),
    "hard link with content": (member("media/h", HARD, link="media/x", size=512), "claims to have"),
    "directory with content": (member("media/d/", DIR, size=512), "claims to have"),
    "device outside": (member("outside/d", tarfile.CHRTYPE), "lies outside"),
    "link to a name too long": (
        member("././@LongLink", b"K", b"l" * 4096) + member("media/l", LINK),
        "to a name that is too long",
    ),
    "unknown kind": (member("media/u", b"Z"), "unknown kind"),
    "rest of a file": (member("media/u", b"M", b"rest"), "one part of a multi-volume set"),
    "rest of a file, posix": (
        pax(record("GNU.volume.filename", "media/u") + record("GNU.volume.offset", "9"), tarfile.XGLTYPE),
        "one part of a multi-volume set",
    ),
    "list of what is elsewhere": (member("media/d/", b"D", b"Yhere\0Nthere\0\0"), "held 'there', which is not in"),
    "list of what is elsewhere, posix": (
        pax(record("GNU.dumpdir", b"Nthere\0\0")) + member("media/d/", DIR),
        "held 'there', which is not in",
    ),
    "old long names": (member("media/n", b"N", b"Rename a to b\n"), "unknown kind"),
    "negative size": (renumbered(member("media/n"), 124, b"\xff" * 11 + b"\x00"), "claims to have"),
    "huge size": (renumbered(member("media/n"), 124, b"\x80" + b"\x7f" * 11), "may hold"),
    "size that is none": (renumbered(member("media/n"), 124, b"-0000000001\0"), "damaged number"),
    "negative pax size": (pax(record("size", "-1")) + member("media/n"), "invalid number"),
    "huge pax size": (pax(record("size", "9" * 19)) + member("media/n"), "may hold"),
    "endless pax size": (pax(record("size", "9" * 5000)) + member("media/n"), "invalid number"),
    "negative owner": (pax(record("uid", "-5")) + member("media/n"), "invalid number"),
    "owner nobody can be": (pax(record("gid", str(2**32 - 1))) + member("media/n"), "impossible owner"),
    "time beyond time": (pax(record("mtime", "9" * 19)) + member("media/n"), "impossible time"),
    "time that is none": (pax(record("mtime", "nan")) + member("media/n"), "invalid time"),
    "pax loop": (pax(record("comment", "x")) * 3 + member("media/n"), "one extended header after another"),
    "pax over nothing": (pax(record("comment", "x")), "belongs to nothing"),
    "pax length zero": (pax(b"0 a=b\n") + member("media/n"), "damaged extended header"),
    "pax length too long": (pax(b"99 a=b\n") + member("media/n"), "damaged extended header"),
    "pax length endless": (pax(b"9" * 400) + member("media/n"), "damaged extended header"),
    "pax bomb": (member("p", tarfile.XHDTYPE, size=1 << 40), "extended header of"),
    "global path": (pax(record("path", "media/g"), tarfile.XGLTYPE) + member("media/n"), "global header"),
    "long name bomb": (member("././@LongLink", b"L", size=1 << 34), "extended header of"),
    "negative long name": (renumbered(member("././@LongLink", b"L"), 124, b"\xff" * 12), "extended header of"),
    "sparse map backwards": (_sparse(b"2\n512\n512\n0\n512\n", "4096", bytes(1024)), "map of holes"),
    "sparse beyond its end": (_sparse(b"1\n4096\n512\n", "4096", bytes(512)), "map of holes"),
    "sparse without data": (_sparse(b"1\n0\n512\n", "4096"), "map of holes"),
    "sparse map endless": (_sparse(b"1" * 512, "4096"), "map of holes|none"),
    "sparse map too long": (_sparse(b"999999999\n", "4096"), "too many holes"),
    "sparse negative": (_sparse(b"1\n-512\n512\n", "4096", bytes(512)), "invalid number"),
    "sparse too large": (_sparse(b"0\n", "9" * 18), "impossible size or attribute|larger than a file"),
    "sparse unknown": (pax(record("GNU.sparse.major", "7")) + member("media/s"), "unknown format"),
    "damaged padding": (member("media/x", content=b"x")[:-1] + b"x", "damaged padding"),
    "damaged header": (member("media/x")[:100] + b"\xff" + member("media/x")[101:], "damaged header"),
    "zero block within": (bytes(512) + member("media/x"), "damaged header"),
    "something after the end": (END + member("media/x"), "something follows"),
}


def _try(place: Path, tar: bytes, *, trusted: bool, limit: int = 1 << 20) -> BackupError:
    before = look(place / "outside")
    started = time.process_time()
    with pytest.raises((IntegrityError, RestoreFailed)) as caught:
        extracted(tar, place / "target", trusted=trusted, limit=limit)
    assert time.process_time() - started < 5
    assert look(place / "outside") == before
    assert sorted(os.listdir(place)) == ["outside", "target", "volume"]
    error: BackupError = caught.value
    assert error.message.isprintable() and len(error.message) < 700
    return error


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "foreign"])
@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_archive_is_refused(place: Path, name: str, trusted: bool) -> None:
    body, words = CRAFTED[name]
    error = _try(place, TOP + body + END, trusted=trusted)
    assert isinstance(error, IntegrityError)
    assert any(word in error.message for word in words.split("|")), error.message
    assert "no live file was touched" in error.message
    assert not Path("/etc/obcms-was-here").exists()


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_what_is_no_file_is_left_out_with_a_word(place: Path, kind: bytes) -> None:
    """`tar -czf` of a folder with one FIFO is enough; ours stores none, so there it is a fault."""
    tar = TOP + member("media/f", kind) + member("media/x", content=b"x") + member("media/g", kind) + END
    done = extracted(tar, place / "target", trusted=False)
    assert os.listdir(place / "target") == ["x"] and done.notes == (f"{extraction.SPECIAL} (f and 1 more)",)
    (place / "t2").mkdir()
    with pytest.raises(IntegrityError, match="is a FIFO|is a device"):
        extracted(tar, place / "t2")


@pytest.mark.parametrize("kind", [FILE, LINK, HARD, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE])
@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "foreign"])
def test_what_is_called_as_the_folder_and_is_none_is_not_taken_for_it(place: Path, kind: bytes, trusted: bool) -> None:
    """Its content would be gone, and the restore a success."""
    tar = member("media", kind, link="a" if kind in (LINK, HARD) else "") + END
    error = _try(place, tar, trusted=trusted)
    assert any(words in error.message for words in ("is not a directory", "lies outside", "may lead", "map of holes"))


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_second_names_of_what_is_no_file_are_left_out_with_it(place: Path, kind: bytes) -> None:
    """bsdtar writes them. A file that comes under the name later is a file."""
    tar = TOP + member("media/f", kind) + member("media/g", HARD, link="media/f")
    tar += member("media/h", HARD, link="media/g") + member("media/x", content=b"x")
    file = member("media/f", content=b"f") + member("media/i", HARD, link="media/f")
    done = extracted(tar + file + END, place / "target", trusted=False)
    assert sorted(os.listdir(place / "target")) == ["f", "i", "x"] and (place / "target/i").read_bytes() == b"f"
    assert done.notes == (f"{extraction.SPECIAL} (f and 2 more)",) and done.hard_links == 1
    (place / "t2").mkdir()
    with pytest.raises(IntegrityError, match="is a FIFO|is a device"):
        extracted(tar + END, place / "t2")


def test_second_names_of_any_kind_come_back_from_ours(place: Path) -> None:
    volume = place / "volume"
    (volume / "d").mkdir()
    (volume / "a").write_bytes(b"a")
    (volume / "l").symlink_to("a")
    os.mkfifo(volume / "p")
    os.mknod(volume / "n", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(volume / "s"))
    for name in "alpns":
        os.link(volume / name, volume / "d" / name, follow_symlinks=False)
    tar, index = archived(volume)
    done = extracted(tar.getvalue(), place / "target", index.lines())
    assert done.notes == () and sorted(os.listdir(place / "target/d")) == ["a", "l"]
    assert (place / "target/a").samefile(place / "target/d/a")


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "foreign"])
def test_what_gnu_tar_adds_is_no_file(place: Path, trusted: bool) -> None:
    tar = member("a name", b"V") + member("media/", b"D", b"Ya\0Dd\0\0") + member("media/a", content=b"a")
    tar += pax(record("GNU.volume.label", "x"), tarfile.XGLTYPE) + pax(record("GNU.dumpdir", b"Yb\0\0"))
    tar += member("media/d/", DIR) + member("media/d/b", content=b"b") + member("media/z", b"V", b"with content") + END
    done = extracted(tar, place / "target", trusted=trusted)
    assert (done.files, done.directories, done.bytes, done.notes) == (2, 2, 2, ())
    assert sorted(str(path.relative_to(place / "target")) for path in (place / "target").rglob("*")) == [
        "a",
        "d",
        "d/b",
    ]


BEGINNINGS = {
    "a folder": (member("media/", DIR), "media"),
    "a folder from here": (member("./media/", DIR), "media"),
    "what lies in one": (member("media/x"), "media"),
    "none": (member("./", DIR), ""),
    "a label": (member("media/label", b"V") + member("uploads/", DIR), "uploads"),
    "a long list": (member("media/", b"D", b"Y" * (1 << 18) + b"\0\0")[: 1 << 16], "media"),
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_what_an_archive_is_of_is_said_by_its_beginning(name: str) -> None:
    head, root = BEGINNINGS[name]
    assert root_of(head) == root


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (member("media"), "it begins with 'media', which is not a directory"),
        (member("media", LINK, link="x"), "it begins with 'media', which is not a directory"),
        (member("../media/", DIR), "not the archive of one folder"),
        (member("toc.dat"), "tar format of pg_dump"),
        (member("media/x", b"M", b"rest"), "one part of a multi-volume set"),
        (member("label", b"V") + END, "not the archive of one folder"),
    ],
)
def test_what_is_of_no_folder_is_refused_by_its_beginning(head: bytes, words: str) -> None:
    with pytest.raises(IntegrityError, match=words) as caught:
        root_of(head)
    assert caught.value.hint


@pytest.mark.parametrize("kind", [tarfile.CONTTYPE, tarfile.AREGTYPE])
def test_other_kinds_of_files_and_headers_come_back(place: Path, kind: bytes) -> None:
    tar = pax(record("comment", "of git archive"), tarfile.XGLTYPE) + TOP
    tar += pax(record("path", "media/long"), tarfile.SOLARIS_XHDTYPE) + member("media/x", kind, b"content")
    assert extracted(tar + END, place / "target").notes == ()
    assert (place / "target/long").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("link", "at"),
    [("/etc/passwd", "l"), ("..", "l"), ("../outside", "l"), ("d/../..", "l"), ("../../x", "d/l"), ("d/up/..", "l")],
)
def test_links_out_come_back_only_from_our_own_archives(place: Path, link: str, at: str) -> None:
    tar = TOP + member("media/d/", DIR) + member(f"media/{at}", LINK, link=link) + END
    assert "may lead outside" in _try(place, tar, trusted=False).message
    (place / "t2").mkdir()
    extracted(tar, place / "t2")
    assert os.readlink(place / "t2" / at) == link  # noqa: PTH115


@pytest.mark.parametrize(("link", "at"), [("d", "l"), ("..", "d/l"), ("../d/x", "d/l"), ("./d", "l"), ("d//x", "l")])
def test_links_inside_come_back(place: Path, link: str, at: str) -> None:
    extracted(
        TOP + member("media/d/", DIR) + member(f"media/{at}", LINK, link=link) + END, place / "target", trusted=False
    )
    assert os.readlink(place / "target" / at) == link  # noqa: PTH115


def test_more_than_allowed(place: Path) -> None:
    tar = TOP + member("media/a", content=bytes(600)) + member("media/b", content=bytes(600)) + END
    assert "may hold" in _try(place, tar, trusted=True, limit=1199).message
    (place / "t2").mkdir()
    extracted(tar, place / "t2", limit=1200)


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 513, 1023, 1024, 1500, 1536, 2048, 2559])
def test_a_cut_archive(place: Path, cut: int) -> None:
    tar = TOP + member("media/a", content=bytes(1000)) + END
    assert len(tar) == 3072 - 0
    assert "truncated" in _try(place, tar[:cut], trusted=True).message


def test_an_empty_archive(place: Path) -> None:
    assert "empty" in _try(place, END, trusted=True).message


def test_every_flipped_byte_of_the_headers_is_noticed_or_harmless(place: Path) -> None:
    """Never anything but a BackupError, never anything outside."""
    (place / "volume/f").write_bytes(b"x" * 600)
    (place / "volume/l").symlink_to("f")
    os.setxattr(place / "volume/f", "user.a", b"b")
    tar, index = archived(place / "volume")
    data = tar.getvalue()
    for at in range(0, 6 * 512, 7):
        target = place / f"target/{at}"
        target.mkdir()
        changed = data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]
        try:
            extracted(changed, target, index.lines(), limit=1 << 20)
        except (IntegrityError, RestoreFailed):
            continue
        assert (target / "f").read_bytes() == b"x" * 600
    assert sorted(os.listdir(place)) == ["outside", "target", "volume"]


# --- the index ------------------------------------------------------------------------------------------------------


def _indexed(change: Callable[[list[bytes]], list[bytes]], place: Path) -> str:
    for name in ("a", "b"):
        (place / "volume" / name).write_bytes(name.encode())
    (place / "volume/c").hardlink_to(place / "volume/a")
    tar, index = archived(place / "volume")
    with pytest.raises(IntegrityError) as caught:
        extracted(tar.getvalue(), place / "target", change(index.lines()))
    return caught.value.message


def test_the_index_must_agree(place: Path) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    changes: dict[str, Callable[[list[bytes]], list[bytes]]] = {
        "'media/a' has other content": lambda lines: [index_line(other, 1, b"media/a"), *lines[1:]],
        "'media/c' has other content": lambda lines: [*lines[:2], index_line(other, 1, b"media/c")],
        "'media/a' has 1 bytes, but 2": lambda lines: [index_line(other, 2, b"media/a"), *lines[1:]],
        "'media/a' is not what the file index lists next": lambda lines: lines[1:],
        "'media/c' is not what the file index lists next": lambda lines: lines[:2],
        "'media/d' is in the file index, but not": lambda lines: [*lines, index_line(other, 1, b"media/d")],
        "line 2 of the file index": lambda lines: [lines[0], b"damaged\n", lines[2]],
    }
    for number, (words, change) in enumerate(changes.items()):
        work = place / f"outside/{number}"
        for name in ("volume", "target"):
            (work / name).mkdir(parents=True)
        assert words in _indexed(change, work)


# --- around it ------------------------------------------------------------------------------------------------------


def test_a_target_that_is_not_empty_or_a_link(place: Path) -> None:
    (place / "target/x").touch()
    (place / "link").symlink_to(place / "volume")
    for name in ("target", "link", "nowhere"):
        with pytest.raises(RestoreFailed, match="nothing was extracted"):
            extracted(TOP + END, place / name)


@pytest.mark.parametrize("end", [b"", b"4096\n0\n"])
def test_empty_regions_of_a_sparse_file_hold_nothing(place: Path, end: bytes) -> None:
    """As GNU tar marks the end of a file with one, so may others anywhere."""
    regions = b"0\n512\n1024\n0\n1024\n512\n2048\n0\n" + end
    text = b"%d\n" % (regions.count(b"\n") // 2) + regions
    extracted(TOP + _sparse(text, "4096", b"a" * 512 + b"b" * 512) + END, place / "target")
    found = (place / "target/s").read_bytes()
    assert found == b"a" * 512 + bytes(512) + b"b" * 512 + bytes(2560)


def test_damaged_gzip_and_a_failing_disk(place: Path) -> None:
    packed = bytearray(gzip.compress(TOP + member("media/a", content=os.urandom(300_000)) + END))
    packed[len(packed) // 2] ^= 1
    with reader(io.BytesIO(packed)) as stream, pytest.raises(IntegrityError, match="damaged"):
        extract_archive(stream, "media", place / "target", index=None, trusted=True, limit=BIG, progress=_silent)

    class Failing(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    (place / "t2").mkdir()
    with pytest.raises(StoreError, match="Input/output error"):
        extract_archive(Failing(), "media", place / "t2", index=None, trusted=True, limit=BIG, progress=_silent)


@pytest.mark.long
def test_memory_stays_flat(place: Path) -> None:
    """Thousands of members, none of which is held."""
    code = (
        "import io, resource, sys; from pathlib import Path; from backup.media.extraction import extract_archive\n"
        "extract_archive(open(sys.argv[1], 'rb'), 'media', Path(sys.argv[2]), index=None, trusted=True, limit=1 << 30,"
        " progress=lambda count: None); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    used = []
    for count in (10, 5_000):
        with open(place / "outside/tar", "wb") as file:
            file.write(TOP)
            for number in range(count):
                file.write(member(f"media/{number}"))
            file.write(END)
        (place / f"target/{count}").mkdir()
        command = [sys.executable, "-c", code, place / "outside/tar", place / f"target/{count}"]
        used.append(int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout))
    assert used[1] < used[0] + 3000


def test_a_foreign_order_keeps_times(place: Path) -> None:
    """bsdtar comes back to a directory that it had left."""
    tar = TOP + member("media/d/", DIR, mtime=1000) + member("media/e/", DIR, mtime=2000)
    extracted(tar + member("media/d/late", mtime=5) + member("media/x") + END, place / "target", trusted=False)
    assert (place / "target/d").stat().st_mtime == 1000
    assert (place / "target/e").stat().st_mtime == 2000


def test_what_is_inherited_is_not_restored(place: Path) -> None:
    (place / "volume/d").mkdir()
    (place / "volume/d/f").touch()
    tar, index = archived(place / "volume")
    os.setxattr(place / "target", "system.posix_acl_default", acl(99))
    os.chown(place / "target", 5, 5)
    (place / "target").chmod(0o2700)
    extracted(tar.getvalue(), place / "target", index.lines())
    assert look(place / "target") == look(place / "volume")


def test_the_header_helpers_fit(place: Path) -> None:
    """The crafted parts make a good archive when nothing is wrong with them."""
    found = os.stat(place)
    ours = header(Member(b"media/o", FILE, found, 2)) + b"ok" + padding(2)
    tar = TOP + member("media/a", content=b"a") + _sparse(b"1\n512\n512\n", "4096", bytes(512)) + ours
    extracted(tar + ending(len(tar)), place / "target")
    assert sorted(os.listdir(place / "target")) == ["a", "o", "s"]
