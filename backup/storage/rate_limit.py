"""A limit of bytes a second."""

from __future__ import annotations

import threading
import time


class Pace:
    """No more than `limit` bytes a second from all threads together; 0: no limit."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._free = 0.0

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return bool(self._limit)

    def wait(self, count: int) -> None:
        """Wait until `count` more bytes may be sent."""
        if not self._limit:
            return
        with self._lock:
            now = time.monotonic()
            self._free = max(now, self._free) + count / self._limit
            pause = self._free - now
        time.sleep(pause)
