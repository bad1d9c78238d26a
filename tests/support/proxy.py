"""A TCP proxy that does harm: cuts after a number of bytes, resets, stalls, flips a byte, drops an answer."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal
from urllib.parse import urlsplit

Harm = Literal["close", "reset", "stall"]


class Proxy:
    """Stands before an endpoint. `sent` counts what clients have sent; offsets are in that stream."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._target = (parts.hostname or "", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self.heal()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """Where clients go."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def heal(self) -> None:
        """No harm from now on."""
        self.sent = self.received = 0
        self._cut: int | None = None
        self._harm: Harm = "close"
        self._once = False
        self._flip = self._flip_answer = -1
        self._lose = b""
        self.done = 0
        self.broken = False

    def cut(self, after: int, harm: Harm = "close", *, once: bool = False) -> None:
        """Do harm when a client has sent so many bytes; for good, or to one connection."""
        self.heal()
        self._cut, self._harm, self._once = after, harm, once

    def flip(self, at: int, *, answer: bool = False) -> None:
        """Flip a bit of the byte at this place, sent by clients or by the server."""
        self.heal()
        self._flip, self._flip_answer = (-1, at) if answer else (at, -1)

    def lose_answer(self, marker: bytes) -> None:
        """Let one request that holds `marker` through, and close when its answer comes."""
        self.heal()
        self._lose = marker

    def close(self) -> None:
        """End all."""
        self._listener.close()
        for each in self._open:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            if self.broken and self._harm != "stall" and not self._once:
                client.close()
                continue
            server = socket.create_connection(self._target)
            self._open.append(server)
            state = {"lose": False, "dead": False}
            threading.Thread(target=self._up, args=(client, server, state), daemon=True).start()
            threading.Thread(target=self._down, args=(client, server, state), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, state: dict[str, bool]) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.broken and not self._once:
                    state["dead"] = True
                    if self._harm == "stall":
                        continue
                    break
                with self._lock:
                    start, self.sent = self.sent, self.sent + len(data)
                    due = self._cut is not None and start <= self._cut < self.sent and not self.broken
                    self.broken = self.broken or due
                if due:
                    assert self._cut is not None
                    server.sendall(data[: self._cut - start])
                    if self._harm == "stall":
                        state["dead"] = True
                        continue
                    break
                if start <= self._flip < self.sent and not self.done:
                    data, self.done = _flipped(data, self._flip - start), 1
                if self._lose and self._lose in data and not self.done:
                    state["lose"], self.done = True, 1
                server.sendall(data)
        _end(client, reset=self._harm == "reset" and self.broken)
        _end(server)

    def _down(self, client: socket.socket, server: socket.socket, state: dict[str, bool]) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if state["lose"]:
                    break
                if state["dead"]:
                    continue
                with self._lock:
                    start, self.received = self.received, self.received + len(data)
                if start <= self._flip_answer < self.received:
                    data = _flipped(data, self._flip_answer - start)
                client.sendall(data)
        if not state["dead"] or self._harm != "stall":
            _end(client)
        _end(server)


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _end(connection: socket.socket, *, reset: bool = False) -> None:
    with contextlib.suppress(OSError):
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


@contextmanager
def proxied(endpoint: str) -> Iterator[Proxy]:
    """A proxy before an endpoint, for the body."""
    proxy = Proxy(endpoint)
    try:
        yield proxy
    finally:
        proxy.close()
