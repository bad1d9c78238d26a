"""The state of two databases of one server, a moment before it, and a physical restore of that; where it is broken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg

from tests.support.database import start_server
from tests.support.faults import docker, eventually, helpers
from tests.support.moments import Story, receiving, short_folder
from tests.support.sidecar import Result, Sidecar

DATA = "/var/lib/postgresql/data"
OLD, NEW = ("1", "7"), ("12", "78")
# Breaks the product: where it notes a step, where it asks something of the database's container, between two renames.
BREAKER = """
import os, signal, sys
from backup.cli import main
from backup.docker.database_server import DatabaseServer
from backup.operations.restore.journal import JournalFile
from backup.postgres import cluster_trees
from backup.operations.pitr import receive
receive.LOOK, receive._LONGEST = 0.5, 2.0
place, _, when = os.environ.get("BREAK_AT", "").partition(" ")
move, pause = os.environ.get("BREAK_MOVE"), os.environ.get("BREAK_PAUSE")
counted = {}
def breaking(name, act):
    def acting(*arguments):
        counted[name] = number = counted.get(name, 0) + 1
        if place == f"{name}{number}" and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        done = act(*arguments)
        if place == f"{name}{number}" and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    return acting
JournalFile._write = breaking("note", JournalFile._write)
for name in ("stop", "start", "run"):
    setattr(DatabaseServer, name, breaking(name, getattr(DatabaseServer, name)))
if move:
    one = 'mv "$1/$3" "$2/$3"'
    then = "sleep 600" if pause else "exit 9"
    broken = one + '; moved=$((${moved:-0} + 1)); [ "$moved" != ' + move + " ] || " + then
    whole, ask = cluster_trees._SETTLE, DatabaseServer.run
    def once(self, script, words):
        # What ends it again is not broken.
        cluster_trees._SETTLE = cluster_trees._SETTLE if script != cluster_trees._SETTLE else whole
        return ask(self, script, words)
    DatabaseServer.run = once
    cluster_trees._SETTLE = whole.replace(one, broken, 1)
sys.exit(main(sys.argv[1:]))
"""


@contextmanager
def telling(major: int, slot: str = "off", **options: Any) -> Iterator[Story]:
    """A base backup, a moment `then`, and a later state of two databases."""
    server = start_server(major, f"physical{major}", **options)
    try:
        with short_folder() as folder:
            story = Story(Sidecar.make(folder, server, BACKUP_PITR="on", BACKUP_PITR_SLOT=slot), server, "obcms_prod")
            breaker = folder / "breaker.py"
            breaker.write_text(BREAKER)
            story.sidecar.program = breaker
            server.new_database("other")
            server.execute("other", "CREATE TABLE o (n int); INSERT INTO o VALUES (7)")
            server.execute(story.database, "CREATE TABLE t (n int); INSERT INTO t VALUES (1)")
            with receiving(story):
                ran(story, "base")
                story.execute("SELECT pg_switch_wal()", "then")
                server.execute("other", "INSERT INTO o VALUES (8)")
                server.execute(story.database, "INSERT INTO t VALUES (2)")
                story.level()
                yield story
    finally:
        server.remove()


def ran(story: Story, *words: str, code: int = 0, **environment: Any) -> Result:
    result = story.sidecar.run(*words, **environment)
    assert result.code == code, result.output
    return result


def physical(story: Story, *options: str, **environment: Any) -> Result:
    """Restore the moment `then`, once the stream is level again after what was before."""
    received_again(story)
    at = story.moments["then"].isoformat(" ")
    return story.sidecar.run("restore", "--at", at, "--physical", *options, **environment)


def received_again(story: Story) -> None:
    """Wait for the stream, which has seen the server stop, start and change its timeline."""
    now = datetime.now(UTC)

    def level() -> bool:
        with contextlib.suppress(psycopg.Error):
            story.server.execute("postgres", "SELECT txid_current()")
        said = story.stream().get("level")
        return bool(said and datetime.fromisoformat(said) > now)

    eventually(level, 200, 0.5)


def live(story: Story) -> tuple[str, str]:
    """What both databases hold."""
    story.server.wait()
    query = "SELECT string_agg(n::text, '' ORDER BY n) FROM "
    return story.server.value(story.database, query + "t"), story.server.value("other", query + "o")


def beside(story: Story) -> list[str]:
    """What a restore keeps in the data folder."""
    listed = docker("exec", story.server.container.id, "sh", "-c", 'ls -d "$PGDATA"/pgsql_tmp* 2>/dev/null || true')
    return listed.split()


def as_before(story: Story) -> None:
    assert live(story) == NEW
    assert beside(story) == [] and helpers(story.sidecar) == []
    assert not (story.sidecar.root / "state" / "restore.json").exists()


def unfinished(story: Story) -> bool:
    return (story.sidecar.root / "state" / "restore.json").exists()


def halted(story: Story) -> str:
    """The helper that stands still between two renames."""
    for each in helpers(story.sidecar):
        # The shell's own words tell of it, too, before it is there.
        shown = docker("top", each, "-o", "pid,args", check=False)
        if any(line.split(None, 1)[1:] == ["sleep 600"] for line in shown.splitlines()):
            return each
    return ""
