"""gzip by ISA-L, compressing and unpacking in a thread beside the caller's. The only home of `isal`."""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO, Final, Protocol, cast

from isal import igzip, igzip_threaded

_BLOCK: Final = 1 << 20

# What reading raises for bytes that are not whole gzip.
DAMAGED: Final = (igzip.BadGzipFile, EOFError, zlib.error)


class Target(Protocol):
    """Where compressed bytes go; may raise, which the next `write` or `close` of the writer raises again."""

    def write(self, data: bytes) -> int: ...

    def flush(self) -> None: ...


def writer(target: Target, level: int) -> io.BufferedWriter:
    """A writer that compresses into `target`, which it does not close. Level 0 (fastest) to 3."""
    opened = igzip_threaded.open(target, "wb", compresslevel=level, threads=1, block_size=_BLOCK)
    return cast(io.BufferedWriter, opened)


def reader(source: BinaryIO) -> io.BufferedReader:
    """A reader that unpacks `source` to its end and checks every CRC."""
    return cast(io.BufferedReader, igzip_threaded.open(source, "rb", threads=1, block_size=_BLOCK))
