"""The output of a client program, through a named pipe, judged by the program's exit code.

Our own process holds the pipe open for writing until the program has ended. So the reader sees the end only when
there is an exit code to judge it by, a program that never starts cannot hang us, and a failed program
raises at the end of the stream, before anything could be published.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import select
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from backup.errors import BackupError, DumpFailed
from backup.logging import logger
from backup.pipeline.stall_timeout import Patience
from backup.postgres.dump.remedies import hint_for, shown

_CHUNK: Final = 1 << 20
_SETTLE: Final = 30.0
_GLANCE: Final = 0.2


class Process(Protocol):
    """A started client program: a helper container or a child process."""

    def wait(self) -> int:
        """Block until it has ended; its exit code. BackupError when that can no longer be known."""

    def errors(self) -> str:
        """The last lines it wrote to stderr."""

    def kill(self) -> None:
        """End it at once; harmless when it has ended."""

    def close(self) -> None:
        """Remove every trace of it; harmless when done twice."""


class Pipe:
    """A named pipe, mode 0600, open at both ends from the first moment: a program uses one of them, we the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        self.reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._closing = threading.Lock()
        # An unprivileged process may be held to less; then the default size only costs speed.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.reader, fcntl.F_SETPIPE_SZ, _CHUNK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close_writer()
        os.close(self.reader)
        self.path.unlink(missing_ok=True)

    def close_writer(self) -> None:
        """Let the reader see the end once the program's own end is closed too. Any thread may call it."""
        with self._closing:
            descriptor, self.writer = self.writer, -1
        if descriptor >= 0:
            os.close(descriptor)

    def drained(self) -> bool:
        """Whether all that was written has been read, so that a program which reads has the pipe open."""
        count = array.array("i", [0])
        fcntl.ioctl(self.reader, termios.FIONREAD, count)
        return count[0] == 0


def remove(process: Process) -> None:
    """Remove every trace of it. What it did is what counts, or its error; the next sweep removes what is left."""
    try:
        process.close()
    except BackupError as left:
        logger.warning("{} {}", left.message, left.hint)


class ProcessOutput:
    """The bytes that `process` writes into `pipe`. As a context manager it leaves no process behind.

    A program that gives no byte for `stall` seconds while we wait for one is asked about with `busy`; False ends it,
    and so do three errors in a row: DumpFailed.
    """

    def __init__(
        self, process: Process, pipe: Pipe, name: str, stall: float, busy: Callable[[], bool] = lambda: False
    ) -> None:
        self._process, self._pipe, self._name, self._stall = process, pipe, name, stall
        self._patience = Patience(stall, busy)
        self._code: int | None = None
        self._lost: BackupError | None = None
        self._waiter = threading.Thread(target=self._wait, name=f"wait-{name}", daemon=True)
        self._waiter.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            if self._code is None:
                self._process.kill()
            self._waiter.join(_SETTLE)
        finally:
            remove(self._process)

    def chunks(self, waiting: Callable[[], None] = lambda: None) -> Iterator[bytes]:
        """The output in pieces of up to 1 MiB; DumpFailed at the end if the program failed or stalled.

        `waiting` is called several times a second while none comes.
        """
        poll = select.poll()
        poll.register(self._pipe.reader, select.POLLIN)
        glance = min(_GLANCE, self._stall)
        while True:
            quiet = time.monotonic()
            while not poll.poll(glance * 1000):
                waiting()
                self._ask(quiet)
            data = os.read(self._pipe.reader, _CHUNK)
            if not data:
                break
            yield data
        self._judge()

    def _wait(self) -> None:
        try:
            self._code = self._process.wait()
        except BackupError as error:
            self._lost = error
        finally:
            self._pipe.close_writer()

    def _judge(self) -> None:
        self._waiter.join(_SETTLE)
        if self._lost is not None:
            self._lost.message += ". Nothing was published"
            raise self._lost
        if self._code != 0:
            raise self._failed()

    def _failed(self) -> DumpFailed:
        said = self._process.errors().strip()
        code = "without an exit code" if self._code is None else f"with exit code {self._code}"
        if self._code == 137:
            code += " (killed)"
        return DumpFailed(f"{self._name} ended {code}: {shown(said)}. Nothing was published", hint_for(said))

    def _ask(self, since: float) -> None:
        """At work on what gives no output yet, or standing still?"""
        unanswered = ""
        try:
            if self._patience.lasts(since):
                return
        except BackupError as error:
            unanswered = f" ({error.message})"
        raise DumpFailed(
            f"{self._name} made no progress for {self._stall:.0f} s and was ended; nothing was published{unanswered}",
            "Is the database paused, locked or overloaded? BACKUP_STALL_TIMEOUT sets the patience.",
        )
