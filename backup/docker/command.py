"""A shell command inside a running container, which is ended when its time is over or nobody waits for it any more."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Final

from backup.docker.errors import asking
from backup.errors import EngineError

_TAIL: Final = 16_384
_GRACE: Final = 5.0
# The engine knows the host's number of a process; only its own, which the container knows, can be signalled there.
_NUMBERED: Final = 'echo "$$"; exec sh -c "$0"'
# What an engine starts leads a group of its own, so that what it has started itself is ended with it.
_KILL: Final = 'kill -s "$0" -- "-$1" 2>/dev/null || kill -s "$0" "$1"'


class Command:
    """One command. `ended` says afterwards whether it is known to be no longer there."""

    def __init__(self, api: Any, container: str, command: str, what: str) -> None:
        self._api, self._container, self._what = api, container, what
        with asking(what):
            made = api.exec_create(container, ["sh", "-c", _NUMBERED, command])
        self._id: str = made["Id"]
        self._number, self._head, self._tail = "", b"", b""
        self._over, self._begun = threading.Event(), threading.Event()
        self._error: EngineError | None = None

    @property
    def ended(self) -> bool:
        """Whether it has ended, by itself or by us."""
        return self._over.is_set()

    def run(self, patience: float) -> tuple[int | None, str]:
        """Its exit code and the end of its output; no code when it took longer than `patience` seconds."""
        threading.Thread(target=self._read, name="command", daemon=True).start()
        try:
            in_time = self._over.wait(patience)
        except BaseException:
            self._end()
            raise
        if not in_time:
            self._end()
            return None, self._said()
        if self._error:
            raise self._error
        with asking(self._what):
            code = self._api.exec_inspect(self._id)["ExitCode"]
        return 1 if code is None else int(code), self._said()

    def _read(self) -> None:
        try:
            with asking(self._what):
                for piece in self._api.exec_start(self._id, stream=True):
                    self._take(piece)
        except EngineError as error:
            self._error = error
        finally:
            self._over.set()
            self._begun.set()

    def _take(self, piece: bytes) -> None:
        if not self._number:
            first, newline, piece = (self._head + piece).partition(b"\n")
            self._head = first
            if newline and first.isdigit():
                self._number = first.decode()
                self._begun.set()
        self._tail = (self._tail + piece)[-_TAIL:]

    def _end(self) -> None:
        """Ask it to end, then make it."""
        # It may be at work before its number has reached us.
        self._begun.wait(_GRACE)
        for signal in ("TERM", "KILL"):
            if self._number and not self._over.is_set():
                with contextlib.suppress(EngineError), asking(self._what):
                    words = ["sh", "-c", _KILL, signal, self._number]
                    self._api.exec_start(self._api.exec_create(self._container, words)["Id"])
                self._over.wait(_GRACE)

    def _said(self) -> str:
        return self._tail.decode(errors="replace")
