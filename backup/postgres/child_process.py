"""A client program as a child process of ours."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Final

from backup.errors import DumpFailed

# A query that fails is told as a whole, behind the line that says why.
_STDERR_TAIL: Final = 1 << 20


class ChildProcess:
    """A started program; satisfies `process_io.ClientProcess`."""

    def __init__(self, command: list[str], libraries: Path) -> None:
        environment = {"PATH": "/usr/bin:/bin", "LC_MESSAGES": "C"}
        # Clients of another Debian release bring their own libpq.
        if libraries.is_dir():
            environment["LD_LIBRARY_PATH"] = str(libraries)
        self._stderr: IO[bytes] = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            raise DumpFailed(f"{command[0]} cannot be started: {error.strerror}") from error

    def wait(self) -> int:
        """See Process."""
        code = self._process.wait()
        return 128 - code if code < 0 else code

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def stop(self, seconds: int) -> None:
        """Ask it to end; return when it has, or after so many seconds."""
        self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def errors(self) -> str:
        """See Process."""
        end = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, end - _STDERR_TAIL))
        return self._stderr.read().decode(errors="replace")

    def kill(self) -> None:
        """See Process."""
        self._process.kill()

    def close(self) -> None:
        """See Process."""
        self.kill()
        self._process.wait()
        self._stderr.close()
