"""Headers as GNU tar and Python's tarfile read them; the index as sha256sum reads it; the map of holes."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backup.errors import IntegrityError
from backup.media.tar_header import checksum
from backup.media.tar_writer import (
    Gathered,
    IndexEntry,
    Member,
    data_regions,
    ending,
    header,
    index_line,
    padding,
    parse_index,
    whole_blocks,
)

_SHA = "0123456789abcdef" * 4
_PATHS = st.lists(
    st.binary(min_size=1, max_size=300).filter(lambda name: not set(name) & set(b"\0/") and name not in (b".", b".."))
).map(lambda names: b"/".join((b"media", *names)))


class Kept:
    """Every write, as it came."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)


@pytest.fixture
def found(tmp_path: Path) -> os.stat_result:
    (tmp_path / "any").touch()
    return (tmp_path / "any").stat()


def _changed(found: os.stat_result, **values: int) -> os.stat_result:
    names = {"st_mode": 0, "st_uid": 4, "st_gid": 5}
    plain = list(found)
    for name in names.keys() & values.keys():
        plain[names[name]] = values[name]
    extra = {name: getattr(found, name) for name in dir(found) if name.startswith("st_") and name not in names}
    return os.stat_result(plain, extra | {name: value for name, value in values.items() if name not in names})


def _read(stream: bytes, path: Path) -> list[tarfile.TarInfo]:
    path.write_bytes(stream + ending(len(stream)))
    with tarfile.open(path) as archive:
        return archive.getmembers()


def _listed(path: Path) -> list[str]:
    result = subprocess.run(["tar", "--numeric-owner", "--full-time", "-tvf", path], capture_output=True, check=True)
    assert result.stderr == b""
    return os.fsdecode(result.stdout).splitlines()


@given(path=_PATHS, target=_PATHS, kind=st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]))
def test_any_path_and_target_are_read_back_exactly(
    path: bytes, target: bytes, kind: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stream = header(Member(path, kind, os.stat("/"), target=b"" if kind == tarfile.REGTYPE else target))
    (member,) = _read(stream, tmp_path_factory.getbasetemp() / "one.tar")
    assert os.fsencode(member.name) == path
    assert kind == tarfile.REGTYPE or os.fsencode(member.linkname) == target


@pytest.mark.parametrize("nanoseconds", [0, 1, 999_999_999, 1_700_000_000_123_456_789, -1, -1_500_000_000, 9 * 10**18])
def test_times_are_exact_to_the_nanosecond(found: os.stat_result, tmp_path: Path, nanoseconds: int) -> None:
    stream = header(Member(b"media/t", tarfile.REGTYPE, _changed(found, st_mtime_ns=nanoseconds)))
    (tmp_path / "t.tar").write_bytes(stream + ending(len(stream)))
    subprocess.run(["tar", "-C", tmp_path, "-xf", tmp_path / "t.tar"], check=True)
    expected = min(nanoseconds, (2**34 - 2**31 - 1) * 10**9)  # the file system's own last second
    assert (tmp_path / "media/t").stat().st_mtime_ns // 10**9 == expected // 10**9
    assert nanoseconds > expected or (tmp_path / "media/t").stat().st_mtime_ns == nanoseconds


def test_large_owners_and_sizes(found: os.stat_result, tmp_path: Path) -> None:
    size = 9 << 30
    stat = _changed(found, st_uid=2**32 - 2, st_gid=2**21, st_mode=0o104755)
    archive = tmp_path / "large.tar"
    with open(archive, "wb") as file:
        file.write(header(Member(b"media/large", tarfile.REGTYPE, stat, size)))
        file.seek(size, os.SEEK_CUR)
        file.write(header(Member(b"media/next", tarfile.REGTYPE, stat)) + bytes(1024))
    first, second = _listed(archive)
    assert first.startswith(f"-rwsr-xr-x {2**32 - 2}/{2**21}")
    assert str(size) in first
    assert second.endswith("media/next")
    with tarfile.open(archive) as opened:
        assert [(m.name, m.size, m.uid) for m in opened] == [
            ("media/large", size, 2**32 - 2),
            ("media/next", 0, 2**32 - 2),
        ]


def test_a_sparse_file_with_more_than_8_gib_of_data(found: os.stat_result, tmp_path: Path) -> None:
    regions, size = ((4096, 9 << 30), (20 << 30, 512)), 30 << 30
    archive = tmp_path / "sparse.tar"
    with open(archive, "wb") as file:
        file.write(header(Member(b"media/sparse", tarfile.REGTYPE, found, size, regions=regions)))
        file.seek(sum(length for _, length in regions), os.SEEK_CUR)
        file.write(header(Member(b"media/next", tarfile.REGTYPE, found)) + bytes(1024))
    first, second = _listed(archive)
    assert str(size) in first
    assert second.endswith("media/next")
    with tarfile.open(archive) as opened:
        members = opened.getmembers()
    assert [(m.name, m.size, m.sparse) for m in members] == [
        ("media/sparse", size, [*regions, (size, 0)]),
        ("media/next", 0, None),
    ]


def test_attributes_of_any_name_and_value(found: os.stat_result, tmp_path: Path) -> None:
    attributes = {b"user.a=b%3Dc": b"\xff\0\n=", b"user.\xff": b"1", b"user.empty": b""}
    stream = header(Member(b"media/x", tarfile.REGTYPE, found, attributes=attributes))
    (tmp_path / "x.tar").write_bytes(stream + ending(len(stream)))
    result = subprocess.run(["tar", "--xattrs", "-C", tmp_path, "-xf", tmp_path / "x.tar"], capture_output=True)
    assert (result.returncode, result.stderr) == (0, b"")
    path = tmp_path / "media/x"
    assert {os.fsencode(name): os.getxattr(path, name) for name in os.listxattr(path)} == attributes


def test_only_a_name_that_is_not_utf8_is_marked_binary(found: os.stat_result) -> None:
    member = Member("media/ä".encode(), tarfile.REGTYPE, found, attributes={b"user.b": b"\xff"})
    assert b"hdrcharset" not in header(member)
    assert b"21 hdrcharset=BINARY\n" in header(Member(b"media/\xff", tarfile.REGTYPE, found))


@given(st.binary(min_size=512, max_size=512))
@example(b"\xff" * 512)
def test_the_checksum_is_that_of_every_tar(block: bytes) -> None:
    assert checksum(block) == tarfile.calc_chksums(block)[0]  # type: ignore[attr-defined]


@given(st.integers(0, 30_000))
def test_the_archive_ends_in_two_zero_blocks_and_a_whole_record(count: int) -> None:
    total = count + len(padding(count))
    assert total % 512 == 0
    assert len(ending(total)) >= 1024
    assert (total + len(ending(total))) % 10240 == 0
    assert not any(ending(total))


def test_small_writes_are_gathered_and_large_ones_not_copied() -> None:
    kept = Kept()
    gathered = Gathered(kept)
    large = bytes(1 << 20)
    for data in (b"a" * 12_000, b"b" * 12_000, b"c" * 12_000, b"d", large, b"e"):
        gathered.write(data)
    gathered.flush()
    gathered.flush()
    assert [len(data) for data in kept.writes] == [36_000, 1, 1 << 20, 1]
    assert kept.writes[2] is large
    assert gathered.count == 36_002 + (1 << 20)


@given(path=_PATHS, size=st.integers(0, 2**63))
def test_the_index_reads_back(path: bytes, size: int) -> None:
    line = index_line(_SHA, size, path)
    assert line.count(b"\n") == 1
    assert list(parse_index([line, line])) == [IndexEntry(_SHA, size, path)] * 2


@pytest.mark.parametrize("name", [b"plain", b"back\\slash", b"new\nline", b"car\rriage", b"\\n", b"\xff\xfe"])
def test_the_index_escapes_as_sha256sum_does(tmp_path: Path, name: bytes) -> None:
    (tmp_path / os.fsdecode(name)).write_bytes(b"content")
    theirs = subprocess.run([b"sha256sum", b"--", name], cwd=tmp_path, capture_output=True, check=True).stdout
    sha = theirs.lstrip(b"\\")[:64].decode()
    assert index_line(sha, 7, name).replace(b"  7  ", b"  ", 1) == theirs


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        f"{_SHA}  1  media/cut".encode(),
        f"{_SHA}  1  \n".encode(),
        f"{_SHA} 1  media/a\n".encode(),
        f"{_SHA}  -1  media/a\n".encode(),
        f"{_SHA}  01  media/a\n".encode(),
        f"{_SHA[1:]}  1  media/a\n".encode(),
        f"{_SHA.upper()}  1  media/a\n".encode(),
        f"{_SHA}  1  media/\\\\a\n".encode(),
        f"\\{_SHA}  1  media/a\n".encode(),
        f"\\{_SHA}  1  media/\\t\n".encode(),
        f"\\{_SHA}  1  media/a\\\n".encode(),
        f"{_SHA}  1  media/a\nb\n".encode(),
        f"{_SHA}  1  media/a\r\n".encode(),
    ],
)
def test_a_damaged_line_is_named(line: bytes) -> None:
    with pytest.raises(IntegrityError, match="line 2 "):
        list(parse_index([index_line(_SHA, 1, b"media/a"), line]))


@given(writes=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9000)), max_size=6), size=st.integers(0, 200_000))
def test_regions_cover_all_data_in_whole_blocks(
    writes: list[tuple[int, int]], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "holes"
    with open(path, "wb") as file:
        file.truncate(size)
        for page, length in writes:
            os.pwrite(file.fileno(), b"x" * length, page * 5000)
    content = path.read_bytes()
    fd = os.open(path, os.O_RDONLY)
    regions = data_regions(fd, len(content))
    os.close(fd)
    rebuilt = bytearray(len(content))
    previous = -1
    for start, length in regions:
        assert start > previous, "ascending and apart"
        assert start % 512 == 0
        assert length % 512 == 0 or start + length == len(content)
        rebuilt[start : start + length] = content[start : start + length]
        previous = start + length
    assert rebuilt == content
    path.unlink()


@pytest.mark.parametrize(
    ("found", "size", "widened"),
    [
        ((0, 1), 5000, (0, 512)),
        ((511, 512), 5000, (0, 512)),
        ((513, 4999), 5000, (512, 5000)),
        ((512, 1024), 5000, None),
    ],
)
def test_regions_of_any_file_system_are_whole_blocks(
    found: tuple[int, int], size: int, widened: tuple[int, int] | None
) -> None:
    assert whole_blocks(*found, size) == (widened or found)


@pytest.mark.long
def test_a_map_of_very_many_holes_stays_bounded(memory: Path) -> None:
    path = memory / "comb"
    count = 70_000
    with open(path, "wb") as file:
        for number in range(count):
            os.pwrite(file.fileno(), b"x", number * 8192)
    fd = os.open(path, os.O_RDONLY)
    regions = data_regions(fd, path.stat().st_size)
    os.close(fd)
    assert len(regions) <= 1 << 16
    assert sum(length for _, length in regions) >= count
