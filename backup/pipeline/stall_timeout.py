"""How long a client program that stands still is waited for: as long as somebody who can tell says that it works."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from backup.errors import BackupError

# What somebody else's crowd or restart may cost: so many questions in a row get no answer, and so soon the next one is.
_UNANSWERED: Final = 3
_AGAIN: Final = 30.0


class Patience:
    """`busy` is asked about a program that has stood still for `stall` seconds, and no oftener than that."""

    def __init__(self, stall: float, busy: Callable[[], bool]) -> None:
        self._stall, self._busy = stall, busy
        # When it was last seen at work, and before when it is not asked about again.
        self._seen = self._next = 0.0
        self._unanswered = 0

    def lasts(self, since: float) -> bool:
        """Whether to wait on for what has stood still `since` then.

        BackupError, that of the question, when it could not be answered three times in a row.
        """
        now = time.monotonic()
        if now - max(since, self._seen) <= self._stall:
            self._unanswered = 0
            return True
        if now < self._next:
            return True
        try:
            working = self._busy()
        except BackupError:
            self._unanswered += 1
            if self._unanswered == _UNANSWERED:
                raise
            self._next = time.monotonic() + min(self._stall, _AGAIN)
            return True
        self._unanswered, self._next = 0, 0.0
        if working:
            self._seen = time.monotonic()
        return working
