"""Helpers that are started before it is known what they are to run: an engine takes a fifth of a second for each.

Each is a shell that reads one line from a pipe, which names the program that takes its place. When we end, so does the
pipe, and a helper that was told nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backup.docker.helper import Helper
from backup.errors import BackupError
from backup.logging import logger
from backup.postgres.process_io import Pipe

_Start = Callable[[Path], Helper]


class _WaitingHelper:
    """One helper, once it is there."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._known = threading.Event()
        self._helper: Helper | None = None

    def start(self, start: _Start) -> None:
        """Start it; where that fails, whoever wants it starts one of his own, and hears why."""
        try:
            self._helper = start(self._pipe.path)
        except BackupError as error:
            logger.debug("no helper was started ahead: {}", error.message)
        finally:
            self._known.set()

    def tell(self, program: str, arguments: Sequence[str]) -> Helper | None:
        """Let it run a program; None when there is none. It is the caller's from then on."""
        self._known.wait()
        line = f"exec {shlex.join([program, *arguments])}\n".encode(errors="surrogateescape")
        if self._helper is None or len(line) > select.PIPE_BUF:  # so much any pipe takes at once
            return None
        told, self._helper = self._helper, None
        os.write(self._pipe.writer, line)
        told.becomes(program)
        return told

    def close(self) -> None:
        """Remove it, unless it was told something."""
        if self._helper:
            with contextlib.suppress(BackupError):  # the next sweep does it
                self._helper.close()


class WaitingHelpers:
    """Those that were told nothing yet. Any thread may take one."""

    def __init__(self, helpers: Iterable[_WaitingHelper]) -> None:
        self._free = list(helpers)

    def take(self, program: str, arguments: Sequence[str]) -> Helper | None:
        """Let one of them run a program; None when there is none."""
        try:
            helper = self._free.pop()
        except IndexError:
            return None
        return helper.tell(program, arguments)

    def close(self) -> None:
        """Give none away any more."""
        self._free.clear()


@contextlib.contextmanager
def waiting(start: _Start, gates: Sequence[Path]) -> Iterator[WaitingHelpers]:
    """Start a helper for each of `gates`, its pipe, in threads; behind the body there is none that was told nothing."""
    with contextlib.ExitStack() as stack:
        started = [_WaitingHelper(stack.enter_context(Pipe(gate))) for gate in gates]
        for each in started:
            stack.callback(each.close)
        helpers = WaitingHelpers(started)
        # Whatever calls us away: all that are being started are waited for, and then removed.
        pool = stack.enter_context(ThreadPoolExecutor(max(1, len(gates)), thread_name_prefix="ahead"))
        stack.callback(helpers.close)
        for each in started:
            pool.submit(each.start, start)
        yield helpers
