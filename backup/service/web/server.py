"""The HTTP server: uvicorn in a thread, with limits that a slow or greedy client cannot get around.

The container's probe has a server of its own, with its own thread and connections: no visitor keeps it from an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import h11
from starlette.types import ASGIApp
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from backup.errors import BackupError
from backup.logging import logger
from backup.service.web.guard import HEADERS

# Above so many connections a request gets 503, above twice as many the connection is closed unread.
_CONNECTIONS: Final = 128
# Seconds. No connection lives longer: uvicorn itself waits without limit for a request to become complete.
LIFETIME: Final = 15.0


class _Bounded(H11Protocol):
    """HTTP/1.1 on connections of bounded number and life."""

    lifetime = LIFETIME

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._end = self.loop.call_later(self.lifetime, transport.abort)
        if len(self.connections) > 2 * _CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP is answered like the rest; in the middle of another answer the connection just ends."""
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        headers += self.server_state.default_headers
        try:
            for part in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=msg.encode()),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(part) or b"")
            self.transport.close()
        except h11.LocalProtocolError:
            self.transport.abort()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; BackupError that says what to change when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128, dualstack_ipv6=host == "::")
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        raise BackupError(
            f"the health endpoint cannot listen on {address(host, port)}: "
            + ("the port is in use" if in_use else error.strerror or str(error)),
            "Set BACKUP_HTTP_PORT to a free port, or stop what uses it."
            if in_use
            else "Correct BACKUP_HTTP_HOST or BACKUP_HTTP_PORT.",
        ) from error


def address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class HttpServer:
    """Serves `app` on a socket from `bind`, in a thread, while the context lasts."""

    def __init__(self, app: ASGIApp, listener: socket.socket, lifetime: float = LIFETIME) -> None:
        bounded = type("Bounded", (_Bounded,), {"lifetime": lifetime})
        self._server = Server(Config(app, http=bounded, **_LIMITS))
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="http", daemon=True)

    def __enter__(self) -> HttpServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._server.should_exit = True
        self._thread.join(5)


@contextlib.contextmanager
def reserved(app: ASGIApp, path: Path) -> Iterator[None]:
    """Serve `app` at a socket for processes of ours in this container as well; without one all ask at the port."""
    try:
        listener = _bind_local(path)
    except OSError as error:
        why = error.strerror or error
        logger.warning("{} is not available ({}): the container's health check uses the port instead", path, why)
        yield
        return
    try:
        with listener, HttpServer(app, listener):
            yield
    finally:
        path.unlink(missing_ok=True)


def _bind_local(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # left by a service that was killed
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    return listener


_LIMITS: Final[dict[str, Any]] = {
    "loop": "asyncio",
    "ws": "none",
    "lifespan": "off",
    "log_config": None,
    "access_log": False,
    # A warning for each odd request would let anybody fill the log.
    "log_level": "error",
    "headers": list(HEADERS.items()),
    "server_header": False,
    "proxy_headers": False,
    "limit_concurrency": _CONNECTIONS,
    "h11_max_incomplete_event_size": 8192,
    "timeout_keep_alive": 2,
    "timeout_graceful_shutdown": 2,
}
