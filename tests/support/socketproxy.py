"""A proxy before the Docker engine's socket that lets through what it is told to, and answers 403 to the rest."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_SOCKET = "/var/run/docker.sock"


class _Engine(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(_SOCKET)


@contextmanager
def socket_proxy(allowed: str) -> Iterator[str]:
    """For the body: its address. `allowed` is a pattern of `METHOD /path`, without the version of the API."""

    class Handler(BaseHTTPRequestHandler):
        def _pass(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            path = re.sub(r"^/v[0-9.]+", "", self.path)
            if not re.search(allowed, f"{self.command} {path}"):
                self.send_error(403)
                return
            engine = _Engine("localhost", timeout=30)
            kind = self.headers.get("Content-Type") or "application/json"
            engine.request(self.command, self.path, body, {"Content-Type": kind})
            answer = engine.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.getheader("Content-Type") or "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            engine.close()

        do_GET = do_POST = do_DELETE = do_HEAD = _pass  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"tcp://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
