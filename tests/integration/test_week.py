"""A week of the window in a minute: each night a base backup with its retention, a dump, and a drill of the window.

The database server's clock cannot be passed in, so a day is as long as its night's work: `DAYS` are kept. In the end
the window is what it says that it is. FULL_SWEEP=1 tries all versions, and more moments.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backup.app.composition import App
from backup.app.pitr import base_context, receive_context
from backup.app.recovery import proof_context
from backup.catalog.wal_archive import StreamFile, clusters
from backup.model.manifest import Tier
from backup.model.wal import Stream
from backup.operations.create.run import Request as Create
from backup.operations.create.run import create_set
from backup.operations.pitr.base import take_base
from backup.operations.pitr.proof import prove_window
from backup.operations.pitr.receive import receive_wal
from backup.operations.runs import Request
from backup.progress import Silent
from tests.support.database import Server, start_server
from tests.support.faults import eventually, nothing_left, seeded
from tests.support.moments import Story, short_folder
from tests.support.sidecar import Sidecar

FULL = bool(os.environ.get("FULL_SWEEP"))
NIGHTS, DAYS = 7, 2.5
MOMENTS = 20 if FULL else 2
# Seconds between two looks of the receiver, and between two commits.
LOOK, PACE = 0.2, 0.02


class Ledger(threading.Thread):
    """Inserts, changes and deletes rows, one commit after the other. `commits` are what the server says of each."""

    def __init__(self, server: Server, database: str, choices: random.Random) -> None:
        super().__init__(name="ledger", daemon=True)
        self._server, self._database, self._choices = server, database, choices
        self.over = threading.Event()
        self.commits: list[tuple[datetime, int, str | None]] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with self._server.connect(self._database) as connection:
                there: set[int] = set()
                while not self.over.wait(PACE):
                    self._commit(connection, there)
        except BaseException as error:  # noqa: BLE001 - the test asks for it
            self.error = error

    def _commit(self, connection: Any, there: set[int]) -> None:
        number = self._choices.randrange(200)
        word: str | None = f"{len(self.commits)}"
        with connection.transaction():
            if number not in there:
                connection.execute("INSERT INTO t VALUES (%s, %s)", (number, word))
            elif self._choices.random() < 0.5:
                connection.execute("UPDATE t SET x = %s WHERE n = %s", (word, number))
            else:
                connection.execute("DELETE FROM t WHERE n = %s", (number,))
                word = None
            (transaction,) = connection.execute("SELECT pg_current_xact_id()::xid").fetchone()
        (moment,) = connection.execute("SELECT pg_xact_commit_timestamp(%s::xid)", (transaction,)).fetchone()
        (there.discard if word is None else there.add)(number)
        self.commits.append((moment, number, word))

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
def receiving(app: App) -> Iterator[None]:
    """WAL is received during the body, and looked at more often than the service does."""
    over = threading.Event()
    context = receive_context(app, lambda seconds: over.wait(min(seconds, LOOK)))
    thread = threading.Thread(target=receive_wal, args=(context,), name="receive")
    thread.start()
    try:
        eventually(lambda: (now := stream(app)) and now.up, 60)
        yield
    finally:
        over.set()
        thread.join(60)


def stream(app: App) -> Stream | None:
    return StreamFile(app.settings.root).read()


@contextlib.contextmanager
def writing(ledger: Ledger) -> Iterator[None]:
    """Rows are changed during the body."""
    ledger.start()
    try:
        eventually(lambda: len(ledger.commits) > 10 or ledger.error, 30)
        yield
    finally:
        ledger.over.set()
        ledger.join(30)
    assert ledger.error is None


def night(app: App, days: float) -> None:
    """What the service does: a base backup, and what is then needless; a dump; a drill, which compares that."""
    take_base(Request(), replace(base_context(app, Silent()), days=days))  # type: ignore[arg-type]
    made = create_set(Create(Tier.DAILY, only="database"), app.create_context(Silent()))
    stored = app.catalog.find(made.set)
    eventually(lambda: (now := stream(app)) and now.level and now.level > stored.time, 60)
    proof = prove_window(Request(), proof_context(app, Silent()))
    assert not proof.problem and proof.equals == stored.id and proof.moment >= stored.time


@pytest.mark.parametrize("major", (15, 17, 18) if FULL else (17,))
def test_a_week(major: int) -> None:
    choices = seeded()
    command = ["postgres", "-c", "track_commit_timestamp=on", "-c", "max_wal_size=32MB"]
    server = start_server(major, f"week{major}", in_memory=True, command=command)
    try:
        with short_folder() as folder:
            story = Story(Sidecar.make(folder, server, BACKUP_PITR="on"), server, "obcms_prod")
            server.execute(story.database, "CREATE TABLE t (n int PRIMARY KEY, x text)")
            ledger = Ledger(server, story.database, choices)
            app = story.sidecar.app()
            with receiving(app), writing(ledger):
                lived(app)
                said = story.sidecar.run("moments", "--json").json
            judged(story, ledger, said, choices)
    finally:
        server.remove()


def lived(app: App) -> None:
    """Seven nights. What no kept moment needs goes, and nothing else."""
    begun, bases = time.monotonic(), list[str]()
    for number in range(1, NIGHTS + 1):
        day = (time.monotonic() - begun) / max(1, number - 1)
        keep = timedelta(seconds=DAYS * day) if number > 1 else timedelta(days=1)
        before = datetime.now(UTC)
        night(app, keep / timedelta(days=1))
        (archive,) = clusters(app.settings.root)
        kept = archive.list_bases()
        bases.append(kept[-1].id)
        assert [each.id for each in kept] == bases[-len(kept) :]
        if len(kept) == number:
            continue
        # The oldest is the one that the oldest of the kept moments need.
        assert kept[0].ended <= datetime.now(UTC) - keep and kept[1].ended > before - keep
        assert min(each.name for each in archive.list_segments()) == kept[0].first.name(kept[0].size)
    assert 2 <= len(kept) < NIGHTS


def judged(story: Story, ledger: Ledger, said: Any, choices: random.Random) -> None:
    """The window that is said is the true one."""
    start, end = (datetime.fromisoformat(said[name]) for name in ("start", "end"))
    assert len(said["spans"]) == 1 and not said["breaks"] and said["live"], said["text"]
    print(said["text"], f"{len(said['bases'])} base backups, {len(ledger.commits)} commits")
    within = [start, *(start + (end - start) * choices.random() for _ in range(MOMENTS))]
    for moment in within:
        made = story.sidecar.run("create", "--at", moment.isoformat(" "), "--json")
        assert made.code == 0, made.output
        assert story.rows(made.json["set"]) == ledger.rows(moment), moment
    for outside in (start - timedelta(seconds=1), end + timedelta(seconds=1)):
        refused = story.sidecar.run("create", "--at", outside.isoformat(" "))
        assert refused.code == 44 and "cannot be brought back" in refused.output, refused.output
    nothing_left(story.sidecar, story.server)
