"""The sessions of a load: each does one entry at a time, beside the others.

The first is given the dump in its order. The others are started in threads, since that takes half a second: once it
has made the tables, so that what extensions set for new sessions of the database holds for them, or beside the first
where the dump has no extensions. One that cannot be had, where connections or memory are short, is done without.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

from backup.errors import BackupError, LoadFailed
from backup.logging import logger
from backup.postgres.dump.contents import Part
from backup.postgres.dump.dependency_queue import Entry, Queue
from backup.postgres.dump.load_script import FIRST_SESSION
from backup.postgres.dump.psql_session import Dialogue

# Starts the session of that number; it has entered the server then.
Start = Callable[[int], contextlib.AbstractContextManager[Dialogue]]
# The rows of a part of the dump; IntegrityError at their end unless they are as they were dumped.
Read = Callable[[Part], Iterator[bytes]]
MOST: Final = 8
_GLANCE: Final = 0.2
_END_OF_ROWS: Final = b"\\.\nCOMMIT;\n"


class _Session:
    """One session, and what it is at. `prologue` is what it is to begin with; None when it has begun."""

    def __init__(self, dialogue: Dialogue, prologue: Callable[[], bytes] | None = None) -> None:
        self.dialogue, self._prologue = dialogue, prologue
        self.doing: Entry | None = None
        self._feeding: Future[None] | None = None

    def begin(self, entry: Entry, script: bytes, feed: Callable[[Dialogue, Entry, bytes], Future[None]]) -> None:
        """Let it do an entry."""
        if self._prologue:
            self.dialogue.load.write(self._prologue())
        self.doing, self._prologue = entry, None
        if entry.parts:
            self._feeding = feed(self.dialogue, entry, script)
        else:
            self.dialogue.ask(script)

    @property
    def is_used(self) -> bool:
        """Whether it was given anything."""
        return self._prologue is None

    def is_done(self) -> bool:
        """Whether it has done it. LoadFailed when it went wrong, IntegrityError when the dump cannot be read."""
        if self._feeding:
            if not self._feeding.done():
                return False
            self._feeding.result()
            self._feeding = None
        return self.dialogue.idle


class Sessions:
    """The first and up to `most - 1` others. As a context manager it leaves none of these behind.

    `early`: the others are started with the first one. `script` is what a session is given for an entry, `read` gives
    the rows that follow it. `refused_beside`: rows were refused while others came in beside them. `rows_done` is when
    the last of such rows were in, by the monotonic clock.
    """

    def __init__(
        self,
        start: Start,
        most: int,
        script: Callable[[Entry], bytes],
        prologue: Callable[[], bytes],
        read: Read,
        *,
        early: bool = False,
    ) -> None:
        self._start, self.most, self._script, self._prologue, self._read = start, most, script, prologue, read
        self.first: _Session
        self._heard, self._early = threading.Event(), early
        self.refused_beside = self._given = False
        self.rows_done = 0.0
        self._others: list[_Session] = []
        self._opening: list[Future[Dialogue]] | None = None
        self._queue = Queue(running=[FIRST_SESSION])
        # Its answer says that the tables are there.
        self._made: int | None = None
        self._stack = contextlib.ExitStack()
        self.closing = threading.Event()
        # One thread for each session that starts, then feeds.
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="load")

    def __enter__(self) -> Self:
        # The threads exist, and will be waited for, before there is a session.
        there = threading.Barrier(self.most)
        try:
            for started in [self._pool.submit(there.wait) for _ in range(self.most)]:
                started.result()
            self.first = _Session(self._enter_first())
        except BaseException:
            there.abort()
            self.closing.set()
            self._pool.shutdown(wait=True)
            self._stack.close()
            raise
        self.first.dialogue.heard = self._heard
        return self

    def _enter_first(self) -> Dialogue:
        if self._early:
            self._open_others()
        try:
            return self._stack.enter_context(self._start(1))
        except LoadFailed as error:
            if not (self._early and error.lost):
                raise
        # Where connections are short, one of the others may have had the last.
        futures.wait(self._opening or ())
        self._stack.close()
        self._opening = None
        return self._stack.enter_context(self._start(1))

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            self.closing.set()
            # Whoever feeds them ends then, and uses their pipes no more.
            for session in (self.first, *self._others):
                session.dialogue.load.kill()
            self._pool.shutdown(wait=True)
        finally:
            self._stack.close()

    def widen(self) -> None:
        """Let the others be started when the first has done what it was given by now, unless that was said before."""
        if self._made is None:
            self._made = self.first.dialogue.ask(b"")

    def write(self, data: bytes) -> None:
        """Give the first session more of the dump, and let the others go on. Errors as of `step`."""
        try:
            self.first.dialogue.load.write(data)
        except LoadFailed:
            self.refused_beside = self._given
            raise
        self.step()

    def load_apart(self, entry: Entry) -> None:
        """Rows for another session, whose table the first one has been given."""
        self._given = True
        self.widen()
        self._queue.add([entry])

    def step(self) -> None:
        """Let the others go on. LoadFailed, IntegrityError when something went wrong."""
        self._go_on(self._there())

    def drain(self) -> None:
        """All that waits is done, by the first session, too, before that gets anything more of the dump."""
        self._until(lambda: len(self._queue) <= 1)

    def finish(self, entries: Iterable[Entry]) -> list[Dialogue]:
        """The first has been given all that it gets; do what waits, and these. The sessions that had a part in it."""
        self._queue.add(entries)
        self.first.dialogue.ask(b"")
        self.first.doing = FIRST_SESSION
        self._until(lambda: not len(self._queue))
        return [session.dialogue for session in (self.first, *self._others) if session.is_used]

    def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._heard.clear()
            self._go_on([self.first, *self._there()])
            if not done():
                self._heard.wait(_GLANCE)

    def _go_on(self, sessions: Sequence[_Session]) -> None:
        for session in sessions:
            if (entry := session.doing) and self._is_done(session, entry):
                session.doing = None
                self._queue.done(entry)
                if entry.parts:
                    self.rows_done = time.monotonic()
        for session in sessions:
            if session.doing is None and (entry := self._queue.take()):
                session.begin(entry, self._script(entry), self._feed)

    def _is_done(self, session: _Session, entry: Entry) -> bool:
        try:
            return session.is_done()
        except LoadFailed:
            # What the first had in the dump's order may have needed them, too.
            self.refused_beside = bool(entry.parts) or (entry is FIRST_SESSION and self._given)
            raise

    def _there(self) -> list[_Session]:
        """The others that have been started by now."""
        if self._made is None or self.first.dialogue.answered < self._made:
            return []
        if self._opening is None:
            self._open_others()
        for opening in [each for each in self._opening or () if each.done()]:
            self._opening = [each for each in self._opening or () if each is not opening]
            try:
                self._others.append(_Session(opening.result(), self._prologue))
            except BackupError as error:
                logger.warning("the database is loaded with a session less: {}", error.message)
        return self._others

    def _open_others(self) -> None:
        self._opening = [self._pool.submit(self._open, number) for number in range(2, self.most + 1)]

    def _open(self, number: int) -> Dialogue:
        session = self._stack.enter_context(self._start(number))
        session.heard = self._heard
        session.heard.set()
        # A second signal may have called away whoever waited for this.
        if self.closing.is_set():
            self._stack.close()
        return session

    def _feed(self, session: Dialogue, entry: Entry, script: bytes) -> Future[None]:
        return self._pool.submit(self._give, session, entry, script)

    def _give(self, session: Dialogue, entry: Entry, script: bytes) -> None:
        try:
            session.load.write(script)
            for part in entry.parts:
                for piece in self._read(part):
                    if self.closing.is_set():
                        return
                    session.load.write(piece)
            session.ask(_END_OF_ROWS)
        finally:
            session.heard.set()
