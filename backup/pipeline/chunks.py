"""Chunks of bytes, handed on as the next one wants them: piece by piece, made ahead in a thread, through a library.

A library that pulls from a reader and pushes to a writer words their errors anew: here they are kept and raised as they
were.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Final, Protocol, TypeVar

from backup.errors import BackupError, IntegrityError
from backup.pipeline.bounded_queue import BoundedQueue

# The library asks for 8 kB at a time and gives 64 kB; a buffer answers most of it without Python code.
_BUFFER: Final = 1 << 20
_GATHERED: Final = 256 << 10
_QUEUED: Final = 4
_LONGEST_LINE: Final = 16 << 20

_Item = TypeVar("_Item")
Put = Callable[[bytes], None]


class Sink(Protocol):
    """Where bytes go. May keep what it is given (it is never reused) and may raise."""

    def write(self, data: bytes) -> object: ...


def split_lines(chunks: Iterable[bytes], skip: int = 0) -> Generator[bytes, None, None]:
    """Lines of a binary stream but the first `skip`, newline included; the last one as it is."""
    rest = b""
    for chunk in chunks:
        if skip and skip > (count := chunk.count(b"\n")):
            skip -= count
            rest = chunk.rpartition(b"\n")[2] if count else rest + chunk
        else:
            # The quickest that leaves the newlines, and takes nothing else for one.
            lines = io.BytesIO(rest + chunk).readlines()
            rest = b"" if not lines or lines[-1][-1:] == b"\n" else lines.pop()
            yield from lines[skip:] if skip else lines
            skip = 0
        if len(rest) > _LONGEST_LINE:
            raise IntegrityError("the file index is damaged: a line of it has no end")
    if rest and not skip:
        yield rest


def aside(
    make: Callable[[Callable[[_Item], None], threading.Event], None], name: str, room: int
) -> Generator[_Item, None, None]:
    """What `make` puts; its error is raised here. The event is set once nobody takes more: `make` shall end then.

    `room` pieces wait at most. The thread, called `name`, ends with this generator.
    """
    waiting = BoundedQueue[_Item | BaseException | None](room)
    stopped = threading.Event()

    def work() -> None:
        try:
            make(waiting.put, stopped)
            waiting.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            waiting.put(error)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        while thread.is_alive():
            waiting.drop()
            thread.join(0.001)


class _Reader(io.RawIOBase):
    """Chunks as a raw file. Their error is kept and raised."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")
        self.error: BaseException | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes; 0 at the end."""
        try:
            while not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return 0
                self._rest = memoryview(chunk)
        except BaseException as error:  # noqa: BLE001 - raised again by `work_through`
            self.error = error
            # The library reads on after an InterruptedError, and would take the next end for a good one.
            raise ValueError("the source failed") from None
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class Writer:
    """Gathers what is written in small pieces. The error of `write` is kept and raised."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._pieces: list[bytes] = []
        self._size = 0
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        """Take bytes."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _GATHERED:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Pass on what was gathered."""
        if not self._size:
            return
        pieces, self._pieces, self._size = self._pieces, [], 0
        try:
            self._write(b"".join(pieces))
        except BaseException as error:  # noqa: BLE001 - raised again by `work_through`
            self.error = error
            raise ValueError("the target failed") from None


def work_through(
    chunks: Iterable[bytes],
    write: Callable[[bytes], object],
    work: Callable[[io.BufferedReader, Writer], None],
) -> None:
    """`work` from chunks to `write`; an error of either is raised as it was, not as the library words it."""
    raw, writer = _Reader(chunks), Writer(write)
    try:
        work(io.BufferedReader(raw, _BUFFER), writer)
        writer.flush()
    except BaseException as error:
        ours = raw.error or writer.error
        if ours is None:
            # What came before the damage is passed on: a judge may want to look at it, and says then what is wrong.
            with contextlib.suppress(ValueError):
                writer.flush()
            raise (
                error if isinstance(error, BackupError) else IntegrityError(f"it cannot be processed: {error}")
            ) from error
        raise ours from None


def through(chunks: Iterable[bytes], work: Callable[[io.BufferedReader, Writer], None]) -> Generator[bytes, None, None]:
    """What `work` makes of chunks, in a thread that ends with this generator. The chunks are left open."""

    def make(put: Put, stopped: threading.Event) -> None:
        def unless_stopped(data: bytes) -> None:
            if stopped.is_set():
                raise EOFError("nobody reads on")
            put(data)

        def pull() -> Iterator[bytes]:
            for chunk in chunks:
                if stopped.is_set():
                    raise EOFError("nobody reads on")
                yield chunk

        work_through(pull(), unless_stopped, work)

    yield from aside(make, "age", _QUEUED)
