"""Whether a database can be reached as its application reaches it, through a pooler as the case may be.

Poolers take few settings at a login and hand out a server's session for each transaction: nothing is set here.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from backup.formatting import printable
from backup.logging import redacted
from backup.postgres.session import APPLICATION, Login, hang_up

_PAUSE: Final = 0.005
_RETRY: Final = 0.25
_MOMENT: Final = 1.0


@dataclass(frozen=True)
class Way:
    """How an application reaches a database: `place` is what it calls that, `database` its name on the server."""

    login: Login
    database: str
    place: str


class Watch:
    """Asks all the time, over one connection while it lasts, as applications do. Made by `watching`.

    `problem` is what was said the last time instead of an answer, empty after one.
    """

    def __init__(self, way: Way) -> None:
        self.place, self._client = printable(way.place), _Client(way)
        self._stop, self._answered = threading.Event(), threading.Condition()
        self._last = self._longest = 0.0
        self.problem = self._client.ask()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def outage(self, patience: float) -> float:
        """The longest time without an answer so far, once there is one again: it is waited for `patience` seconds."""
        asked = time.monotonic()
        with self._answered:
            self._answered.wait_for(lambda: self._last > asked, patience)
            return max(self._longest, time.monotonic() - self._last)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """In the body it asks."""
        self._last = time.monotonic()
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._client.hang_up()
            # It may be connecting; it ends by itself.
            self._thread.join(_MOMENT)

    def _run(self) -> None:
        with contextlib.closing(self._client):
            while not self._stop.wait(_PAUSE):
                if problem := self._client.ask():
                    self.problem = problem
                    continue
                with self._answered:
                    now = time.monotonic()
                    self._longest, self._last, self.problem = max(self._longest, now - self._last), now, ""
                    self._answered.notify_all()


@contextlib.contextmanager
def watching(way: Way | None) -> Iterator[Watch | None]:
    """Watch it in the body; None where the database cannot be reached like that even before, or no way is known."""
    watch = Watch(way) if way else None
    if watch is None or watch.problem:
        yield None
        return
    with watch.at_work():
        yield watch


def wait(way: Way, patience: float) -> str:
    """Wait until the database can be reached; what is said instead after `patience` seconds, else nothing."""
    deadline = time.monotonic() + patience
    with contextlib.closing(_Client(way)) as client:
        while (problem := client.ask()) and time.monotonic() < deadline:
            time.sleep(_RETRY)
        return problem


class _Client:
    def __init__(self, way: Way) -> None:
        self._login, self._database = way.login, way.database
        self._connection: psycopg.Connection[Any] | None = None

    def ask(self) -> str:
        """Ask over the connection, or a new one; what is said instead of an answer."""
        try:
            if self._connection is None:
                # Prepared statements do not survive a pooler.
                self._connection = psycopg.connect(
                    self._login.conninfo(application_name=f"{APPLICATION} watch"),
                    password=self._login.password or None,
                    autocommit=True,
                    prepare_threshold=None,
                )
            row = self._connection.execute("SELECT current_database()").fetchone()
        except psycopg.Error as error:
            self.close()
            return printable(redacted(" ".join(str(error).split())))
        return "" if row and row[0] == self._database else "another database answers"

    def hang_up(self) -> None:
        """End a question that is not answered."""
        if (connection := self._connection) is not None:
            hang_up(connection)

    def close(self) -> None:
        """Ask no more, until the next time."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
