"""Settings → the places of offsite copies. Neither engine, database nor what sets are made with is imported."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final

from pydantic import SecretStr

from backup.app.volume import BackupVolume
from backup.config.loader import Settings
from backup.errors import ConfigError, StoreError
from backup.logging import logger
from backup.operations.offsite.context import OffsiteContext
from backup.operations.offsite.remote_state import PlaceName
from backup.operations.offsite.rules import ages, places, uploads
from backup.pipeline import age
from backup.progress import Progress
from backup.storage import atomic_file
from backup.storage.directory import LocalStore
from backup.storage.folder import Folder
from backup.storage.remote import Remote
from backup.storage.s3 import Options, open_bucket
from backup.storage.s3.options import NICETIES

# What the bucket refuses and is done without.
_REFUSED: Final = "offsite-s3-refuses.json"


def contexts(
    volume: BackupVolume, progress: Progress, place: str = "", *, parallel: int | None = None
) -> list[OffsiteContext]:
    """What works with each place, or with the one that is named. ConfigError when there is none.

    `parallel`: no more parts are sent at once than that.
    """
    found = [each for each, _ in places(volume.settings) if place in ("", each)]
    if not found:
        missing = {"s3": "AWS_S3_BACKUP_BUCKET is not set", "copy": "BACKUP_COPY_DIR is not set"}
        raise ConfigError(
            f"there is no place for offsite copies: {missing.get(place, 'none is set')};"
            " all sets are on this machine only",
            "Set AWS_S3_BACKUP_BUCKET for a bucket, or BACKUP_COPY_DIR for a folder on another disk.",
        )
    return [_context(volume, each, progress, parallel) for each in found]


def primary(volume: BackupVolume, progress: Progress, place: str = "") -> OffsiteContext:
    """The bucket, or the folder where there is no bucket; or the place that is named."""
    return contexts(volume, progress, "" if place == "offsite" else place)[0]


def _context(volume: BackupVolume, place: PlaceName, progress: Progress, parallel: int | None) -> OffsiteContext:
    settings = volume.settings
    return OffsiteContext(
        place=place,
        remote=_remote(settings, place, parallel),
        catalog=volume.catalog,
        records=volume.records,
        lock=volume.lock,
        tiers=tuple(uploads(settings)),
        ages=ages(settings),
        progress=progress,
        encrypt=_encrypt(settings),
    )


def _encrypt(settings: Settings) -> Callable[[Iterable[bytes]], Iterator[bytes]] | None:
    """What files go through on their way, if copies are to be encrypted."""
    if settings.encrypt == "off":
        return None
    to = age.recipients(settings.age_recipients)
    return lambda chunks: age.encrypt(chunks, to)


def _remote(settings: Settings, place: PlaceName, parallel: int | None) -> Remote:
    limit = settings.upload_limit_mb * 1e6
    if place == "copy" and settings.copy_dir:
        # In a container, a folder that is no mount is lost with it.
        return Folder(settings.copy_dir, mounted=bool(os.environ.get("container")), bandwidth=limit)
    options = bucket_options(settings)
    options = replace(options, parallel=min(options.parallel, parallel or options.parallel))
    return open_bucket(options, memory(settings))


def memory(settings: Settings, *, quiet: bool = False) -> Callable[[frozenset[str]], None]:
    """Remembers in the backup volume what the place refuses, so that it is asked, and said, once."""
    store, place = LocalStore(settings.root / "state"), [settings.endpoint, settings.bucket]

    def remember(without: frozenset[str]) -> None:
        for name in () if quiet else sorted(without - _refused(settings)):
            logger.warning("s3://{}: {}; `offsite check` asks again", settings.bucket, NICETIES[name])
        # Where it cannot be kept, it is found out again.
        with contextlib.suppress(StoreError):
            if settings.root.is_dir() and without != _refused(settings):
                atomic_file.replace(store, _REFUSED, json.dumps({"place": place, "without": sorted(without)}).encode())

    return remember


def _refused(settings: Settings) -> frozenset[str]:
    store, place = LocalStore(settings.root / "state"), [settings.endpoint, settings.bucket]
    with contextlib.suppress(StoreError, ValueError, TypeError, AttributeError):
        known = json.loads(store.read(_REFUSED)) if _REFUSED in store.names() else {}
        return frozenset(known.get("without", ())) & NICETIES.keys() if known.get("place") == place else frozenset()
    return frozenset()


def bucket_options(settings: Settings) -> Options:
    """What must be known of the bucket that is set."""
    if settings.bucket is None:
        raise ConfigError("AWS_S3_BACKUP_BUCKET is not set, so there is no bucket", "Set it to the bucket's name.")
    return Options(
        bucket=settings.bucket,
        prefix=settings.bucket_prefix,
        region=settings.region,
        endpoint=settings.endpoint,
        addressing=settings.addressing,
        access_key=_plain(settings.access_key),
        secret_key=_plain(settings.secret_key),
        session_token=_plain(settings.session_token),
        encryption=settings.sse,
        kms_key=settings.kms_key,
        storage_class=settings.storage_class,
        owner=settings.bucket_owner,
        parallel=settings.upload_parts,
        bandwidth=settings.upload_limit_mb * 1e6,
        without=_refused(settings),
    )


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
