"""By choice the server keeps WAL while nobody receives it, up to its own limit; off, nothing of ours is on it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backup.model.wal import WalSlot, whole_second
from backup.postgres.wal_slot import slot_name
from tests.integration.test_receive import WITHIN, level, make, receiving, started, stream, window
from tests.support.database import USER, Server
from tests.support.faults import docker, eventually
from tests.support.physical import physical, received_again, telling
from tests.support.sidecar import Sidecar

SLOTS = "SELECT string_agg(slot_name || ' ' || wal_status, ', ') FROM pg_replication_slots WHERE NOT temporary"
SEGMENT = 16 << 20


@pytest.fixture(params=(15, 17, 18), ids=lambda major: f"pg{major}")
def cluster(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that keeps as little WAL as it can, and by slots 1 GB."""
    with started(request.param) as server:
        tell(server, "max_wal_size = '32MB'")
        tell(server, "max_slot_wal_keep_size = '1GB'")
        yield server


@pytest.fixture
def alone() -> Iterator[Server]:
    """One of PostgreSQL 17 as it comes."""
    with started(17) as server:
        yield server


def tell(server: Server, setting: str) -> None:
    """Set it without a restart."""
    name, _, value = setting.partition(" = ")
    server.execute("postgres", f"ALTER SYSTEM SET {setting}")
    server.execute("postgres", "SELECT pg_reload_conf()")
    eventually(lambda: server.value("postgres", f"SHOW {name}") == value.strip("'"), WITHIN)


def slot(sidecar: Sidecar) -> WalSlot:
    """What is said of the slot, once something is."""
    return eventually(lambda: (now := stream(sidecar)) and now.up and now.slot, WITHIN) or WalSlot(name="")


def recycle(server: Server) -> None:
    """Write a dozen segments, of which the server keeps two by itself."""
    server.execute("postgres", "CREATE TABLE IF NOT EXISTS t (n int)")
    for _ in range(12):
        server.execute("postgres", "INSERT INTO t VALUES (1); SELECT pg_switch_wal()")
        server.execute("postgres", "CHECKPOINT")


def based(sidecar: Sidecar) -> None:
    done = sidecar.run("base")
    assert done.code == 0, done.output


def topic(sidecar: Sidecar, **environment: Any) -> list[Any]:
    """What the doctor says of it."""
    found = sidecar.run("doctor", "--json", **environment).json["findings"]
    return [each for each in found if each["topic"] == "moments" and "slot" in each["text"]]


def test_what_was_written_meanwhile_is_not_missing(tmp_path: Path, cluster: Server) -> None:
    sidecar = make(tmp_path, cluster, BACKUP_PITR_SLOT="on")
    name = slot_name(sidecar.app().instance())
    with receiving(sidecar):
        level(sidecar, cluster)
        based(sidecar)
        level(sidecar, cluster)
        (before,) = window(sidecar)
        found = slot(sidecar)
        assert (found.name, found.problem) == (name, "") and found.safe and 0 <= found.held < 3 * SEGMENT
        assert cluster.value("postgres", SLOTS) == f"{name} reserved"
        # No commit waits for it, whoever is to be a standby.
        tell(cluster, "synchronous_standby_names = '*'")
        assert cluster.value("postgres", "SELECT sync_priority FROM pg_stat_replication") == 0
        tell(cluster, "synchronous_standby_names = ''")
    recycle(cluster)
    assert "extended" in cluster.value("postgres", SLOTS)
    with receiving(sidecar):
        eventually(lambda: slot(sidecar).held > 10 * SEGMENT or window(sidecar)[0].end > before.end, WITHIN)
        level(sidecar, cluster)
        # What has come is not kept any longer.
        eventually(lambda: slot(sidecar).held < 3 * SEGMENT, WITHIN)
        (after,) = window(sidecar)
        assert after.live and after.start == before.start and after.end > before.end
        assert f"{name} keeps" in sidecar.run("moments").output and f"{name} keeps" in sidecar.run("status").output


def test_more_than_the_limit_breaks_the_window_and_says_so(tmp_path: Path, cluster: Server) -> None:
    tell(cluster, "max_slot_wal_keep_size = '64MB'")
    sidecar = make(tmp_path, cluster, BACKUP_PITR_SLOT="on")
    with receiving(sidecar):
        level(sidecar, cluster)
        based(sidecar)
        # A part of the window that holds no whole second is not told.
        eventually(lambda: (now := window(sidecar)[0]) and whole_second(now.start) <= now.end, WITHIN)
        level(sidecar, cluster)
    recycle(cluster)
    assert cluster.value("postgres", SLOTS) == f"{slot_name(sidecar.app().instance())} lost"
    with sidecar.start("receive") as process:
        eventually(lambda: (now := stream(sidecar)) and now.up and now.wants_base, WITHIN)
        assert "reserved" in cluster.value("postgres", SLOTS) and not slot(sidecar).problem
        based(sidecar)
        assert [each.live for each in window(sidecar)] == [False, True]
        assert "broken" in sidecar.run("moments").output
        process.terminate()
        said, _ = process.communicate(timeout=30)
    assert "has given up the slot" in said and "the window is broken here" in said, said


def test_without_a_limit_there_is_none_and_wal_is_received(tmp_path: Path, alone: Server) -> None:
    sidecar = make(tmp_path, alone, BACKUP_PITR_SLOT="on")
    with receiving(sidecar):
        level(sidecar, alone)
        assert "max_slot_wal_keep_size is -1" in slot(sidecar).problem
        assert alone.value("postgres", SLOTS) is None
        (told,) = topic(sidecar)
        assert told["level"] == "fail" and "received without a slot" in told["text"]
        statement = "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf();"
        assert statement in told["hint"]
        shown = sidecar.run("status")
        assert statement in " ".join(shown.output.split()), shown.output
        for each in statement.split(";"):
            alone.execute("postgres", each)
        eventually(lambda: not slot(sidecar).problem, WITHIN)
        (told,) = topic(sidecar)
        assert told["level"] == "pass"
        # One that is there does not outlive its limit.
        tell(alone, "max_slot_wal_keep_size = '0'")
        eventually(lambda: "size is 0:" in slot(sidecar).problem, WITHIN)
        assert alone.value("postgres", SLOTS) is None
        level(sidecar, alone)


def test_off_there_is_nothing_on_the_server(tmp_path: Path, alone: Server) -> None:
    tell(alone, "max_slot_wal_keep_size = '1GB'")
    sidecar = make(tmp_path, alone)
    name = slot_name(sidecar.app().instance())
    with receiving(sidecar):
        level(sidecar, alone)
        assert alone.value("postgres", SLOTS) is None and (now := stream(sidecar)) and now.slot is None
    with on(sidecar), receiving(sidecar):
        slot(sidecar)
    for off in ({"BACKUP_PITR_SLOT": "off"}, {"BACKUP_PITR": "off"}):  # type: dict[str, Any]
        with on(sidecar), receiving(sidecar):
            eventually(lambda: alone.value("postgres", SLOTS), WITHIN)
        (told,) = topic(sidecar, **off)
        assert told["level"] == "warn" and name in told["text"] and "pg_drop_replication_slot" in told["hint"]
        made = sidecar.run("create", "--only", "database", **off)
        assert made.code == 0, made.output
        assert alone.value("postgres", SLOTS) is None
        assert topic(sidecar, **off) == []


@contextlib.contextmanager
def on(sidecar: Sidecar) -> Iterator[None]:
    """It is switched on for the body."""
    sidecar.environment["BACKUP_PITR_SLOT"] = "on"
    yield
    del sidecar.environment["BACKUP_PITR_SLOT"]


def test_one_that_somebody_uses_is_not_touched(tmp_path: Path, alone: Server) -> None:
    tell(alone, "max_slot_wal_keep_size = '1GB'")
    sidecar = make(tmp_path, alone, BACKUP_PITR_SLOT="on")
    name = slot_name(sidecar.app().instance())
    alone.execute("postgres", f"SELECT pg_create_physical_replication_slot('{name}', true)")
    words = ["pg_receivewal", "--directory=/tmp", f"--slot={name}", "--host=127.0.0.1", f"--username={USER}"]
    with subprocess.Popen(["docker", "exec", alone.container.id, *words]) as other:
        used = "SELECT active FROM pg_replication_slots"
        eventually(lambda: alone.value("postgres", used), WITHIN)
        with receiving(sidecar):
            assert "is used by somebody else" in slot(sidecar).problem
            level(sidecar, alone)
            made = sidecar.run("create", "--only", "database", BACKUP_PITR="off")
            assert made.code == 0 and "could not be dropped" in made.output, made.output
            assert alone.value("postgres", used)
            docker("exec", alone.container.id, "pkill", "pg_receivewal", check=False)
            other.wait(30)
            eventually(lambda: not slot(sidecar).problem, WITHIN)


def test_an_exchange_of_the_cluster_is_not_kept_from_it_and_makes_it_again() -> None:
    with telling(17, slot="on") as story:
        tell(story.server, "max_slot_wal_keep_size = '1GB'")
        name = slot_name(story.sidecar.app().instance())
        eventually(lambda: story.server.value("postgres", SLOTS) == f"{name} reserved", WITHIN)
        story.server.execute("postgres", "SELECT pg_create_physical_replication_slot('others')")
        refused = physical(story, "--dry-run")
        assert "follow this one (others)" in refused.output, refused.output
        story.server.execute("postgres", "SELECT pg_drop_replication_slot('others')")
        for words in (("restore",), ("undo", "--force")):
            done = physical(story, "--force") if words == ("restore",) else story.sidecar.run(*words)
            assert done.code == 0, done.output
            received_again(story)
            eventually(lambda: story.server.value("postgres", SLOTS) == f"{name} reserved", WITHIN)
            assert not slot(story.sidecar).problem
