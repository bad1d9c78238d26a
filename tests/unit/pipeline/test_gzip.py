"""The gzip writer against other people's readers: Python's own, and gunzip."""

from __future__ import annotations

import gzip as standard
import io
import os
import subprocess
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.pipeline.gzip import DAMAGED, GzipWriter, reader, unpack, unpack_part
from tests.support.examples import examples

RANDOM = os.urandom(5 << 20)
TEXT = b"".join(b"%d\tperson %d\t%x\n" % (i, i, i * 7919) for i in range(200_000))
# Text, then bytes that do not pack, then text that repeats the first: its dictionary spans a stored block.
MIXED = TEXT[: 3 << 20] + RANDOM[: (2 << 20) + 17] + TEXT[: 3 << 20]


def packed(data: bytes, level: int = 1, step: int = 700_001) -> bytes:
    target = io.BytesIO()
    writer = GzipWriter(target, level)
    for start in range(0, len(data), step):
        writer.write(data[start : start + step])
    writer.close()
    return target.getvalue()


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("data", [b"", b"x", RANDOM, TEXT, MIXED], ids=["empty", "one", "random", "text", "mixed"])
@pytest.mark.long
def test_others_unpack_the_same(data: bytes, level: int) -> None:
    stored = packed(data, level)
    assert standard.decompress(stored) == data
    assert subprocess.run(["gunzip", "-c"], input=stored, capture_output=True, check=True).stdout == data
    assert reader(io.BytesIO(stored)).read() == data


@examples(30)
@given(st.lists(st.sampled_from([RANDOM, TEXT]), max_size=4), st.integers(1, 3 << 20), st.integers(0, 3))
def test_any_mixture_in_any_pieces(parts: list[bytes], step: int, level: int) -> None:
    data = b"".join(part[: step * (number + 1)] for number, part in enumerate(parts))
    assert standard.decompress(packed(data, level, max(step, len(data) // 50))) == data


def test_what_does_not_pack_is_stored_and_text_is_not() -> None:
    assert len(RANDOM) < len(packed(RANDOM)) < len(RANDOM) * 1.001
    assert len(packed(TEXT)) < len(TEXT) / 3
    assert len(packed(MIXED)) < len(packed(TEXT[: 3 << 20])) * 2 + len(RANDOM[: 2 << 20]) * 1.01


def marked(pieces: list[bytes], level: int = 1) -> tuple[bytes, list[int]]:
    """A mark before each piece."""
    target = io.BytesIO()
    writer = GzipWriter(target, level)
    for piece in pieces:
        writer.mark()
        writer.write(piece)
    writer.close()
    return target.getvalue(), writer.marks


@examples(30)
@given(
    st.lists(st.tuples(st.sampled_from([RANDOM, TEXT, MIXED]), st.integers(0, 3 << 20)), min_size=1, max_size=4),
    st.integers(0, 3),
    st.integers(1, 3 << 20),
)
def test_a_stream_can_be_entered_at_its_marks(parts: list[tuple[bytes, int]], level: int, step: int) -> None:
    pieces = [data[:size] for data, size in parts]
    stored, marks = marked(pieces, level)
    # Nothing is said by millions of blocks of a byte; small parts are read so.
    step = max(step, len(stored) // 1000)
    assert standard.decompress(stored) == b"".join(pieces)
    assert len(marks) == len(pieces) and marks == sorted(marks) and marks[0] == 10
    for piece, begin in zip(pieces, marks, strict=True):
        blocks = (stored[start : start + step] for start in range(begin, len(stored), step))
        found = list(unpack_part(blocks, len(piece)))
        assert b"".join(found) == piece and all(len(each) <= 1 << 20 for each in found)


def test_gunzip_reads_a_marked_stream() -> None:
    stored, marks = marked([TEXT, MIXED, RANDOM, b"", TEXT])
    assert len(marks) == 5
    assert subprocess.run(["gunzip", "-t"], input=stored, check=True).returncode == 0
    assert reader(io.BytesIO(stored)).read() == TEXT + MIXED + RANDOM + TEXT


def test_a_part_that_ends_early_or_begins_elsewhere_is_damaged() -> None:
    stored, marks = marked([TEXT, TEXT])
    begin = marks[1]
    for blocks, size in (
        ([stored[begin:-1000]], len(TEXT)),
        ([stored[begin:]], len(TEXT) + 1),
        ([stored[begin:], b"more"], len(TEXT) + 1),
        ([], 1),
        ([stored[begin - 1000 :]], len(TEXT)),
    ):
        with pytest.raises(DAMAGED):
            list(unpack_part(blocks, size))


@pytest.mark.parametrize("cut", [1, 8, 9, 100, 1 << 20])
def test_a_shortened_stream_is_never_whole(cut: int) -> None:
    with pytest.raises(DAMAGED):
        reader(io.BytesIO(packed(MIXED)[:-cut])).read()


class Broken:
    """A target that takes some writes and then fails."""

    def __init__(self, good: int) -> None:
        self.good = good

    def write(self, data: bytes) -> int:
        self.good -= 1
        if self.good < 0:
            raise OSError("the disk is gone")
        return len(data)


@pytest.mark.parametrize("good", [0, 1, 2, 5])
def test_an_error_of_the_target_reaches_the_caller_and_nobody_waits(good: int) -> None:
    writer = GzipWriter(Broken(good), 1)
    with pytest.raises(OSError, match="gone"):
        for _ in range(50):
            writer.write(RANDOM[: 1 << 20])
        writer.close()
    writer.abandon()
    assert not any(thread.name == "gzip" for thread in threading.enumerate())


def test_an_abandoned_writer_leaves_no_thread() -> None:
    writer = GzipWriter(io.BytesIO(), 1)
    writer.write(RANDOM)
    writer.abandon()
    writer.abandon()
    assert not any(thread.name == "gzip" for thread in threading.enumerate())


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize("pack", [packed, lambda data: standard.compress(data, mtime=1)], ids=["ours", "another's"])
@pytest.mark.long
def test_only_what_is_whole_is_unpacked(pack: Callable[[bytes], bytes], step: int) -> None:
    data = RANDOM[:300] + TEXT[:300]
    stored = pack(data)

    def unpacked(stream: bytes, single: bool = True) -> bytes:
        return b"".join(unpack((stream[at : at + step] for at in range(0, len(stream), step)), single=single))

    assert unpacked(stored) == unpacked(stored + b"\0\0", single=False) == data
    assert unpacked(stored + packed(b"more") + pack(data), single=False) == data + b"more" + data
    cut = [stored[:end] for end in range(len(stored))]
    other = [stored[:-at] + bytes([stored[-at] ^ 1]) + stored[len(stored) - at + 1 :] for at in range(1, 9)]
    for damaged in (*cut, *other, stored + b"\0", stored + stored):
        with pytest.raises(DAMAGED):
            unpacked(damaged)
    for damaged in (stored + b"\0x", stored + b"x", stored + stored[:-1]):
        with pytest.raises(DAMAGED):
            unpacked(damaged, single=False)


@pytest.mark.parametrize("level", [0, 1])
def test_nothing_of_a_small_file_is_given_before_its_checksum_is_right(level: int) -> None:
    """Whoever takes its lines would be the first to meet the damage, and not know of what file."""
    stored = bytearray(packed(RANDOM[:5000], level))
    stored[1000] ^= 1
    given: list[bytes] = []
    with pytest.raises(DAMAGED):
        given.extend(unpack([bytes(stored)], single=True))
    assert given == []
