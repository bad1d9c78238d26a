"""pg_receivewal at work: a helper container, or a child process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from backup.docker.helper import Helper
from backup.postgres.child_process import ChildProcess


@dataclass(frozen=True)
class Receiver:
    """It writes WAL until it is stopped; `secret` is its password file."""

    process: Helper | ChildProcess
    secret: Path

    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.running()

    def errors(self) -> str:
        """Its last words."""
        return self.process.errors()

    def entered(self) -> None:
        """It has a session: no password is to lie beside it any longer."""
        self.secret.unlink(missing_ok=True)
