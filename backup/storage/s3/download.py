"""Reading from the bucket: listings that are complete or fail, and bytes that are resumed until all are there."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, Final

from backup.errors import RemoteDamaged, RemoteDenied, RemoteFailed, RemoteMissing
from backup.formatting import printable
from backup.storage.remote import RemoteObject
from backup.storage.s3.client import FAILURES, Client
from backup.storage.s3.parts import entry_of, listed_object
from backup.storage.s3.translate_errors import remote_error, status_of

_BLOCK: Final = 1 << 20
_TRIES: Final = 5


def head_object(client: Client, key: str) -> dict[str, Any] | None:
    """What the store says of an object; None when there is none. RemoteFailed when there is no bucket."""
    try:
        return client.ask("HeadObject", key, ChecksumMode="ENABLED")
    except (RemoteMissing, RemoteDenied) as error:
        # Without a body a 404 does not say what is missing; and a key that may list below a prefix alone may not hear
        # that an object is not there, nor ask for the bucket: it is refused both.
        if status_of(error.__cause__) == 404:
            _shown(client, key)
            return None
        with contextlib.suppress(RemoteFailed):
            if not _shown(client, key):
                return None
        raise


def _shown(client: Client, key: str) -> bool:
    name = client.options.folder + key
    page = client.ask("ListObjectsV2", Prefix=name, MaxKeys=1)
    return "IsTruncated" not in page or any(item["Key"] == name for item in page.get("Contents") or ())


def list_objects(client: Client, prefix: str) -> list[RemoteObject]:
    """Every object below a prefix, by name. RemoteFailed when the listing may lack any."""
    found: list[RemoteObject] = []
    folder = client.options.folder
    for page in _pages(client, folder + prefix):
        for item in page.get("Contents") or ():
            key = str(item["Key"])
            if not key.startswith(folder + prefix):
                raise _incomplete(client, f"{key!r} was not requested")
            entry = listed_object(key.removeprefix(folder), item)
            if found and entry.key.encode() <= found[-1].key.encode():
                raise _incomplete(client, f"{key!r} is out of order")
            found.append(entry)
    # A marker of a "folder" that a console has made is no object of anybody's.
    return [entry for entry in found if entry.key and not entry.key.endswith("/")]


def _pages(client: Client, prefix: str) -> Iterator[Mapping[str, Any]]:
    token: dict[str, str] = {}
    seen: set[str] = set()
    while True:
        page = client.ask("ListObjectsV2", Prefix=prefix, **token)
        if "IsTruncated" not in page or page.get("Prefix", prefix) != prefix:
            raise _incomplete(client, "the answer is not the requested listing")
        if page.get("KeyCount", len(page.get("Contents") or ())) != len(page.get("Contents") or ()):
            raise _incomplete(client, "it has fewer names than it says")
        yield page
        if not page["IsTruncated"]:
            return
        following = str(page.get("NextContinuationToken") or "")
        if not following or following in seen:
            raise _incomplete(client, "it ends early and does not say how to go on")
        seen.add(following)
        token = {"ContinuationToken": following}


def _incomplete(client: Client, why: str) -> RemoteFailed:
    return RemoteFailed(
        f"{client.options.name}: the listing is incomplete ({printable(why)}) and was not used",
        "Try again; if it stays so, the store or a proxy before it breaks the S3 protocol.",
    )


def blocks(client: Client, key: str, *, judged: bool = True) -> Iterator[bytes]:
    """The bytes of an object, of its SHA-256 if `judged`. A connection that breaks is taken up where it broke."""
    state = _Reading(client, key)
    while not state.whole:
        yield from state.read()
    if judged:
        state.check()


class _Reading:
    def __init__(self, client: Client, key: str) -> None:
        self._client, self._key = client, key
        self._place = 0
        self._entry: RemoteObject | None = None
        self._etag = ""
        self._failed = 0
        self._hash = hashlib.sha256()

    @property
    def whole(self) -> bool:
        return self._entry is not None and self._place >= self._entry.size

    def read(self) -> Iterator[bytes]:
        """What one connection gives; RemoteFailed after too many that gave nothing."""
        answer = self._client.ask("GetObject", self._key, **self._rest())
        self._begin(answer)
        before = self._place
        try:
            with closing(answer["Body"]) as body:
                while block := body.read(_BLOCK):
                    self._hash.update(block)
                    self._place += len(block)
                    yield block
        except FAILURES as error:
            self._broken(before, remote_error(error, self._client.options.name, "s3:GetObject", self._key))
            return
        if not self.whole:
            self._broken(before, RemoteFailed(f"{self._client.options.name}: {self._key} ended early"))

    def check(self) -> None:
        """RemoteDamaged when the bytes are not those that the store says they are."""
        known = self._entry.sha256 if self._entry else ""
        if known and known != self._hash.hexdigest() or self._entry and self._place != self._entry.size:
            raise RemoteDamaged(
                f"{self._client.options.name}: {self._key} does not match what was stored there",
                "Use another copy; `offsite verify --download` marks a damaged one, and `upload` then sends it again.",
            )

    def _rest(self) -> dict[str, str]:
        if self._entry is None:
            return {"ChecksumMode": "ENABLED"}
        return {"Range": f"bytes={self._place}-", "IfMatch": self._etag}

    def _begin(self, answer: Mapping[str, Any]) -> None:
        if self._entry is None:
            self._entry, self._etag = entry_of(self._key, answer), str(answer.get("ETag", ""))
        elif not str(answer.get("ContentRange", "")).startswith(f"bytes {self._place}-"):
            raise RemoteFailed(f"{self._client.options.name}: {self._key} cannot be resumed where the connection broke")

    def _broken(self, before: int, error: RemoteFailed) -> None:
        self._failed = 0 if self._place > before else self._failed + 1
        if self._failed >= _TRIES:
            raise error
