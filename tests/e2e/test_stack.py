"""The shipped overlay on a stack of the production file's shape, as an operator uses it, judged with plain tools."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.support.faults import eventually
from tests.support.stack import STACK, ZONE, Stack, docker

COUNTS = (
    "SELECT string_agg(n || '=' || (xpath('/row/c/text()', query_to_xml('SELECT count(*) AS c FROM ' || n, "
    "false, true, '')))[1]::text, ',' ORDER BY n) FROM (SELECT format('%I.%I', schemaname, tablename) AS n "
    "FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')) t"
)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    made = Stack(f"obcms-e2e-{os.getpid()}")
    with made.removed():
        made.compose("up", "-d", "--wait", "--wait-timeout", "300", "db", "db-replica1", "db-replica2", "pgbouncer")
        made.compose("up", "-d", "web1", "web2", "web3", "web4", "celery-worker1", "celery-worker2", "nginx")
        made.compose("exec", "-T", "web1", "sh", "-s", stdin=(STACK / "seed-media").read_bytes())
        yield made


@pytest.fixture
def spare(stack: Stack) -> Iterator[Stack]:
    """The same stack with an empty backup volume: for runs that fail, or that must be the first."""
    spare = Stack(stack.project, (("TEST_BACKUPS", f"{stack.project}_spare"), ("TEST_HEALTH_INTERVAL", "3s")))
    try:
        yield spare
    finally:
        spare.compose("rm", "-sfv", "backup", check=False)
        docker("volume", "rm", "-f", spare.volume)


@pytest.fixture(scope="module")
def daily(stack: Stack) -> str:
    """The id of one daily set of the stack."""
    made = stack.backup("create", "daily")
    assert "written and read back" in made.output
    listed = stack.backup("list", "daily", "--json").output
    sets = json.loads(listed[listed.index('{"format"') :])["sets"]
    assert sets[0]["state"] == "complete" and sets[0]["good"]
    return str(sets[0]["id"])


@pytest.fixture(scope="module")
def files(stack: Stack, daily: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set's files, copied out of the volume as the seed's document says: with a plain container."""
    target = tmp_path_factory.mktemp("set")
    volume = f"{stack.volume}:/backups:ro"
    archive = docker("run", "--rm", "-v", volume, "obcms-test/app:latest", "tar", "-cC", "/backups/daily", ".")
    subprocess.run(["tar", "-xC", target], input=archive, check=True)
    return target


def test_checksums_hold_by_sha256sum(files: Path, daily: str) -> None:
    done = subprocess.run(["sha256sum", "-c", f"obcms_set_{daily}.sha256"], cwd=files, capture_output=True, check=True)
    assert done.stdout.count(b": OK") == 4


def test_the_dump_loads_into_an_empty_database_by_hand(stack: Stack, files: Path, daily: str) -> None:
    dump = files / f"obcms_backup_{daily}.sql.gz"
    subprocess.run(["gunzip", "-t", dump], check=True)
    script = subprocess.run(["gunzip", "-c", dump], capture_output=True, check=True).stdout
    stack.psql("CREATE DATABASE by_hand", "postgres")
    words = ("exec", "-T", "db", "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-U", "obcms_user", "-d", "by_hand")
    stack.compose(*words, stdin=script)
    counts = stack.psql(COUNTS, "by_hand")
    assert counts == stack.psql(COUNTS) and "=" in counts
    lo = "SELECT count(*), sum(length(lo_get(oid))) FROM pg_largeobject_metadata"
    assert stack.psql(lo, "by_hand") == stack.psql(lo)


def test_the_media_archive_unpacks_to_the_same_tree(stack: Stack, files: Path, daily: str, tmp_path: Path) -> None:
    archive = files / f"obcms_media_{daily}.tar.gz"
    names = subprocess.run(["tar", "-tzf", archive], capture_output=True, check=True).stdout.splitlines()
    assert names[0] == b"media/" and all(name.startswith(b"media/") for name in names)
    subprocess.run(["tar", "--xattrs", "-xpzf", archive, "-C", tmp_path], check=True)
    media = f"{stack.project}_media_volume:/live:ro"
    live = docker("run", "--rm", "-v", media, "obcms-test/app:latest", "tar", "-cC", "/live", ".")
    (tmp_path / "live").mkdir()
    subprocess.run(["tar", "-xpC", tmp_path / "live"], input=live, check=True)
    subprocess.run(["diff", "-r", "--no-dereference", tmp_path / "media", tmp_path / "live"], check=True)
    listing = f"zcat obcms_media_{daily}.files.gz | sed -E 's/^(\\\\?[0-9a-f]{{64}})  [0-9]+  /\\1  /'"
    sums = subprocess.run(["bash", "-c", listing], cwd=files, capture_output=True, check=True).stdout
    subprocess.run(["sha256sum", "--quiet", "-c", "-"], input=sums, cwd=tmp_path, check=True)


def test_show_verify_and_schedule_speak(stack: Stack, daily: str) -> None:
    shown = stack.backup("show", "latest").output
    assert daily in shown and "PostgreSQL 17" in shown and "volume media" in shown
    assert "every byte is as it was written" in stack.backup("verify", f"obcms_backup_{daily}.sql.gz").output
    schedule = stack.backup("schedule").output
    assert "0 2 * * *" in schedule and datetime.now(ZoneInfo(ZONE)).isoformat()[-6:] in schedule
    missing = stack.backup("show", "nothing", check=False)
    assert missing.code == 44 and "list" in missing.output


def test_the_service_becomes_healthy_and_stops_at_once(stack: Stack, daily: str) -> None:
    stack.compose("up", "-d", "--wait", "--wait-timeout", "300", "backup")
    health = stack.compose("exec", "-T", "backup", "backup", "healthcheck")
    assert health.output.startswith("pass"), health.output
    start = time.monotonic()
    stack.compose("stop", "backup")
    assert time.monotonic() - start < 35
    state = json.loads(docker("inspect", stack.container("backup")))[0]["State"]
    assert state["ExitCode"] == 0


def test_a_stop_in_the_middle_of_a_dump_ends_cleanly(spare: Stack) -> None:
    spare.psql("CREATE TABLE slow (a int)")
    held = f"{spare.project}-held"
    with blocked(spare, "slow"):
        spare.compose("run", "-d", "-T", "--name", held, "backup", "create", "manual")
        until(spare, "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'obcms-backup %'"
                     " AND wait_event_type = 'Lock'")  # fmt: skip
        start = time.monotonic()
        docker("stop", "-t", "40", held)
        assert time.monotonic() - start < 35
    log, state = docker("logs", held).decode(), json.loads(docker("inspect", held))[0]["State"]
    docker("rm", "-fv", held)
    spare.psql("DROP TABLE slow")
    assert state["ExitCode"] == 143 and "stopped by signal 15" in log, log
    assert "No set is in /backups" in spare.backup("list").output
    instance = volume_text(spare, "/b/state/instance")
    assert docker("ps", "-aq", "--filter", f"label=obcms.backup.instance={instance}").strip() == b""
    assert '"outcome": "interrupted"' in volume_text(spare, "/b/state/runs/*")


def test_a_first_start_takes_a_backup_at_once(spare: Stack) -> None:
    spare.compose("up", "-d", "--wait", "--wait-timeout", "300", "backup")
    listed = spare.compose("exec", "-T", "backup", "backup", "list", "daily", "--json").output
    sets = json.loads(listed[listed.index('{"format"') :])["sets"]
    assert len(sets) == 1 and sets[0]["good"]


def test_a_stale_backup_turns_it_unhealthy_within_one_interval(spare: Stack) -> None:
    """As after three nights without a backup: `docker compose ps` says so, `docker inspect` says why."""
    spare.compose("up", "-d", "--wait", "--wait-timeout", "300", "backup")
    assert "(healthy)" in spare.compose("ps", "backup").output
    page = "import urllib.request as u; print(u.urlopen('http://backup:8080{}').read().decode())"
    words = ("exec", "-T", "backup", "/app/venv/bin/python", "-c")
    assert "<html" in spare.compose(*words, page.format("/")).output
    assert 'kind="good"' in spare.compose(*words, page.format("/metrics")).output
    then = datetime.now(UTC) - timedelta(days=3)
    change = f's/"started": *"[^"]*Z"/"started": "{then:%Y-%m-%dT%H:%M:%SZ}"/'
    spare.compose("exec", "-T", "backup", "sh", "-c", f"sed -i '{change}' /backups/daily/obcms_set_*.json")
    changed = datetime.now(UTC)
    eventually(lambda: "(unhealthy)" in spare.compose("ps", "backup").output, 120, 0.5)
    log = json.loads(docker("inspect", spare.container("backup")))[0]["State"]["Health"]["Log"]
    after = [look["ExitCode"] for look in log if datetime.fromisoformat(look["Start"]) > changed]
    # The one that was under way may have been before it.
    assert 0 not in after[1:], log
    last = log[-1]
    assert last["ExitCode"] == 1 and "is 3 d 00 h old; the limit is 2 d 00 h" in last["Output"], last
    alive = ("exec", "-T", "backup", "/app/venv/bin/python", "-m", "backup.service.probe", "/livez")
    assert spare.compose(*alive).output.strip() == "pass"


def test_an_unmounted_media_volume_is_refused(spare: Stack) -> None:
    words = ("run", "--rm", "-T", "-e", "BACKUP_VOLUMES_DIR=/nothing", "backup", "create", "manual")
    refused = spare.compose(*words, check=False)
    assert refused.code == 20 and "no volume is mounted" in refused.output


def test_no_secret_on_any_surface(stack: Stack, daily: str) -> None:
    canary = "canary-db-pw"
    stack.compose("up", "-d", "--wait", "--wait-timeout", "300", "backup")
    surfaces = [
        stack.compose("logs", "backup").output,
        docker("inspect", stack.container("backup")).decode(),
        volume_text(stack, "/b/logs/* /b/state/lock /b/state/runs/* /b/*/*.json"),
    ]
    assert all(surface and canary not in surface for surface in surfaces)


def volume_text(stack: Stack, paths: str) -> str:
    """Text files of the backup volume, read by a plain container."""
    volume = f"{stack.volume}:/b:ro"
    return docker("run", "--rm", "-v", volume, "obcms-test/app:latest", "sh", "-c", f"cat {paths}").decode()


@contextlib.contextmanager
def blocked(stack: Stack, table: str) -> Iterator[None]:
    """Another session holds a lock on `table` that no reader gets past."""
    command = ["docker", "compose", "-p", stack.project, "-f", str(STACK / "docker-compose.prod.yml"), "exec", "-T"]
    lock = f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(600)"
    end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
    blocker = subprocess.Popen(
        [*command, "db", "psql", "-U", "obcms_user", "-d", "obcms_prod", "-c", lock],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(stack, f"SELECT count(*) > 0 FROM pg_locks WHERE relation = '{table}'::regclass AND granted")
        yield
    finally:
        stack.psql(end)
        blocker.wait(timeout=30)


def until(stack: Stack, condition: str, seconds: float = 120) -> None:
    """Wait until a query says true."""
    deadline = time.monotonic() + seconds
    while stack.psql(condition) != "t":
        assert time.monotonic() < deadline, f"never true: {condition}"
        time.sleep(0.1)
