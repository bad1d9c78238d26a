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
from backup.stream.dialogue import Dialogue
from backup.stream.order import Entry, Queue

Start = Callable[[], contextlib.AbstractContextManager[Dialogue]]
# What a dump builds behind its rows, as soon as that is known.
Foreseen = Callable[[], Sequence[Entry] | None]
# Bytes of rows from which on a second session saves more than its start takes.
LEAST: Final = 4 << 20
# Seconds between looks whether it is still there.
_GLANCE: Final = 1.0


class Beside:
    """`start` gives the session. As a context manager it leaves none behind."""

    def __init__(self, first: Dialogue, start: Start, foreseen: Foreseen | None, least: int) -> None:
        self._first, self._start, self._foreseen, self.least = first, start, foreseen, least
        self._stack = contextlib.ExitStack()
        self._session: Future[Dialogue] | None = None
        self._entries: Sequence[Entry] | None = None
        self._queue = Queue([])
        # Tables whose rows are written, with the answer of the first session that tells when they are in.
        self._written: deque[tuple[int, bytes]] = deque()
        self._loaded: set[bytes] = set()
        self._changed = False
        self._answer = 0
        self._looked = 0.0
        self.doing: Entry | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._session:
            with contextlib.suppress(BackupError):
                self._session.result()
        self._stack.close()

    def loaded(self, table: bytes) -> None:
        """All rows of a table were written to the first session."""
        if self._foreseen:
            self._written.append((self._first.ask(b""), table))

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
        if self.doing and self._started():
            self.ask()

    def tables(self) -> set[bytes]:
        """Those whose rows are in."""
        while self._written and self._written[0][0] <= self._first.answered:
            self._loaded.add(self._written.popleft()[1])
        return self._loaded

    def ask(self) -> None:
        """Let the session do what was taken for it, unless it is at it."""
        if self.doing and not self._answer:
            self._answer = self.session().ask(self.doing.script)

    def rest(self, entries: list[Entry]) -> Queue:
        """What is left of these, which are those of the dump as it came by."""
        if self._entries is None:
            return Queue(entries)
        if list(self._entries) != entries:
            raise LoadFailed("the dump changed while it was read", "Run it again, when nothing writes to the set.")
        return self._queue

    def session(self) -> Dialogue:
        """The session, when it is there. BackupError when it cannot be started."""
        return self._begun().result()

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

    def _started(self) -> bool:
        return self._begun().done()

    def _begun(self) -> Future[Dialogue]:
        if self._session is None:
            pool = ThreadPoolExecutor(1, thread_name_prefix="second-session")
            self._session = pool.submit(lambda: self._stack.enter_context(self._start()))
            pool.shutdown(wait=False)
        return self._session
