"""A plain dump loaded over one session up to its last row; what is built on rows, over two.

The second session begins as soon as there is something to build: while rows still come in, if it is known what.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from backup.database.session import UNLIMITED
from backup.operations.beside import LEAST, Beside, Foreseen
from backup.sources.clients import Clients
from backup.sources.places import LOAD_OPTIONS
from backup.stream.dialogue import Dialogue
from backup.stream.entries import Split
from backup.stream.order import Entry, Queue

_ARGUMENTS: Final = ("--no-psqlrc", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1")
_GLANCE: Final = 0.2


class Load:
    """Under way. `split` is the Watcher that has to be given the dump; then `finish`, once.

    `rows_done` is when its last row was passed on, by the monotonic clock.
    """

    def __init__(self, first: Dialogue, beside: Beside) -> None:
        self._first, self._beside = first, beside
        self.split = Split(self._write, self._note, beside.loaded)
        self.rows_done = 0.0

    def finish(self) -> None:
        """Build what is left; LoadFailed unless all of the dump went well."""
        self.split.finish()
        if not self.rows_done:
            self._note()
        queue, doing, sessions = self._beside.rest(self.split.entries), {}, [self._first]
        last_row = self._first.ask(b"")
        if first := queue.take():
            doing[0] = first
            self._first.ask(first.script)
        if self._beside.doing:
            doing[1] = self._beside.doing
            self._beside.ask()
        if self._beside.begun or (len(self.split.entries) > 1 and self.split.rows >= self._beside.least):
            sessions.append(self._beside.session())

        def take(number: int) -> Entry | None:
            # What was written to the first session may wait in its pipe yet.
            all_in = number == 0 or self._first.answered >= last_row
            return queue.take(None if all_in else self._beside.tables())

        _build(queue, doing, sessions, take)
        for session in sessions:
            session.load.finish(self.split.trailer + b"\n")

    def _write(self, data: bytes) -> None:
        self._first.load.write(data)
        self._beside.step(self.split.rows)

    def _note(self) -> None:
        self.rows_done = time.monotonic()


@contextlib.contextmanager
def loading(clients: Clients, run: str, foreseen: Foreseen | None = None, *, least: int = LEAST) -> Iterator[Load]:
    """A load into the database of `clients`. Leaves no session behind; what is loaded by then stays.

    `foreseen`: what the dump builds behind its rows, once that is known. Without it, that is built after the last row.
    """

    @contextlib.contextmanager
    def second() -> Iterator[Dialogue]:
        with clients.talk(_ARGUMENTS, run, LOAD_OPTIONS, part="2.") as session:
            session.heard = first.heard
            session.load.write(UNLIMITED + load.split.settings)
            yield session

    with clients.talk(_ARGUMENTS, run, LOAD_OPTIONS) as first, Beside(first, second, foreseen, least) as beside:
        # Either session may have to wait for the other, or for rows.
        first.load.write(UNLIMITED)
        load = Load(first, beside)
        yield load


def _build(
    queue: Queue, doing: dict[int, Entry], sessions: list[Dialogue], take: Callable[[int], Entry | None]
) -> None:
    """Give each session what `take` gives it until all is done; LoadFailed by the first that fails."""
    heard: threading.Event = sessions[0].heard
    while queue:
        heard.clear()
        for number, session in enumerate(sessions):
            if not session.idle:
                continue
            if number in doing:
                queue.done(doing.pop(number))
        for number, session in enumerate(sessions):
            if number not in doing and (entry := take(number)):
                doing[number] = entry
                session.ask(entry.script)
        if queue:
            heard.wait(_GLANCE)
