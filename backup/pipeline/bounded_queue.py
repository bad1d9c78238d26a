"""A queue between two threads, of which a signal may end one anywhere."""

from __future__ import annotations

import contextlib
import queue
from typing import Generic, TypeVar

Item = TypeVar("Item")


class BoundedQueue(Generic[Item]):
    """Hand items on, of which at most `room` wait.

    `queue.Queue` is not used: it wakes the other side in Python. An exception that a signal raises on the way leaves a
    waiter on its list that nobody is behind; the next wake-up goes there, and both sides wait for ever. A call of a
    SimpleQueue is done as a whole or not at all.
    """

    def __init__(self, room: int) -> None:
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(room):
            self._free.put(None)

    def put(self, item: Item) -> None:
        """Add an item, once there is room for it."""
        self._free.get()
        self._items.put(item)

    def put_last(self, item: Item) -> None:
        """Add an item without waiting for room: a signal may have ended a `put` that had room already."""
        self._items.put(item)

    def get(self) -> Item:
        """Take the oldest item, once there is one."""
        item = self._items.get()
        self._free.put(None)
        return item

    def drop(self) -> None:
        """Drop what waits, and make room for one more: a signal may have ended a `get` that had not made room yet."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._items.get_nowait()
        self._free.put(None)
