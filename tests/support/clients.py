"""Clients of a database that ask it all the time, over one connection or a new one each time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from backup.postgres.session import Login
from tests.support.faults import eventually

# What somebody is told who was in the database: the session ends, as it must. The last two are pgbouncer's words for
# one that ended while it was being handed out.
ENDED = (
    *("terminating connection", "server closed the connection", "connection is lost"),
    *("server conn crashed", "invalid server parameter"),
)


@dataclass
class Client:
    """Asks every 20 ms. `answers` are when it was answered, `failures` when and what it was told instead."""

    login: Login
    query: str
    each_new: bool = False
    answers: list[float] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        """Ask until it is told to stop."""
        connection = None
        while not stop.wait(0.02):
            try:
                connection = connection or psycopg.connect(
                    self.login.conninfo(), password=self.login.password, autocommit=True, prepare_threshold=None
                )
                connection.execute(self.query.encode())
                self.answers.append(time.monotonic())
                if not self.each_new:
                    continue
            except psycopg.Error as error:
                self.failures.append((time.monotonic(), str(error)))
            if connection:
                connection.close()
                connection = None
        if connection:
            connection.close()

    def longest(self) -> float:
        """The longest time between two answers, in seconds."""
        return max(b - a for a, b in zip(self.answers, self.answers[1:], strict=False))


@contextmanager
def crowd(*clients: Client) -> Iterator[None]:
    """In the body all of them ask; each is answered before it, and again behind it."""
    stop = threading.Event()
    threads = [threading.Thread(target=each.run, args=(stop,)) for each in clients]
    for thread in threads:
        thread.start()
    try:
        _answered(clients)
        yield
        _answered(clients)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def strange(*clients: Client) -> list[str]:
    """What they were told that is not the end of a session."""
    said = [said for client in clients for _, said in client.failures]
    return [each for each in said if not any(words in each for words in ENDED)]


def _answered(clients: tuple[Client, ...]) -> None:
    before = [len(each.answers) for each in clients]
    eventually(lambda: all(len(c.answers) > n + 3 for c, n in zip(clients, before, strict=True)), 30)
