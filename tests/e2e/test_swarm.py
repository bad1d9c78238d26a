"""The stack file of deploy/swarm on a real Swarm of one node.

The engine is the test's own: `docker swarm leave` takes all names of containers away from an engine's DNS, also in
networks that are no Swarm's (28.5; seen), so that other stacks on it would no longer find their databases.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.database import PASSWORD
from tests.support.engine import Engine, engine
from tests.support.faults import eventually
from tests.support.sidecar import IMAGE
from tests.support.stack import STACK

FILE = Path(__file__).parents[2] / "deploy" / "swarm" / "docker-stack.backup.yml"
NAME = "obcms"


@dataclass(frozen=True)
class Swarm:
    engine: Engine

    def container(self, service: str) -> str:
        """The running container of a service's one task; empty while there is none."""
        return self.engine.docker("ps", "-q", f"--filter=label=com.docker.swarm.service.name={NAME}_{service}")

    def health(self) -> str:
        running = self.container("backup")
        return self.engine.docker("inspect", "-f", "{{.State.Health.Status}}", running) if running else ""

    def try_backup(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "exec", self.container("backup"), "backup", *words],
            env=os.environ | self.engine.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def backup(self, *words: str) -> str:
        done = self.try_backup(*words)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def ready(self) -> bool:
        return self.try_backup("create", "manual", "--wait", "60").returncode == 0

    def psql(self, query: str) -> str:
        words = ("exec", self.container("db"), "psql", "-XqAt", "-U", "obcms_user", "-d", "obcms_prod", "-c", query)
        return self.engine.docker(*words)


@pytest.fixture
def swarm() -> Iterator[Swarm]:
    with engine("obcms-test/postgres:17", "obcms-test/app:latest", IMAGE, secluded=True) as own:
        own.docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377")
        node = own.docker("info", "-f", "{{.Swarm.NodeID}}")
        own.docker("node", "update", "--label-add", "obcms.backup=true", node)
        secret = own.root / "password"
        secret.write_text(PASSWORD)
        own.docker("secret", "create", "obcms_db_password", str(secret))
        files = [f"--compose-file={STACK / 'docker-stack.yml'}", f"--compose-file={FILE}"]
        subprocess.run(
            ["docker", "stack", "deploy", "--resolve-image=never", "--detach=true", *files, NAME],
            env=os.environ | own.env | {"OBCMS_BACKUP_IMAGE": IMAGE},
            check=True,
        )
        yield Swarm(own)


def test_a_stack_is_backed_up_and_its_database_restored(swarm: Swarm) -> None:
    eventually(lambda: swarm.container("web1"), 180)
    swarm.engine.docker("exec", swarm.container("web1"), "sh", "-c", "echo a file > /app/src/media/a.pdf")
    eventually(lambda: swarm.health() == "healthy", 300)
    # The service's own first run may have come before the file above; later ones find the database there for everybody.
    eventually(lambda: swarm.ready(), 300, 1)
    swarm.psql("CREATE TABLE cases AS SELECT n AS id FROM generate_series(1, 500) AS n")
    swarm.backup("create", "daily", "--wait", "120")
    assert "proven" in swarm.backup("drill", "latest")
    swarm.psql("DELETE FROM cases")
    assert "could not be reached for" in swarm.backup("restore", "latest", "--force", "--only", "database")
    assert swarm.psql("SELECT count(*) FROM cases") == "500"
    inspected = swarm.engine.docker("inspect", swarm.container("backup"))
    assert PASSWORD not in inspected and "docker.sock" not in inspected
