"""The sidecar itself is killed, stopped and started twice: the volume stays whole, the next run clears up."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.database import Server
from tests.support.faults import (
    dumping,
    ended,
    eventually,
    fill_big,
    helpers,
    judge,
    nothing_left,
    seeded,
    sessions,
    under_way,
)
from tests.support.sidecar import Sidecar

CREATE = ("create", "daily", "--only", "database")
MEDIA = ("create", "daily", "--only", "media")


@pytest.fixture(scope="module")
def big(servers: Callable[[int], Server]) -> str:
    """A database on the shared server whose dump takes seconds."""
    server = servers(17)
    database = server.new_database()
    fill_big(server, database)
    return database


@pytest.fixture
def target(tmp_path: Path, server: Server, big: str) -> Sidecar:
    return Sidecar.make(tmp_path, server, big)


def small(sidecar: Sidecar) -> None:
    """A quick run that succeeds and leaves nothing of any other."""
    result = sidecar.run(*CREATE, DB_NAME="obcms_prod")
    assert result.code == 0, result.output


def test_killed_at_random_moments(target: Sidecar, server: Server) -> None:
    moments, crashed = seeded(), 0
    for _ in range(5):
        before = target.files()
        with under_way(target) as process:
            time.sleep(moments.uniform(0.3, 3))
            process.send_signal(signal.SIGKILL)
            code = ended(process).code
        judge(target.root)
        assert before.items() <= target.files().items()
        # A client that had not opened its pipe yet waits for a reader for ever: the next run must end it.
        small(target)
        nothing_left(target, server)
        # It may have been killed before it had written that it began.
        crashed += code == -9 and [run.outcome for run in target.runs()][1:2] == ["crashed"]
        assert "running" not in {run.outcome for run in target.runs()}
    assert crashed


def test_killed_while_rows_stream(target: Sidecar, server: Server) -> None:
    """The client's pipe is broken: it ends by itself, and with it the session."""
    with under_way(target) as process:
        dumping(target, process, server)
        process.send_signal(signal.SIGKILL)
        ended(process)
    eventually(lambda: not sessions(server, target))
    small(target)
    nothing_left(target, server)


def test_killed_while_its_client_waits_for_a_lock(target: Sidecar, server: Server, big: str) -> None:
    """No byte flows, so the client does not notice: the next run must end it."""
    with server.connect(big) as session, session.transaction():
        session.execute("SET LOCAL lock_timeout = '10s'")
        session.execute("LOCK TABLE big IN ACCESS EXCLUSIVE MODE")
        with under_way(target, BACKUP_LOCK_TIMEOUT="600") as process:
            eventually(lambda: sessions(server, target) and helpers(target))
            process.send_signal(signal.SIGKILL)
            ended(process)
        assert sessions(server, target)
        small(target)
        nothing_left(target, server)
    assert target.runs()[1].outcome == "crashed" and "without a record" in target.runs()[1].message


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_at_random_moments(target: Sidecar, server: Server, number: signal.Signals) -> None:
    small(target)
    moments, before, interrupted = seeded(), target.files(), 0
    for longest in (0.1, 0.1, 0.2, 0.3, 0.5, 1.5):
        runs = len(target.runs())
        with under_way(target) as process:
            # Any moment from the record of the run onward.
            eventually(lambda: len(list((target.root / "state/runs").glob("[!.]*.json"))) > runs, pause=0.005)  # noqa: B023
            time.sleep(moments.uniform(0, longest))
            process.send_signal(number)
            result = ended(process)
        if result.code == 0:
            before = target.files()
            continue
        interrupted += 1
        assert result.code == 128 + number and "Traceback" not in result.output, result.output
        assert result.output.count("[ERROR]") == 1 and f"stopped by signal {number.value}" in result.output
        run = target.runs()[0]
        assert (run.outcome, run.exit_code) == ("interrupted", 128 + number)
        assert target.files() == before
        nothing_left(target, server)
    assert interrupted
    small(target)


EARLY = """
import os, signal, sys
from backup.cli import main
from backup.storage import staged_file as staged
opened = staged._open
def told(path, flags):
    descriptor = opened(path, flags)
    if ".tar.gz" in path.name:
        os.kill(os.getpid(), signal.SIGTERM)
    return descriptor
staged._open = told
sys.exit(main(sys.argv[1:]))
"""


def test_stopped_as_a_file_has_just_been_made(target: Sidecar, server: Server) -> None:
    early = target.root.parent / "early.py"
    early.write_text(EARLY)
    target.program = early
    result = target.run("create", "manual", "--only", "media")
    target.program = None
    assert result.code == 128 + signal.SIGTERM, result.output
    assert list(target.root.glob("manual/.*")) == []
    nothing_left(target, server)


def test_stopped_twice(target: Sidecar, server: Server) -> None:
    with under_way(target) as process:
        dumping(target, process, server)
        for _ in range(5):
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        assert ended(process).code in (130, 143)
    assert target.runs()[0].outcome == "interrupted"
    nothing_left(target, server)


def test_stopped_while_it_waits_for_another_run(target: Sidecar, server: Server) -> None:
    with under_way(target) as first:
        dumping(target, first, server)
        with under_way(target, *MEDIA, "--wait", "60") as second:
            said = second.stdout.readline() if second.stdout else ""
            assert "waiting for another run to end: create daily (run " in said
            second.send_signal(signal.SIGTERM)
            assert ended(second).code == 143
    assert len(target.runs()) == 1


def test_of_five_at_once_one_runs(target: Sidecar, server: Server, big: str) -> None:
    with server.connect(big) as session, session.transaction():
        session.execute("SET LOCAL lock_timeout = '10s'")
        session.execute("LOCK TABLE big IN ACCESS EXCLUSIVE MODE")  # so that the one is at work until the others ended
        started = [target.start(*CREATE, BACKUP_LOCK_TIMEOUT="60") for _ in range(5)]
        eventually(lambda: sum(process.poll() is not None for process in started) == 4)
        next(process for process in started if process.poll() is None).terminate()
    results = [ended(process) for process in started]
    assert sorted(result.code for result in results) == [11, 11, 11, 11, 143], [r.output for r in results]
    winner = target.runs()[0]
    for result in results:
        if result.code == 11:
            assert f"another run is using the backup volume: create daily (run {winner.id} in" in result.output
            assert "nothing was done" in result.output and "--wait" in result.output
    assert len(target.runs()) == 1 and target.files() == {}
    nothing_left(target, server)


def test_five_that_wait_run_one_after_another(target: Sidecar) -> None:
    started = [target.start(*MEDIA, "--wait", "60") for _ in range(5)]
    assert [ended(process).code for process in started] == [0] * 5
    assert len(judge(target.root)) == 5, "also those that began in the same second have names of their own"
    spans = sorted((run.started, run.ended) for run in target.runs())
    assert len(spans) == 5 and {run.outcome for run in target.runs()} == {"success"}
    nothing_left(target)


def test_a_killed_holder_lets_the_next_one_in(target: Sidecar, server: Server) -> None:
    with under_way(target) as first:
        dumping(target, first, server)
        with under_way(target, *CREATE, "--wait", "60", DB_NAME="obcms_prod") as second:
            assert second.stdout and "waiting for" in second.stdout.readline()
            first.send_signal(signal.SIGKILL)
            result = ended(second)
    assert result.code == 0 and "recorded as crashed" in result.output
    nothing_left(target, server)
