"""Takes every mail on port 1025 and delivers none: / on port 8025 shows them, /api/messages tells them as JSON."""

from __future__ import annotations

import html
import json
import signal
import threading
from collections import deque
from datetime import datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from zoneinfo import ZoneInfo

from aiosmtpd.controller import Controller

KEPT = 100
LARGEST = 1_000_000
_ZONE = ZoneInfo("Asia/Manila")
_STYLE = """
:root{color-scheme:light dark} body{font:16px/1.5 system-ui,'DejaVu Sans',sans-serif;max-width:52rem;margin:2rem auto;
padding:0 1rem} article{border:1px solid #8886;border-radius:.5rem;padding:1rem;margin:1rem 0}
h2{font-size:1.1rem;margin:0} pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.5rem 0 0} small{opacity:.7}
"""
_caught: deque[dict[str, str]] = deque(maxlen=KEPT)


class Catcher:
    """What the SMTP server does with a mail."""

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Keep it, as text."""
        mail = message_from_bytes(envelope.content, _class=EmailMessage, policy=policy.default)
        body = mail.get_body(("plain", "html"))
        _caught.appendleft(
            {
                "at": f"{datetime.now(_ZONE):%Y-%m-%d %H:%M:%S}",
                "to": ", ".join(envelope.rcpt_tos),
                "subject": str(mail["subject"] or ""),
                "body": body.get_content() if body else "",
            }
        )
        return "250 caught"


class Page(BaseHTTPRequestHandler):
    """Shows what was caught, newest first."""

    def do_GET(self) -> None:  # noqa: N802 - the name that the base class calls
        """Answer with the page, or with JSON below /api."""
        if self.path == "/api/messages":
            self._send("application/json", json.dumps(list(_caught)))
        elif self.path == "/":
            self._send("text/html; charset=utf-8", _page())
        else:
            self.send_error(404)

    def _send(self, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: this is a demonstration."""


def _page() -> str:
    told = "".join(_article(mail) for mail in _caught) or "<p>No mail so far.</p>"
    head = f"<!doctype html><html lang=en><title>Mail of the demo</title><style>{_STYLE}</style>"
    return f"{head}<h1>Mail of the demo</h1><p>Everything that was sent; nothing has left this machine.</p>{told}"


def _article(mail: dict[str, str]) -> str:
    safe = {name: html.escape(value) for name, value in mail.items()}
    head = f"<h2>{safe['subject']}</h2><small>{safe['at']} to {safe['to']}</small>"
    return f"<article>{head}<pre>{safe['body']}</pre></article>"


def main() -> None:
    """Serve until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    smtp = Controller(Catcher(), hostname="0.0.0.0", port=1025, data_size_limit=LARGEST)  # noqa: S104 - a container
    smtp.start()
    page = ThreadingHTTPServer(("0.0.0.0", 8025), Page)  # noqa: S104 - a container
    threading.Thread(target=page.serve_forever, daemon=True).start()
    ended.wait()
    smtp.stop()


if __name__ == "__main__":
    main()
