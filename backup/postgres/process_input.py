"""The input of a client program, through a named pipe, judged by the program's exit code.

The end of the pipe is the end of the script: psql commits what it was given until then. So a script that breaks off is
ended by killing its reader, never by closing the pipe.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from backup.errors import BackupError, LoadFailed
from backup.pipeline.stall_timeout import Patience
from backup.postgres.dump.remedies import constraint, hint_for, shown, sqlstate
from backup.postgres.process_io import Pipe, Process, remove

_SETTLE: Final = 30.0
_GLANCE: Final = 0.2
_DRAIN: Final = 0.002
# The exit code of psql for an error in its script.
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


class ProcessInput:
    """Writes to `process` through `pipe`. As a context manager it leaves no process behind.

    A program that takes nothing for `stall` seconds is asked about with `busy`; False ends it, and so do three errors
    in a row. Only `finish` ends the script in good order: LoadFailed unless the program then ends with exit code 0.
    """

    def __init__(
        self, process: Process, pipe: Pipe, name: str, stall: float, busy: Callable[[], bool] = lambda: False
    ) -> None:
        self._process, self._pipe, self._name, self._stall = process, pipe, name, stall
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
            if not self._ended.is_set():
                self._process.kill()
            self._waiter.join(_SETTLE)
        finally:
            remove(self._process)

    def kill(self) -> None:
        """End the program at once."""
        self._process.kill()

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
        self._until(lambda: self._pipe.drained() or self._ended.is_set(), _DRAIN)

    def finish(self, last: bytes = b"\n") -> None:
        """End the script with `last` and wait for the program; LoadFailed unless all went well."""
        # A program that opens the pipe only after its end would wait for a writer for ever.
        self.show(last)
        self._pipe.close_writer()
        self._until(lambda: self._ended.wait(_GLANCE), 0)
        if self._lost is not None:
            raise self._lost
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
            raise LoadFailed(f"{self._name} stands still: {error.message}", error.hint) from error
        raise LoadFailed(
            f"{self._name} made no progress for {self._stall:.0f} s and was ended",
            "Is the database paused, locked or overloaded? BACKUP_STALL_TIMEOUT sets the patience.",
        )

    def _wait(self) -> None:
        try:
            self._code = self._process.wait()
        except BackupError as error:
            self._lost = error
        finally:
            self._ended.set()

    def _failed(self) -> BackupError:
        if self._lost is not None:
            return self._lost
        said = self._process.errors()
        return LoadFailed(
            f"{self._name} ended with exit code {self._code}: {shown(said)}",
            hint_for(said, loading=True),
            refused=refused(self._code, said),
            sqlstate=sqlstate(said),
            constraint=constraint(said),
        )


def refused(code: int | None, said: str) -> bool:
    """Whether psql ended because the server refused a statement for what it says, not for want of memory or the like.

    It ends with 3 for an error in its script, with others when it loses the server or is killed itself.
    """
    wanting = sqlstate(said).startswith(_WANTING_CLASSES) or any(words in said for words in _WANTING)
    return code == _SCRIPT and not wanting
