"""Ends a run whose volume gives or takes no more bytes.

A read from a hung network mount cannot be interrupted from inside, only killed with the process. So this is a thread
that records the run as failed and then ends the process; what was unpublished is swept by the next run.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from backup.errors import MediaFailed
from backup.logging import logger
from backup.progress import Progress


class Watchdog:
    """A Progress that passes on to `shown` and calls `ended(seconds)` once when a watched phase stands still."""

    def __init__(
        self,
        shown: Progress,
        patience: float,
        ended: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shown, self._patience, self._ended, self._clock = shown, patience, ended, clock
        self._moved: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def phase(self, name: str, total: int | None = None) -> None:
        """See Progress. Watched from the first `advance` on; phases without any are not."""
        self._moved = None
        self._shown.phase(name, total)

    def advance(self, count: int) -> None:
        """See Progress."""
        self._moved = self._clock()
        self._shown.advance(count)

    def look(self) -> bool:
        """Tell whether it has stood still for too long, and call `ended` then."""
        moved, now = self._moved, self._clock()
        if moved is None or now - moved <= self._patience:
            return False
        self._ended(now - moved)
        return True

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._patience / 4)):
            if self.look():
                return


def stuck(idle: float, published: str) -> MediaFailed:
    """Log and make the error of a run whose volume or backup disk stands still: then the run is killed.

    `published` is the set that is there by then, and was being verified; empty for none.
    """
    left = f"{published} is published, but was not verified" if published else "nothing of it was published"
    error = MediaFailed(
        f"no byte was read from the volume or moved on the backup disk for {idle:.0f} s; the run was killed, {left}",
        "Is one of them a network mount that hangs? The limit is twice BACKUP_STALL_TIMEOUT.",
    )
    error.exit_code = 128 + signal.SIGKILL
    logger.error("{} {}", error.message, error.hint)
    return error
