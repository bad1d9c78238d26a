"""A recovery has ended where it was told to, with all of its WAL read, or it is no recovery."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
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
