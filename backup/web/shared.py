"""One slow question, asked once at a time for all who want to know."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# How long an answer is repeated: a thousand requests cost a running backup as little as one.
_FRESH: Final = 2.0


class Shared(Generic[T]):
    """A slow question asked once at a time, in a thread, for all who want to know."""

    def __init__(self, ask: Callable[[], T], limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._limit, self._clock = ask, limit, clock
        self._answer: asyncio.Future[T] | None = None
        self._until = 0.0

    async def get(self) -> T:
        """The answer, at most `_FRESH` seconds old; TimeoutError after `limit`, while the thread goes on."""
        if self._answer is None or (self._answer.done() and self._clock() >= self._until):
            self._answer = self._begin(asyncio.get_running_loop())
        return await asyncio.wait_for(asyncio.shield(self._answer), self._limit)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[T]:
        answer: asyncio.Future[T] = loop.create_future()
        # Seen as retrieved even if everybody has stopped waiting, or asyncio would log it.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        # A daemon, not an executor's thread: one that hangs in a dead disk must not keep the process from ending.
        threading.Thread(target=self._work, args=(loop, answer), name="health", daemon=True).start()
        return answer

    def _work(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[T]) -> None:
        outcome: Future[T] = Future()
        try:
            outcome.set_result(self._ask())
        except Exception as error:  # noqa: BLE001  # raised again in the loop, by whoever waits for the answer
            outcome.set_exception(error)
        with contextlib.suppress(RuntimeError):  # the loop was closed in the meantime: nobody waits any more
            loop.call_soon_threadsafe(self._settle, answer, outcome)

    def _settle(self, answer: asyncio.Future[T], outcome: Future[T]) -> None:
        self._until = self._clock() + _FRESH
        if error := outcome.exception():
            answer.set_exception(error)
        else:
            answer.set_result(outcome.result())
