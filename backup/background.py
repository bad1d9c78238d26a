"""A thread for work that may hang."""

from __future__ import annotations

import threading
from collections.abc import Callable


class BackgroundTask:
    """One piece of work (it asks an engine, a disk) in a daemon thread: it keeps nobody from starting or ending."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._thread: threading.Thread | None = None

    def go(self, wait: float = 0.0) -> None:
        """Do it, unless it is still being done, and give it `wait` seconds to be ready."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="background", daemon=True)
            self._thread.start()
        self._thread.join(wait)
