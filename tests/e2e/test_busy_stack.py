"""The whole stack at work, as OBCMS's production file has it: fresh without any upload, then restored."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime

import pytest

from backup.postgres.session import Login
from tests.support.clients import Client, crowd, strange
from tests.support.faults import eventually
from tests.support.stack import STACK, Stack, docker

# `RESTORES=10` for a record of it.
ROUNDS = int(os.environ.get("RESTORES", "2"))
WEBS = ("web1", "web2", "web3", "web4")
STOPPED = (*WEBS, "celery-worker1", "celery-worker2")
POOLER = "pgbouncer:6432"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """All of it is up, the backup as well, and nobody has uploaded anything yet."""
    made = Stack(f"obcms-busy-{os.getpid()}", more=(STACK / "docker-compose.busy.yml",))
    made.down()
    try:
        made.compose("up", "-d", "--wait", "--wait-timeout", "120", "db", "db-replica1", "db-replica2", "pgbouncer")
        made.compose("up", "-d", *STOPPED, "nginx")
        made.compose("up", "-d", "--wait", "--wait-timeout", "120", "backup")
        yield made
    finally:
        made.down()


def media(stack: Stack, command: str) -> None:
    stack.compose("exec", "-T", "web1", "sh", "-c", f"cd /app/src/media && {command}")


def test_a_fresh_stack_is_saved_before_anybody_uploads(stack: Stack) -> None:
    (first,) = json.loads(stack.compose("exec", "-T", "backup", "backup", "list", "--json").output)["sets"]
    assert first["good"] and [each["files"] for each in first["volumes"]] == [0]
    assert "media: empty" in stack.backup("list").output
    assert "the volume media is empty" in stack.backup("status").output
    media(stack, "echo one > file")
    stack.psql("DROP TABLE IF EXISTS migrated")  # the commands' test may have come first
    stack.backup("create", "daily")
    assert "is empty" not in stack.backup("status").output + stack.backup("list").output.splitlines()[0]
    media(stack, "rm file")
    lost = stack.backup("create", "daily", check=False)
    assert lost.code == 20 and "how a wrong or forgotten mount looks" in lost.output
    media(stack, "echo one > file")


def moment(stack: Stack, service: str, what: str) -> float:
    """When a service's container was started or had ended."""
    said = docker("inspect", "-f", f"{{{{.State.{what}}}}}", stack.container(service)).decode().strip()
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*Z", r"\1+00:00", said)).timestamp()


def pooler(stack: Stack) -> Login:
    """pgbouncer, as it is reached from here."""
    container = stack.container("pgbouncer")
    address = docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container).decode()
    password = re.search(r"^POSTGRES_PASSWORD='(.*)'$", (STACK / ".env").read_text(), re.MULTILINE)
    assert password
    return Login(address.strip(), 6432, "obcms_user", "obcms_prod", password[1])


@pytest.mark.parametrize("pooler_too", [False, True], ids=["pooler up", "pooler stopped"])
def test_commands_after_a_restore_find_their_database(stack: Stack, pooler_too: bool) -> None:
    """With clients at work; everything is stopped at once, and started behind what it needs."""
    stops = ",".join((*STOPPED, *(["pgbouncer"] if pooler_too else [])))
    words = ("run", "--rm", "-T", "-e", f"BACKUP_RESTORE_STOP={stops}", "backup", "restore", "latest", "--force")
    query = "SELECT count(*) FROM documents"
    clients = [Client(pooler(stack), query, each_new=number % 2 == 0) for number in range(4)]
    for _ in range(ROUNDS):
        stack.psql("DROP TABLE IF EXISTS migrated; DELETE FROM documents WHERE id < 100")
        with nullcontext() if pooler_too else crowd(*clients):
            said = stack.compose(*words, "--no-safety").output
        assert stack.psql("SELECT count(*) FROM migrated") == "0" and int(stack.psql(query)) == 300, said
        ended = [moment(stack, service, "FinishedAt") for service in STOPPED]
        assert max(ended) - min(ended) < 3, "each takes three seconds, all together no more"
        started = {service: moment(stack, service, "StartedAt") for service in (*STOPPED, "pgbouncer")}
        assert all(started["pgbouncer"] < started[web] for web in WEBS)
        down = re.search(r"the application was stopped for ([\d.]+) s", said)
        assert down and float(down[1]) >= 3, said
        assert (f"through {POOLER}" in said) is not pooler_too, said
    eventually(lambda: not stack.backup("status").output.count("unfinished"))
    assert not strange(*clients)
