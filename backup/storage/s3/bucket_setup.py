"""Care of a bucket: made and set up once by an owner's key, then checked with the key that backups use.

Nothing that is there is taken away: other lifecycle rules stay as they are.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from backup.errors import BackupError, RemoteDenied, RemoteFailed
from backup.formatting import plural
from backup.model.finding import Level
from backup.model.wal_object import WAL_FOLDER
from backup.storage.rate_limit import Pace
from backup.storage.remote import RemoteObject
from backup.storage.s3 import delete
from backup.storage.s3.bucket import Bucket
from backup.storage.s3.options import NICETIES
from backup.storage.s3.translate_errors import code_of, status_of
from backup.storage.s3.upload import Upload

ARCHIVE_RULE: Final = "obcms-backup-archive"
ABORT_RULE: Final = "obcms-backup-abort"
WAL_RULE: Final = "obcms-backup-wal"
# What a rule, or a removal, has taken goes for good so many days later where versions are kept.
_REGRET_DAYS: Final = 7
# Nobody has such a rule yet, or the store does not know the like.
_NONE_YET: Final = (
    "NoSuchLifecycleConfiguration",
    "ObjectLockConfigurationNotFoundError",
    "NoSuchObjectLockConfiguration",
)
_PUBLIC: Final = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")

StepState = Literal["done", "would", "same", "note", "failed"]


@dataclass(frozen=True)
class SetupStep:
    """One thing that was looked at: `would` in a dry run; `note` is for a person to decide."""

    state: StepState
    words: str
    hint: str = ""

    @property
    def level(self) -> Level:
        """How bad that is."""
        return "fail" if self.state == "failed" else "warn" if self.state == "note" else "pass"


@dataclass(frozen=True)
class WantedBucket:
    """What a bucket should be like. `archive_days` 0: objects stay in their class.

    `wal_days` after which WAL and base backups are removed; 0: never.
    """

    create: bool = False
    archive_days: int = 90
    archive_class: str = "GLACIER"
    abort_days: int = 7
    wal_days: int = 0


def setup_bucket(bucket: Bucket, wanted: WantedBucket, *, dry: bool = False) -> Iterator[SetupStep]:
    """Make and set up the bucket, step by step. RemoteFailed when it cannot be reached at all."""
    yield from _exists(bucket, wanted, dry=dry)
    if dry and not _there(bucket):
        return
    yield from _tried("public access", lambda: _private(bucket, dry=dry))
    yield from _tried("the lifecycle", lambda: _lifecycle(bucket, wanted, dry=dry))
    yield from _tried("versions", lambda: _versions(bucket))
    yield from _tried("object lock", lambda: _lock(bucket))


def check_bucket(bucket: Bucket) -> Iterator[SetupStep]:
    """Make every call of an upload with small objects: what the key may do, what the store refuses, keeps and honours.

    Nothing that is known of the place is taken for true: it may have changed.
    """
    bucket.client.forget()
    key, data = f"obcms-probe-{uuid.uuid4().hex}", b"a probe of the backup sidecar; it may be removed\n"
    bucket.put(key, [data], len(data))
    yield SetupStep("done", f"put: an object was sent to {bucket.name}, and size and checksum were read back")
    parts = f"{key}-parts"
    bucket.put(parts, [data], len(data), split=True)
    yield SetupStep("done", "put in parts: another was sent as large files are, and read back")
    if key not in {entry.key for entry in bucket.entries(key)}:
        raise RemoteFailed(f"{bucket.name}: an object that was just put there is missing in the listing")
    yield SetupStep("done", "list: it is in the listing")
    if b"".join(bucket.get(key)) != data:
        raise RemoteFailed(f"{bucket.name}: other bytes came back than were sent")
    yield SetupStep("done", "get: it came back as it was sent")
    yield _checksums(bucket, key, parts)
    yield _conditions(bucket, key, parts, data)
    delete.unfinished_uploads(bucket.client)
    yield from (SetupStep("done", f"done without: {NICETIES[name]}") for name in sorted(bucket.client.without))
    bucket.remove(parts)
    yield _removal(bucket, key)


def _checksums(bucket: Bucket, key: str, parts: str) -> SetupStep:
    """Which objects come back with the SHA-256 that was sent along."""
    found = {what: (bucket.stat(name) or _lost(bucket, name)).checksum for what, name in _both(key, parts)}
    kept = [what for what, checksum in found.items() if checksum.startswith("sha256:")]
    words = f"kept for an object {' and '.join(kept)}" if kept else "the store keeps no SHA-256"
    rest = "" if len(kept) == len(found) else "; otherwise the ETag is compared, or every byte read back"
    return SetupStep("done", f"checksums: {words}{rest}")


def _conditions(bucket: Bucket, key: str, parts: str, data: bytes) -> SetupStep:
    """Whether the store refuses to put an object over one that is there. Nothing relies on it."""
    ignored = [what for what, name in _both(key, parts) if not _refuses(bucket, name, data, split=name == parts)]
    if not ignored:
        return SetupStep("done", "conditions: an object that is there is not overwritten")
    return SetupStep(
        "done",
        f"conditions: the store ignores If-None-Match of an object {' and '.join(ignored)}; one that is"
        " there is looked for before and after instead",
    )


def _refuses(bucket: Bucket, name: str, data: bytes, *, split: bool) -> bool:
    try:
        Upload(bucket.client, name, Pace(0), fresh=True, look=False).run(
            [data], len(data), lambda count: None, "", split=split
        )
    except RemoteDenied:
        return True
    except RemoteFailed as error:
        if status_of(error.__cause__) in (409, 412):
            return True
        raise
    return False


def _both(key: str, parts: str) -> tuple[tuple[str, str], ...]:
    return ("sent whole", key), ("sent in parts", parts)


def _lost(bucket: Bucket, key: str) -> RemoteObject:
    raise RemoteFailed(f"{bucket.name}: {key}, which was just put there, is missing")


def _removal(bucket: Bucket, key: str) -> SetupStep:
    removal = bucket.remove(key)
    if removal == "denied":
        return SetupStep(
            "done", f"delete: denied, which is right: whoever has this key cannot destroy copies; {key} stays"
        )
    if removal == "retained":
        return SetupStep(
            "done", f"delete: the bucket keeps objects for a while, which is right; {key} stays until then"
        )
    return SetupStep(
        "note",
        "delete: allowed; whoever breaks in here can remove the copies, too",
        "Give backups a key that cannot delete (`offsite policy`), or turn on object lock; prune with another key.",
    )


def _there(bucket: Bucket) -> bool:
    try:
        bucket.client.ask("HeadBucket")
    except RemoteFailed as error:
        if code_of(error.__cause__) in ("404", "NoSuchBucket"):
            return False
        raise
    return True


def _exists(bucket: Bucket, wanted: WantedBucket, *, dry: bool) -> Iterator[SetupStep]:
    name = bucket.options.bucket
    if _there(bucket):
        yield SetupStep("same", f"bucket {name} is there")
        return
    if not wanted.create:
        raise RemoteFailed(f"there is no bucket {name}", "`offsite setup --create` makes it.")
    if dry:
        yield SetupStep("would", f"bucket {name} would be made, then set up")
        return
    region = bucket.options.region
    where: dict[str, Any] = {}
    if region and region != "us-east-1" and not bucket.options.endpoint:
        where = {"CreateBucketConfiguration": {"LocationConstraint": region}}
    bucket.client.ask("CreateBucket", **where)
    yield SetupStep("done", f"bucket {name} was made")


def _private(bucket: Bucket, *, dry: bool) -> Iterator[SetupStep]:
    found: dict[str, Any] = {}
    with contextlib.suppress(RemoteFailed):
        found = bucket.client.ask("GetPublicAccessBlock").get("PublicAccessBlockConfiguration", {})
    if all(found.get(name) for name in _PUBLIC):
        yield SetupStep("same", "public access is blocked")
    elif dry:
        yield SetupStep("would", "public access would be blocked")
    else:
        bucket.client.ask("PutPublicAccessBlock", PublicAccessBlockConfiguration=dict.fromkeys(_PUBLIC, True))
        yield _still_writable(bucket)


def _still_writable(bucket: Bucket) -> SetupStep:
    """Ceph 18 refuses every object once public access is blocked: then it is taken back."""
    key = f"obcms-probe-{uuid.uuid4().hex}"
    try:
        bucket.put(key, [b"a probe of the backup sidecar; it may be removed\n"])
    except RemoteFailed as error:
        bucket.client.ask("DeletePublicAccessBlock")
        return SetupStep("failed", f"public access: this store then refuses every object ({error.message}); taken back")
    bucket.remove(key)
    return SetupStep("done", "public access was blocked")


def rules(folder: str, wanted: WantedBucket) -> list[dict[str, Any]]:
    """Our lifecycle rules for objects below `folder`."""
    only = {"Status": "Enabled", "Filter": {"Prefix": folder}}
    ours: list[dict[str, Any]] = [
        {"ID": ABORT_RULE, **only, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": wanted.abort_days}}
    ]
    if wanted.archive_days:
        moved = [{"Days": wanted.archive_days, "StorageClass": wanted.archive_class}]
        ours.append({"ID": ARCHIVE_RULE, **only, "Transitions": moved})
    if wanted.wal_days:
        ours.append(
            {
                "ID": WAL_RULE,
                "Status": "Enabled",
                "Filter": {"Prefix": f"{folder}{WAL_FOLDER}/"},
                "Expiration": {"Days": wanted.wal_days},
                "NoncurrentVersionExpiration": {"NoncurrentDays": _REGRET_DAYS},
            }
        )
    return ours


def merge_rules(there: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rules that are there, with ours in place of those of the same names."""
    names = {ABORT_RULE, ARCHIVE_RULE, WAL_RULE}
    return [rule for rule in there if rule.get("ID") not in names] + ours


def _lifecycle(bucket: Bucket, wanted: WantedBucket, *, dry: bool) -> Iterator[SetupStep]:
    there: list[dict[str, Any]] = []
    try:
        there = bucket.client.ask("GetBucketLifecycleConfiguration").get("Rules", [])
    except RemoteFailed as error:
        if code_of(error.__cause__) not in _NONE_YET:
            raise
    after = merge_rules(there, rules(bucket.options.folder, wanted))
    others = len(after) - len(rules(bucket.options.folder, wanted))
    what = f"unfinished uploads end after {plural(wanted.abort_days, 'day')}"
    if wanted.archive_days:
        what += f", objects go to {wanted.archive_class} after {plural(wanted.archive_days, 'day')}"
    if wanted.wal_days:
        what += f", WAL and base backups are removed after {plural(wanted.wal_days, 'day')}"
    what += f"; {plural(others, 'other rule')} unchanged" if others else ""
    if sorted(map(_plain, there)) == sorted(map(_plain, after)):
        yield SetupStep("same", f"lifecycle: {what}")
    elif dry:
        yield SetupStep("would", f"lifecycle would be: {what}")
    else:
        bucket.client.ask("PutBucketLifecycleConfiguration", LifecycleConfiguration={"Rules": after})
        yield SetupStep("done", f"lifecycle: {what}")


def _plain(rule: dict[str, Any]) -> str:
    """A rule in one form: some stores give the prefix in an older place."""
    prefix = rule.get("Prefix", (rule.get("Filter") or {}).get("Prefix", ""))
    rest = {name: value for name, value in rule.items() if name not in ("Prefix", "Filter")}
    return repr((prefix, sorted(rest.items())))


def _versions(bucket: Bucket) -> Iterator[SetupStep]:
    if bucket.client.ask("GetBucketVersioning").get("Status") == "Enabled":
        yield SetupStep("same", "versions are kept: an object that is overwritten or deleted can be brought back")
        return
    yield SetupStep(
        "note", "versions are not kept", "Turn versioning on, so that what is overwritten can be brought back."
    )


def _lock(bucket: Bucket) -> Iterator[SetupStep]:
    try:
        found = bucket.client.ask("GetObjectLockConfiguration").get("ObjectLockConfiguration", {})
    except RemoteFailed as error:
        if code_of(error.__cause__) not in _NONE_YET:
            raise
        found = {}
    retention = found.get("Rule", {}).get("DefaultRetention", {})
    if retention:
        span = f"{retention.get('Days') or retention.get('Years')} {'days' if retention.get('Days') else 'years'}"
        yield SetupStep("same", f"object lock: no object can be removed for {span} ({retention.get('Mode')})")
        return
    yield SetupStep(
        "note", "object lock is off", "With it not even a stolen owner's key can remove copies for a while."
    )


def _tried(what: str, steps: Callable[[], Iterator[SetupStep]]) -> Iterator[SetupStep]:
    """Steps; where the store or key does not allow one, that is told and the others go on."""
    try:
        yield from steps()
    except BackupError as error:
        yield SetupStep("failed", f"{what}: {error.message}", error.hint)
