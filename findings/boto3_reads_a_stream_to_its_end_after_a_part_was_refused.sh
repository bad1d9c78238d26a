#!/usr/bin/env bash
# boto3's upload_fileobj sends a stream in parts, several at a time, and raises what the store answers.
#
# Expected: once a part was refused, nothing more is read of the source: the upload has failed whatever comes.
# Seen, boto3 1.44.8 with s3transfer 0.19.3: the source is read to its end first. Of a source that cannot seek, the loop that cuts
# parts (`UploadNonSeekableInputManager.yield_upload_part_bodies`) reads from it directly; only the bytes of parts are behind the
# reader that an error interrupts. So a pipe of 500 GB whose second part was denied is read, and its producer kept at work, for
# hours before anybody hears of it. An error of the source itself does end the upload, and nothing is committed then.
# A source whose `read` raises once a request has failed ends it: that is what a caller can do.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check boto3==1.44.8 botocore==1.44.8 s3transfer==0.19.3
cat >"$folder/upload.py" <<'PY'
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

MIB = 1 << 20
TOTAL = 400 * MIB
BEGUN = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
methods = []


class Store(BaseHTTPRequestHandler):
    """Takes the first part and denies all others."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        methods.append(self.command)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        part = re.search(r"partNumber=(\d+)", self.path)
        status, body = (403, DENIED) if part and part[1] != "1" else (200, BEGUN if self.command == "POST" else b"")
        self.send_response(status)
        self.send_header("ETag", '"e"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *_):
        pass


class Source:
    """A stream that cannot seek; `dies`: after so many bytes."""

    def __init__(self, dies=None):
        self.given, self.dies = 0, dies

    def read(self, amount=-1):
        if self.dies is not None and self.given >= self.dies:
            raise OSError("the source has died")
        amount = min(TOTAL - self.given, TOTAL if amount < 0 else amount)
        self.given += amount
        return bytes(amount)


server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = boto3.client(
    "s3", endpoint_url=f"http://127.0.0.1:{server.server_port}", region_name="us-east-1", aws_access_key_id="a",
    aws_secret_access_key="b", config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
)


def upload(source):
    methods.clear()
    try:
        client.upload_fileobj(source, "bucket", "key", Config=TransferConfig(max_concurrency=2))
    except Exception as error:
        print(f"{type(error).__name__}: {source.given // MIB} of {TOTAL // MIB} MiB were read; requests: {' '.join(methods)}")
        return source.given
    raise SystemExit("this has changed: no error")


if upload(Source()) != TOTAL:
    raise SystemExit("this has changed")
if upload(Source(dies=24 * MIB)) != 24 * MIB:
    raise SystemExit("this has changed")
PY
"$folder/venv/bin/python" "$folder/upload.py"
