"""The stack of the demonstration: the application's file, the overlay as it is shipped, the demo's own file."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.show.screen import Failure, quote

ROOT = Path(__file__).resolve().parents[2]
FILES = (
    ROOT / "demo" / "docker-compose.prod.yml",
    ROOT / "docker-compose.backup.yml",
    ROOT / "demo" / "docker-compose.demo.yml",
)
S3 = ROOT / "demo" / "docker-compose.s3.yml"


@dataclass(frozen=True)
class Stack:
    """One Compose project; images and volumes carry its name. `ports` are those on 127.0.0.1, `s3`: with a bucket."""

    project: str
    ports: dict[str, int] = field(default_factory=dict)
    s3: bool = False

    @property
    def app_image(self) -> str:
        """The application's image."""
        return f"{self.project}/app:latest"

    @property
    def postgres_image(self) -> str:
        """The database's image."""
        return f"{self.project}/postgres:17"

    @property
    def s3_image(self) -> str:
        """The object store's image."""
        return f"{self.project}/s3:latest"

    @property
    def backup_image(self) -> str:
        """The sidecar's image: the demo's own, unless one is named."""
        return os.environ.get("OBCMS_BACKUP_IMAGE") or f"{self.project}/backup:latest"

    def environment(self) -> dict[str, str]:
        """What the Compose files take from the environment; nothing that the caller happens to have set."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "POSTGRES_"))
        }
        ports = {f"DEMO_{name.upper()}_PORT": str(port) for name, port in self.ports.items()}
        images = {"DEMO_APP_IMAGE": self.app_image, "POSTGRES_IMAGE": self.postgres_image}
        images["DEMO_S3_IMAGE"] = self.s3_image
        own = {"COMPOSE_PROJECT_NAME": self.project, "OBCMS_BACKUP_IMAGE": self.backup_image, "TZ": "Asia/Manila"}
        return inherited | ports | images | own

    def command(self, *words: str) -> list[str]:
        """The argv of `docker compose … WORDS`."""
        files = [word for file in (*FILES, *([S3] if self.s3 else [])) for word in ("-f", str(file))]
        return ["docker", "compose", "-p", self.project, *files, *words]

    def compose(self, *words: str, stdin: str = "") -> str:
        """Run it quietly; its standard output. A failure ends the demonstration with what was said last."""
        done = subprocess.run(
            self.command(*words), input=stdin, capture_output=True, text=True, env=self.environment(), check=False
        )
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
            raise Failure(f"`docker compose {' '.join(words)}` ended with {done.returncode}:\n{tail}")
        return done.stdout

    def backup(self, *words: str) -> int:
        """A command of the sidecar in its running service, whose lines are shown as they come; its exit code."""
        quote(f"$ docker compose exec backup backup {' '.join(words)}")
        argv = self.command("exec", "-T", "backup", "backup", *words)
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.environment()
        ) as process:
            assert process.stdout  # noqa: S101 - for the types
            for line in process.stdout:
                quote(line.decode(errors="replace").rstrip().replace("\t", "   "))
        return process.returncode

    def answer(self, *words: str) -> Any:
        """What a command of the sidecar tells other programs."""
        return json.loads(self.compose("exec", "-T", "backup", "backup", *words, "--json"))

    def url(self, name: str, path: str = "/") -> str:
        """An address on this machine."""
        return f"http://127.0.0.1:{self.ports[name]}{path}"

    def page(self, name: str, path: str = "/") -> str:
        """What is served there; empty if nothing or an error is."""
        try:
            with urllib.request.urlopen(self.url(name, path), timeout=20) as response:  # noqa: S310 - http, this machine
                return str(response.read().decode())
        except (urllib.error.URLError, OSError):
            return ""
