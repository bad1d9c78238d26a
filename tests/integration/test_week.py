"""A week of the window in a minute: each night a base backup with its retention, a dump, and a drill of the window.

The database server's clock cannot be passed in, so a day is as long as its night's work: `DAYS` are kept. In the end
the window is what it says that it is. FULL_SWEEP=1 tries all versions, and more moments.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

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
from tests.support.database import start_server
from tests.support.faults import eventually, nothing_left, seeded
from tests.support.ledger import COMMAND, TABLE, Ledger, judged
from tests.support.moments import Story, short_folder
from tests.support.sidecar import Sidecar

FULL = bool(os.environ.get("FULL_SWEEP"))
NIGHTS, DAYS = 7, 2.5
MOMENTS = 20 if FULL else 2
# Seconds between two looks of the receiver.
LOOK = 0.2


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
    server = start_server(major, f"week{major}", in_memory=True, command=COMMAND)
    try:
        with short_folder() as folder:
            story = Story(Sidecar.make(folder, server, BACKUP_PITR="on"), server, "obcms_prod")
            server.execute(story.database, TABLE)
            ledger = Ledger(server, story.database, choices)
            app = story.sidecar.app()
            with receiving(app), ledger.writing():
                lived(app)
                said = story.sidecar.run("moments", "--json").json
            assert len(said["spans"]) == 1 and not said["breaks"] and said["live"], said["text"]
            judged(story, ledger, said, choices, MOMENTS)
            # Some more came before it ended.
            after = datetime.fromisoformat(story.sidecar.run("moments", "--json").json["end"]) + timedelta(seconds=1)
            refused = story.sidecar.run("create", "--at", after.isoformat(" "))
            assert refused.code == 44 and "cannot be brought back" in refused.output, refused.output
            nothing_left(story.sidecar, server)
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
