"""The contract of a place where copies of sets are kept: a bucket, or a folder on another disk.

One suite (`tests/contract/test_remote.py`) holds every implementation to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, Protocol

# What a bucket takes, less a prefix.
_LONGEST: Final = 700

# `retained`: the place keeps it for now (object lock). `denied`: the key may not delete, which is how it should be.
Removal = Literal["removed", "retained", "denied"]


@dataclass(frozen=True)
class RemoteObject:
    """One object as the place itself describes it. `size` in bytes, `sha256` of all its bytes in hex.

    `sha256` is empty where the place does not tell: a listing, an object that somebody else put there, or one of
    several parts whose SHA-256 was not known before it was sent. `checksum`: what the place itself has computed, in
    its own words; the same from `put` and later from `stat` as long as the object is the same. `archived`: its bytes
    cannot be read without a request that takes hours (GLACIER).
    """

    key: str
    size: int
    modified: datetime
    sha256: str = ""
    checksum: str = ""
    storage_class: str = ""
    archived: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


class Remote(Protocol):
    """Objects by key (`daily/obcms_backup_….sql.gz`). RemoteFailed, RemoteDenied or RemoteMissing when it fails."""

    @property
    def name(self) -> str:
        """As it is shown, without any secret: `s3://bucket/prefix`, `/copies`."""

    def entries(self, prefix: str = "") -> list[RemoteObject]:
        """Every object below a prefix. Complete, or it raises: nothing may be concluded from a part."""

    def stat(self, key: str) -> RemoteObject | None:
        """What the place says of one object now; None when there is none."""

    def put(
        self,
        key: str,
        chunks: Iterable[bytes],
        size: int | None = None,
        advance: Callable[[int], None] = lambda count: None,
        sha256: str = "",
        *,
        bound: int | None = None,
    ) -> RemoteObject:
        """Store what `chunks` give and say what the place then holds, read back from it: size and SHA-256.

        An error of `chunks`, a cut or a kill leaves nothing under `key`, and an object that was there before as it was.
        `size` and `sha256`, where they are known, are required of the chunks, else IntegrityError; a SHA-256 that is
        known is kept with the object, so that `stat` can tell it. `advance` is told the bytes that were sent, in the
        caller's own thread. `bound`: how long what has no known size may be at most. RemoteFailed, before anything is
        sent, for more than the place takes as one object.
        """

    def get(self, key: str) -> Iterator[bytes]:
        """The bytes of an object, in blocks. RemoteFailed when they end early, RemoteDamaged when they are others than
        the place says, RemoteArchived when they cannot be read at once.
        """

    def remove(self, key: str) -> Removal:
        """Remove an object; one that is not there is removed."""

    def sweep(self) -> int:
        """Remove what uploads of ours that died have left; how many."""


def require_key(key: str) -> str:
    """The key, if it is one that both a bucket and a folder can have; ValueError for any other: a bug of ours."""
    parts = key.split("/")
    if len(key.encode()) > _LONGEST or any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise ValueError(f"{key!r} is no key")
    return key
