"""Delivery in a process of its own: what hangs, leaks or crashes there is gone with it, and no address stays here."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError

from backup.monitoring.alerts.model import Letter, Letters, Receipt, Receipts

DEADLINE: Final = 60.0
# To start, to load the library, and to end.
_MORE: Final = 30.0


class Post:
    """Sends letters through `command`, which reads them from stdin and prints receipts. One at a time."""

    def __init__(self, command: Sequence[str], deadline: float = DEADLINE) -> None:
        self._command, self._deadline = list(command), deadline
        self._child: subprocess.Popen[bytes] | None = None
        self._over = False

    def __call__(self, letters: Sequence[Letter]) -> list[Receipt]:
        """What came of each letter that was tried; never an exception for what went wrong with the delivery."""
        given = Letters(letters=tuple(letters), deadline=self._deadline)
        try:
            with self._start() as child:
                try:
                    out, _ = child.communicate(given.model_dump_json().encode(), timeout=self._deadline + _MORE)
                except subprocess.TimeoutExpired:
                    child.kill()
                    return _all(letters, "the delivering process hung and was killed")
        except OSError as error:
            return _all(letters, f"the delivering process cannot be started: {error.strerror}")
        if self._over:
            return []
        try:
            return list(Receipts.model_validate_json(out).receipts)
        except ValidationError:
            return _all(letters, f"the delivering process ended with code {child.returncode}; see the log")

    def stop(self) -> None:
        """End what is under way: the service ends."""
        self._over = True
        if child := self._child:
            with contextlib.suppress(OSError):
                child.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._child


def _all(letters: Sequence[Letter], error: str) -> list[Receipt]:
    return [Receipt(target=letter.target, id=letter.id, error=error) for letter in letters]
