"""One slow question, asked once at a time for all who want to know, in whichever event loop they ask."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# Seconds that an answer is repeated: a thousand requests cost a running backup as little as one.
FRESH: Final = 2.0
# Seconds of work above which whoever is in a hurry is given the last answer.
DEAR: Final = 0.1


class Shared(Generic[T]):
    """A slow question asked once at a time, in a thread, for all who want to know."""

    def __init__(self, ask: Callable[[], T], limit: float, fresh: float = FRESH, dear: float = DEAR) -> None:
        self._ask, self.limit, self._fresh, self._dear = ask, limit, fresh, dear
        self._lock = threading.Lock()
        self._answer: Future[T] | None = None
        # Who waits for it, in which loop.
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        # The last one that took more work than `dear`, when it was begun, and until when it is repeated.
        self._last: Future[T] | None = None
        self._begun = self._until = 0.0

    async def get(self) -> T:
        """The answer, at most `fresh` seconds old; TimeoutError after `limit`, while the thread goes on."""
        waiter = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            answer = self._current()
            if not answer.done():
                self._waiting.add(waiter)
        if not answer.done():
            try:
                await asyncio.wait_for(waiter[1].wait(), self.limit)
            finally:
                self._waiting.discard(waiter)
        return answer.result()

    async def get_soon(self, age: float) -> T:
        """The same, but at once where it is much work: then the last one, at most `age` seconds old."""
        with self._lock:
            current, last = self._current(), self._last
        if last and not current.done() and time.monotonic() - self._begun < age:
            return last.result()
        return await self.get()

    def _current(self) -> Future[T]:
        """The answer that is there or under way; for the holder of the lock."""
        if self._answer is None or (self._answer.done() and time.monotonic() >= self._until):
            self._answer = Future()
            # A daemon, not an executor's thread: one that hangs in a dead disk must not keep the process from ending.
            threading.Thread(target=self._work, args=(self._answer,), name="health", daemon=True).start()
        return self._answer

    def _work(self, answer: Future[T]) -> None:
        outcome: Future[T] = Future()
        begun, worked = time.monotonic(), time.thread_time()
        try:
            outcome.set_result(self._ask())
        except Exception as error:  # noqa: BLE001  # raised again by whoever waits for the answer
            outcome.set_exception(error)
        # Work and not time: what is slow because a disk hangs must not be told from memory.
        dear, failure = time.thread_time() - worked > self._dear, outcome.exception()
        with self._lock:
            self._until = time.monotonic() + self._fresh
            self._last, self._begun = (outcome if dear and not failure else None), begun
            if failure:
                answer.set_exception(failure)
            else:
                answer.set_result(outcome.result())
            waiting, self._waiting = self._waiting, set()
        for loop, told in waiting:
            with contextlib.suppress(RuntimeError):  # that loop was closed in the meantime
                loop.call_soon_threadsafe(told.set)
