"""What PostgreSQL's clients are told, by one that writes out what it was told."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from backup.postgres.clients import NetworkClients
from backup.postgres.session import Login
from backup.postgres.session_settings import Standing
from tests.support.faults import eventually

INSTANCE, RUN = "0123456789ab", "20260102T030405Z-abcdef"
TELLTALE = """#!/bin/sh
for word; do case $word in --file=*) out=${word#--file=};; esac; done
printf '%s\\n' "$@" >"$out"
"""


@pytest.fixture
def clients(tmp_path: Path) -> NetworkClients:
    program = tmp_path / "17" / "bin" / "pg_dump"
    program.parent.mkdir(parents=True)
    program.write_text(TELLTALE)
    program.chmod(0o700)
    spool = tmp_path / "spool"
    spool.mkdir()
    made = NetworkClients(Login("db", 5432, "u", "d"), spool, INSTANCE, 5, tmp_path)
    made.check(Standing(17))
    return made


def told(clients: NetworkClients, options: str = "") -> dict[str, str]:
    """What the connection string says."""
    with clients.run("pg_dump", (), RUN, options) as output:
        words = b"".join(output.chunks()).decode().splitlines()
    (conninfo,) = (word.removeprefix("--dbname=") for word in words if word.startswith("--dbname="))
    return {key: str(value) for key, value in conninfo_to_dict(conninfo).items()}


def test_a_silent_session_is_kept_alive_and_a_dead_line_noticed(clients: NetworkClients) -> None:
    said = told(clients, "-c timezone=UTC")
    assert said["options"] == f"{Standing(17).options} -c timezone=UTC" and said["application_name"].endswith(RUN)
    idle, interval, count = (int(said.get(f"keepalives_{what}", 0)) for what in ("idle", "interval", "count"))
    assert 0 < idle <= 60, "routers forget a silent line within minutes"
    assert 120 <= idle + interval * count <= 600, "nor does a short outage end a load"


# As the real one it takes an interrupt, though who started it ignores those.
RECEIVER = f"""#!{sys.executable} -IS
import os, pathlib, signal, sys
out = pathlib.Path(next(word for word in sys.argv if word.startswith("--directory=")).partition("=")[2])
def end(number, _):
    (out / "said").write_text(str(number))
    sys.exit()
signal.signal(signal.SIGINT, end)
(out / "new").write_text(str(os.getpid()))
(out / "new").rename(out / "pid")
signal.pause()
"""


@pytest.fixture
def stream(clients: NetworkClients, tmp_path: Path) -> Iterator[Path]:
    """Where a receiver writes, which says who it is."""
    program = tmp_path / "17" / "bin" / "pg_receivewal"
    program.write_text(RECEIVER)
    program.chmod(0o700)
    folder = tmp_path / "wal" / "1" / "stream"
    folder.mkdir(parents=True)
    yield folder


def test_a_receiver_is_asked_to_end(clients: NetworkClients, stream: Path, tmp_path: Path) -> None:
    with clients.receiver(tmp_path / "wal", "1/stream", "r") as receiver:
        eventually(lambda: (stream / "pid").exists() and receiver.running())
        receiver.entered()
        assert not list((tmp_path / "spool").glob("*.pass"))
    assert not receiver.running() and (stream / "said").read_text() == "2"


def test_a_receiver_dies_with_whoever_started_it(clients: NetworkClients, stream: Path, tmp_path: Path) -> None:
    """Another one is started by the next, and two must never write into one folder."""
    if not (child := os.fork()):
        with clients.receiver(tmp_path / "wal", "1/stream", "r"):
            signal.pause()
    eventually((stream / "pid").exists)
    pid = int((stream / "pid").read_text())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    def gone() -> bool:
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z"

    eventually(gone)
    assert not (stream / "said").exists()
