"""Receivers of messages: a real SMTP server, a real HTTP server, and one that takes connections and says nothing."""

from __future__ import annotations

import email
import email.policy
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


@dataclass
class Mails:
    """What an SMTP server took. `refused` recipients get 550."""

    port: int = 0
    refused: set[str] = field(default_factory=set)
    messages: list[tuple[tuple[str, ...], EmailMessage]] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)

    def subjects(self) -> list[str]:
        return [str(message["subject"]) for _, message in self.messages]

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.refused:
            return "550 no such user here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.messages.append((tuple(envelope.rcpt_tos), message))
        return "250 taken"

    def authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: object
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=True)


@contextmanager
def smtp(port: int = 0, refused: set[str] | None = None, auth: bool = False) -> Iterator[Mails]:
    """An SMTP server on loopback."""
    mails = Mails(port=port or free_port(), refused=refused or set())
    more = {"authenticator": mails.authenticate, "auth_require_tls": False, "auth_required": True} if auth else {}
    controller = Controller(mails, hostname="127.0.0.1", port=mails.port, **more)
    controller.start()
    try:
        yield mails
    finally:
        controller.stop()


@dataclass
class Calls:
    """What an HTTP server was asked for: (method, path, body)."""

    port: int = 0
    code: int = 200
    location: str = ""
    requests: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def http_server(code: int = 200, location: str = "", port: int = 0) -> Iterator[Calls]:
    """An HTTP server on loopback that answers all with `calls.code`."""
    calls = Calls(code=code, location=location)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            calls.requests.append((self.command, self.path, body))
            self.send_response(calls.code)
            if calls.location:
                self.send_header("Location", calls.location)
            # An answer that repeats what it was asked: a careless service.
            self.end_headers()
            self.wfile.write(f"you asked for {self.path}".encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    calls.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield calls
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def silence() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
