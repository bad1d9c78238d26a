"""A store that lies: it takes everything, keeps something else, or answers what is not so."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

_ERROR = "<Error><Code>{code}</Code><Message>{message}</Message></Error>"
_ITEM = (
    "<Contents><Key>{key}</Key><Size>1</Size><ETag>x</ETag><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
)


class Liar(ThreadingHTTPServer):
    """`lie` names what is not so; `objects` is what is really kept. `checksums`: keep SHA-256 as Amazon does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lie = ""
        self.checksums = True
        self.objects: dict[str, dict[str, Any]] = {}
        self.uploads: dict[str, dict[str, Any]] = {}
        self.aborted: list[str] = []
        self.listings: list[str] = []
        self.requests: list[str] = []
        # Niceties that it refuses, with which answer, and the requests that it has refused for them.
        self.refuses: set[str] = set()
        self.answer = "501 NotImplemented"
        self.refused: list[str] = []

    @property
    def endpoint(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Liar
    quiet: ClassVar[bool] = True

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _run(self) -> None:
        split = urlsplit(self.path)
        self._key = unquote(split.path).strip("/").partition("/")[2]
        self._query = parse_qs(split.query, keep_blank_values=True)
        self._data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {self.path}")
        if self.headers.get("x-amz-expected-bucket-owner") not in (None, "111111111111"):
            return self._answer(_ERROR.format(code="AccessDenied", message="Access Denied"), 403)
        if self.server.lie.startswith("error:"):
            code, status = self.server.lie.removeprefix("error:").split(",")
            return self._answer(_ERROR.format(code=code, message="as asked"), int(status))
        if self._nicety() in self.server.refuses:
            self.server.refused.append(f"{self.command} {self.path}")
            status, _, code = self.server.answer.partition(" ")
            named = code.startswith("names")
            message = "unsupported header: x-amz-checksum-sha256 or If-None-Match" if named else "no"
            return self._answer(_ERROR.format(code="Bad" if named else code, message=message), int(status))
        name = f"_{self.command.lower()}_{'object' if self._key else 'bucket'}"
        return getattr(self, name)()  # type: ignore[no-any-return]

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _run

    def _nicety(self) -> str:
        """The first nicety of this request that is refused; nothing for one without."""
        names = {name.lower() for name in self.headers}
        here = {
            "checksums": any("checksum" in name for name in names) or b"<ChecksumSHA256>" in self._data,
            "conditions": "if-none-match" in names,
            "uploads": self.command == "GET" and not self._key and "uploads" in self._query,
        }
        return next((name for name, there in here.items() if there and name in self.server.refuses), "")

    def _get_bucket(self) -> None:
        if "uploads" in self._query:
            return self._answer(
                "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"
            )
        token = self._query.get("continuation-token", [""])[0]
        wanted = self._query.get("prefix", [""])[0]
        pages = self.server.listings or [listing(*sorted(key for key in self.server.objects if key.startswith(wanted)))]
        return self._answer(pages[min(int(token or 0), len(pages) - 1)])

    def _head_bucket(self) -> None:
        self._answer("")

    def _post_object(self) -> None:
        if "uploads" in self._query:
            identifier = f"upload-{len(self.server.uploads)}"
            self.server.uploads[identifier] = {"metadata": self._metadata(), "parts": {}}
            xml = f"<UploadId>{identifier}</UploadId>"
            return self._answer(f"<InitiateMultipartUploadResult>{xml}</InitiateMultipartUploadResult>")
        if self.server.lie == "200 with an error":
            return self._answer(_ERROR.format(code="InternalError", message="We encountered an internal error."))
        upload = self.server.uploads[self._query["uploadId"][0]]
        numbers = [int(number) for number in re.findall(r"<PartNumber>(\d+)<", self._data.decode())]
        if self.server.lie == "the last part is dropped":
            numbers.pop()
        parts = [upload["parts"][number] for number in numbers]
        digests = b"".join(hashlib.sha256(part).digest() for part in parts)
        md5 = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()  # noqa: S324
        self._keep(
            b"".join(parts),
            upload["metadata"],
            f"{base64.b64encode(hashlib.sha256(digests).digest()).decode()}-{len(parts)}",
            f"{md5}-{len(parts)}",
        )
        return self._answer("<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")

    def _put_object(self) -> None:
        digest = base64.b64encode(hashlib.sha256(self._data).digest()).decode()
        md5 = hashlib.md5(self._data).hexdigest()  # noqa: S324
        if "uploadId" in self._query:
            parts = self.server.uploads[self._query["uploadId"][0]]["parts"]
            parts[int(self._query["partNumber"][0])] = self._data
        else:
            self._keep(self._data, self._metadata(), digest, md5)
        checksum = {"x-amz-checksum-sha256": digest} if self.server.checksums else {}
        self._answer("", headers={"ETag": f'"{md5}"', **checksum})

    def _keep(self, data: bytes, metadata: dict[str, str], checksum: str, etag: str) -> None:
        lie = self.server.lie
        if lie == "trailers are appended":
            data += b"\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n"
        if lie == "a bit flips on the disk":
            data, etag = data[:-1] + bytes([data[-1] ^ 1]), "0" * 32
        if lie == "the checksum is another":
            checksum = base64.b64encode(bytes(32)).decode() + (
                f"-{checksum.rpartition('-')[2]}" if "-" in checksum else ""
            )
        if lie != "nothing is kept":
            self.server.objects[self._key] = {"data": data, "meta": metadata, "checksum": checksum, "etag": etag}

    def _metadata(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}

    def _head_object(self) -> None:
        self._get_object()

    def _get_object(self) -> None:
        found = self.server.objects.get(self._key)
        if found is None:
            return self._answer("", 404)
        data, start = found["data"], 0
        headers = {"ETag": f'"{found["etag"]}"', "Last-Modified": "Wed, 25 Nov 2026 00:00:00 GMT", **found["meta"]}
        if wanted := re.match(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.server.checksums:
            headers["x-amz-checksum-sha256"] = found["checksum"]
        headers["Content-Length"] = str(len(data) - start)
        body = data[start:]
        if self.server.lie == "it ends early":
            body = body[: len(body) // 2 or 1]
        elif self.server.lie == "no byte more":
            body = body[: max(0, 1000 - start)]
        return self._answer(body, 206 if start else 200, headers)

    def _delete_object(self) -> None:
        if "uploadId" in self._query:
            self.server.aborted.append(self._query["uploadId"][0])
        else:
            self.server.objects.pop(self._key, None)
        self._answer("", 204)

    def _answer(self, body: str | bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = body.encode() if isinstance(body, str) else body
        headers = {"Content-Length": str(len(data)), **(headers or {})}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        if int(headers["Content-Length"]) != len(data):
            self.close_connection = True


def listing(*keys: str, truncated: bool = False, token: str = "", count: int | None = None) -> str:
    """One page of a listing."""
    items = "".join(_ITEM.format(key=key) for key in keys)
    more = f"<IsTruncated>{str(truncated).lower()}</IsTruncated>"
    more += f"<KeyCount>{len(keys) if count is None else count}</KeyCount>"
    more += f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return f"<ListBucketResult>{more}{items}</ListBucketResult>"


@contextmanager
def lying() -> Iterator[Liar]:
    """A liar for the body."""
    server = Liar()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
