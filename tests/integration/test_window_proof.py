"""A drill of the window compares a set, dumped while others write, with what its dump saw: exactly that comes back."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from backup.catalog.wal_archive import clusters
from backup.model.wal import WindowProof
from tests.support.database import Server, start_server
from tests.support.faults import ended, eventually, nothing_left, seeded, under_way
from tests.support.moments import Story, receiving, short_folder
from tests.support.sidecar import Sidecar
from tests.support.versions import MAJORS

COMMAND = ["postgres", "-c", "max_prepared_transactions=20"]
TABLES = """
    CREATE TABLE t (n bigserial PRIMARY KEY, k int, x text);
    CREATE TABLE other (n int);
    CREATE UNLOGGED TABLE u (n int);
    INSERT INTO u VALUES (1);
    INSERT INTO t (k, x) SELECT g, repeat('x', 50) FROM generate_series(1, 20000) g;
"""
WRITERS = 6


@pytest.fixture(scope="module", params=MAJORS)
def story(request: pytest.FixtureRequest) -> Iterator[Story]:
    """A server whose WAL is received, with a base backup."""
    server = start_server(request.param, f"proof{request.param}", in_memory=True, command=COMMAND)
    try:
        with short_folder() as folder:
            told = Story(Sidecar.make(folder, server, BACKUP_PITR="on"), server, "obcms_prod")
            server.execute(told.database, TABLES)
            with receiving(told):
                based(told)
                yield told
    finally:
        server.remove()


class Writer(threading.Thread):
    """Changes rows in every way until it is told to end. What it does is chosen by its number."""

    def __init__(self, server: Server, database: str, number: int, over: threading.Event) -> None:
        super().__init__(name=f"writer {number}", daemon=True)
        self._server, self._database, self._number, self._over = server, database, number, over
        self.error: BaseException | None = None
        self.commits = 0

    def run(self) -> None:
        try:
            with self._server.connect(self._database) as connection:
                # Whoever does not wait for the disk overtakes those who do.
                if self._number % 2:
                    connection.execute("SET synchronous_commit = off")
                while not self._over.is_set():
                    self._change(connection)
                    self.commits += 1
        except BaseException as error:  # noqa: BLE001 - the test asks for it
            self.error = error

    def _change(self, connection: psycopg.Connection[Any]) -> None:
        chance = random.random()
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t (k, x) VALUES (%s, 'new')", (self._number,))
        connection.execute("SAVEPOINT s")
        connection.execute("UPDATE t SET x = x || 'y' WHERE n = %s", (random.randrange(20000),))
        if chance < 0.2:
            connection.execute("ROLLBACK TO s")
        connection.execute("DELETE FROM t WHERE n = %s", (random.randrange(20000),))
        if chance > 0.9:
            name = f"{self._number}-{self.commits}"
            connection.execute(f"PREPARE TRANSACTION '{name}'".encode())
            connection.execute(f"COMMIT PREPARED '{name}'".encode())
        else:
            connection.execute("ROLLBACK" if chance > 0.8 else "COMMIT")


@contextlib.contextmanager
def writing(story: Story) -> Iterator[None]:
    """Many write during the body."""
    over = threading.Event()
    writers = [Writer(story.server, story.database, number, over) for number in range(WRITERS)]
    for each in writers:
        each.start()
    try:
        eventually(lambda: all(each.commits > 3 or each.error for each in writers), 60, 0.05)
        yield
    finally:
        over.set()
        for each in writers:
            each.join(60)
    assert [each.error for each in writers] == [None] * WRITERS


def based(story: Story) -> None:
    """A base backup."""
    result = story.sidecar.run("base")
    assert result.code == 0, result.output


def dumped(story: Story) -> str:
    """A set of now."""
    result = story.sidecar.run("create", "daily", "--only", "database", "--json")
    assert result.code == 0, result.output
    return str(result.json["set"])


def proof(story: Story) -> WindowProof:
    """What the newest drill found."""
    (archive,) = clusters(story.sidecar.root)
    found = archive.proof()
    assert found
    return found


@contextlib.contextmanager
def lying(story: Story, identifier: str, **snapshot: str) -> Iterator[None]:
    """Let a set say that it saw something else."""
    (path,) = (story.sidecar.root / "daily").glob(f"*_{identifier}.json")
    before = path.read_bytes()
    manifest = json.loads(before)
    manifest["database"]["snapshot"] |= snapshot
    path.write_text(json.dumps(manifest))
    try:
        yield
    finally:
        path.write_bytes(before)


def test_a_set_dumped_among_writers_is_equal_to_what_comes_back(story: Story) -> None:
    seeded()
    with writing(story):
        sets = [dumped(story) for _ in range(3)]
    story.level()
    result = story.sidecar.run("drill", "--moments")
    assert result.code == 0, result.output
    found = proof(story)
    (run,) = [run for run in story.sidecar.runs() if run.operation == "drill-moments"][:1]
    # All three may have seen commits in another order than the WAL has them in: one of some hundred times.
    said = f"equals {found.equals} object by object" if found.equals else "ended in another order"
    assert found.equals in (*sets, "") and said in run.message and said in result.output, result.output
    assert run.outcome == "success"
    nothing_left(story.sidecar, story.server)


@pytest.mark.one_version
def test_what_differs_is_named_and_the_window_is_not_proven(story: Story) -> None:
    """The set of an hour later says that it saw what the one before did."""
    first = dumped(story)
    story.server.execute(story.database, "DELETE FROM t WHERE n = (SELECT max(n) FROM t); CREATE TABLE later ()")
    second = dumped(story)
    part = story.sidecar.catalog.find(first).manifest.database
    assert part and part.snapshot
    story.level()
    with lying(story, second, transactions=part.snapshot.transactions):
        result = story.sidecar.run("drill", "--moments")
    assert result.code == 41, result.output
    for words in (second, "table data public.t", "instead of", "table public.later is missing"):
        assert words in result.output, result.output
    assert "public.other" not in result.output
    assert not proof(story).equals and second in proof(story).problem
    story.server.execute(story.database, "DROP TABLE later")


@contextlib.contextmanager
def hanging(story: Story, value: int) -> Iterator[None]:
    """A row is committed in the WAL and nobody sees it: its commit waits for a standby that there is not."""
    server, over = story.server, threading.Event()

    def insert() -> None:
        """Until one waits: sessions show the setting before the checkpointer, which decides it, has read it."""
        with server.connect(story.database) as connection:
            while not over.is_set():
                connection.execute("INSERT INTO other VALUES (%s)", (value,))
                over.wait(0.05)

    def waits() -> bool:
        return bool(server.value("postgres", "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))

    thread = threading.Thread(target=insert, daemon=True)
    try:
        server.execute("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        server.execute("postgres", "SELECT pg_reload_conf()")
        eventually(lambda: server.value("postgres", "SHOW synchronous_standby_names") == "nobody", 30)
        thread.start()
        eventually(waits, 30)
        yield
    finally:
        over.set()
        server.execute("postgres", "ALTER SYSTEM RESET synchronous_standby_names")
        server.execute("postgres", "SELECT pg_reload_conf()")
        thread.join(60)


@pytest.mark.one_version
def test_a_set_that_saw_commits_in_another_order_than_the_wal_is_not_compared(story: Story) -> None:
    before = dumped(story)
    with hanging(story, 1), story.server.connect(story.database) as connection:
        connection.execute("SET synchronous_commit = local")
        connection.execute("INSERT INTO other VALUES (2)")
        mixed = dumped(story)
    story.level()
    result = story.sidecar.run("drill", "--moments")
    assert result.code == 0, result.output
    assert f"not compared: {mixed}: transactions ended in another order" in result.output, result.output
    assert proof(story).equals == before


@pytest.mark.one_version
def test_a_set_that_has_rotted_is_damaged_from_then_on_and_the_one_before_is_compared(story: Story) -> None:
    before, rotten = dumped(story), dumped(story)
    story.level()
    dump = max((story.sidecar.root / "daily").glob("obcms_backup_*.sql.gz"))
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)
    result = story.sidecar.run("drill", "--moments")
    assert result.code == 40 and f"{rotten} is damaged" in result.output, result.output
    assert "the window itself is proven" in result.output and proof(story).equals == before
    assert next(each for each in story.sidecar.sets() if each.id == rotten).state == "damaged"
    dump.unlink()


@pytest.mark.one_version
def test_a_set_that_did_not_see_a_commit_from_before_the_base_is_not_compared(story: Story) -> None:
    with hanging(story, 3):
        based(story)
        unseen = dumped(story)
    story.level()
    result = story.sidecar.run("drill", "--moments")
    assert result.code == 0, result.output
    assert f"not compared: {unseen}: at no place in the WAL was exactly that committed" in result.output, result.output


@pytest.mark.one_version
def test_a_table_that_was_truncated_before_the_dump_came_to_it_is_no_difference(story: Story) -> None:
    """The dump sees it as it is then, and not as its snapshot has it."""
    with story.server.connect(story.database) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS staging AS SELECT 1 AS n")
        connection.execute("BEGIN")
        connection.execute("TRUNCATE staging")
        with under_way(story.sidecar, "create", "daily", "--only", "database", "--json") as process:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            eventually(lambda: story.server.value("postgres", waiting), 60)
            connection.execute("COMMIT")
            made = ended(process, 120)
    assert made.code == 0, made.output
    stored = story.sidecar.catalog.find(made.json["set"])
    part = stored.manifest.database
    assert part and part.snapshot and part.snapshot.rewritten == ("public.staging",)
    assert part.rows["public.staging"] == 0
    story.level()
    result = story.sidecar.run("drill", "--moments")
    assert result.code == 0, result.output
    assert proof(story).equals == stored.id


@pytest.mark.one_version
def test_sets_made_without_pitr_say_nothing_of_it(story: Story) -> None:
    result = story.sidecar.run("create", "manual", "--only", "database", "--json", BACKUP_PITR="off")
    assert result.code == 0, result.output
    part = story.sidecar.catalog.find(result.json["set"]).manifest.database
    assert part and part.snapshot is None
