"""An operator's folder with the sample stack in it, and commands typed there, at a terminal, as the pages have them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.stack import ROOT, STACK, ZONE, docker

_ASKED = b"Type yes to continue: "
# Sourced first, so that `backup COMMAND` means what the README says.
_PROFILE = "set -eo pipefail; . tools/backup.bash\n"
_PATIENCE = 300.0
# One container of each kind will do here: a hundred commands wait for each that is stopped and started.
_MANY = re.compile(r"^  (?:web[2-4]|celery-worker2): \*app\n|^  db-replica\d:\n(?:    .*\n)+", re.MULTILINE)


@dataclass(frozen=True)
class Ran:
    """A command that was run: how it ended, and all that the terminal showed."""

    command: str
    code: int
    output: str
    seconds: float


@dataclass(frozen=True)
class Operator:
    """Someone at a terminal in the folder of a Compose project."""

    folder: Path
    project: str

    @property
    def overlay(self) -> Path:
        """This stack's copy of the shipped overlay, in which settings are made."""
        return self.folder / "docker-compose.backup.yml"

    def move_in(self, network: str, image: str) -> None:
        """Lay out the folder: the stack's files, the overlay with a volume of its own, `.env` as the README says."""
        shutil.copy(STACK / "seed.sql", self.folder)
        whole = (STACK / "docker-compose.prod.yml").read_text()
        (self.folder / "docker-compose.prod.yml").write_text(_MANY.sub("", whole).replace(", web2, web3, web4]", "]"))
        for name in ("deploy", "tools"):
            shutil.copytree(ROOT / name, self.folder / name)
        shutil.copy(ROOT / "deploy/socket-proxy/docker-compose.socket-proxy.yml", self.folder)
        for name in ("backups", "bin", "copies"):
            (self.folder / name).mkdir()
        own = (ROOT / "docker-compose.backup.yml").read_text()
        own = own.replace("name: obcms_backups", f"name: {self.project}_obcms_backups")
        own = own.replace("      - obcms_network\n", "      - obcms_network\n      - elsewhere\n")
        own = own.replace(
            "    stop_grace_period:",
            "    healthcheck: {start_interval: 1s, start_period: 60s}\n    stop_grace_period:",
        )
        own += f"networks:\n  elsewhere:\n    external: true\n    name: {network}\n"
        self.overlay.write_text(own)
        more = {
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": "docker-compose.prod.yml:docker-compose.backup.yml",
        }
        more |= {"TZ": ZONE, "OBCMS_BACKUP_IMAGE": image}
        lines = "".join(f"{name}={value}\n" for name, value in more.items())
        (self.folder / ".env").write_text((STACK / ".env").read_text() + lines)
        psql = self.folder / "bin" / "psql"
        psql.write_text('#!/bin/sh\nexec docker compose exec -T db psql -U obcms_user "$@"\n')
        psql.chmod(0o755)

    def set(self, **settings: str) -> None:
        """Make settings in the overlay: where it has each as a line, mostly as a comment."""
        text = self.overlay.read_text()
        for name, value in settings.items():
            text, count = re.subn(rf"^      (?:# )?{name}: .*$", f'      {name}: "{value}"', text, flags=re.MULTILINE)
            assert count, f"the overlay has no line for {name}"
        self.overlay.write_text(text)

    def mount(self, volume: str) -> None:
        """One more volume for the sidecar."""
        first = "      - obcms_backups:/backups\n"
        self.overlay.write_text(self.overlay.read_text().replace(first, f"{first}      - {volume}\n"))

    def type(self, command: str) -> Ran:
        """Run it at a terminal, and say yes when asked."""
        began = time.monotonic()
        near, far = pty.openpty()
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 400, 0, 0))
        with subprocess.Popen(
            ["bash", "-c", _PROFILE + command],
            stdin=far,
            stdout=far,
            stderr=far,
            cwd=self.folder,
            env=self._environment(),
            start_new_session=True,
        ) as process:
            os.close(far)
            output = _watched(near, process)
        os.close(near)
        return Ran(command, process.returncode, _plain(output), time.monotonic() - began)

    def must(self, command: str) -> str:
        """Run what is no command of a page, without a terminal; its output."""
        done = subprocess.run(
            ["bash", "-c", _PROFILE + command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=self._environment(),
            timeout=_PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout.strip()

    def _environment(self) -> dict[str, str]:
        """Nothing of Compose but what `.env` says; plain lines of progress are easier to read in a report."""
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "OBCMS_"))}
        return kept | {"PATH": path, "COMPOSE_PROGRESS": "plain", "COMPOSE_MENU": "false", "TERM": "xterm"}

    def psql(self, query: str) -> str:
        """A query to the live database."""
        return self.must(f"psql -XqAt -v ON_ERROR_STOP=1 -d obcms_prod -c {_quoted(query)}")

    def volume(self, name: str) -> str:
        """What a volume of this project is called."""
        return f"{self.project}_{name}"

    def lose(self, *volumes: str) -> None:
        """Volumes are gone; whoever has one mounted goes with it."""
        for each in volumes:
            users = docker("ps", "-aq", "--filter", f"volume={self.volume(each)}").decode().split()
            docker("rm", "-fv", *users) if users else None
            docker("volume", "rm", "-f", self.volume(each))


def _watched(near: int, process: subprocess.Popen[bytes]) -> bytes:
    """All that the terminal shows, until nobody writes to it any more."""
    shown, answered, deadline = b"", 0, time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if not select.select([near], [], [], 1)[0]:
            continue
        try:
            shown += os.read(near, 1 << 16)
        except OSError:  # the other end is closed
            return shown
        if shown.count(_ASKED) > answered:
            answered += 1
            os.write(near, b"yes\n")
    process.kill()
    return shown + b"\n(it did not end)"


def _plain(output: bytes) -> str:
    """Without colours and movements of the cursor."""
    text = output.decode(errors="replace").replace("\r", "\n")
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).strip()


def _quoted(words: str) -> str:
    return "'" + words.replace("'", "'\\''") + "'"
