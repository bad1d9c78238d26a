"""Bytes on their way: sent in small blocks, so that a timeout is one without progress and a limit is kept.

A body that is given whole is sent by one call, and the timeout then holds for all of it: 8 MiB over a slow line failed.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from backup.storage.rate_limit import Pace
from backup.storage.s3.parts import Data, length

_BLOCK: Final = 256 << 10
_SLOW: Final = 64 << 10


class UploadStopped(Exception):  # noqa: N818 - no error: the upload was given up elsewhere
    """The upload that this body belongs to has ended."""


class Flow:
    """What the bodies of one upload share: their pace, when the last byte moved, whether it was given up."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        # Under a limit a connection waits before each: longer than some seconds, and a store takes it for dead.
        self.block = _SLOW if pace.limited else _BLOCK
        self._stopped = threading.Event()
        self.moved = time.monotonic()

    def stop(self) -> None:
        """Let whatever is being sent end with its next block."""
        self._stopped.set()

    def check(self) -> None:
        """Stopped if the upload was given up."""
        if self._stopped.is_set():
            raise UploadStopped

    def passed(self, count: int) -> None:
        """`count` bytes are about to be sent."""
        self.check()
        self._pace.wait(count)
        self.moved = time.monotonic()


class RequestBody(io.RawIOBase):
    """The bytes of one request, as boto3 wants them: a file."""

    def __init__(self, data: Data, flow: Flow) -> None:
        super().__init__()
        self.data, self.flow = data, flow
        self._place = 0

    def __len__(self) -> int:
        return length(self.data)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes: for boto3's own checksums, which are not asked for."""
        skip = self._place
        for piece in self.data:
            if skip < len(piece):
                taken = piece[skip : skip + len(buffer)]
                buffer[: len(taken)] = taken
                self._place += len(taken)
                return len(taken)
            skip -= len(piece)
        return 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self)}[whence]
        return self._place

    def tell(self) -> int:
        """Where the next read begins."""
        return self._place


class Blocks:
    """The same bytes as they are sent. `seek` is what boto3 calls before it sends them again."""

    def __init__(self, body: RequestBody) -> None:
        self._body = body

    def __iter__(self) -> Iterator[memoryview]:
        count = self._body.flow.block
        for piece in self._body.data:
            for start in range(0, len(piece), count):
                block = piece[start : start + count]
                self._body.flow.passed(len(block))
                yield block

    def seek(self, offset: int, whence: int = 0) -> int:
        """Back to the beginning."""
        return self._body.seek(offset, whence)
