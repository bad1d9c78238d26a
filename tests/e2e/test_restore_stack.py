"""A restore beside a running application, by the shipped image and overlay, as an operator does it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import eventually, seeded
from tests.support.stack import FILES, STACK, Stack, docker

COUNT = "SELECT count(*) FROM documents"
FIND = "find /app/src/media -type f -not -path '*/.obcms-restore-*' -print0 | sort -z | xargs -0 sha256sum"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    made = Stack(f"obcms-restore-{os.getpid()}")
    with made.removed():
        made.compose("up", "-d", "--wait", "--wait-timeout", "300", "db", "pgbouncer")
        made.compose("up", "-d", "web1", "celery-worker1", "nginx")
        made.compose("exec", "-T", "web1", "sh", "-s", stdin=(STACK / "seed-media").read_bytes())
        made.backup("create", "daily")
        yield made


def state(stack: Stack) -> tuple[int, str]:
    """Rows, and every file with its hash, as the application sees them."""
    return int(stack.psql(COUNT)), stack.compose("exec", "-T", "web1", "sh", "-c", FIND).output


def damage(stack: Stack) -> None:
    stack.psql("DELETE FROM documents WHERE id < 100; DROP TABLE empty_table")
    harm = "rm -r /app/src/media/ai_documents/pdf/2025/02; echo harm > /app/src/media/harm"
    stack.compose("exec", "-T", "web1", "sh", "-c", harm)


def started(stack: Stack, service: str) -> str:
    return docker("inspect", "-f", "{{.State.StartedAt}} {{.State.Running}}", stack.container(service)).decode().strip()


def daily(stack: Stack) -> str:
    listed = stack.backup("list", "daily", "--json").output
    return str(json.loads(listed[listed.index('{"format"') :])["sets"][-1]["id"])


def test_proven_restored_and_undone_beside_a_running_application(stack: Stack) -> None:
    identifier = daily(stack)
    assert "is proven" in stack.backup("drill", identifier).output
    whole = state(stack)
    damage(stack)
    damaged = state(stack)
    assert whole != damaged
    before = {service: started(stack, service) for service in ("web1", "celery-worker1", "pgbouncer", "nginx", "db")}
    said = stack.backup("restore", identifier, "--force").output
    assert state(stack) == whole
    after = {service: started(stack, service) for service in before}
    assert {service for service in before if before[service] != after[service]} == {"web1", "celery-worker1"}
    assert all(times.endswith("true") for times in after.values())
    assert "could not be reached for" in said and "web1" in said
    owners = stack.compose("exec", "-T", "web1", "sh", "-c", "stat -c %u:%g:%a /app/src/media").output
    assert owners.strip() == "1000:1000:755"
    stack.backup("undo", "--force")
    assert state(stack) == damaged
    stack.backup("undo", "--force")
    assert state(stack) == whole
    stack.backup("undo", "--discard", "--force")
    assert state(stack) == whole
    assert ".obcms-restore" not in stack.compose("exec", "-T", "web1", "ls", "-a", "/app/src/media").output
    instance = stack.compose("run", "--rm", "-T", "--entrypoint", "cat", "backup", "/backups/state/instance").output
    mark = f"label=obcms.backup.instance={instance.split()[-1]}"
    assert docker("ps", "-aq", "--filter", mark, "--filter", "label=obcms.backup.role") == b""


def test_an_incremental_set_is_put_back_by_the_helper(stack: Stack) -> None:
    """Sets that share packs, in the shipped image: what unpacks them is a container of its own."""

    def backup(*words: str) -> str:
        return stack.compose("run", "--rm", "-T", "-e", "BACKUP_MEDIA=incremental", "backup", *words).output

    before = state(stack)
    backup("create", "daily")
    stack.compose("exec", "-T", "web1", "sh", "-c", "echo new > /app/src/media/new; rm -r /app/src/media/harm || true")
    backup("create", "weekly")
    whole = state(stack)
    listed = backup("show", "latest", "--json")
    manifest = json.loads(listed[listed.index('{"format"') :])["manifest"]
    assert (manifest["format"], len(manifest["packs"])) == (2, 2) and before != whole
    damage(stack)
    assert "is restored" in backup("restore", manifest["id"], "--force", "--no-safety")
    assert state(stack) == whole
    stack.backup("undo", "--discard", "--force")
    stack.compose("exec", "-T", "web1", "sh", "-c", "rm /app/src/media/new")
    stack.compose(
        "run", "--rm", "-T", "backup", *("restore", manifest["id"], "--only", "media", "--path", "new", "--force")
    )
    assert state(stack) == whole
    backup("verify", "all")
    # The other tests go by the first set.
    stack.backup("restore", daily(stack), "--force", "--no-safety")
    stack.backup("undo", "--discard", "--force")


def test_from_the_files_of_a_set_alone(stack: Stack, tmp_path: Path) -> None:
    """The database is gone, so are the files, and the set comes from a folder of the host."""
    identifier, whole = daily(stack), state(stack)
    gather = f"cp /backups/daily/*{identifier.removeprefix('daily')}* /carried/"
    words = ("--entrypoint", "sh", "-v", f"{tmp_path}:/carried", "backup", "-c", gather)
    stack.compose("run", "--rm", "-T", *words)
    stack.psql("DROP DATABASE obcms_prod WITH (FORCE)", database="postgres")
    stack.compose("exec", "-T", "web1", "sh", "-c", "rm -r /app/src/media/*")
    unseen = stack.backup("restore", "/etc", "--force", check=False)
    assert unseen.code == 44 and "-v" in unseen.output or "no set" in unseen.output
    words = ("-v", f"{tmp_path}:/restore:ro", "backup", "restore", "/restore", "--force")
    done = stack.compose("run", "--rm", "-T", *words)
    assert "is restored" in done.output
    assert state(stack) == whole
    stack.backup("undo", "--discard", "--force")


def test_the_service_ends_a_restore_that_was_killed(stack: Stack) -> None:
    """Nobody comes by: within half a minute the application runs again, on one whole state."""
    identifier, moments = daily(stack), seeded()
    whole = state(stack)
    stack.psql("DELETE FROM documents WHERE id = 300")
    stack.compose("up", "-d", "--wait", "--wait-timeout", "300", "backup")
    changed = state(stack)
    for number in range(3):
        name = f"{stack.project}-killed-{number}"
        words = ("run", "--rm", "-T", "--name", name, "backup", "restore", identifier, "--force", "--no-safety")
        command = ["docker", "compose", "-p", stack.project, *[w for file in FILES for w in ("-f", str(file))], *words]
        with (
            waiting(stack, "until") as begun,
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
        ):
            eventually(lambda: begun.poll() is not None or process.poll() is not None, 120)
            time.sleep(moments.uniform(0, 1.5))
            subprocess.run(["docker", "kill", name], capture_output=True, check=False)
            process.wait()
        with waiting(stack, "while") as ended:
            assert ended.wait(120) == 0
        eventually(lambda: started(stack, "web1").endswith("true"), 120, 0.5)
        assert state(stack) in (whole, changed)
        if state(stack) == whole:
            stack.psql("DELETE FROM documents WHERE id = 300")
    stack.compose("rm", "-sfv", "backup")
    # As the set has it, for whatever test comes next.
    stack.backup("restore", identifier, "--force", "--no-safety")
    stack.backup("undo", "--discard", "--force")
    assert state(stack) == whole


@contextlib.contextmanager
def waiting(stack: Stack, loop: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends when there is a restore's journal (`until`), or none (`while`): one that looks, not many."""
    look = f"{loop} [ -e /backups/state/restore.json ]; do sleep 0.05; done"
    with subprocess.Popen(["docker", "exec", stack.container("backup"), "sh", "-c", look]) as process:
        try:
            yield process
        finally:
            process.kill()
