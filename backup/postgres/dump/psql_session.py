"""A psql that says what it has done: behind each part of its script stands a query with a word that nobody can guess.

What it says goes into a second pipe, which a thread reads all the time, so that psql never waits for us to listen.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from backup.postgres.process_io import Pipe, ProcessInput

_GLANCE: Final = 0.2
_LINE: Final = 1 << 20


class Dialogue:
    """`load` takes the script, `said` is the pipe of the answers. psql must print tuples only, unaligned.

    `entered` is called once it is known to have entered the server.
    """

    def __init__(self, load: ProcessInput, said: Pipe, entered: Callable[[], None] = lambda: None) -> None:
        self.load, self._entered = load, entered
        self._said = said
        self._word = secrets.token_hex(16).encode()
        # How many scripts it was given, and how many of them have gone well.
        self._asked = self.answered = 0
        # What it said when it was asked a question.
        self.told: list[str] = []
        # As psql has it: 170006; 0 before it has entered.
        self.version = 0
        self._since = time.monotonic()
        self._closing = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="answers", daemon=True)
        # Set whenever anybody has answered: several sessions may share it.
        self.heard = threading.Event()

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            os.write(self._said.writer, b"\n")  # it waits for a word
        self._listener.join()

    def ask(self, script: bytes) -> int:
        """Let it run `script`: `idle` when all of it has gone well, `answered` is then at least what this gives."""
        self._asked += 1
        self._since = time.monotonic()
        self.load.write(script + b"\nSELECT '" + self._word + b"';\n")
        return self._asked

    def question(self, expression: bytes) -> None:
        """Ask for a text of one line; `told` has it when it is `idle`."""
        self._asked += 1
        self._since = time.monotonic()
        self.load.write(b"\nSELECT '" + self._word + b"' || (" + expression + b");\n")

    def enter(self, given_up: Callable[[], bool] = lambda: False) -> None:
        """Wait until it has entered the server, and has told its own version; no longer than until it is given up.

        LoadFailed when it cannot enter.
        """
        self.question(b":VERSION_NUM")
        if self.settle(given_up):
            self.version = int(self.told.pop())
            self._entered()

    def settle(self, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait until it has done all that it was asked, no longer than until it is given up; whether it has."""
        while not self.idle:
            if given_up():
                return False
            self.heard.wait(_GLANCE)
            self.heard.clear()
        return True

    @property
    def idle(self) -> bool:
        """Whether it has done all that it was asked. LoadFailed when it has ended or stands still."""
        if self.answered == self._asked:
            return True
        self.load.check(self._since)
        return False

    def _listen(self) -> None:
        poll, rest = select.poll(), b""
        poll.register(self._said.reader, select.POLLIN)
        while not self._closing.is_set():
            if not poll.poll(_GLANCE * 1000):
                continue
            *lines, rest = (rest + os.read(self._said.reader, _LINE)).split(b"\n")
            # A longer line is no answer.
            rest = rest[:_LINE]
            for line in lines:
                self._note(line)
            if answers := sum(line.startswith(self._word) for line in lines):
                self.answered += answers
                self.heard.set()

    def _note(self, line: bytes) -> None:
        if line.startswith(self._word) and (text := line.removeprefix(self._word).decode(errors="replace")):
            self.told.append(text)
