"""What a network, a store or an owner can do to copies in a bucket, and what is then there and said."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import botocore.auth
import pytest

from backup.errors import BackupError, IntegrityError, RemoteDenied, RemoteFailed
from backup.storage.s3 import Options, delete, open_bucket
from backup.storage.s3.options import iam_policy
from tests.support.lying_s3 import Liar, listing, lying
from tests.support.proxy import Proxy, proxied
from tests.support.s3 import WRITER, Service

KEY = "daily/obcms_backup_daily_2025-10-20_02-00-00.sql.gz"
MIB = 1 << 20
BLOCK = os.urandom(MIB)
SIZE = 26 * MIB
DIGEST = hashlib.sha256(BLOCK * 26).hexdigest()
SEED = int(os.environ.get("OBCMS_SEED", random.SystemRandom().randrange(1 << 32)))


@pytest.fixture
def proxy(ceph: Service) -> Iterator[Proxy]:
    """Between us and Ceph."""
    with proxied(ceph.endpoint) as made:
        yield made


@pytest.fixture
def liar() -> Iterator[Liar]:
    """A store that lies."""
    with lying() as made:
        yield made


def lied_to(liar: Liar, **changes: Any) -> Any:
    """Our client before a liar."""
    return open_bucket(Service(liar.endpoint, "liar").options("copies", **({"timeout": 2} | changes)))


def stored(service: Service, bucket: str, key: str = KEY) -> bytes | None:
    """What a client that is none of ours finds."""
    client = service.client()
    with contextlib.suppress(client.exceptions.NoSuchKey):
        return bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    return None


class TestCut:
    """The connection breaks while three parts of 26 MiB are sent."""

    # Before anything, in the headers, in each part, and around the end, where the object is made.
    PLACES = (10, 500, 3 * MIB, 12 * MIB + 900, 18 * MIB, SIZE + 1500, SIZE + 3000)

    ALL = (*PLACES, *random.Random(SEED).sample(range(SIZE), 2))

    # Ends are of both kinds, and every other pair of objects replaces one.
    # By number: each process has a seed of its own, but the names of tests must be the same in all.
    @pytest.mark.parametrize("number", range(len(ALL)))
    def test_for_good(self, ceph: Service, proxy: Proxy, number: int) -> None:
        place = self.ALL[number]
        bucket, earlier = ceph.bucket(), number % 4 > 1
        before = b"earlier" if earlier else None
        if before:
            ceph.client().put_object(Bucket=bucket, Key=KEY, Body=before)
        remote = open_bucket(ceph.options(bucket, proxy.endpoint, attempts=1))
        proxy.cut(place, "reset" if number % 2 else "close")
        with pytest.raises(RemoteFailed) as failed:
            remote.put(KEY, [BLOCK] * 26, SIZE, sha256=DIGEST)
        assert bucket in failed.value.message and failed.value.hint, SEED
        assert stored(ceph, bucket) == before, SEED
        proxy.heal()
        assert remote.put(KEY, [BLOCK] * 26, SIZE, sha256=DIGEST).sha256 == DIGEST

    @pytest.mark.parametrize("place", [500, 3 * MIB, 18 * MIB, SIZE + 1500])
    def test_once_is_tried_again(self, ceph: Service, proxy: Proxy, place: int) -> None:
        bucket = ceph.bucket()
        proxy.cut(place, "reset", once=True)
        open_bucket(ceph.options(bucket, proxy.endpoint, attempts=3)).put(KEY, [BLOCK] * 26, SIZE)
        assert proxy.broken
        assert stored(ceph, bucket) == BLOCK * 26

    @pytest.mark.parametrize("marker", [b"<CompleteMultipartUpload", BLOCK[-32:]], ids=["complete", "put"])
    @pytest.mark.parametrize("attempts", [1, 3])
    def test_the_answer_is_lost_but_it_was_done(
        self, ceph: Service, proxy: Proxy, marker: bytes, attempts: int
    ) -> None:
        bucket, blocks = ceph.bucket(), 26 if marker.startswith(b"<") else 1
        proxy.lose_answer(marker)
        remote = open_bucket(ceph.options(bucket, proxy.endpoint, attempts=attempts))
        assert remote.put(KEY, [BLOCK] * blocks).size == blocks * MIB
        assert proxy.done
        assert stored(ceph, bucket) == BLOCK * blocks

    def test_a_download_is_taken_up(self, ceph: Service, liar: Liar) -> None:
        remote = lied_to(liar)
        remote.put(KEY, [BLOCK], sha256=hashlib.sha256(BLOCK).hexdigest())
        liar.lie = "it ends early"
        assert b"".join(remote.get(KEY)) == BLOCK
        liar.lie = "no byte more"
        with pytest.raises(RemoteFailed):
            b"".join(remote.get(KEY))

    def test_a_store_that_stalls_is_given_up(self, ceph: Service, proxy: Proxy) -> None:
        bucket = ceph.bucket()
        proxy.cut(3 * MIB, "stall")
        began = time.monotonic()
        with pytest.raises(RemoteFailed):
            open_bucket(ceph.options(bucket, proxy.endpoint, timeout=1, attempts=2)).put(KEY, [BLOCK] * 26)
        assert time.monotonic() - began < 60
        assert stored(ceph, bucket) is None


class TestFlipped:
    """A byte changes on its way, without TLS that would tell."""

    @pytest.mark.parametrize("place", [MIB, 13 * MIB])
    def test_on_its_way_there(self, ceph: Service, proxy: Proxy, place: int) -> None:
        bucket = ceph.bucket()
        proxy.flip(place)
        with contextlib.suppress(BackupError):
            open_bucket(ceph.options(bucket, proxy.endpoint)).put(KEY, [BLOCK] * 26)
        assert proxy.done
        assert stored(ceph, bucket) in (None, BLOCK * 26)

    def test_on_its_way_back(self, ceph: Service, proxy: Proxy) -> None:
        bucket = ceph.bucket()
        remote = open_bucket(ceph.options(bucket, proxy.endpoint))
        remote.put(KEY, [BLOCK] * 26, SIZE, sha256=DIGEST)
        proxy.flip(5 * MIB, answer=True)
        with pytest.raises(RemoteFailed, match="not match what was stored"):
            b"".join(remote.get(KEY))


def test_a_killed_upload_leaves_nothing_and_is_swept(ceph: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = ceph.bucket()
    script = f"""
import sys, time
from backup.storage.s3 import Options, open_bucket
def chunks():
    for number in range(18):
        yield bytes(1 << 20)
    print("sent", flush=True)
    time.sleep(60)
open_bucket({_code(ceph.options(bucket))}).put("{KEY}", chunks())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"sent\n"
        process.send_signal(signal.SIGKILL)
    assert stored(ceph, bucket) is None
    client = ceph.client()
    foreign = client.create_multipart_upload(Bucket=bucket, Key="somebody-elses")["UploadId"]
    remote = open_bucket(ceph.options(bucket))
    assert remote.sweep() == 0
    monkeypatch.setattr(delete, "_STALE", timedelta(hours=-1))
    assert remote.sweep() == 1
    assert [each["UploadId"] for each in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [foreign]


class TestRefused:
    """Keys, clocks and policies."""

    def test_in_the_middle_of_an_upload(self, ceph: Service) -> None:
        bucket, client = ceph.bucket(), ceph.client()
        _policy(client, bucket, [_statement(bucket, "Allow", "s3:*")])
        remote = open_bucket(ceph.options(bucket, access_key=WRITER[0], secret_key=WRITER[1]))

        def chunks() -> Iterator[bytes]:
            yield from [BLOCK] * 13
            _policy(client, bucket, [_statement(bucket, "Allow", "s3:ListBucket")])
            yield from [BLOCK] * 13

        with pytest.raises(RemoteDenied, match="UploadPart|Complete") as failed:
            remote.put(KEY, chunks(), SIZE)
        assert "offsite policy" in failed.value.hint
        assert stored(ceph, bucket) is None

    def test_the_key_that_we_ask_for_is_enough_below_a_prefix(self, ceph: Service) -> None:
        """Of the policy that `offsite policy` prints; its condition for overwriting is one that Ceph does not know."""
        bucket, client = ceph.bucket(), ceph.client()
        options = ceph.options(bucket, prefix="stack", access_key=WRITER[0], secret_key=WRITER[1])
        who = {"Principal": {"AWS": "arn:aws:iam:::user/writer"}}
        _policy(client, bucket, [each | who for each in iam_policy(options)["Statement"] if each["Sid"] != "NeverOver"])
        remote = open_bucket(options)
        assert remote.stat(KEY) is None
        remote.put(KEY, [BLOCK] * 13)
        assert [each.key for each in remote.entries()] == [KEY] and b"".join(remote.get(KEY)) == BLOCK * 13
        assert remote.remove(KEY) == "denied" and remote.sweep() == 0

    def test_a_key_that_may_not_delete(self, ceph: Service) -> None:
        bucket, client = ceph.bucket(), ceph.client()
        _policy(client, bucket, [_statement(bucket, "Allow", "s3:*"), _statement(bucket, "Deny", "s3:DeleteObject*")])
        remote = open_bucket(ceph.options(bucket, access_key=WRITER[0], secret_key=WRITER[1]))
        remote.put(KEY, [b"x"])
        assert remote.remove(KEY) == "denied"
        assert b"".join(remote.get(KEY)) == b"x"

    @pytest.mark.parametrize("secret", ["wrong-canary", ""])
    def test_a_wrong_key(self, ceph: Service, secret: str) -> None:
        changes = {"secret_key": secret} if secret else {"access_key": "UNKNOWN"}
        remote = open_bucket(ceph.options(ceph.bucket(), **changes))
        for call in (lambda: remote.put(KEY, [b"x"]), remote.entries, lambda: b"".join(remote.get(KEY))):
            with pytest.raises(RemoteDenied) as failed:
                call()
            assert "canary" not in failed.value.message + failed.value.hint

    def test_a_clock_that_is_wrong(self, ceph: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        remote = open_bucket(ceph.options(ceph.bucket()))
        early = datetime.now(UTC) - timedelta(hours=2)
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: early.replace(tzinfo=None))
        with pytest.raises(RemoteDenied, match="clocks") as failed:
            remote.entries()
        assert "NTP" in failed.value.hint

    def test_locked_objects_are_retained(self, ceph: Service) -> None:
        bucket, client = ceph.bucket(ObjectLockEnabledForBucket=True), ceph.client()
        rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
        client.put_object_lock_configuration(
            Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
        )
        remote = open_bucket(ceph.options(bucket))
        remote.put(KEY, [BLOCK] * 9)
        assert remote.remove(KEY) == "retained"
        assert stored(ceph, bucket) == BLOCK * 9

    def test_all_versions_are_removed(self, ceph: Service) -> None:
        bucket, client = ceph.bucket(), ceph.client()
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        remote = open_bucket(ceph.options(bucket))
        for content in (b"first", b"second"):
            remote.put(KEY, [content])
        assert remote.remove(KEY) == "removed"
        assert "Versions" not in client.list_object_versions(Bucket=bucket)

    @pytest.mark.parametrize(
        ("lie", "kind", "words"),
        [
            ("error:ExpiredToken,400", RemoteDenied, "expired"),
            ("error:AccessDenied,403", RemoteDenied, "refused"),
            ("error:SlowDown,503", RemoteFailed, "an internal error"),
            ("error:PermanentRedirect,301", RemoteFailed, "region"),
            ("error:QuotaExceeded,403", RemoteFailed, "quota"),
        ],
    )
    def test_what_stores_answer(self, liar: Liar, lie: str, kind: type[BackupError], words: str) -> None:
        liar.lie = lie
        with pytest.raises(kind, match=words) as failed:
            lied_to(liar).entries()
        assert failed.value.hint

    def test_nobody_is_there(self) -> None:
        options = Options("copies", endpoint="http://127.0.0.1:9", access_key="K", secret_key="s", attempts=1)
        with pytest.raises(RemoteFailed, match="s3://copies"):
            open_bucket(options).entries()

    def test_another_ones_bucket(self, liar: Liar) -> None:
        liar.listings = [listing("a")]
        assert lied_to(liar, owner="111111111111").entries()
        for call in (lambda remote: remote.entries(), lambda remote: remote.put(KEY, [b"x"])):
            with pytest.raises(RemoteDenied):
                call(lied_to(liar, owner="999999999999"))

    def test_no_bucket_is_not_no_object(self, ceph: Service) -> None:
        with pytest.raises(RemoteFailed, match="no such bucket"):
            open_bucket(ceph.options("there-is-none")).stat(KEY)


class TestLies:
    """A store that answers what is not so."""

    @pytest.mark.parametrize("blocks", [1, 26])
    @pytest.mark.parametrize("checksums", [True, False])
    @pytest.mark.parametrize(
        "lie",
        [
            "the last part is dropped",
            "trailers are appended",
            "200 with an error",
            "the checksum is another",
            "a bit flips on the disk",
            "nothing is kept",
        ],
    )
    def test_of_what_it_keeps(self, liar: Liar, lie: str, checksums: bool, blocks: int) -> None:
        liar.lie, liar.checksums = lie, checksums
        harmless = {
            "the last part is dropped": blocks == 1,
            "200 with an error": blocks == 1,
            "the checksum is another": not checksums,
            # It keeps the right checksum of wrong bytes: only reading them tells.
            "a bit flips on the disk": checksums,
        }.get(lie, False)
        with contextlib.nullcontext() if harmless else pytest.raises((IntegrityError, RemoteFailed)):
            lied_to(liar).put(KEY, [BLOCK] * blocks)
        assert harmless == (KEY in liar.objects)

    @pytest.mark.parametrize(
        "pages",
        [
            [listing("a", truncated=True)],
            [listing("a", truncated=True, token="1"), listing("b", truncated=True, token="1")],
            [listing("b", "a")],
            [listing("a", truncated=True, token="1"), listing("a")],
            [listing("a", count=2)],
            ["<html><body>Log in to the hotel's network</body></html>"],
            ["<ListBucketResult></ListBucketResult>"],
            [""],
        ],
    )
    def test_of_a_listing(self, liar: Liar, pages: list[str]) -> None:
        liar.listings = pages
        with pytest.raises(RemoteFailed):
            lied_to(liar).entries()
        liar.listings = [listing("a", truncated=True, token="1"), listing("b")]
        assert [entry.key for entry in lied_to(liar).entries()] == ["a", "b"]


def test_a_listing_of_2500(gateways: Callable[[int], Service]) -> None:
    """Sent by nobody in particular: to sign so many requests takes longer than all the rest."""
    ceph = gateways(20)
    bucket = ceph.bucket(ACL="public-read-write")

    def send(first: int) -> None:
        with contextlib.closing(http.client.HTTPConnection(urlsplit(ceph.endpoint).netloc)) as connection:
            for number in range(first, 2500, 4):
                connection.request("PUT", f"/{bucket}/p/daily/{number:05}", b"")
                answer = connection.getresponse()
                assert (answer.status, answer.read()) == (200, b"")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, range(4)))
    found = open_bucket(ceph.options(bucket, prefix="p")).entries()
    assert [entry.key for entry in found] == [f"daily/{number:05}" for number in range(2500)]


class TestAmazon:
    """Headers that only Amazon's store knows, before moto."""

    def test_encryption_and_storage_class(self, moto: Service) -> None:
        bucket = moto.bucket()
        for blocks in (1, 9):
            remote = open_bucket(moto.options(bucket, encryption="AES256", storage_class="STANDARD_IA"))
            entry = remote.put(KEY, [BLOCK] * blocks)
            head = moto.client().head_object(Bucket=bucket, Key=KEY)
            assert (head["ServerSideEncryption"], head["StorageClass"]) == ("AES256", "STANDARD_IA")
            assert entry.storage_class == "STANDARD_IA" and not entry.archived

    def test_a_kms_key(self, moto: Service) -> None:
        bucket = moto.bucket()
        open_bucket(moto.options(bucket, encryption="aws:kms", kms_key="alias/copies")).put(KEY, [BLOCK] * 9)
        head = moto.client().head_object(Bucket=bucket, Key=KEY)
        assert head["ServerSideEncryption"] == "aws:kms" and "copies" in head["SSEKMSKeyId"]

    def test_archived(self, moto: Service) -> None:
        bucket = moto.bucket()
        moto.client().put_object(Bucket=bucket, Key=KEY, Body=b"x", StorageClass="GLACIER")
        remote = open_bucket(moto.options(bucket))
        found = remote.stat(KEY)
        assert found and found.archived and remote.entries()[0].archived
        with pytest.raises(RemoteFailed, match="archived") as failed:
            b"".join(remote.get(KEY))
        assert "RestoreObject" in failed.value.hint


def test_a_limit_is_kept(moto: Service) -> None:
    remote = open_bucket(moto.options(moto.bucket(), bandwidth=8 * MIB))
    began = time.monotonic()
    remote.put(KEY, [BLOCK] * 26)
    assert 2.0 < time.monotonic() - began < 60


def _statement(bucket: str, effect: str, action: str) -> dict[str, Any]:
    return {
        "Effect": effect,
        "Principal": {"AWS": "arn:aws:iam:::user/writer"},
        "Action": action,
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }


def _policy(client: Any, bucket: str, statements: list[dict[str, Any]]) -> None:
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))


def _code(options: Options) -> str:
    return f"Options(**{options.__dict__!r})"
