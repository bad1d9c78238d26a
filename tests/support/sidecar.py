"""A sidecar on temporary directories, run as it is shipped: through its command line, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backup.app.composition import App
from backup.catalog.catalog import Catalog
from backup.config import loader
from backup.model.backup_set import StoredSet
from backup.model.run import Run
from tests.support.database import LABEL, PASSWORD, PROJECT, USER, Server
from tests.support.forked_cli import ROOT, Forked, Traced, around
from tests.support.schemas import checked

_UNTRIED = "tests/support/untried_cli.py"
IMAGE = os.environ.get("IMAGE", "obcms-backup:latest")


@dataclass
class Sidecar:
    """Directories and environment of one sidecar. `root` is its backup volume, `media` its one volume."""

    root: Path
    spool: Path
    volumes: Path
    environment: dict[str, str]
    image: str = ""
    program: Path | None = None
    # Further options of `docker run`, where `image` is run; and words before the command.
    options: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    # Whether a new set is tried, as it is outside of tests.
    tries: bool = False

    @classmethod
    def make(cls, base: Path, server: Server | None, database: str = "obcms_prod", **extra: str) -> Sidecar:
        """A sidecar for `database` on `server`, with a volume that holds one file."""
        root, spool, volumes = (base / name for name in ("backups", "spool", "volumes"))
        for directory in (root, spool):
            directory.mkdir(mode=0o700, exist_ok=True)
        (volumes / "media" / "uploads").mkdir(parents=True, exist_ok=True)
        (volumes / "media" / "uploads" / "a.txt").write_text("a file\n")
        environment = {
            "BACKUP_DIR": str(root),
            "BACKUP_SPOOL_DIR": str(spool),
            "BACKUP_VOLUMES_DIR": str(volumes),
            "BACKUP_PROJECT": PROJECT,
            "BACKUP_STALL_TIMEOUT": "20",
            "BACKUP_LOCK_TIMEOUT": "2",
            "DB_NAME": database,
        }
        if server is not None:
            environment["DB_SERVICE"] = server.service
        return cls(root, spool, volumes, {**environment, **extra})

    def network(self, server: Server) -> Sidecar:
        """The same sidecar in the shipped image (which has the clients) and without an engine."""
        environment = dict(self.environment) | {
            "DB_HOST": server.address,
            "DB_USER": USER,
            "DB_PASSWORD": PASSWORD,
        }
        return Sidecar(self.root, self.spool, self.volumes, environment, IMAGE)

    @property
    def media(self) -> Path:
        """The volume `media`."""
        return self.volumes / "media"

    def app(self) -> App:
        """The product's objects on these settings, inside the test's own process."""
        return App(loader.load_settings(self.environment))

    @property
    def catalog(self) -> Catalog:
        """The sets."""
        return self.app().catalog

    def start(self, *command: str, prefix: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[str]:
        """Start a command of the product."""
        settings = self.environment | environment
        program = ROOT / _UNTRIED
        if self.tries or command[:1] == ("serve",):
            program = self.program or ROOT / "entrypoint.py"
        elif self.program and not self.image:
            settings |= {"UNTRIED_PROGRAM": str(self.program)}
        words = [str(program), *command]
        if not prefix and not self.image:
            return Forked(words, around() | settings)
        if prefix[:1] == ("strace",):
            return Traced(prefix, words, around() | settings)
        shipped = [*self._container(settings), *self.words, *command] if self.image else [sys.executable, *words]
        return subprocess.Popen(
            [*prefix, *shipped],
            env=around() | ({} if self.image else settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _container(self, settings: dict[str, str]) -> list[str]:
        """The shipped image, as confined as the overlay confines it, on this machine's network."""
        mounts = [f"-v{path}:{path}" for path in (self.root, self.volumes)]
        rights = ["--read-only", "--tmpfs=/tmp", "--tmpfs=/run", "--cap-drop=ALL", "--cap-add=DAC_READ_SEARCH"]
        environment = [f"-e{name}={value}" for name, value in settings.items()]
        label = f"--label={LABEL}={PROJECT}"
        return [
            "docker",
            "run",
            "--rm",
            "--network=host",
            label,
            *rights,
            *mounts,
            *environment,
            *self.options,
            self.image,
        ]

    def run(self, *command: str, timeout: float = 120, **environment: str) -> Result:
        """Run a command of the product to its end."""
        with self.start(*command, **environment) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                raise
        return Result(process.returncode, output)

    def sets(self) -> list[StoredSet]:
        """All sets, newest first."""
        return self.catalog.sets()

    def runs(self) -> list[Run]:
        """All run records, newest first."""
        return self.app().records.all()

    def files(self) -> dict[str, bytes]:
        """Every file of every tier, by name: to see that nothing was touched."""
        tiers = ("daily", "weekly", "monthly", "manual", "pre-restore")
        paths = [path for tier in tiers for path in (self.root / tier).glob("*") if path.name != "RESTORE.txt"]
        return {path.name: path.read_bytes() for path in paths if path.is_file()}

    def spooled(self) -> list[str]:
        """What lies in the spool: nothing, between runs."""
        return sorted(path.name for path in self.spool.iterdir())


@dataclass(frozen=True)
class Result:
    """How a command ended: exit code, and stdout with stderr."""

    code: int
    output: str

    @property
    def json(self) -> Any:
        """The document of the output, which is of its schema: log lines, on stderr, may come before or after it."""
        begin = self.output.index('{"format"')
        _, end = json.JSONDecoder().raw_decode(self.output, begin)
        return checked(f"{self.output[begin:end]}\n")
