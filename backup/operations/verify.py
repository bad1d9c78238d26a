"""Read every stored byte of a set again and compare it with the manifest."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from backup.catalog import Catalog
from backup.errors import BackupError, StoreError
from backup.log import logger
from backup.manifest import Artifact
from backup.operations.legacy import check_file
from backup.progress import Progress
from backup.sets import StoredSet, Verdict, missing_or_resized
from backup.stores.disk import storing
from backup.stores.local import LocalStore

_BLOCK: Final = 1 << 20


def verify(catalog: Catalog, stored: StoredSet, progress: Progress, now: datetime) -> Verdict:
    """Judge a set by its bytes on disk, and keep the verdict beside it when it has a manifest."""
    store = catalog.store(stored.tier)
    progress.phase(f"reading {stored.id}", stored.size)
    if stored.manifest is None:
        return _without_manifest(store, stored, progress, now)
    sizes = {artifact.file: _size(store, artifact.file) for artifact in stored.manifest.artifacts}
    problems = missing_or_resized(stored.manifest, sizes)
    for artifact in stored.manifest.artifacts:
        if sizes[artifact.file] == artifact.stored_size:
            problems += _digest_problem(store, artifact, progress)
    verdict = Verdict(checked=now, problems=tuple(problems))
    try:
        catalog.record_verdict(stored, verdict)
    except StoreError as error:
        logger.warning("the verdict on {} could not be kept: {}", stored.id, error.message)
        if problems:  # the lists still call it good: whoever gets the exit code must be told
            unkept = f"this verdict could not be kept, so the set may still be listed as good: {error.message}"
            verdict = verdict.model_copy(update={"problems": (*problems, unkept)})
    return verdict


def _digest_problem(store: LocalStore, artifact: Artifact, progress: Progress) -> list[str]:
    digest = hashlib.sha256()
    try:
        for block in blocks(store, artifact.file):
            digest.update(block)
            progress.advance(len(block))
    except StoreError as error:
        return [error.message]
    if digest.hexdigest() != artifact.stored_sha256:
        return [f"{artifact.file} has changed since it was written: its SHA-256 differs from the manifest's"]
    return []


def blocks(store: LocalStore, name: str) -> Iterator[bytes]:
    """A stored file from the disk, in pieces; StoreError when the disk fails."""
    descriptor = store.open(name)
    try:
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        while True:
            with storing(store.directory / name):
                block = os.read(descriptor, _BLOCK)
            if not block:
                return
            yield block
    finally:
        os.close(descriptor)


def _without_manifest(store: LocalStore, stored: StoredSet, progress: Progress, now: datetime) -> Verdict:
    if stored.problem:
        return Verdict(checked=now, problems=(stored.problem,))
    problems: list[str] = []
    for name in stored.files:
        try:
            check_file(store, name, progress)
        except BackupError as error:
            problems.append(f"{name}: {error.message}")
    unchecked = ("sizes, checksums and row counts: the old scripts left no manifest to compare with",)
    return Verdict(checked=now, problems=tuple(problems), unchecked=unchecked)


def _size(store: LocalStore, name: str) -> int | None:
    try:
        return (store.directory / name).lstat().st_size
    except OSError:
        return None
