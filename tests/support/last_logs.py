"""What the containers of a worker's tests said last: for the report of a test that failed."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping

_LINES = 40
_FORMAT = '{{.ID}}\t{{.Names}}\t{{.Status}}\t{{.Label "com.docker.compose.project"}}'


def last_logs(mark: str, engine: Mapping[str, str] | None = None) -> str:
    """The last lines of every container with `mark` in its name or its Compose project, on this engine."""
    environment = os.environ | (engine or {})
    found = []
    for line in _said(environment, "ps", "-a", f"--format={_FORMAT}").splitlines():
        identifier, name, status, project = line.split("\t")
        if mark in name or mark in project:
            lines = _said(environment, "logs", f"--tail={_LINES}", identifier)
            found.append(f"--- {name} ({status})\n{lines.rstrip()}")
    return "\n".join(found)


@contextlib.contextmanager
def noted(mark: str) -> Iterator[None]:
    """Add the last logs to an exception of the body: a fixture that fails removes its containers before the report."""
    try:
        yield
    except BaseException as error:
        error.add_note(last_logs(mark))
        raise


def _said(environment: Mapping[str, str], *words: str) -> str:
    """Both streams, whether it worked or not: a report of a failure may not fail itself."""
    done = subprocess.run(
        ["docker", *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return done.stdout.decode(errors="replace")
