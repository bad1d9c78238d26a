"""A recovery has ended where it was told to, with all of its WAL read, or it is no recovery."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backup.errors import EngineError, IntegrityError
from backup.model.moment import Commit
from backup.postgres import recovery
from backup.postgres.session import Login

STOP = Commit(0x3016078, datetime(2026, 11, 29, tzinfo=UTC))


class Server:
    """A server that says this."""

    def __init__(self, *said: str) -> None:
        self.said, self.ended = list(said), False

    def log(self) -> list[str]:
        return self.said

    def require_running(self) -> None:
        if self.ended:
            raise EngineError("it has ended")


STOPPED = 'LOG:  recovery stopping after WAL location (LSN) "0/3016078"'
CONSISTENT = "LOG:  recovery stopping after reaching consistency"
READY = "LOG:  database system is ready to accept connections"


def wait(server: Server, stop: Commit | None, stall: int = 60) -> None:
    recovery._wait(cast(Any, server), Login("", 1, "", ""), stop, stall, lambda _: None)


@pytest.mark.parametrize(
    ("said", "stop"),
    [
        ((READY,), STOP),
        ((CONSISTENT, READY), STOP),
        ((STOPPED, READY), None),
        ((STOPPED.replace("0/3016078", "0/3016079"), READY), STOP),
        (("FATAL:  recovery ended before configured recovery target was reached",), STOP),
    ],
)
def test_a_server_that_stopped_elsewhere_is_not_asked_for_anything(said: tuple[str, ...], stop: Commit | None) -> None:
    with pytest.raises(IntegrityError, match="did not recover to"):
        wait(Server(*said), stop)


def test_one_that_ended_or_gets_no_further_is_not_waited_for() -> None:
    server = Server("LOG:  redo starts at 0/2000028")
    with pytest.raises(EngineError, match="got no further"):
        wait(server, STOP, stall=0)
    server.ended = True
    with pytest.raises(EngineError, match="it has ended"):
        wait(server, STOP)


def test_one_whose_log_is_as_long_as_it_gets_is_seen_to_get_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its log only the last lines are there."""
    passed = itertools.count(step=40)
    time = SimpleNamespace(monotonic=lambda: next(passed), sleep=lambda _: None)
    monkeypatch.setattr("backup.postgres.recovery.time", time)
    server = Server()
    lines = iter([*(f"LOG:  redo in progress, elapsed time: {n} s" for n in range(9)), STOPPED])
    monkeypatch.setattr(server, "log", lambda: [next(lines, "")])
    with pytest.raises(EngineError, match="got no further for 60 s"):
        wait(server, STOP)
    assert next(lines, None) is None


def test_nothing_of_the_live_configuration_is_used() -> None:
    found = recovery._settings(STOP, 100, 17)
    assert found["recovery_target_lsn"] == "0/3016078" and found["hot_standby"] == "off"
    assert found["config_file"].startswith("/recovery/")
    assert "recovery_target" not in found and recovery._settings(None, 100, 17)["recovery_target"] == "immediate"
    # What 14 does not know keeps it from starting.
    assert "log_startup_progress_interval" not in recovery._settings(STOP, 100, 14)


@pytest.fixture
def combine(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run what combines bases, where pg_combinebackup does this."""
    data, programs = tmp_path / "data", tmp_path / "bin"
    programs.mkdir()
    (data / "pg_wal").mkdir(parents=True)
    folders = [f"{recovery._LINKS}/{number}" for number in range(2)]
    for folder in folders:
        (data / folder).mkdir(parents=True)

    def run(made: str) -> subprocess.CompletedProcess[str]:
        for name, does in (("pg_combinebackup", made), ("pg_verifybackup", "true")):
            (programs / name).write_text(f"#!/bin/sh\n[ $1 = --help ] && exit\n{does}\n")
            (programs / name).chmod(0o755)
        path = {"PATH": f"{programs}:{os.environ['PATH']}"}
        words = ["sh", "-c", recovery._COMBINE, str(data), *folders]
        return subprocess.run(words, env=path, capture_output=True, text=True, check=False)

    return run


def test_all_of_a_combined_base_is_moved_where_it_is_to_be(
    combine: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Also what begins with a dot, which the server sends as it sends all that lies in its folder."""
    whole = f"{recovery._LINKS}/whole"
    done = combine(f"mkdir -p {whole}/pg_wal/summaries {whole}/links; touch {whole}/.psql_history {whole}/PG_VERSION")
    assert done.returncode == 0, done.stderr
    found = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert found == [".psql_history", "PG_VERSION", "links", "pg_wal"]
    assert (tmp_path / "data" / "pg_wal" / "summaries").is_dir()


@pytest.mark.parametrize(
    ("does", "kind"),
    [
        ("echo 'pg_combinebackup: error: manifest system identifier is 1, but control file has 2' >&2; exit 1", True),
        ("echo 'pg_combinebackup: error: could not write file: No space left on device' >&2; exit 1", False),
        ("echo 'pg_combinebackup: error: out of memory' >&2; exit 1", False),
        ("kill -9 $$", False),
    ],
)
def test_what_is_wanting_for_it_says_nothing_of_the_bases(
    combine: Callable[[str], subprocess.CompletedProcess[str]], does: str, kind: bool
) -> None:
    """A drill would hold it against the window."""
    done = combine(does)
    assert done.returncode
    error = recovery._uncombined(done.returncode, done.stderr)
    assert isinstance(error, IntegrityError) == kind and "Nothing was changed" in error.message
    assert ("`base --full`" if kind else "docker system df") in error.hint
