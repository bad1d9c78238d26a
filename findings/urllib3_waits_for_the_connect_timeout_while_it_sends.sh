#!/usr/bin/env bash
# urllib3's Timeout(connect=, read=): `connect` bounds the making of a connection, `read` what is waited for between two reads.
# It does not say what bounds a send that makes no progress because the other end reads nothing.
#
# Expected: a body whose other end reads nothing is given up after `read`, or after a bound of its own, as a timeout.
# Seen, urllib3 2.8.0: after `connect`, on a new connection and on one that was used before, and the error is ProtocolError
# ("Connection aborted.", TimeoutError). So whoever wants to notice quickly that nobody is there (connect 1 s, read 60 s) has
# uploads to a store that pauses for a second broken, and is told that the connection was closed.
# botocore passes connect_timeout and read_timeout on: PutObject and UploadPart end with ConnectionClosedError after connect_timeout.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check urllib3==2.8.0
cat >"$folder/send.py" <<'PY'
import socket
import threading
import time

import urllib3

server = socket.create_server(("127.0.0.1", 0))
stopped = []


def serve():
    """Answers a GET, and reads nothing of what follows."""
    while True:
        connection, _ = server.accept()
        stopped.append(connection)
        if connection.recv(4096, socket.MSG_PEEK).startswith(b"GET"):
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


threading.Thread(target=serve, daemon=True).start()


def seconds(used):
    timeout = urllib3.Timeout(connect=1, read=5)
    pool = urllib3.HTTPConnectionPool("127.0.0.1", server.getsockname()[1], timeout=timeout, retries=False)
    if used:
        pool.request("GET", "/")
    began = time.monotonic()
    try:
        pool.request("PUT", "/", body=iter([bytes(1 << 18)] * 200), headers={"Content-Length": str(200 << 18)})
    except urllib3.exceptions.HTTPError as error:
        return time.monotonic() - began, type(error).__name__
    raise SystemExit("this has changed: no error")


for used in (False, True):
    taken, error = seconds(used)
    print(f"{'used' if used else 'new'} connection: {error} after {taken:.1f} s")
    if (round(taken), error) != (1, "ProtocolError"):
        raise SystemExit("this has changed")
PY
"$folder/venv/bin/python" "$folder/send.py"
