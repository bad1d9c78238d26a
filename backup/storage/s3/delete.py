"""Removing from the bucket: objects, as far as key, versions and locks allow, and what dead uploads have left."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from backup.errors import RemoteDenied, RemoteFailed, RemoteMissing
from backup.storage.remote import Removal
from backup.storage.s3.client import Client, is_refusal
from backup.storage.s3.download import head_object
from backup.storage.s3.options import UPLOADS
from backup.storage.s3.translate_errors import code_of, message_of

_VERSIONS: Final = 1000
_STALE: Final = timedelta(hours=24)
# Without a prefix the bucket may be shared: only uploads of names like ours are touched.
_OURS: Final = re.compile(r"(?:[a-z-]+/)?\.?obcms[_-].*")


def remove_object(client: Client, key: str) -> Removal:
    """Remove an object with its versions, so that it is gone and no longer paid for.

    A key that may not remove versions hides the object, and the bucket's own lifecycle removes it.
    """
    for _ in range(_VERSIONS):
        found = head_object(client, key)
        if found is None:
            return "removed"
        if _locked(found, datetime.now(UTC)):
            return "retained"
        version = str(found.get("VersionId") or "").replace("null", "")
        try:
            _delete(client, key, {"VersionId": version} if version else {})
        except RemoteDenied as error:
            if _by_lock(error):
                return "retained"
            return _hidden(client, key) if version and _forbidden(error) else _only_denied(error)
    raise RemoteFailed(f"{client.options.name}: {key} is still there after {_VERSIONS} of its versions were removed")


def sweep_uploads(client: Client) -> int:
    """Abort uploads below our prefix that were begun a day ago; how many."""
    folder = client.options.folder
    limit = datetime.now(UTC) - _STALE
    count = 0
    for upload in unfinished_uploads(client):
        key = str(upload["Key"]).removeprefix(folder)
        if upload["Initiated"] < limit and _OURS.fullmatch(key):
            try:
                client.ask("AbortMultipartUpload", key, UploadId=upload["UploadId"])
                count += 1
            except RemoteMissing:
                continue
    return count


def unfinished_uploads(client: Client) -> list[Mapping[str, Any]]:
    """The uploads below our prefix that have not ended; none where the store refuses to list them."""
    if UPLOADS in client.without:
        return []
    for _ in range(2):  # what a proxy says once must not be remembered of the store
        try:
            return list(_uploads(client, client.options.folder))
        except RemoteFailed as error:
            if not is_refusal(error.__cause__):
                raise
    client.learn([UPLOADS])
    return []


def _uploads(client: Client, prefix: str) -> Iterator[Mapping[str, Any]]:
    markers: dict[str, str] = {}
    while True:
        page = client.ask("ListMultipartUploads", Prefix=prefix, **markers)
        for upload in page.get("Uploads") or ():
            if str(upload["Key"]).startswith(prefix):
                yield upload
        following = {"KeyMarker": page.get("NextKeyMarker", ""), "UploadIdMarker": page.get("NextUploadIdMarker", "")}
        if not page.get("IsTruncated"):
            return
        if following == markers or not following["KeyMarker"]:
            raise RemoteFailed(f"{client.options.name}: the list of unfinished uploads does not end")
        markers = following


def _hidden(client: Client, key: str) -> Removal:
    try:
        _delete(client, key, {})
    except RemoteDenied as error:
        return _only_denied(error)
    return "removed" if head_object(client, key) is None else "retained"


def _delete(client: Client, key: str, version: Mapping[str, str]) -> None:
    try:
        client.ask("DeleteObject", key, **version)
    except RemoteMissing:
        return


def _only_denied(error: RemoteDenied) -> Removal:
    """`denied` is an answer about this key; a key that is unknown or out of date says nothing about the object."""
    if not _forbidden(error):
        raise error
    return "denied"


def _forbidden(error: RemoteDenied) -> bool:
    return code_of(error.__cause__) in ("AccessDenied", "403", "MethodNotAllowed")


def _by_lock(error: RemoteDenied) -> bool:
    said = message_of(error.__cause__).lower()
    return "object lock" in said or "worm" in said or "retention" in said


def _locked(found: Mapping[str, Any], now: datetime) -> bool:
    until = found.get("ObjectLockRetainUntilDate")
    return found.get("ObjectLockLegalHoldStatus") == "ON" or (isinstance(until, datetime) and until > now)
