"""A plain dump loaded over one session up to its last row; indexes and constraints are then built over two.

What the dump has in an order that may matter stays in it (see `stream.entries`). Any error of either session ends both.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Final

from backup.sources.clients import Clients
from backup.sources.places import LOAD_OPTIONS
from backup.stream.dialogue import Dialogue
from backup.stream.entries import Entry, Queue, Split

_ARGUMENTS: Final = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1")
_GLANCE: Final = 0.2
# Bytes of rows from which on a second session saves more than its start takes.
LEAST: Final = 4 << 20


class Load:
    """Under way. `split` is the Watcher that has to be given the dump; then `finish`, once.

    `together`: all up to the last row is one transaction. `rows_done` is when that was reached, by the monotonic clock.
    """

    def __init__(self, clients: Clients, run: str, first: Dialogue, *, together: bool, least: int) -> None:
        self._clients, self._run, self._first = clients, run, first
        self._together, self._least = together, least
        self.split = Split(first.load.write, self._commit, together=together)
        self.rows_done = 0.0
        if together:
            first.load.write(b"BEGIN;\n")

    def finish(self) -> None:
        """Build what is left; LoadFailed unless all of the dump went well."""
        self.split.finish()
        if not self.rows_done:
            self._commit()
        queue = Queue(self.split.entries)
        with contextlib.ExitStack() as stack:
            sessions = [self._first]
            first = queue.take()
            if first:
                self._first.ask(first.script)
            if len(self.split.entries) > 1 and self.split.rows >= self._least:
                sessions.append(stack.enter_context(self._second()))
            _build(queue, {0: first} if first else {}, sessions)
            for session in sessions:
                session.load.finish(self.split.trailer + b"\n")

    def _commit(self) -> None:
        self.rows_done = time.monotonic()
        if self._together:
            self._first.load.write(b"COMMIT;\n")

    @contextlib.contextmanager
    def _second(self) -> Iterator[Dialogue]:
        with self._clients.talk(_ARGUMENTS, self._run, LOAD_OPTIONS, part="2.") as session:
            session.heard = self._first.heard
            session.load.write(self.split.settings)
            yield session


@contextlib.contextmanager
def loading(clients: Clients, run: str, *, together: bool, least: int = LEAST) -> Iterator[Load]:
    """A load into the database of `clients`. Leaves no session behind; what is loaded by then stays."""
    with clients.talk(_ARGUMENTS, run, LOAD_OPTIONS) as first:
        yield Load(clients, run, first, together=together, least=least)


def _build(queue: Queue, doing: dict[int, Entry], sessions: list[Dialogue]) -> None:
    """Give each session its next entry until all are done; LoadFailed by the first that fails."""
    heard: threading.Event = sessions[0].heard
    while queue:
        heard.clear()
        for number, session in enumerate(sessions):
            if not session.idle:
                continue
            if number in doing:
                queue.done(doing.pop(number))
        for number, session in enumerate(sessions):
            if number not in doing and (entry := queue.take()):
                doing[number] = entry
                session.ask(entry.script)
        if queue:
            heard.wait(_GLANCE)
