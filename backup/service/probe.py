"""The container's health probe: asks the service and says in one line how it is. Standard library only, and quick.

    python -m backup.service.probe [PATH] [--wait SECONDS]

While the first backup runs, the service answers `starting`, and the probe waits. The reason is how Docker counts: a
failed probe inside the start period counts for nothing, so a start period long enough for a first backup of hours
would hide a first backup that failed in its first minute. A probe that is still running counts for nothing
either, and Docker shows `health: starting` as long as it runs; so it runs until there is something to say, and the
container is healthy or unhealthy at once when the first backup has ended.

It asks at a socket of its own, which no visitor of the port can use up; where there is none, at the port.

Without PATH it asks what BACKUP_HEALTHCHECK names. Where the service wants a login before it gives reasons, the probe
has it from the same environment.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from backup.config import secret_file
from backup.formatting import printable

# Less than the 6 h that the image's HEALTHCHECK gives one probe.
WAIT = 5 * 3600 + 50 * 60.0
_TIMEOUT = 5.0
_POLL = 2.0
# Docker keeps 4096 bytes of a probe's output.
_LIMIT = 4000
_BODY = 1 << 20
# In the directory for what lives as long as the service.
SOCKET = "probe.sock"


def probe(
    port: int,
    path: str = "/healthz",
    wait: float = 0.0,
    host: str = "127.0.0.1",
    login: str = "",
    *,
    local: Path | None = None,
    timeout: float = _TIMEOUT,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[int, str]:
    """(exit code, one line): 0 for an answer of 200, else 1. Waits up to `wait` seconds while it is `starting`.

    `login` is the value of the Authorization header; one answer may take `timeout` seconds. `local` is the socket that
    is asked before the port.
    """
    deadline = clock() + wait
    while True:
        status, code, line = _ask(host, port, path, login, timeout, local)
        left = deadline - clock()
        if status != "starting" or left <= 0:
            return code, _cut(line)
        sleep(min(_POLL, left))


def _ask(
    host: str, port: int, path: str, login: str, timeout: float = _TIMEOUT, local: Path | None = None
) -> tuple[str, int, str]:
    """(status, exit code, line) of one question."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    connection.sock = _connected(local, timeout) if local else None
    headers = {"Connection": "close"} | ({"Authorization": login} if login else {})
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return _read(response.status, response.read(_BODY))
    except TimeoutError:
        return "", 1, f"the service does not answer on port {port} within {timeout:.0f} s"
    except OSError as error:
        return "", 1, f"the service does not answer on port {port}: {error.strerror or error}"
    except (http.client.HTTPException, ValueError) as error:
        return "", 1, f"what answers on port {port} is not the service: {type(error).__name__}"
    finally:
        connection.close()


def _connected(local: Path, timeout: float) -> socket.socket | None:
    """A connection to the probe's own socket; None where nobody listens there, or it is not ours."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect(str(local))
    except OSError:
        connection.close()
        return None
    return connection


def _read(code: int, body: bytes) -> tuple[str, int, str]:
    try:
        answer = json.loads(body)
        status = str(answer["status"])
        reasons = [str(reason["text"]) for reason in answer["reasons"]]
    except (ValueError, KeyError, TypeError):
        return "", int(code != 200), f"HTTP {code}, without a status"
    return status, int(code != 200), f"{status}: {'; '.join(reasons)}" if reasons else status


def _cut(line: str) -> str:
    safe = printable(line).encode(errors="replace")
    return safe.decode() if len(safe) < _LIMIT else safe[: _LIMIT - 8].decode(errors="ignore") + " …"


def scheduler_state(
    port: int, host: str = "127.0.0.1", login: str = "", local: Path | None = None
) -> Literal["alive", "stopped", "dead"] | None:
    """What the service says of its scheduler; None when no service answers there."""
    status, _, line = _ask(host, port, "/livez", login, local=local)
    if status != "fail":
        return "alive" if status == "pass" else None
    return "stopped" if "stopped" in line else "dead"


def target(environ: Mapping[str, str]) -> tuple[str, int]:
    """(host, port) to ask, by the service's own settings; an address that means every one is asked on loopback."""
    host = environ.get("BACKUP_HTTP_HOST") or "0.0.0.0"  # noqa: S104  # read, not bound
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), int(environ.get("BACKUP_HTTP_PORT") or 8080)  # noqa: S104


def run_dir(environ: Mapping[str, str]) -> Path:
    """Where the service keeps its crontab, and listens for the probe alone."""
    return Path(environ.get("XDG_RUNTIME_DIR") or "/run")


def login(environ: Mapping[str, str]) -> str:
    """The Authorization header that opens the service; empty if it wants none. ValueError: a secret cannot be read."""
    if token := _secret("BACKUP_HTTP_TOKEN", environ):
        return f"Bearer {token}"
    if password := _secret("BACKUP_HTTP_PASSWORD", environ):
        pair = f"{environ.get('BACKUP_HTTP_USER', '')}:{password}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"
    return ""


def _secret(name: str, environ: Mapping[str, str]) -> str:
    file = environ.get(f"{name}_FILE")
    return environ.get(name) or (secret_file.read_secret(name, file) if file else "")


def path_asked(environ: Mapping[str, str]) -> str:
    """The question of the image's HEALTHCHECK."""
    return "/" + (environ.get("BACKUP_HEALTHCHECK") or "healthz")


def main(argv: list[str]) -> int:
    """Print the line and return the exit code."""
    try:
        wait = float(argv.pop(argv.index("--wait") + 1)) if "--wait" in argv else WAIT
        paths = [word for word in argv if word != "--wait"]
        host, port = target(os.environ)
    except (ValueError, IndexError):
        print("usage: python -m backup.service.probe [PATH] [--wait SECONDS]; BACKUP_HTTP_PORT must be a number")  # noqa: T201
        return 1
    try:
        secret = login(os.environ)
    except ValueError:
        secret = ""  # the status is told to anybody, and a healthy service stays healthy when a secret's file is gone
    path = paths[0] if paths else path_asked(os.environ)
    code, line = probe(port, path, wait, host, secret, local=run_dir(os.environ) / SOCKET)
    print(line)  # noqa: T201  # Docker keeps what a probe prints
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
