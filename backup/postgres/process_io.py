"""The output and the input of a client program, through named pipes, judged by the program's exit code.

Our own process holds the pipe of an output open for writing until the program has ended. So the reader sees the end
only when there is an exit code to judge it by, a program that never starts cannot hang us, and a failed program
raises at the end of the stream, before anything could be published.

The end of the pipe of an input is the end of the script: psql commits what it was given until then. So a script that
breaks off is ended by killing its reader, never by closing the pipe.
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
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from backup.errors import BackupError, DumpFailed, LoadFailed
from backup.logging import logger
from backup.pipeline.stall_timeout import Patience
from backup.postgres.client_errors import constraint, hint_for, shown_error, sqlstate

_CHUNK: Final = 1 << 20
_SETTLE: Final = 30.0
_GLANCE: Final = 0.2
_DRAIN: Final = 0.002
_STANDS_STILL: Final = "Is the database paused, locked or overloaded? BACKUP_STALL_TIMEOUT sets the limit."
# The exit codes of psql for a connection that it does not get or loses, and for an error in its script.
_LOST: Final = 2
_SCRIPT: Final = 3
# What servers say that lack something, whatever the statement: of these classes of their error codes, or in words.
_WANTING_CLASSES: Final = ("08", "53", "57")
_WANTING: Final = (
    "out of memory",
    "out of shared memory",
    "No space left on device",
    "Disk quota exceeded",
    "could not resize shared memory",
    "could not extend file",
    "could not write",
    "could not open file",
    "could not fsync",
    "could not create file",
    "too many clients",
    "terminating connection",
    "server closed the connection",
    "connection to server was lost",
    "the database system is",
    "canceling statement due to",
)


class ClientProcess(Protocol):
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

    def is_drained(self) -> bool:
        """Whether all that was written has been read, so that a program which reads has the pipe open."""
        count = array.array("i", [0])
        fcntl.ioctl(self.reader, termios.FIONREAD, count)
        return count[0] == 0


class _Program:
    """A program with one of our pipes, whose end a thread waits for. As a context manager it leaves no process behind.

    A program that stands still for `stall` seconds is asked about with `busy`; False ends it, and so do three errors
    in a row. One that has ended well is removed at once, unless it `tells` something besides its output.
    """

    def __init__(
        self,
        process: ClientProcess,
        pipe: Pipe,
        name: str,
        stall: float,
        busy: Callable[[], bool] = lambda: False,
        *,
        tells: bool = False,
    ) -> None:
        self._process, self._pipe, self._name, self._stall, self._tells = process, pipe, name, stall, tells
        self._patience = Patience(stall, busy)
        self._code: int | None = None
        self._lost: BackupError | None = None
        self._ended = threading.Event()
        self._waiter = threading.Thread(target=self._wait, name=f"wait-{name}", daemon=True)
        self._waiter.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            self.kill()
            self._waiter.join(_SETTLE)
        finally:
            if self._code != 0 or self._tells:
                self._close()

    def _close(self) -> None:
        try:
            self._process.close()
        except BackupError as left:
            # What it did is what counts, or its error; the next sweep removes what is left.
            logger.warning("{} {}", left.message, left.hint)

    def kill(self) -> None:
        """End the program at once. One that has ended is left alone: an engine takes a while to say so."""
        if not self._has_ended():
            self._process.kill()

    def _has_ended(self) -> bool:
        return self._ended.is_set()

    def _wait(self) -> None:
        try:
            self._code = self._process.wait()
        except BackupError as error:
            self._lost = error
        finally:
            self._note_end()
        if self._code == 0 and not self._tells:
            # It has nothing more to say. An engine takes a while to remove it: beside whatever comes next.
            self._close()

    def _note_end(self) -> None:
        self._ended.set()


class ProcessOutput(_Program):
    """The bytes that `process` writes into `pipe`. It stands still when it gives no byte while we wait for one."""

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

    def _has_ended(self) -> bool:
        # Of one that was lost from sight it is not known.
        return self._code is not None

    def _note_end(self) -> None:
        super()._note_end()
        self._pipe.close_writer()

    def _judge(self) -> None:
        self._ended.wait(_SETTLE)
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
        return DumpFailed(f"{self._name} ended {code}: {shown_error(said)}. Nothing was published", hint_for(said))

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
            _STANDS_STILL,
        )


class ProcessInput(_Program):
    """Writes to `process` through `pipe`. It stands still when it takes nothing.

    Only `finish` ends the script in good order, or `end` and `judge`: LoadFailed unless the program then ends with exit
    code 0.
    """

    def write(self, data: bytes) -> None:
        """Pass on all of `data`; LoadFailed when the program has ended or stands still."""
        view, poll, glance = memoryview(data), select.poll(), min(_GLANCE, self._stall)
        poll.register(self._pipe.writer, select.POLLOUT)
        quiet = time.monotonic()
        while view:
            if self._ended.is_set():
                raise self._failed()
            if poll.poll(glance * 1000):
                try:
                    view = view[os.write(self._pipe.writer, view) :]
                except BlockingIOError:
                    time.sleep(0.001)  # the pipe has room, but for less than one atomic write
                    continue
                quiet = time.monotonic()
            else:
                self._ask(quiet)

    def show(self, head: bytes) -> None:
        """Let the program read `head` and nothing more yet."""
        self.write(head)
        self._until(lambda: self._pipe.is_drained() or self._ended.is_set(), _DRAIN)

    def end(self, last: bytes = b"\n") -> None:
        """End the script with `last`: the program ends, too, and `judge` says how."""
        # A program that opens the pipe only after its end would wait for a writer for ever.
        self.show(last)
        self._pipe.close_writer()

    def finish(self, last: bytes = b"\n") -> None:
        """End the script with `last` and wait for the program; LoadFailed unless all went well."""
        self.end(last)
        self.judge()

    def judge(self) -> None:
        """Wait for the program, whose script has ended; LoadFailed unless all went well."""
        self._until(lambda: self._ended.wait(_GLANCE), 0)
        if self._code != 0:
            raise self._failed()

    def _until(self, done: Callable[[], bool], pause: float) -> None:
        quiet = time.monotonic()
        while not done():
            self._ask(quiet)
            time.sleep(pause)

    def check(self, since: float) -> None:
        """LoadFailed when the program has ended before its script, or has stood still `since` then."""
        if self._ended.is_set():
            raise self._failed()
        self._ask(since)

    def _ask(self, since: float) -> None:
        """At work on a long statement, or standing still?"""
        try:
            if self._patience.lasts(since):
                return
        except BackupError as error:
            raise LoadFailed(f"{self._name} is stuck: {error.message}", error.hint) from error
        raise LoadFailed(
            f"{self._name} made no progress for {self._stall:.0f} s and was ended",
            _STANDS_STILL,
        )

    def _failed(self) -> BackupError:
        if self._lost is not None:
            return self._lost
        said = self._process.errors() if self._code else ""
        return LoadFailed(
            f"{self._name} ended with exit code {self._code}: {shown_error(said)}",
            hint_for(said, loading=True),
            refused=is_statement_refused(self._code, said),
            sqlstate=sqlstate(said),
            constraint=constraint(said),
            lost=self._code == _LOST,
        )


def is_statement_refused(code: int | None, said: str) -> bool:
    """Whether psql ended because the server refused a statement for what it says, not for want of memory or the like.

    It ends with 3 for an error in its script, with others when it loses the server or is killed itself.
    """
    wanting = sqlstate(said).startswith(_WANTING_CLASSES) or any(words in said for words in _WANTING)
    return code == _SCRIPT and not wanting


def converted(program: ProcessInput, said: Pipe, head: bytes, pieces: Iterable[bytes]) -> Generator[bytes, None, None]:
    """What `program` makes of `pieces`; it opens its input twice, and sees `head` the first time.

    LoadFailed, or what `pieces` raise, at the end, if it did not go well.
    """
    failures: list[BackupError] = []

    def give() -> None:
        try:
            program.show(head)
            for piece in pieces:
                program.write(piece)
            program.finish(b"")
        except BackupError as error:
            failures.append(error)
        finally:
            said.close_writer()

    thread = threading.Thread(target=give, name="convert", daemon=True)
    thread.start()
    poll = select.poll()
    poll.register(said.reader, select.POLLIN)
    ended = False
    try:
        while not ended:
            if poll.poll(_GLANCE * 1000):
                data = os.read(said.reader, _CHUNK)
                ended = not data
                yield data
    finally:
        if not ended:
            program.kill()
        thread.join()
    if failures:
        raise failures[0]
