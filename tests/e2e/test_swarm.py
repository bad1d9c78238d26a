"""The stack file of deploy/swarm on a real Swarm of one node, which this test makes and leaves again."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.database import LABEL, PASSWORD, PROJECT
from tests.support.faults import eventually
from tests.support.sidecar import IMAGE
from tests.support.stack import STACK, docker

FILE = Path(__file__).parents[2] / "deploy" / "swarm" / "docker-stack.backup.yml"


@dataclass(frozen=True)
class Swarm:
    name: str
    volume: str

    def container(self, service: str) -> str:
        """The running container of a service's one task; empty while there is none."""
        return (
            docker("ps", "-q", f"--filter=label=com.docker.swarm.service.name={self.name}_{service}").decode().strip()
        )

    def health(self) -> str:
        running = self.container("backup")
        return docker("inspect", "-f", "{{.State.Health.Status}}", running).decode().strip() if running else ""

    def backup(self, *words: str) -> str:
        done = subprocess.run(
            ["docker", "exec", self.container("backup"), "backup", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def ready(self) -> bool:
        words = ["docker", "exec", self.container("backup"), "backup", "create", "manual", "--wait", "60"]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def psql(self, query: str) -> str:
        words = ["exec", self.container("db"), "psql", "-XqAt", "-U", "obcms_user", "-d", "obcms_prod", "-c", query]
        return docker(*words).decode().strip()


@pytest.fixture
def swarm() -> Iterator[Swarm]:
    made = Swarm(f"obcms-swarm-{os.getpid()}", f"obcms_swarm_{secrets.token_hex(4)}")
    if docker("info", "-f", "{{.Swarm.LocalNodeState}}").strip() != b"inactive":
        pytest.fail("this engine is part of a Swarm already; the test would have to leave it")
    docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377")
    try:
        node = docker("info", "-f", "{{.Swarm.NodeID}}").decode().strip()
        docker("node", "update", "--label-add", "obcms.backup=true", node)
        docker("secret", "create", "obcms_db_password", "-", stdin=PASSWORD.encode())
        docker("volume", "create", f"--label={LABEL}={PROJECT}", made.volume)
        environment = dict(os.environ) | {"OBCMS_BACKUP_IMAGE": IMAGE, "OBCMS_BACKUPS": made.volume}
        files = [f"--compose-file={STACK / 'docker-stack.yml'}", f"--compose-file={FILE}"]
        subprocess.run(
            ["docker", "stack", "deploy", "--resolve-image=never", "--detach=true", *files, made.name],
            env=environment,
            check=True,
        )
        yield made
    finally:
        docker("stack", "rm", "--detach=false", made.name)
        # Left even if a network still waits for its last task: nothing of a Swarm may outlive the test.
        docker("swarm", "leave", "--force")
        eventually(lambda: not docker("ps", "-aq", f"--filter=label=com.docker.stack.namespace={made.name}"), 60)
        # Forced: one that was never made is no error. The bridge to the outside is the Swarm's, and nothing removes it.
        docker("volume", "rm", "--force", f"{made.name}_media_volume", made.volume)
        docker("network", "rm", "--force", "docker_gwbridge")


def test_a_stack_is_backed_up_and_its_database_restored(swarm: Swarm) -> None:
    eventually(lambda: swarm.container("web1"), 60)
    docker("exec", swarm.container("web1"), "sh", "-c", "echo a file > /app/src/media/a.pdf")
    eventually(lambda: swarm.health() == "healthy", 150)
    # The service's own first run may have come before the file above; later ones find the database there for everybody.
    eventually(lambda: swarm.ready(), 90, 1)
    swarm.psql("CREATE TABLE cases AS SELECT n AS id FROM generate_series(1, 500) AS n")
    swarm.backup("create", "daily", "--wait", "120")
    assert "proven" in swarm.backup("drill", "latest")
    swarm.psql("DELETE FROM cases")
    assert "could not be reached for" in swarm.backup("restore", "latest", "--force", "--only", "database")
    assert swarm.psql("SELECT count(*) FROM cases") == "500"
    inspected = docker("inspect", swarm.container("backup")).decode()
    assert PASSWORD not in inspected and "docker.sock" not in inspected
