#!/usr/bin/env bash
# boto3's upload_fileobj takes any object with `read`, and sends what is larger than `multipart_threshold` in parts of
# `multipart_chunksize`, so that ten parts of 8 MiB are all that is in memory.
#
# Expected: the same of an unbuffered pipe (subprocess with bufsize=0, os.fdopen(fd, "rb", 0)), whose `read(n)` may give less
# than n bytes, as Python documents for raw streams.
# Seen, boto3 1.44.8 with s3transfer 0.19.3: the first read alone decides. One that is shorter than the threshold (64 KiB of a pipe
# always are) is taken for a small object: the rest is read into memory by one `read()` and sent by one PutObject, whatever its
# size. It works for small streams, needs memory for all of larger ones, and fails above 5 GB, after all was read.
# `io.BufferedReader` around the pipe is sent in parts.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check boto3==1.44.8 botocore==1.44.8 s3transfer==0.19.3
cat >"$folder/upload.py" <<'PY'
import collections
import resource
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from botocore.config import Config

SIZE = 400 << 20
BEGUN = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
ENDED = b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
bodies = []


class Store(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        left = size = int(self.headers.get("Content-Length") or 0)
        while left:
            left -= len(self.rfile.read(min(left, 1 << 16)))
        bodies.append((self.command, size))
        body = b"" if self.command == "PUT" else BEGUN if "uploads" in self.path else ENDED
        self.send_response(200)
        self.send_header("ETag", '"e"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = boto3.client(
    "s3", endpoint_url=f"http://127.0.0.1:{server.server_port}", region_name="us-east-1", aws_access_key_id="a",
    aws_secret_access_key="b",
    config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
)
with subprocess.Popen(["head", "-c", str(SIZE), "/dev/zero"], stdout=subprocess.PIPE, bufsize=int(sys.argv[1])) as source:
    client.upload_fileobj(source.stdout, "bucket", "key")
puts = collections.Counter(size >> 20 for command, size in bodies if command == "PUT")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
print(" and ".join(f"{count} PUT of {size} MiB" for size, count in puts.items()) + f", {peak} MiB of memory at most", file=sys.stderr)
print("whole" if peak > SIZE >> 20 else "in parts", len(bodies))
PY
raw=$("$folder/venv/bin/python" "$folder/upload.py" 0) buffered=$("$folder/venv/bin/python" "$folder/upload.py" -1)
echo "an unbuffered pipe of 400 MiB: $raw request(s), a buffered one: $buffered"
[ "$raw" = "whole 1" ] && [ "${buffered% *}" = "in parts" ] || { echo "this has changed"; exit 1; }
