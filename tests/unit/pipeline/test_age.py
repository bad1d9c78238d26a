"""Encryption as a stream: whole or nothing, whatever is cut, changed or missing."""

from __future__ import annotations

import io
import os
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.config import loader
from backup.errors import ConfigError, IntegrityError, KeyMissing
from backup.pipeline import age
from tests.support.examples import examples
from tests.support.keys import key_pair

CHUNK = 64 << 10
KEY, OTHER, THIRD = (pyrage.x25519.Identity.generate() for _ in range(3))
TO = age.recipients([str(KEY.to_public())])
# The header of one recipient, then the nonce of the payload; each chunk has a tag of 16 bytes.
AROUND = st.builds(lambda n, d: max(0, n * CHUNK + d), st.integers(0, 4), st.integers(-2, 2))


def sealed(data: bytes, to: list[object] = TO) -> bytes:
    return b"".join(age.encrypt([data], to))


def opened(data: bytes, *keys: object, piece: int = 100_000) -> bytes:
    pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
    return b"".join(age.decrypt(pieces, list(keys or (KEY,))))


class Kept:
    """A target that keeps all, and fails after `limit` bytes."""

    def __init__(self, limit: int = 1 << 40) -> None:
        self.data, self.limit = bytearray(), limit

    def write(self, data: bytes) -> int:
        if len(self.data) + len(data) > self.limit:
            raise OSError(28, "full")
        self.data += data
        return len(data)


@examples(20)
@given(size=AROUND, cut=st.integers(1, 200_000), piece=st.integers(1_000, 200_000))
def test_round_trip(size: int, cut: int, piece: int) -> None:
    data = os.urandom(size)
    whole = b"".join(age.encrypt([data[:cut], b"", data[cut:]], TO))
    assert opened(whole, piece=piece) == pyrage.decrypt(whole, [KEY]) == data
    kept = Kept()
    writer = age.AgeWriter(kept, TO)
    for start in range(0, size, piece):
        writer.write(data[start : start + piece])
    writer.close()
    assert pyrage.decrypt(bytes(kept.data), [KEY]) == data


@pytest.mark.parametrize("size", [0, 1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 1 << 20])
def test_what_is_encrypted_is_no_longer_than_was_said(size: int) -> None:
    """What is sent must be cut into few enough parts before its length is known."""
    small, large = len(sealed(bytes(size), TO * 50)), age.encrypted_bound(size)
    assert small <= large <= size * 1.0003 + (2 << 20)


def test_two_recipients_either_opens_it() -> None:
    both = sealed(b"secret", age.recipients([str(KEY.to_public()), str(OTHER.to_public())]))
    assert opened(both, KEY) == opened(both, OTHER) == opened(both, THIRD, OTHER) == b"secret"
    with pytest.raises(KeyMissing, match="other keys"):
        opened(both, THIRD)


def test_what_is_cut_at_any_boundary_is_refused() -> None:
    size = 4 * CHUNK
    whole = sealed(os.urandom(size))
    start = len(whole) - size - 4 * 16
    boundaries = [start + n * (CHUNK + 16) for n in range(4)]
    for end in sorted({*boundaries, *(b + d for b in boundaries for d in (-1, 1)), 0, 10, 100, len(whole) - 1}):
        with pytest.raises(IntegrityError):
            opened(whole[:end])
    with pytest.raises(IntegrityError):
        opened(whole + b"x")


@examples(30)
@given(place=st.integers(0, 1 << 30) | st.integers(0, 400), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused(place: int, bit: int) -> None:
    whole = bytearray(sealed(b"x" * (2 * CHUNK + 5)))
    whole[place % len(whole)] ^= 1 << bit
    with pytest.raises((IntegrityError, KeyMissing)):
        opened(bytes(whole))


@pytest.mark.parametrize("size", [0, 100, CHUNK, 3 * CHUNK, 20 * CHUNK])
def test_a_producer_that_fails_leaves_nothing_that_looks_whole(size: int) -> None:
    def failing() -> Iterator[bytes]:
        yield bytes(size)
        raise InterruptedError("the dump failed")  # which libraries take as a reason to read again

    got, stream = b"", age.encrypt(failing(), TO)
    with pytest.raises(InterruptedError, match="the dump failed"):
        for piece in stream:
            got += piece
    with pytest.raises((IntegrityError, KeyMissing)):
        opened(got)
    kept = Kept()
    writer = age.AgeWriter(kept, TO)
    writer.write(bytes(size))
    writer.abandon()
    with pytest.raises((IntegrityError, KeyMissing)):
        opened(bytes(kept.data))


def test_a_target_that_fails_is_told_as_it_is_and_blocks_nobody() -> None:
    writer = age.AgeWriter(Kept(limit=CHUNK), TO)
    with pytest.raises(OSError, match="full"):
        for _ in range(100):
            writer.write(bytes(1 << 20))
    writer.abandon()


def test_left_early_no_thread_stays_and_the_source_is_open() -> None:
    before = threading.active_count()
    source = (bytes(CHUNK) for _ in range(1000))
    stream = age.encrypt(source, TO)
    next(stream)
    stream.close()
    assert threading.active_count() == before and next(source)


@pytest.mark.long
def test_memory_stays_flat() -> None:
    tracemalloc.start()
    size = sum(len(p) for p in age.decrypt(age.encrypt((bytes(1 << 20) for _ in range(200)), TO), [KEY]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size == 200 << 20 and peak < 30 << 20


def test_plain_bytes_pass_as_they_are() -> None:
    assert b"".join(age.decrypted_chunks([b"pla", b"in"], None)) == b"plain" and list(
        age.decrypted_chunks([], None)
    ) in ([], [b""])
    with pytest.raises(KeyMissing) as refused:
        list(age.decrypted_chunks([sealed(b"x")], None))
    assert "--identity FILE" in refused.value.hint


def test_the_head_of_a_file(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    to = age.recipients([key_pair(key_file)])
    data = os.urandom(300_000)
    assert age.read_head(io.BytesIO(sealed(data, to)), key_file, 1000) == (data[:1000], True)
    assert age.read_head(io.BytesIO(data), None, 1000) == (data[:1000], False)


@pytest.mark.parametrize(
    "text",
    [str(KEY), str(KEY).lower(), f"age1 {KEY}", "-----BEGIN OPENSSH PRIVATE KEY-----"],
    # Named by hand: the key is another one in each process.
    ids=["as it is", "in small letters", "behind a prefix", "of ssh"],
)
def test_a_private_key_among_the_recipients_is_refused_unseen(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loader.load_settings({"BACKUP_AGE_RECIPIENTS": f"{KEY.to_public()},{text}"})
    assert "recipient 2 is a PRIVATE key" in refused.value.message
    assert text not in refused.value.message and text not in str(refused.value.__context__)


def test_recipients_are_judged_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="recipient 1 is neither an age recipient"):
        loader.load_settings({"BACKUP_AGE_RECIPIENTS": "age1nonsense"})
    with pytest.raises(ConfigError, match="recipient 1 is a post-quantum .* not supported: give a classic"):
        loader.load_settings({"BACKUP_AGE_RECIPIENTS": "age1pq1" + "q" * 1900})
    classic = "age1pq54ke27gevzd5sj0e3ed5makjyfdp2ckwpwxeqwq07df9p2halqwyd4ar"
    assert loader.load_settings({"BACKUP_AGE_RECIPIENTS": classic}).age_recipients == (classic,)
    for what in ("offsite", "all"):
        with pytest.raises(ConfigError, match="needs BACKUP_AGE_RECIPIENTS"):
            loader.load_settings({"BACKUP_ENCRYPT": what})
    file = tmp_path / "recipients"
    file.write_text(f"# the first\n{KEY.to_public()}\n\n{OTHER.to_public()}\n{KEY.to_public()}\n")
    loaded = loader.load_settings({"BACKUP_ENCRYPT": "all", "BACKUP_AGE_RECIPIENTS_FILE": str(file)})
    assert loaded.age_recipients == (str(KEY.to_public()), str(OTHER.to_public()))


@pytest.mark.parametrize(
    "content", [b"", b"# nothing\n", b"secret stuff", b"\xff\xfe", b"-----BEGIN X-----", age.MAGIC]
)
def test_an_identity_file_that_is_none_is_told_without_its_content(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(KeyMissing) as refused:
        age.identities(path)
    assert "secret stuff" not in refused.value.message and str(path) in refused.value.message
    with pytest.raises(KeyMissing, match="No such file"):
        age.identities(tmp_path / "none")
