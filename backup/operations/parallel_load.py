"""The second session of a load. While rows come in over the first, it builds what those that are in allow.

It is started in a thread, since that takes half a second, and driven by whoever passes on rows.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

from backup.errors import BackupError, LoadFailed
from backup.postgres.dump.dependency_queue import Entry, Queue
from backup.postgres.dump.psql_session import Dialogue

Start = Callable[[], contextlib.AbstractContextManager[Dialogue]]
# What a dump builds behind its rows, as soon as that is known.
Foreseen = Callable[[], Sequence[Entry] | None]
# Bytes of rows from which on a second session saves more than its start takes.
LEAST: Final = 4 << 20
# Seconds between looks whether it is still there.
_GLANCE: Final = 1.0


class SecondSession:
    """`start` gives the session, `script` what it is given for an entry. As a context manager it leaves none behind."""

    def __init__(
        self,
        first: Dialogue,
        start: Start,
        foreseen: Foreseen | None,
        least: int,
        script: Callable[[Entry], bytes] = lambda entry: entry.script,
    ) -> None:
        self._script = script
        self._first, self._start, self._foreseen, self.least = first, start, foreseen, least
        self._stack = contextlib.ExitStack()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="second-session")
        self.closing = False
        self._session: Future[Dialogue] | None = None
        self._entries: Sequence[Entry] | None = None
        self._queue = Queue([])
        # Tables whose rows are written to the first session, and how many of them are in by its word.
        self._written: deque[bytes] = deque()
        self._copied = 0
        self._loaded: set[bytes] = set()
        self._changed = False
        self._answer = 0
        self._looked = 0.0
        self.doing: Entry | None = None

    def __enter__(self) -> Self:
        # The thread exists, and will be waited for, before there is a session.
        self._pool.submit(int).result()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.closing = True
        try:
            self._pool.shutdown(wait=True)
        finally:
            self._stack.close()
        if isinstance(error, LoadFailed) and self._session:
            # What could not be started takes the other session with it, whose end is heard of first.
            failed = self._session.exception()
            if isinstance(failed, BackupError):
                raise failed from error

    def loaded(self, table: bytes) -> None:
        """All rows of a table were written to the first session."""
        self._written.append(table)

    def step(self, rows: int) -> None:
        """Look what can be done, with these bytes of rows written by now. LoadFailed when something went wrong."""
        if rows < self.least or self._foreseen is None or not self._known():
            return
        known = len(self._loaded)
        self._changed = len(self.tables()) > known or self._changed
        if self.doing and self._answer and self._over():
            self._queue.done(self.doing)
            self.doing, self._answer, self._changed = None, 0, True
        if self._changed and self.doing is None:
            self.doing, self._changed = self._queue.take(self._loaded), False
        if self.doing and self._starting().done():
            self.ask()

    def tables(self) -> set[bytes]:
        """Those whose rows are in."""
        while self._written and self._copied < self._first.copied:
            self._loaded.add(self._written.popleft())
            self._copied += 1
        return self._loaded

    def ask(self) -> None:
        """Let the session do what was taken for it, unless it is at it."""
        if self.doing and not self._answer:
            self._answer = self.session().ask(self._script(self.doing))

    def rest(self, entries: list[Entry]) -> Queue:
        """What is left of these, which are those of the dump as it came by."""
        if self._entries is None:
            return Queue(entries)
        if list(self._entries) != entries:
            raise LoadFailed("the dump changed while it was read", "Run it again, when nothing writes to the set.")
        return self._queue

    def session(self) -> Dialogue:
        """The session, when it is there. BackupError when it cannot be started."""
        return self._starting().result()

    @property
    def entries(self) -> Sequence[Entry]:
        """What was foreseen."""
        return self._entries or ()

    @property
    def begun(self) -> bool:
        """Whether it was ever needed."""
        return self._session is not None

    def _over(self) -> bool:
        session, now = self.session(), time.monotonic()
        if session.answered < self._answer and now - self._looked < _GLANCE:
            return False
        self._looked = now
        return session.idle

    def _known(self) -> bool:
        if self._entries is None and self._foreseen and (entries := self._foreseen()) is not None:
            self._entries, self._queue, self._changed = entries, Queue(entries), True
        return self._entries is not None

    def _starting(self) -> Future[Dialogue]:
        if self._session is None:
            self._session = self._pool.submit(self._open)
        return self._session

    def _open(self) -> Dialogue:
        session = self._stack.enter_context(self._start())
        # A second signal may have called away whoever waited for this.
        if self.closing:
            self._stack.close()
        return session
