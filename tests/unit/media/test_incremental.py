"""Chains of increments over real trees: each set is, byte for byte, the archive that a full set would have been."""

from __future__ import annotations

import io
import os
import random
import shutil
import tarfile
import time
from pathlib import Path

import pytest

from backup.errors import IntegrityError
from backup.media import known_files
from backup.media.archive_tree import MediaReport, archive
from backup.media.incremental import ROTTEN, Increment
from backup.media.known_files import KnownFiles, Rereading, TreeFiles, is_stable, listed_sha256
from backup.media.pack_reader import PackFiles, TreeReader, assembled
from backup.media.tar_writer import index_line, parse_index
from backup.media.tree import InodeState, Location, TreeEntry, TreeWriter, parse_marks, parse_tree
from backup.media.walk import OpenFile
from backup.pipeline.chunks import split_lines
from backup.pipeline.gzip import GzipWriter
from backup.storage.directory import LocalStore
from tests.support.awkward_tree import fill

MB = 1 << 20


class Chain:
    """One volume, and what each night left of it."""

    def __init__(self, base: Path) -> None:
        self.root, self.packs = base / "media", base / "packs"
        self.root.mkdir()
        self.packs.mkdir()
        self.trees: list[bytes] = []
        self.indexes: list[bytes] = []
        self.reads: list[int] = []
        self.reports: list[MediaReport] = []
        self.day = 20000

    def night(self, *, full: bool = False, stable: bool = True, days: int = 1) -> int:
        """Make a set; the bytes of content that it packed."""
        number = len(self.trees)
        self.day += days
        name = f"pack-{number}"
        known = self.known(stable=stable) if self.trees and not full else KnownFiles()
        tree, index, read = io.BytesIO(), io.BytesIO(), [0]

        def progress(count: int) -> None:
            read[0] += count

        packs = PackFiles(LocalStore(self.packs), known.marks)
        with open(self.packs / name, "wb") as target:
            packer = GzipWriter(target, 1)
            run = Increment(name, packer, tree, known, packs, self.day)
            self.reports.append(archive(self.root, "media", packer, index, progress=progress, kind=run.archiver))
            packer.close()
        tree.write(run.entry_points(packer.marks, (self.packs / name).stat().st_size))
        packs.close()
        known.close()
        if not run.new:
            (self.packs / name).unlink()
        self.trees.append(tree.getvalue())
        self.indexes.append(index.getvalue())
        self.reads.append(read[0])
        return (self.packs / name).stat().st_size if run.new else 0

    def known(self, *, stable: bool = True) -> KnownFiles:
        tree, index = self.trees[-1], self.indexes[-1]
        files = TreeFiles(
            lambda skip: split_lines([tree], skip),
            lambda skip: split_lines([index], skip),
            sorted(os.listdir(self.packs)),
            time.time_ns(),
        )
        return KnownFiles(files, stable=stable)

    def whole(self, number: int = -1) -> bytes:
        """The archive that a set stands for."""
        packs = PackFiles(LocalStore(self.packs), parse_marks(io.BytesIO(self.trees[number])))
        index = parse_index(io.BytesIO(self.indexes[number]))
        entries = parse_tree(io.BytesIO(self.trees[number]), io.BytesIO(self.indexes[number]))
        content = b"".join(assembled(TreeReader(entries, packs), index))
        packs.close()
        return content

    def full(self) -> tuple[bytes, bytes]:
        """The archive and the index of a full set, now."""
        tar, index = io.BytesIO(), io.BytesIO()
        archive(self.root, "media", tar, index)
        return tar.getvalue(), index.getvalue()

    def same(self) -> None:
        assert (self.whole(), self.indexes[-1]) == self.full()


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


def test_a_set_is_the_archive_of_a_full_one(chain: Chain) -> None:
    fill(chain.root)
    chain.night()
    chain.same()
    assert chain.night(days=0) == chain.reads[-1] == 0
    chain.same()


def test_unchanged_files_are_not_read_and_new_ones_alone_are_packed(chain: Chain) -> None:
    for number in range(50):
        (chain.root / f"{number:03}").write_bytes(os.urandom(10_000))
    chain.night()
    (chain.root / "new").write_bytes(os.urandom(30_000))
    assert 30_000 < chain.night(days=0) < 32_000
    assert chain.reads[-1] == 30_000
    chain.same()


@pytest.mark.parametrize("size", [1000, 5 * MB])
def test_what_was_renamed_or_copied_is_not_packed_again(chain: Chain, size: int) -> None:
    (chain.root / "a").mkdir()
    for number in range(3):
        (chain.root / "a" / f"{number}").write_bytes(os.urandom(size))
    chain.night()
    (chain.root / "a").rename(chain.root / "z")
    shutil.copyfile(chain.root / "z" / "1", chain.root / "copy")
    (chain.root / "z" / "2").rename(chain.root / "alone")
    assert chain.night(days=0) == 0
    chain.same()
    # A directory that got another name left its files as they were; the two others were read.
    assert chain.reads[-1] == 2 * size


def test_holes_links_and_empty_files(chain: Chain) -> None:
    with open(chain.root / "sparse", "wb") as file:
        file.truncate(40 * MB)
        file.seek(20 * MB)
        file.write(b"x" * 5000)
    with open(chain.root / "holes", "wb") as file:
        file.truncate(6 * MB)
    (chain.root / "empty").touch()
    (chain.root / "first").write_bytes(b"content")
    os.link(chain.root / "first", chain.root / "second")
    chain.night()
    chain.same()
    (chain.root / "sparse").rename(chain.root / "moved")
    (chain.root / "first").rename(chain.root / "zuletzt")
    (chain.root / "holes").chmod(0o600)
    assert chain.night() == 0
    chain.same()


def test_a_directory_in_the_place_of_a_file_and_back(chain: Chain) -> None:
    (chain.root / "x").write_bytes(b"content")
    chain.night()
    (chain.root / "x").unlink()
    (chain.root / "x").mkdir()
    (chain.root / "x" / "content").write_bytes(b"content")
    assert chain.night() == 0
    chain.same()
    shutil.rmtree(chain.root / "x")
    (chain.root / "x").write_bytes(b"other")
    assert chain.night() > 0
    chain.same()


def test_metadata_alone_are_in_the_tree_alone(chain: Chain) -> None:
    (chain.root / "x").write_bytes(b"content")
    (chain.root / "Case").write_bytes(b"content")
    chain.night()
    (chain.root / "x").chmod(0o640)
    os.utime(chain.root / "x", ns=(0, 123_456_789))
    os.setxattr(chain.root / "x", "user.a=b", b"\0\xff")
    (chain.root / "Case").rename(chain.root / "case")
    assert chain.night() == 0
    chain.same()


def test_content_that_its_times_do_not_tell_of_is_found_within_a_week(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    (chain.root / "x").write_bytes(b"content")
    (chain.root / "y").write_bytes(b"content of another")
    chain.night()
    before = (chain.root / "x").stat()
    (chain.root / "x").write_bytes(b"CONTENT")
    # The times of the inode cannot be set back: the set before is made to have seen the new ones.
    after = (chain.root / "x").stat()
    pairs = ((before.st_ctime_ns, after.st_ctime_ns), (before.st_mtime_ns, after.st_mtime_ns))
    for old, new in pairs:
        chain.trees[-1] = chain.trees[-1].replace(str(old).encode(), str(new).encode())
    assert not any(chain.night() for _ in range(1)) or chain.reports[-1].changed_total
    for _ in range(7):
        chain.night()
    assert [each.what for report in chain.reports for each in report.changed] == [ROTTEN]
    chain.same()


def test_all_is_read_again_within_a_week_and_a_share_each_night(chain: Chain) -> None:
    for number in range(70):
        (chain.root / f"{number:03}").write_bytes(os.urandom(1000))
    chain.night()
    for _ in range(14):
        assert chain.night() == 0
    assert sum(chain.reads[1:8]) == sum(chain.reads[8:15]) == 70_000
    assert 0 < max(chain.reads[1:]) <= 20_000
    assert [Rereading(today)(b"5", 3) for today in (5, 4, 12, 10, 9)] == [False, True, True, True, False]
    assert not Rereading(12, rereading=False)(b"5", 3)


def test_where_inodes_tell_nothing_all_is_read(chain: Chain) -> None:
    (chain.root / "x").write_bytes(b"content")
    chain.night()
    assert chain.night(stable=False) == 0
    assert chain.reads[-1] == 7
    mounts = b"1 1 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /vol\\040umes/media rw - nfs4 host:/x rw\n"
    assert is_stable(Path("/vol umes"), mounts)
    assert not is_stable(Path("/vol umes/media/x"), mounts)


def test_a_claim_is_compared_before_it_is_trusted(chain: Chain) -> None:
    (chain.root / "a").write_bytes(b"a" * 1000)
    (chain.root / "b").write_bytes(b"b" * 1000)
    chain.night()
    # The index says that the content of `a` is that of `new`.
    (chain.root / "new").write_bytes(b"n" * 1000)
    lie = chain.full()[1].splitlines()[2].split()[0]
    first = chain.indexes[-1].split()[0]
    chain.indexes[-1] = chain.indexes[-1].replace(first, lie)
    assert chain.night(days=0) > 0
    new = next(each for each in _files(chain) if each.path == b"media/new")
    assert new.place and new.place.pack == "pack-1"
    # What the index says of `a` is as wrong as it was, and told.
    with pytest.raises(IntegrityError, match="media/a' has other content than the file index says"):
        chain.whole()


def test_a_damaged_pack_is_told_and_its_content_stored_anew(chain: Chain) -> None:
    (chain.root / "a").write_bytes(os.urandom(100_000))
    chain.night()
    data = bytearray((chain.packs / "pack-0").read_bytes())
    data[50_000] ^= 1
    (chain.packs / "pack-0").write_bytes(data)
    shutil.copyfile(chain.root / "a", chain.root / "copy")
    assert chain.night() > 100_000
    (chain.packs / "pack-0").write_bytes(b"\x1f\x8b")
    with pytest.raises(IntegrityError, match="pack-0 cannot be unpacked"):
        chain.whole()


def test_each_pack_is_an_archive_by_itself(chain: Chain) -> None:
    fill(chain.root)
    chain.night()
    with tarfile.open(chain.packs / "pack-0") as archived:
        names = {os.fsencode(each.name) for each in archived if each.isfile()}
    assert {each.place.member for each in _files(chain) if each.place and each.place.pack} == names


def _files(chain: Chain) -> list[TreeEntry]:
    return [each for each in parse_tree(*map(io.BytesIO, (chain.trees[-1], chain.indexes[-1]))) if each.place]


def test_what_changed_while_it_was_read_is_read_again(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = chain.root / "x", OpenFile.difference
    path.write_bytes(b"first")

    def changing(self: OpenFile, before: os.stat_result) -> str:
        path.write_bytes(os.urandom(5))
        return real(self, before)

    with monkeypatch.context() as patch:
        patch.setattr(OpenFile, "difference", changing)
        chain.night()
    assert chain.reports[-1].changed_total
    chain.night(days=0)
    chain.same()


@pytest.mark.long
def test_a_year_of_odd_changes(chain: Chain) -> None:
    draw = random.Random(7)
    for number in range(40):
        (chain.root / f"{number}").write_bytes(draw.randbytes(draw.choice([0, 10, 4000, 70_000])))
    for _ in range(30):
        _change(draw, chain.root)
        chain.night(days=draw.choice([0, 1, 1, 3]), full=draw.random() < 0.05)
        chain.same()


def _change(draw: random.Random, root: Path) -> None:
    for _ in range(4):
        files = [path for path in root.rglob("*") if path.is_file()]
        path, name = draw.choice(files), f"{draw.random():.6f}"
        what = draw.randrange(7)
        if what == 0:
            path.write_bytes(draw.randbytes(3000))
        elif what == 1:
            path.unlink()
        elif what == 2:
            path.rename(root / name)
        elif what == 3:
            shutil.copyfile(path, root / name)
        elif what == 4 and not (root / name).exists():
            os.link(path, root / name)
        elif what == 5:
            (root / name).mkdir()
            path.rename(root / name / "inside")
        else:
            with open(path, "ab") as file:
                file.write(b"more")
        if len(files) < 10:
            (root / f"{name}n").write_bytes(draw.randbytes(1000))


def test_what_is_known_of_many_files_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_files, "_SLOTS", 4)
    monkeypatch.setattr(known_files, "_STEP", 16)
    writer, draw = TreeWriter(), random.Random(3)
    entries, tree, index = [], b"", b""
    for number in range(1000):
        place = Location(f"pack-{number % 5}", 2000 * number, 10, None, b"m/%04d" % number)
        state = InodeState(1, draw.getrandbits(60), number, 20_000)
        entry = TreeEntry(tarfile.REGTYPE, 0o644, 0, 0, number, b"m/%04d" % number, size=10, place=place, state=state)
        entries.append((draw.randbytes(32).hex(), entry))
        tree += writer.line(entry)
        index += index_line(entries[-1][0], 10, entry.path)
        if not number % 10:
            link = b"m/%04d-link" % number
            tree += writer.line(TreeEntry(tarfile.LNKTYPE, 0o644, 0, 0, number, link, entry.path))
            index += index_line(entries[-1][0], 10, link)
    packs = [f"pack-{number}" for number in range(5)]
    files = TreeFiles(lambda skip: split_lines([tree], skip), lambda skip: split_lines([index], skip), packs, 1000)
    known = KnownFiles(files)
    for sha256, entry in draw.sample(entries, 300):
        assert entry.state
        status = os.stat_result(
            (0, entry.state.inode, 1, 1, 0, 0, 10, 0, 0, 0),
            {"st_mtime_ns": entry.mtime_ns, "st_ctime_ns": entry.state.ctime_ns},
        )
        found = known.moved(status)
        assert found and (listed_sha256(found), known.entry(found)) == (sha256, entry)
        assert known.content(sha256, 10, None) == entry.place
        assert known.content(sha256, 11, None) is None
        known.forget(sha256)
        assert known.content(sha256, 10, None) is None
    assert known.content("00" * 32, 10, None) is None


def test_what_was_packed_just_now_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In memory is eight bytes of each; the rest lies in a file that has no name."""
    monkeypatch.setattr(known_files, "_SLOTS", 4)
    known, draw = KnownFiles(directory=tmp_path), random.Random(4)
    packed = [(draw.randbytes(32).hex(), Location("new", 1024 * n, n, None, b"m/%04d" % n)) for n in range(1000)]
    for number, (sha256, place) in enumerate(packed):
        known.add(sha256, place.stored, place)
        sha256, place = packed[draw.randrange(number + 1)]
        assert known.content(sha256, place.stored, None) == place
    assert known.content("00" * 32, 10, None) is None
    assert list(tmp_path.iterdir()) == []
    known.close()


@pytest.mark.long
def test_files_that_are_alike_cost_little(memory: Path) -> None:
    """Empty ones above all: when content was looked up, each was compared with all before it."""
    chain = Chain(memory)
    for number in range(6000):
        (chain.root / f"{number:05}").touch()
    (chain.root / "content").write_bytes(b"content")
    chain.night()
    shutil.copyfile(chain.root / "content", chain.root / "copy")
    started = time.process_time()
    assert chain.night(days=0) == 0
    assert time.process_time() - started < 1.5
    chain.same()


@pytest.mark.long
def test_many_small_files_cost_little(memory: Path) -> None:
    chain = Chain(memory)
    for number in range(3000):
        (chain.root / f"{number:05}").write_bytes(number.to_bytes(4, "big"))
    chain.night()
    started = time.process_time()
    chain.night()
    assert time.process_time() - started < 2
