"""One object on its way into the bucket: nothing is there before the last byte was read and found right.

Not boto3's own upload: it cannot ask a store not to replace an object, reads a source to its end after a part was
refused, and its threads keep the process from ending (docs/decisions/0021-s3-sender.md).
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from backup.errors import BackupError, IntegrityError, RemoteFailed
from backup.storage.rate_limit import Pace
from backup.storage.remote import RemoteObject
from backup.storage.s3.body import Flow, RequestBody, UploadStopped
from backup.storage.s3.client import Client
from backup.storage.s3.download import blocks, head_object
from backup.storage.s3.parts import (
    SHA256,
    TOKEN,
    Cut,
    Data,
    Part,
    Sent,
    at_once,
    base64_of,
    composite,
    composite_etag,
    length,
    md5_of,
    part_size,
    require_sent,
    sha256_of,
)

# Seconds between two looks at whether bytes still move.
_LOOK: Final = 1.0


class Upload:
    """The upload of one object. `fresh`: there is none of its key, and the store shall refuse to replace one.

    `look`: and it is looked for once more before the request that makes the object.
    """

    def __init__(self, client: Client, key: str, pace: Pace, *, fresh: bool, look: bool = True) -> None:
        self._client, self._key, self._look = client, key, look
        self._flow = Flow(pace)
        self._token = uuid.uuid4().hex
        self._condition = {"IfNoneMatch": "*"} if fresh else {}
        self._version: dict[str, str] = {}
        # Whether the store keeps the SHA-256 of parts; it does until it shows twice that it does not.
        self._keeps = self._echoed = True

    def run(
        self,
        chunks: Iterable[bytes],
        size: int | None,
        advance: Callable[[int], None],
        sha256: str,
        *,
        bound: int | None = None,
        split: bool = False,
    ) -> RemoteObject:
        """Send, and prove by what the store then says. `split`: in parts, however small."""
        cut = Cut(self._key, chunks, part_size(bound if size is None else size), size, sha256)
        parts = iter(cut)
        first, last = next(parts)
        if last and not split:
            sent = self._single(first, cut.sha256)
            advance(length(first))
        else:
            sent = self._multipart(first, parts, cut, advance, sha256)
        return self._proven(sent)

    def _single(self, data: Data, sha256: str) -> Sent:
        checksum = base64_of(bytes.fromhex(sha256))
        sent = Sent(length(data), sha256, checksum, md5_of(data).hex(), self._token)
        self._commit(
            "PutObject",
            Body=RequestBody(data, self._flow),
            # Ceph 20 keeps the value only where the algorithm is named beside it.
            ChecksumAlgorithm="SHA256",
            ChecksumSHA256=sent.checksum,
            **self._described(sha256),
        )
        return sent

    def _multipart(
        self, first: Data, rest: Iterator[tuple[Data, bool]], cut: Cut, advance: Callable[[int], None], sha256: str
    ) -> Sent:
        begun = self._client.ask(
            "CreateMultipartUpload", self._key, ChecksumAlgorithm="SHA256", **self._described(sha256)
        )
        upload = str(begun["UploadId"])
        self._echoed = begun.get("ChecksumAlgorithm") == "SHA256"
        try:
            parts = self._parts(upload, first, rest, cut, advance)
            finished = [{"PartNumber": p.number, "ETag": p.etag, **_checksum(p.sha256)} for p in parts]
            self._commit("CompleteMultipartUpload", UploadId=upload, MultipartUpload={"Parts": finished})
        except BaseException:
            with contextlib.suppress(BackupError):
                self._client.ask("AbortMultipartUpload", self._key, UploadId=upload)
            raise
        return Sent(cut.size, cut.sha256, composite(parts), composite_etag(parts), self._token)

    def _parts(
        self, upload: str, first: Data, rest: Iterator[tuple[Data, bool]], cut: Cut, advance: Callable[[int], None]
    ) -> list[Part]:
        """Send all parts; an error, of the source or of the store, ends those that are on their way."""
        options = self._client.options
        patience = (options.timeout + 20) * options.attempts
        count = at_once(length(first), options.parallel)
        pool = _PartPool(count, functools.partial(self._part, upload), advance, self._flow, patience)
        try:
            pool.submit(1, first)
            del first
            for number, (data, _) in enumerate(rest, 2):
                pool.submit(number, data)
                del data
            pool.finish()
        finally:
            pool.stop(patience=options.timeout)
        if sum(part.size for part in pool.parts) != cut.size:
            raise RemoteFailed(f"{self._key} was not sent: its parts do not add up to it")
        return pool.parts

    def _part(self, upload: str, number: int, data: Data) -> Part:
        digest = sha256_of(data) if self._keeps else b""
        answer = self._client.ask(
            "UploadPart",
            self._key,
            UploadId=upload,
            PartNumber=number,
            Body=RequestBody(data, self._flow),
            **_checksum(digest),
        )
        told = answer.get("ChecksumSHA256")
        if not (told or self._echoed):
            self._keeps = False
        if told and told != base64_of(digest or sha256_of(data)):
            raise IntegrityError(
                f"part {number} of {self._key} arrived changed; the upload was aborted",
                "The connection or a proxy changes bytes: use https, and check what is in between.",
            )
        md5 = b"" if told else md5_of(data)
        return Part(number, length(data), digest, str(answer["ETag"]), md5)

    def _commit(self, operation: str, **parameters: Any) -> None:
        """The request that makes the object. Its answer may be lost although it was done: the object itself tells.

        A store may take a condition and ignore it: so nobody else's object may be there by now.
        """
        if self._condition and self._look and head_object(self._client, self._key) is not None:
            raise RemoteFailed(
                f"{self._key} was not sent: another writer has put an object there meanwhile",
                "`offsite list` shows what is there. Two stacks must not have one prefix (AWS_S3_BACKUP_PREFIX).",
            )
        try:
            answer = self._client.ask(operation, self._key, **parameters, **self._condition)
        except RemoteFailed:
            if not self._arrived():
                raise
            return
        version = str(answer.get("VersionId") or "null")
        self._version = {} if version == "null" else {"VersionId": version}

    def _arrived(self) -> bool:
        with contextlib.suppress(RemoteFailed):
            found = self._client.ask("HeadObject", self._key)
            return (found.get("Metadata") or {}).get(TOKEN) == self._token
        return False

    def _proven(self, sent: Sent) -> RemoteObject:
        found = self._client.ask("HeadObject", self._key, ChecksumMode="ENABLED", **self._version)
        try:
            return require_sent(self._key, found, sent, lambda: blocks(self._client, self._key, judged=False))
        except IntegrityError:
            # What is there is wrong, and of ours: it must not stay under a name that is believed.
            if (found.get("Metadata") or {}).get(TOKEN) == self._token:
                with contextlib.suppress(RemoteFailed):
                    self._client.ask("DeleteObject", self._key, **self._version)
            raise

    def _described(self, sha256: str) -> dict[str, Any]:
        """Headers of the object. Metadata must be given when an upload begins, so only a known SHA-256 can be kept."""
        options = self._client.options
        described: dict[str, Any] = {
            "ContentType": "application/octet-stream",
            "Metadata": {TOKEN: self._token, **({SHA256: sha256} if sha256 else {})},
        }
        if options.encryption != "none":
            described["ServerSideEncryption"] = options.encryption
        if options.encryption == "aws:kms" and options.kms_key:
            described["SSEKMSKeyId"] = options.kms_key
        if options.storage_class and options.storage_class != "STANDARD":
            described["StorageClass"] = options.storage_class
        return described


class _PartPool:
    """Call `send` for each part, `count` at a time. Its errors are raised, and sizes told to `advance`, in the caller's
    own thread.

    The threads that send are daemons: a store that hangs cannot keep the process from ending.
    """

    def __init__(
        self,
        count: int,
        send: Callable[[int, Data], Part],
        advance: Callable[[int], None],
        flow: Flow,
        patience: float,
    ) -> None:
        self._send, self._advance, self._flow, self._patience = send, advance, flow, patience
        self._jobs: queue.SimpleQueue[tuple[int, Data] | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Part | Exception] = queue.SimpleQueue()
        self._parts: list[Part] = []
        self._given, self._count = 0, count
        self._threads = [threading.Thread(target=self._work, name="part", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, number: int, data: Data) -> None:
        """Send a part, once there is room for it."""
        while self._given - len(self._parts) >= self._count:
            self._wait()
        self._given += 1
        self._flow.moved = time.monotonic()
        self._jobs.put((number, data))

    def finish(self) -> None:
        """Wait for all."""
        while self._given > len(self._parts):
            self._wait()

    @property
    def parts(self) -> list[Part]:
        """All accepted parts, in their order."""
        return sorted(self._parts, key=lambda part: part.number)

    def stop(self, patience: float) -> None:
        """Give up what is on its way, and wait a little for the threads."""
        self._flow.stop()
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _wait(self) -> None:
        """Wait for the next part. RemoteFailed when no byte moved for too long, whatever the socket says."""
        while True:
            try:
                ended = self._ended.get(timeout=_LOOK)
            except queue.Empty:
                if time.monotonic() - self._flow.moved > self._patience:
                    raise RemoteFailed(
                        f"the store took no byte for {self._patience:.0f} seconds; the upload was aborted",
                        "Check the store and the network; the next upload sends it again.",
                    ) from None
                continue
            if isinstance(ended, Exception):
                raise ended
            self._parts.append(ended)
            self._advance(ended.size)
            return

    def _work(self) -> None:
        while job := self._jobs.get():
            try:
                self._flow.check()
                self._ended.put(self._send(*job))
            except UploadStopped:
                return
            except Exception as error:  # noqa: BLE001 - raised again by the thread that waits
                self._ended.put(error)
            # Else it would hold the last part's bytes while it waits.
            del job


def _checksum(sha256: bytes) -> dict[str, str]:
    return {"ChecksumSHA256": base64_of(sha256)} if sha256 else {}
