"""A database server that is frozen (`docker pause`): its kernel still answers, so only patience tells."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from backup.errors import DatabaseUnavailable
from backup.postgres import session
from backup.postgres.server import is_at_work
from backup.postgres.session import Login
from tests.support.breaking import BREAKER
from tests.support.database import PASSWORD, USER, Server, start_server
from tests.support.faults import docker, freeze, freezing
from tests.support.restoring import NEW, OLD, Target, drop_kept

IMPATIENT = """
from backup.postgres import session
session._ASK, session._CONNECT_TIMEOUT, session._SILENCE, session._LIMIT = 0.5, 2, 8.0, 4.0
"""


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server of our own, to be paused."""
    made = start_server(17, "paused", in_memory=True)
    try:
        yield made
    finally:
        docker("unpause", made.container.id, check=False)
        made.remove()


@pytest.fixture
def login(own: Server, monkeypatch: pytest.MonkeyPatch) -> Login:
    monkeypatch.setattr(session, "_ASK", 0.3)
    monkeypatch.setattr(session, "_CONNECT_TIMEOUT", 2)
    return Login(own.address, 5432, USER, "postgres", PASSWORD)


def test_work_without_a_limit_is_ended_when_the_server_is_frozen(own: Server, login: Login) -> None:
    with pytest.raises(DatabaseUnavailable), session.connected(login, "test", limit=0) as connection:
        freeze(own.container.id)
        begun = time.monotonic()
        try:
            connection.execute("SELECT 1")
        finally:
            docker("unpause", own.container.id)
    assert time.monotonic() - begun < 60


def test_a_long_statement_is_waited_for_while_the_server_greets_others(login: Login) -> None:
    with session.connected(login, "test", limit=0) as connection:
        row = connection.execute("SELECT 7 FROM pg_sleep(6)").fetchone()
    assert row == (7,)


def test_a_session_is_at_work_when_it_does_or_just_did_something(own: Server, login: Login) -> None:
    """Neither idle for longer than the patience, nor behind somebody's lock or a frozen client for as long."""

    def seen(patience: float = 2, locks: float = 0) -> bool:
        return is_at_work(login, "postgres", "a load", patience, locks)

    words, others = (login.conninfo(password=PASSWORD, application_name=name) for name in ("a load", "another"))
    with psycopg.connect(words, autocommit=True) as load, psycopg.connect(others) as other:
        load.execute("SET lock_timeout = '15s'")
        assert seen(), "it may be between two statements"
        time.sleep(2.5)
        assert not seen()
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(load.execute, "SELECT pg_sleep(4)")
            time.sleep(3)
            assert seen(), "it executes one"
            slow.result()
            other.execute("SELECT pg_advisory_xact_lock(1)")
            waiting = pool.submit(load.execute, "SELECT pg_advisory_lock(1)")
            time.sleep(2.5)
            assert not seen()
            assert seen(locks=60), "a dump may wait for one"
            assert not seen(locks=2)
            other.rollback()
            waiting.result()
    assert not seen(0)
    with contextlib.closing(psycopg.connect(words, autocommit=True)) as frozen:
        frozen.pgconn.send_query(b"COPY (SELECT repeat('x', 1000) FROM generate_series(1, 1000000)) TO STDOUT")
        frozen.pgconn.flush()
        time.sleep(2.5)
        assert not seen(), "its client takes nothing"


@pytest.mark.parametrize("step", ["loading", "extracting", "ready", "swapping database", "starting"])
def test_frozen_in_the_middle_of_a_restore(tmp_path: Path, own: Server, step: str) -> None:
    """Made, counted, exchanged, measured: at each step it ends, and says how things are."""
    target = Target.make(tmp_path, own)
    program = target.sidecar.root.parent / "breaker.py"
    program.write_text(BREAKER.replace("step, verb =", f"{IMPATIENT}step, verb ="))
    target.sidecar.program = program
    environment = {"BREAK_STEP": step, "BREAK_COMMAND": freezing(own.container.id), "BACKUP_STALL_TIMEOUT": "5"}
    try:
        result = target.restore("--no-safety", **environment)
        assert result.code in (50, 51, 52), result.output
        assert "Traceback" not in result.output
    finally:
        docker("unpause", own.container.id, check=False)
    own.wait()
    if result.code == 51:
        assert "--rollback" in result.output
        ended = target.sidecar.run("restore", "--rollback")
        assert ended.code == 0, ended.output
        assert target.live() == NEW
        target.nothing_beside()
    else:
        assert target.live() == (NEW if result.code == 50 else OLD), result.output
    assert not target.journal.exists()
    drop_kept(target)


def test_frozen_in_the_middle_of_an_undo(tmp_path: Path, own: Server) -> None:
    target = Target.make(tmp_path, own)
    assert target.restore("--no-safety").code == 0 and target.live() == OLD
    program = target.sidecar.root.parent / "breaker.py"
    program.write_text(BREAKER.replace("step, verb =", f"{IMPATIENT}step, verb ="))
    target.sidecar.program = program
    words = {"BREAK_STEP": "swapping database", "BREAK_COMMAND": freezing(own.container.id)}
    try:
        result = target.sidecar.run("undo", "--force", **words)
    finally:
        docker("unpause", own.container.id, check=False)
    assert result.code == 51 and "--rollback" in result.output, result.output
    own.wait()
    assert target.sidecar.run("restore", "--resume").code == 0
    assert target.live() == OLD and not target.journal.exists(), "it was being rolled back, and is"
    drop_kept(target)
