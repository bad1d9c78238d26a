"""The sidecar behind the proxy of deploy/socket-proxy: all that it does works, and what it does not do is refused."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stack import STACK, Stack, docker

DEPLOY = Path(__file__).parents[2] / "deploy" / "socket-proxy"
COUNT = "SELECT count(*) FROM documents"
# Asks the proxy as the sidecar could, over its own network, and prints each status.
ASK = """
import http.client, json, sys
for method, path, body in json.loads(sys.argv[1]):
    connection = http.client.HTTPConnection("socket-proxy", 2375, timeout=60)
    connection.request(method, path, body or None, {"Content-Type": "application/json"})
    print("status", connection.getresponse().status, method, path[:60], body[:60])
"""
CREATE = "/v1.41/containers/create"
REFUSED = [
    ("POST", "/v1.41/images/create?fromImage=x", ""),
    ("POST", "/v1.41/build", ""),
    ("GET", "/v1.41/images/json", ""),
    ("GET", "/v1.41/secrets", ""),
    ("GET", "/v1.41/volumes", ""),
    ("POST", "/v1.41/volumes/create", "{}"),
    ("DELETE", "/v1.41/volumes/x", ""),
    ("DELETE", "/v1.41/images/x", ""),
    ("POST", "/v1.41/networks/create", "{}"),
    ("POST", "/v1.41/swarm/init", "{}"),
    ("PUT", "/v1.41/containers/x/archive?path=/", ""),
    ("POST", "/v1.41/containers/x/update", "{}"),
    ("POST", "/v1.41/containers/x/attach", ""),
    ("GET", "/v1.41/containers/x/export", ""),
    ("GET", "/v1.41/info", ""),
    ("POST", CREATE, json.dumps({"Image": "x", "HostConfig": {"Privileged": True}})),
    ("POST", CREATE, json.dumps({"Image": "x", "HostConfig": {"NetworkMode": "host"}})),
    ("POST", CREATE, json.dumps({"Image": "x", "HostConfig": {"PidMode": "host"}})),
    ("POST", "/v1.41/containers/x/exec", json.dumps({"Cmd": ["id"], "Privileged": True})),
    ("POST", CREATE, json.dumps({"Image": "x", "Labels": {"x": "y" * 20_000}, "HostConfig": {"Privileged": True}})),
    ("GET", "/v1.41/containers/x/../../secrets", ""),
    ("GET", "/v1.41/containers/%2e%2e/secrets", ""),
]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    build = ["docker", "buildx", "build", "--load", "--quiet", "--tag=obcms-socket-proxy:latest", str(DEPLOY)]
    subprocess.run(build, check=True, capture_output=True)
    made = Stack(f"obcms-proxied-{os.getpid()}", more=(DEPLOY / "docker-compose.socket-proxy.yml",))
    with made.removed():
        made.compose("up", "-d", "--wait", "--wait-timeout", "300", "db", "pgbouncer", "socket-proxy")
        made.compose("up", "-d", "web1")
        made.compose("exec", "-T", "web1", "sh", "-s", stdin=(STACK / "seed-media").read_bytes())
        yield made


def test_all_that_the_sidecar_does_works(stack: Stack) -> None:
    assert "calls in use are allowed" in stack.backup("doctor", check=False).output
    before = stack.psql(COUNT)
    assert "is complete" in stack.backup("create", "daily").output
    assert "is proven" in stack.backup("drill", "latest").output
    stack.psql("DELETE FROM documents WHERE id < 100")
    said = stack.backup("restore", "latest", "--force").output
    assert "stopping" in said and stack.psql(COUNT) == before
    stack.backup("undo", "--force")
    assert stack.psql(COUNT) != before
    stack.backup("undo", "--force")


def test_the_service_runs_behind_it(stack: Stack) -> None:
    stack.compose("up", "-d", "--wait", "--wait-timeout", "300", "backup")
    mounts = docker("inspect", "-f", "{{json .Mounts}}", stack.container("backup")).decode()
    assert "docker.sock" not in mounts


def test_what_it_does_not_do_is_refused(stack: Stack) -> None:
    words = ["run", "--rm", "-T", "--entrypoint", "/app/venv/bin/python", "backup", "-c", ASK, json.dumps(REFUSED)]
    answers = [line for line in stack.compose(*words).output.splitlines() if line.startswith("status ")]
    assert len(answers) == len(REFUSED)
    # 404 would be the engine's own answer: it was asked.
    assert [line for line in answers if line.split()[1] not in ("400", "403", "413")] == []
