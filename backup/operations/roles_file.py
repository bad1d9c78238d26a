"""The roles file of a set: read whole, within bounds."""

from __future__ import annotations

from typing import Final

from backup.errors import IntegrityError
from backup.model.backup_set import StoredSet
from backup.model.manifest import Artifact
from backup.operations.verify.stored_bytes import Stored
from backup.progress import Silent
from backup.storage.directory import LocalStore

_LIMIT: Final = 64 << 20


def read(stored: StoredSet, *, unchanged: bool) -> str:
    """The SQL that makes the roles a set was dumped with; empty for a set without them. IntegrityError if damaged.

    `unchanged`: as the manifest has it, too. Whoever checks the whole set beside this does without.
    """
    artifact = stored.manifest.artifact("roles") if stored.manifest else None
    if artifact is None:
        return ""
    source = Stored(LocalStore(stored.directory), artifact.file, Silent(), stored.identity)
    try:
        text = _bounded(source, stored.id)
        if unchanged:
            require_unchanged(source, artifact)
    finally:
        source.close()
    return text.decode(errors="surrogateescape")


def require_unchanged(source: Stored, artifact: Artifact) -> None:
    """IntegrityError unless the bytes that were read are those that were stored."""
    if source.sha256 != artifact.stored_sha256:
        raise IntegrityError(
            f"{artifact.file} has changed since it was verified a moment ago; the live data were not touched",
            "Is the disk failing? `verify` judges the set again.",
        )


def _bounded(source: Stored, identifier: str) -> bytes:
    text = bytearray()
    try:
        for piece in source.content():
            text += piece
            if len(text) > _LIMIT:
                raise IntegrityError(f"{source.name} is too large to be a list of roles")
    except IntegrityError as error:
        raise IntegrityError(error.message, f"`verify {identifier}` says what else is damaged.") from error
    return bytes(text)
