"""gzip, compressing in a thread beside the caller's. The only home of `isal`.

ISA-L packs text at several hundred MB/s but takes as long over bytes that do not pack at all. Media is mostly
that (pictures, PDF, archives), so a block whose sample does not shrink is put in as it is, in deflate's own
`stored` form: copying instead of compressing, and any gunzip reads it.
"""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Generator, Iterable, Iterator
from itertools import chain
from typing import BinaryIO, Final, cast

from isal import igzip, igzip_lib, igzip_threaded, isal_zlib

from backup.pipeline.bounded_queue import BoundedQueue
from backup.pipeline.chunks import Sink

# The first two bytes of every gzip file.
MAGIC: Final = b"\x1f\x8b"
_BLOCK: Final = 1 << 20
# So many that who writes goes on while the disk takes what was gathered.
_QUEUED: Final = 12
_WINDOW: Final = 32 << 10
_SAMPLE: Final = 8 << 10
_STORED: Final = 0xFFFF
# Below this saving a block is not worth the time.
_WORTH: Final = 0.95
_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_FINAL_BLOCK: Final = b"\x03\x00"
# The checksum and the size of what is packed.
_SUMS: Final = struct.Struct("<II")
# That, the checksum and the size.
_TAIL: Final = 10

# What reading raises for bytes that are not whole gzip.
DAMAGED: Final[tuple[type[Exception], ...]] = (
    igzip.BadGzipFile,
    cast(type[Exception], igzip_lib.IsalError),
    EOFError,
    zlib.error,
)


def crc32(data: bytes | memoryview, before: int = 0) -> int:
    """The CRC-32 of bytes whose own is `before`, and `data` after them; it takes next to no time."""
    return isal_zlib.crc32(data, before)


class GzipWriter:
    """Compresses into `target`, which it does not close. Level 0 (fastest) to 3.

    A bounded queue holds what waits to be compressed, so memory stays flat. What `target` raises, the next `write` or
    `close` raises again. `close` ends the stream; `abandon` only ends the thread.

    `marks`: where in what it wrote the bytes behind each `mark` begin; all of them are known after `close`.
    """

    def __init__(self, target: Sink, level: int) -> None:
        self.marks: list[int] = []
        self._target, self._level = target, level
        self._written = 0
        self._error: BaseException | None = None
        self._crc = self._size = 0
        self._before = b""
        self._waiting: list[bytes] = []
        self._length = 0
        self._queue = BoundedQueue[list[bytes] | None](_QUEUED)
        self._thread = threading.Thread(target=self._work, name="gzip", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> int:
        """Queue bytes that nobody changes afterwards."""
        self._waiting.append(data)
        self._length += len(data)
        if self._length >= _BLOCK:
            self._pass_on()
        return len(data)

    def mark(self) -> None:
        """Make an entry point: what follows is compressed without what came before, for `unpack_part`."""
        self._pass_on()
        # No other block is empty.
        self._queue.put([])

    def close(self) -> None:
        """Compress the rest and end the stream."""
        self._pass_on()
        self._queue.put_last(None)
        self._thread.join()
        if self._error:
            raise self._error
        self._target.write(_FINAL_BLOCK + _SUMS.pack(self._crc, self._size & 0xFFFFFFFF))

    def abandon(self) -> None:
        """End the thread; what was written is of no use."""
        self._error = self._error or EOFError("abandoned")
        self._queue.put_last(None)
        self._thread.join()

    def _pass_on(self) -> None:
        if self._error:
            raise self._error
        if self._length:
            self._queue.put(self._waiting)
        self._waiting, self._length = [], 0

    def _work(self) -> None:
        """Compress until told to end. After an error it goes on emptying the queue, so that nobody waits for ever."""
        try:
            self._put(_HEADER)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self._error = error
        while (pieces := self._queue.get()) is not None:
            if self._error:
                continue
            try:
                self._compress(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                self._error = error

    def _compress(self, block: bytes) -> None:
        if not block:
            self.marks.append(self._written)
        else:
            self._crc = isal_zlib.crc32(block, self._crc)
            self._size += len(block)
            self._put(_deflated(block, self._before, self._level) if _shrinks(block) else _stored(block))
        self._before = block[-_WINDOW:]

    def _put(self, packed: bytes) -> None:
        self._target.write(packed)
        self._written += len(packed)


def reader(source: BinaryIO) -> io.BufferedReader:
    """A reader that unpacks `source` to its end and checks every CRC."""
    return cast(io.BufferedReader, igzip_threaded.open(source, "rb", threads=1, block_size=_BLOCK))


def unpack(blocks: Iterable[bytes], *, single: bool) -> Generator[bytes, None, None]:
    """What packed `blocks` hold, in pieces of at most 1 MiB; one of DAMAGED for anything but whole gzip.

    `single`: exactly one member, as GzipWriter writes it. Else several may follow one another, and zeros the last.
    """
    source = iter(blocks)
    head = _at_least(len(_HEADER), b"", source)
    member, ended, padding = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP), head.startswith(_HEADER), False
    if ended:
        head = yield from _plain_member(chain((head[len(_HEADER) :],), source))
    for block in chain((head,), source):
        while block:
            if ended:
                if single:
                    raise EOFError("trailing bytes after the gzip stream")
                padding = padding or block[0] == 0
                if padding and block.strip(b"\0"):
                    raise EOFError("trailing bytes after the gzip stream")
                if padding:
                    break
                member, ended = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP), False
            yield from _pieces(member, block)
            ended, block = member.eof, member.unused_data if member.eof else b""
    if not ended:
        raise EOFError("truncated gzip stream")


def _plain_member(blocks: Iterator[bytes]) -> Generator[bytes, None, bytes]:
    """What a member holds whose header was read, and says nothing; gives what follows it.

    For stored blocks its own way of making the checksum takes six times as long as all the rest. The last piece, of a
    small file all, is given when the checksum is right.
    """
    member, crc, size, last = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE), 0, 0, b""
    for block in blocks:
        for piece in _pieces(member, block):
            crc, size = isal_zlib.crc32(piece, crc), size + len(piece)
            if last:
                yield last
            last = piece
        if member.eof:
            break
    rest = _at_least(_SUMS.size, member.unused_data, blocks) if member.eof else b""
    if len(rest) < _SUMS.size:
        raise EOFError("truncated gzip stream")
    if _SUMS.unpack_from(rest) != (crc, size & 0xFFFFFFFF):
        raise igzip.BadGzipFile("its checksum is that of other bytes")
    if last:
        yield last
    return rest[_SUMS.size :]


def _at_least(count: int, data: bytes, blocks: Iterator[bytes]) -> bytes:
    """`data` and as many blocks as make it `count` bytes, if there are so many."""
    while len(data) < count:
        block = next(blocks, None)
        if block is None:
            break
        data += block
    return data


def unpack_part(blocks: Iterable[bytes], size: int) -> Generator[bytes, None, None]:
    """`size` bytes from the entry point where packed `blocks` begin, in pieces of at most 1 MiB; or one of DAMAGED."""
    member = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)
    pieces = chain.from_iterable(_pieces(member, block) for block in blocks)
    while size > 0:
        piece = next(pieces, b"")
        if not piece:
            raise EOFError("truncated gzip stream")
        yield piece[:size]
        size -= len(piece)


def unpack_from(blocks: Iterable[bytes]) -> Generator[bytes, None, None]:
    """What follows the entry point where packed `blocks` begin, to the end of the stream; or one of DAMAGED."""
    member = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_DEFLATE)
    for block in blocks:
        yield from _pieces(member, block)
        if member.eof:
            return
    raise EOFError("truncated gzip stream")


def unpack_parts(blocks: Iterable[bytes], parts: Iterable[tuple[int, int]]) -> Generator[bytes, None, None]:
    """What the one member holds that packed `blocks` are, each part from its own entry point; or one of DAMAGED.

    `parts` are the packed and the plain size of each, in bytes.
    """
    source = _Source(blocks)
    crc = size = 0
    if b"".join(source.take(len(_HEADER))) != _HEADER:
        raise EOFError("not the head of a gzip stream in parts")
    for stored, plain in parts:
        taken = source.take(stored)
        for piece in unpack_part(taken, plain):
            crc, size = isal_zlib.crc32(piece, crc), size + len(piece)
            yield piece
        for _ in taken:
            pass
    if any(source.take(1)) or source.tail != _FINAL_BLOCK + _SUMS.pack(crc, size & 0xFFFFFFFF):
        raise EOFError("the gzip stream does not end where its last part does")


class _Source:
    """Blocks, from which as many bytes are taken as are asked for. `tail`: the last of what was taken."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._rest = self.tail = b""

    def take(self, count: int) -> Iterator[bytes]:
        while count > 0 and (block := self._rest or next(self._blocks, b"")):
            piece, self._rest = block[:count], block[count:]
            count -= len(piece)
            self.tail = (self.tail + piece[-_TAIL:])[-_TAIL:]
            yield piece


def _pieces(member: igzip_lib.IgzipDecompressor, block: bytes) -> Iterator[bytes]:
    while True:
        if piece := member.decompress(block, _BLOCK):
            yield piece
        if member.eof or member.needs_input:
            return
        block = b""


def _shrinks(block: bytes) -> bool:
    """Whether samples from all over the block are worth compressing. Not from its edges, where headers stand."""
    if len(block) <= 8 * _SAMPLE:
        return True
    part = len(block) // 8
    sample = b"".join(block[start : start + _SAMPLE] for start in range(part, len(block) - _SAMPLE, 2 * part))
    return len(isal_zlib.compress(sample, 1)) < _WORTH * len(sample)


def _deflated(block: bytes, before: bytes, level: int) -> bytes:
    """The block as deflate blocks that end on a byte, with what came before as their dictionary."""
    packer = isal_zlib.compressobj(level, isal_zlib.DEFLATED, -15, zdict=before)
    packed: bytes = packer.compress(block) + packer.flush(isal_zlib.Z_SYNC_FLUSH)
    return packed


def _stored(block: bytes) -> bytes:
    """The block as deflate's stored blocks: each has a byte 0 (not final, stored), its length and its complement."""
    view = memoryview(block)
    pieces: list[bytes | memoryview] = []
    for start in range(0, len(block), _STORED):
        piece = view[start : start + _STORED]
        pieces += [struct.pack("<BHH", 0, len(piece), len(piece) ^ 0xFFFF), piece]
    return b"".join(pieces)
