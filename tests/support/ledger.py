"""Rows that are changed one commit after the other, with the server's own time of each: what any moment must hold."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg

from tests.support.database import PASSWORD, USER, Server
from tests.support.faults import docker, eventually
from tests.support.moments import Story

# Words for the server: it notes when each transaction was committed.
COMMAND = ["postgres", "-c", "track_commit_timestamp=on", "-c", "max_wal_size=32MB"]
TABLE = "CREATE TABLE t (n int PRIMARY KEY, x text)"
# Seconds between two commits.
PACE = 0.02
_ADDRESS = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"


class Ledger(threading.Thread):
    """Inserts, changes and deletes rows of t. `commits` are what the server says of each.

    It goes on when the server was away, and asks then whether its last one was committed.
    """

    def __init__(self, server: Server, database: str, choices: random.Random) -> None:
        super().__init__(name="ledger", daemon=True)
        self._server, self._database, self._choices = server, database, choices
        self.over = threading.Event()
        self.commits: list[tuple[datetime, int, str | None]] = []
        self.error: BaseException | None = None
        self._there: set[int] = set()
        # The number, the word and the transaction of which nobody has heard yet whether it was committed.
        self._open: tuple[int, str | None, str] | None = None

    def run(self) -> None:
        try:
            while not self.over.wait(PACE):
                with contextlib.suppress(psycopg.OperationalError), self._connect() as connection:
                    self._settle(connection)
                    while not self.over.wait(PACE):
                        self._commit(connection)
                        self._settle(connection)
        except BaseException as error:  # noqa: BLE001 - the test asks for it
            self.error = error

    def _connect(self) -> psycopg.Connection[Any]:
        # By the command line: the SDK leaves a socket open each time that the engine does not answer.
        address = docker("inspect", "-f", _ADDRESS, self._server.container.id, check=False)
        login = {"host": address or "127.0.0.1", "user": USER, "password": PASSWORD, "dbname": self._database}
        return psycopg.connect(**login, autocommit=True, connect_timeout=5)

    def _commit(self, connection: Any) -> None:
        number = self._choices.randrange(200)
        word: str | None = f"{len(self.commits)}"
        with connection.transaction():
            if number not in self._there:
                connection.execute("INSERT INTO t VALUES (%s, %s)", (number, word))
            elif self._choices.random() < 0.5:
                connection.execute("UPDATE t SET x = %s WHERE n = %s", (word, number))
            else:
                connection.execute("DELETE FROM t WHERE n = %s", (number,))
                word = None
            (transaction,) = connection.execute("SELECT pg_current_xact_id()::xid").fetchone()
            self._open = number, word, transaction

    def _settle(self, connection: Any) -> None:
        """Note the last transaction, if it was committed."""
        if self._open is None:
            return
        number, word, transaction = self._open
        if (connection.execute("SELECT x FROM t WHERE n = %s", (number,)).fetchone() or (None,))[0] == word:
            query = "SELECT pg_xact_commit_timestamp(%s::xid)"
            (moment,) = connection.execute(query, (transaction,)).fetchone()
            (self._there.discard if word is None else self._there.add)(number)
            self.commits.append((moment, number, word))
        self._open = None

    def rows(self, moment: datetime) -> list[str]:
        """What the table held then, as a dump has it."""
        held: dict[int, str] = {}
        for when, number, word in self.commits:
            if when > moment:
                break
            held.pop(number, None)
            held |= {} if word is None else {number: word}
        return sorted(f"{number}\t{word}" for number, word in held.items())

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Rows are changed during the body."""
        self.start()
        try:
            self.goes_on()
            yield
        finally:
            self.over.set()
            self.join(30)
        assert self.error is None, repr(self.error)

    def goes_on(self) -> None:
        """Wait for some more commits."""
        before = len(self.commits)
        eventually(lambda: len(self.commits) > before + 10 or self.error, 60)


def judged(story: Story, ledger: Ledger, said: Any, choices: random.Random, count: int) -> None:
    """What is said of the window is true: of each part the beginning and `count` moments, and what is between."""
    print(said["text"], f"{len(said['bases'])} base backups, {len(ledger.commits)} commits")
    parts = [tuple(datetime.fromisoformat(each[name]) for name in ("start", "end")) for each in said["spans"]]
    for start, end in parts:
        for moment in (start, *(start + (end - start) * choices.random() for _ in range(count))):
            made = story.sidecar.run("create", "--at", moment.isoformat(" "), "--json")
            assert made.code == 0, made.output
            assert story.rows(made.json["set"]) == ledger.rows(moment), moment
    between = [end + (start - end) / 2 for (_, end), (start, _) in zip(parts, parts[1:], strict=False)]
    for moment in (parts[0][0] - timedelta(seconds=1), *between):
        refused = story.sidecar.run("create", "--at", moment.isoformat(" "))
        assert refused.code == 44 and "cannot be brought back" in refused.output, refused.output
