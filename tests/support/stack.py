"""The sample stack under the shipped overlay, driven with `docker compose` alone."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.support.last_logs import noted

ROOT = Path(__file__).resolve().parents[2]
STACK = ROOT / "tests" / "stack"
FILES = (STACK / "docker-compose.prod.yml", ROOT / "docker-compose.backup.yml", STACK / "docker-compose.test.yml")


def calm_zone(now: datetime) -> str:
    """A time zone in which it is past one in the afternoon: no job of the shipped schedule is due for four hours.

    Else a test that runs at two in the morning of Manila finds a backup that it did not ask for.
    """
    ahead = (13 - now.hour + 12) % 24 - 12
    return f"Etc/GMT{-ahead:+d}" if ahead else "Etc/UTC"


# Once in a process: with another zone Compose would make the container anew.
ZONE = calm_zone(datetime.now(UTC))


@dataclass(frozen=True)
class Stack:
    """One Compose project. `environment` is what an operator would write into .env; `more` files are laid over all."""

    project: str
    environment: tuple[tuple[str, str], ...] = ()
    more: tuple[Path, ...] = ()

    @property
    def volume(self) -> str:
        """The name of its backup volume."""
        return dict(self.environment).get("TEST_BACKUPS", f"{self.project}_obcms_backups")

    def compose(self, *words: str, check: bool = True, stdin: bytes | None = None, timeout: float = 400) -> Done:
        """Run `docker compose … WORDS`; output is stdout and stderr together."""
        command = ["docker", "compose", "-p", self.project]
        for file in (*FILES, *self.more):
            command += ["-f", str(file)]
        done = subprocess.run(
            [*command, *words],
            input=stdin if stdin is not None else b"",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            env=dict(os.environ) | {"COMPOSE_PROJECT_NAME": self.project, "TZ": ZONE} | dict(self.environment),
            check=False,
        )
        result = Done(done.returncode, done.stdout.decode(errors="replace"))
        assert not check or result.code == 0, f"{' '.join(words)}: {result.output}"
        return result

    def backup(self, *words: str, check: bool = True) -> Done:
        """`docker compose run --rm backup WORDS`."""
        return self.compose("run", "--rm", "-T", "backup", *words, check=check)

    def psql(self, query: str, database: str = "obcms_prod") -> str:
        """A query to the live database, by the container's own psql."""
        words = ("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "obcms_user", "-d", database, "-c", query)
        return docker("exec", self.container("db"), *words).decode().strip()

    def container(self, service: str) -> str:
        """The id of the one container of a service, running or not."""
        labels = {"project": self.project, "service": service, "oneoff": "False"}
        filters = (f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items())
        return docker("ps", "-aq", *filters).decode().strip()

    @contextlib.contextmanager
    def removed(self) -> Iterator[None]:
        """For the body: nothing is there of an earlier one; in the end nothing is left, whatever happened."""
        self.down()
        try:
            with noted(self.project):
                yield
        finally:
            self.down()

    def down(self) -> None:
        """Remove everything of the project, backups too."""
        self.compose("down", "-v", "--remove-orphans", "-t", "5", check=False)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    output: str


def docker(*words: str, stdin: bytes | None = None) -> bytes:
    """Plain docker; its stdout."""
    done = subprocess.run(["docker", *words], input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
