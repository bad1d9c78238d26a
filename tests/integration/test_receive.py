"""WAL is received from real servers, and base backups are taken: through restarts, kills, gaps and new histories."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import docker.errors
import pytest

from backup.catalog.wal_archive import StreamFile, WalArchive, clusters
from backup.docker.engine import LABEL_RECEIVER
from backup.model.wal import Span, Stream, lsn, spans
from tests.support.database import Server, start_server
from tests.support.faults import eventually
from tests.support.sidecar import Sidecar
from tests.support.versions import MAJORS

WITHIN = 40


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def cluster(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this test alone: it is stopped, killed and given gaps."""
    with started(request.param) as server:
        yield server


@pytest.fixture
def alone() -> Iterator[Server]:
    """The same of PostgreSQL 17 only."""
    with started(17) as server:
        yield server


@contextlib.contextmanager
def started(major: int) -> Iterator[Server]:
    """A server for the body, which may remove it."""
    server = start_server(major, f"wal{major}")
    try:
        yield server
    finally:
        with contextlib.suppress(docker.errors.NotFound):
            server.remove()


@contextlib.contextmanager
def receiving(sidecar: Sidecar) -> Iterator[subprocess.Popen[str]]:
    """Run the receiving process for the body."""
    process = sidecar.start("receive")
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert receivers(sidecar) == []


def receivers(sidecar: Sidecar) -> list[str]:
    """The receivers of this sidecar's volume."""
    label = f"{LABEL_RECEIVER}={sidecar.app().instance()}"
    words = ["docker", "ps", "-aq", "--filter", f"label={label}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def stream(sidecar: Sidecar) -> Stream | None:
    """What is said of the stream."""
    return StreamFile(sidecar.root).read()


def level(sidecar: Sidecar, server: Server) -> Stream:
    """Wait until all that the server has is here."""
    place = lsn(server.value("postgres", "SELECT pg_current_wal_flush_lsn()::text"))

    def reached() -> list[Stream]:
        now = stream(sidecar)
        return [now] if now and now.up and lsn(now.received) >= place else []

    return eventually(reached, WITHIN)[0]


def window(sidecar: Sidecar) -> list[Span]:
    """The moments of the newest cluster that can be had."""
    now = stream(sidecar)
    assert now
    archive = WalArchive(sidecar.root, now.system_identifier)
    return spans(archive.list_bases(), archive.received(now.size, now))


def archive(sidecar: Sidecar) -> WalArchive:
    """The one cluster's."""
    (only,) = clusters(sidecar.root)
    return only


def make(tmp_path: Path, server: Server, **extra: str) -> Sidecar:
    """A sidecar that receives."""
    return Sidecar.make(tmp_path, server, BACKUP_PITR="on", **extra)


def test_a_window_begins_with_the_first_base_and_is_kept_over_ends(tmp_path: Path, cluster: Server) -> None:
    sidecar = make(tmp_path, cluster)
    with receiving(sidecar):
        before = level(sidecar, cluster)
        assert before.wants_base
        assert window(sidecar) == []
        done = sidecar.run("base")
        assert done.code == 0, done.output
        (span,) = window(sidecar)
        assert span.live
        eventually(lambda: not level(sidecar, cluster).wants_base, WITHIN)
        cluster.execute("postgres", "CREATE TABLE t AS SELECT g FROM generate_series(1, 300000) g")
        level(sidecar, cluster)
        assert archive(sidecar).list_segments()
    down = stream(sidecar)
    assert down
    assert (down.state, down.wants_base) == ("down", "")
    cluster.execute("postgres", "INSERT INTO t VALUES (1)")
    with receiving(sidecar):
        level(sidecar, cluster)
        (again,) = window(sidecar)
        assert again.live
        assert again.start == span.start
        assert again.end > span.end
        # A receiver that is killed, and one whose database's container is restarted.
        subprocess.run(["docker", "kill", *receivers(sidecar)], check=True, capture_output=True)
        cluster.execute("postgres", "INSERT INTO t VALUES (2)")
        level(sidecar, cluster)
        cluster.container.restart(timeout=10)
        cluster.wait()
        cluster.execute("postgres", "INSERT INTO t VALUES (3)")
        level(sidecar, cluster)
        (last,) = window(sidecar)
        assert last.live
        assert last.start == span.start
    assert sidecar.spooled() == []


@pytest.mark.one_version
def test_commits_never_wait_for_it(tmp_path: Path, cluster: Server) -> None:
    """It tells no place that it has synced, so the server takes it for no standby, whoever is to be one."""
    sidecar = make(tmp_path, cluster)
    with receiving(sidecar):
        level(sidecar, cluster)
        cluster.execute("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")
        cluster.execute("postgres", "SELECT pg_reload_conf()")
        eventually(lambda: cluster.value("postgres", "SHOW synchronous_standby_names") == "*", WITHIN)
        found = "SELECT sync_priority || sync_state FROM pg_stat_replication"
        assert cluster.value("postgres", found) == "0async"


@pytest.mark.one_version
def test_a_gap_is_seen_and_the_window_is_broken_there(tmp_path: Path, cluster: Server) -> None:
    sidecar = make(tmp_path, cluster)
    cluster.execute("postgres", "ALTER SYSTEM SET max_wal_size = '32MB'")
    cluster.execute("postgres", "SELECT pg_reload_conf()")
    with receiving(sidecar):
        level(sidecar, cluster)
        assert sidecar.run("base").code == 0
        cluster.execute("postgres", "CREATE TABLE kept AS SELECT 1 AS n")
        level(sidecar, cluster)
    last = datetime.now(UTC)
    for _ in range(12):
        cluster.execute("postgres", "SELECT pg_switch_wal()")
        cluster.execute("postgres", "CREATE TABLE IF NOT EXISTS t AS SELECT 1 AS g; INSERT INTO t VALUES (2)")
        cluster.execute("postgres", "CHECKPOINT")
    with receiving(sidecar):
        now = eventually(lambda: (each := stream(sidecar)) and each.wants_base and each, WITHIN)
        assert now
        (old,) = window(sidecar)
        assert not old.live
        assert old.end <= last
        assert sidecar.run("base").code == 0
        before, after = window(sidecar)
        assert before == old
        assert after.live
        assert after.start > last


def test_a_base_is_refused_while_nothing_is_received(tmp_path: Path, alone: Server) -> None:
    sidecar = make(tmp_path, alone)
    refused = sidecar.run("base")
    assert refused.code == 20
    assert "no WAL is being received" in refused.output
    assert clusters(sidecar.root) == []
    off = sidecar.run("base", BACKUP_PITR="off")
    assert off.code == 10


def test_what_was_received_is_compared_before_it_is_kept(tmp_path: Path, alone: Server) -> None:
    sidecar = make(tmp_path, alone)
    with receiving(sidecar):
        level(sidecar, alone)
        kept = archive(sidecar)
        alone.execute("postgres", "CREATE TABLE t AS SELECT 1 AS n; SELECT pg_switch_wal()")
        eventually(kept.list_segments, WITHIN)
    (name,) = [each.name for each in kept.list_segments()]
    raw = kept.stream.directory / name
    data = bytearray(raw.read_bytes())
    number = int(name[16:], 16) + 7
    (kept.stream.directory / f"{name[:16]}{number:08X}").write_bytes(bytes(data))
    with receiving(sidecar):
        told = eventually(lambda: (now := stream(sidecar)) and "cannot be kept" in now.message, WITHIN)
        assert told
    assert [each.name for each in kept.list_segments()] == [name]


def test_another_cluster_has_a_folder_of_its_own(tmp_path: Path, alone: Server) -> None:
    sidecar = make(tmp_path, alone)
    with receiving(sidecar):
        level(sidecar, alone)
        assert sidecar.run("base").code == 0
        first = archive(sidecar)
    alone.remove()
    with started(17), receiving(sidecar):
        now = eventually(
            lambda: (
                (each := stream(sidecar))
                and each.state == "streaming"
                and each.system_identifier != first.system_identifier
                and each
            ),
            WITHIN,
        )
        assert now
        assert now.wants_base
        assert len(clusters(sidecar.root)) == 2
        assert first.list_bases()


def test_a_new_timeline_wants_a_base(tmp_path: Path, alone: Server) -> None:
    sidecar = make(tmp_path, alone)
    with receiving(sidecar):
        level(sidecar, alone)
        assert sidecar.run("base").code == 0
        before = level(sidecar, alone)
        # As somebody does who restores by hand: it recovers, and goes on in a history of its own.
        data = "/var/lib/postgresql/data"
        alone.container.exec_run(["touch", f"{data}/recovery.signal"], user="postgres")
        alone.execute("postgres", "ALTER SYSTEM SET restore_command = 'false'")
        alone.container.restart(timeout=10)
        alone.wait()
        now = eventually(
            lambda: (each := stream(sidecar)) and each.timeline > before.timeline and each.wants_base and each, WITHIN
        )
        assert now
        (old,) = window(sidecar)
        assert not old.live
        assert sidecar.run("base").code == 0
        assert [each.live for each in window(sidecar)] == [False, True]
