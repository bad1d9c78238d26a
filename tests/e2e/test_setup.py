"""`setup` for a stack whose names are not OBCMS's, before there is any overlay; then its overlay at work."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.database import LABEL, PROJECT
from tests.support.sidecar import IMAGE, ROOT

_APPLICATION = f"""
services:
  postgres:
    image: obcms-test/postgres:17
    environment: {{POSTGRES_DB: shop, POSTGRES_USER: shop, POSTGRES_PASSWORD: "pa$$word"}}
    volumes: ["data:/var/lib/postgresql/data"]
    labels: {{{LABEL}: {PROJECT}}}
    healthcheck: {{test: ["CMD", "pg_isready", "-h", "127.0.0.1"], start_interval: 1s, start_period: 60s}}
  django:
    image: obcms-test/app:latest
    environment: {{TZ: Europe/Berlin, POSTGRES_PASSWORD: "pa$$word"}}
    volumes: ["uploads:/srv/uploads", "static:/srv/static"]
    labels: {{{LABEL}: {PROJECT}}}
  proxy:
    image: obcms-test/app:latest
    volumes: ["uploads:/srv/uploads:ro"]
    labels: {{{LABEL}: {PROJECT}}}
volumes: {{data: , uploads: , static: }}
"""


@dataclass(frozen=True)
class Shop:
    folder: Path
    project: str

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=dict(os.environ) | self.files | {"COMPOSE_PROJECT_NAME": self.project},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    @property
    def files(self) -> dict[str, str]:
        """Both files, once there are two."""
        names = ["docker-compose.yml", "docker-compose.backup.yml"]
        return {"COMPOSE_FILE": ":".join(name for name in names if (self.folder / name).exists())}

    def setup(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """As the README says it: no settings, no backup volume."""
        mounts = ["-v/var/run/docker.sock:/var/run/docker.sock", f"-v{self.folder}:/project"]
        command = ["docker", "run", "--rm", f"--label={LABEL}={PROJECT}", *mounts, IMAGE, "setup"]
        return self.run(*command, *words, check=check)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "docker-compose.yml").write_text(_APPLICATION)
    made = Shop(folder, f"obcms-shop-{os.getpid()}")
    try:
        made.run("docker", "compose", "up", "-d", "--wait", "postgres")
        made.run("docker", "compose", "up", "-d", "django", "proxy")
        made.run("docker", "compose", "exec", "-T", "django", "sh", "-c", "echo hi > /srv/uploads/a.txt")
        yield made
    finally:
        made.run("docker", "compose", "down", "-v", "--remove-orphans", "-t", "2", check=False)


def test_it_refuses_what_it_does_not_know(shop: Shop) -> None:
    done = shop.setup("--project", "nosuch", check=False)
    assert done.returncode == 10
    assert f"- {shop.project}" in done.stdout
    done = shop.setup("--project", shop.project, "--service", "mysql", check=False)
    assert done.returncode == 10
    assert "django" in done.stdout
    done = shop.setup("--project", shop.project, "--write", "/nowhere/x.yml", check=False)
    assert done.returncode == 10
    done = shop.setup("--project", shop.project, "--write", "/tmp/x.yml", check=False)  # noqa: S108
    assert done.returncode == 30
    assert "no folder of the host is mounted at /tmp" in done.stdout


def test_its_overlay_works_and_a_shell_completes_its_sets(shop: Shop) -> None:
    done = shop.setup("--project", shop.project, "--write", "/project")
    assert "docker-compose.backup.yml is written" in done.stdout
    again = shop.setup("--project", shop.project, "--write", "/project", check=False)
    assert again.returncode == 10
    assert "exists already; nothing was written" in again.stdout
    shop.run("docker", "compose", "config", "--quiet")
    shop.run("docker", "compose", "up", "-d", "--wait", "--wait-timeout", "300", "backup")
    made = shop.run("docker", "compose", "run", "--rm", "-T", "backup", "create")
    assert "is complete" in made.stdout
    shown = shop.run("docker", "compose", "run", "--rm", "-T", "backup", "show", "latest").stdout
    assert "volume uploads: 1 file" in shown
    seen = shop.run("docker", "compose", "exec", "-T", "backup", "backup", "doctor", check=False)
    assert seen.returncode == 60, seen.stdout  # nobody is told, and no copies elsewhere: what setup cannot know
    warned = [line.split("\t")[1] for line in seen.stdout.splitlines() if line.startswith("warning")]
    assert warned == ["alerts", "offsite"]
    assert "uploads is " in seen.stdout
    assert "a restore would stop django" in seen.stdout
    # Made again beside its own service, it is the same file.
    same = shop.setup("--project", shop.project).stdout
    assert same == (shop.folder / "docker-compose.backup.yml").read_text()
    _completes(shop)


def _completes(shop: Shop) -> None:
    """On the host, and in a shell inside the container."""
    words = 'COMP_WORDS=(backup verify man) COMP_CWORD=2; {}; echo "${{COMPREPLY[@]}}"'
    source = f". {ROOT}/tools/backup.bash; "
    host = shop.run("bash", "-c", source + words.format("_backup_on_host") + "; backup list")
    inside = 'eval "$(backup --show-completion)"; ' + words.format("_backup_completion backup")
    container = shop.run("docker", "compose", "exec", "-T", "backup", "bash", "-c", inside)
    first, *listed = host.stdout.splitlines()
    assert first.startswith("manual_20")
    assert container.stdout.strip() == first
    assert any(line.startswith(first) for line in listed)
