"""What work with offsite copies works with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

from backup.errors import (
    BackupError,
    IntegrityError,
    NotFound,
    RemoteArchived,
    RemoteDamaged,
    RemoteFailed,
    RemoteMissing,
)
from backup.formatting import plural, printable
from backup.logging import logger
from backup.model.backup_set import SKEW
from backup.model.manifest import Manifest, Tier
from backup.model.pack import Pack
from backup.model.tiers import NO_BACKUPS
from backup.operations.context import Context
from backup.operations.offsite.layout import RemoteSet, RemoteSets, grouped, pack_key, read_manifest
from backup.operations.offsite.remote_state import Book, BookFile, PlaceName, StoredObject
from backup.storage.remote import Remote, RemoteObject

# Manifests, lists and pages are small; more than this is not ours.
_SMALL = 64 << 20
Done = TypeVar("Done")


@dataclass(frozen=True, kw_only=True)
class OffsiteContext(Context):
    """One place and the volume whose sets are copied there. Nothing is contacted before it is asked for.

    `tiers` are those that are uploaded by themselves, `ages` how long copies are kept, others for ever. `encrypt`, if
    there is one, is what files go through on their way that are not encrypted yet.
    """

    place: PlaceName
    remote: Remote
    tiers: tuple[Tier, ...]
    ages: Mapping[Tier, timedelta]
    encrypt: Callable[[Iterable[bytes]], Iterator[bytes]] | None = None

    @property
    def book(self) -> BookFile:
        """What is known of the copies there."""
        return BookFile(self.catalog.root, self.place)


def list_remote_sets(remote: Remote) -> RemoteSets:
    """The sets there, by id, from one complete listing."""
    return grouped(remote.entries())


def require_there(
    context: OffsiteContext, remote: Mapping[str, RemoteSet], book: Book, *, accept: bool = False
) -> None:
    """RemoteFailed for a folder without any set where there were some: a disk or share that is not mounted looks so."""
    held = sum(copy.held for copy in book.copies.values())
    if context.place == "copy" and held and not remote and not accept:
        raise RemoteFailed(
            f"no set is in {context.remote.name}, where {plural(held, 'set')} should be; nothing was sent",
            "Is the disk or share mounted on the host? Then restart this container. If the copies are gone for"
            " good, `offsite verify --accept` stops expecting them, and the next upload sends what is still here.",
        )


def small(remote: Remote, key: str) -> bytes:
    """A small object whole."""
    data = b""
    for chunk in remote.get(key):
        data += chunk
        if len(data) > _SMALL:
            raise RemoteFailed(f"{printable(key)} at {remote.name} is too large to be what its name says")
    return data


def manifest_of(remote: Remote, found: RemoteSet) -> Manifest:
    """The manifest of a set there. RemoteMissing when it has none: then it is no set."""
    if found.manifest_key not in found.entries:
        raise RemoteMissing(
            f"{found.id} at {remote.name} is incomplete: its manifest is missing, so its upload has not ended",
            "`upload` sends what is missing, if the set is still here; `offsite list` shows others.",
        )
    return read_manifest(small(remote, found.manifest_key), found)


def set_needing(context: OffsiteContext, path: str, entry: RemoteObject, put: Pack, own: str) -> str:
    """A set there, other than `own`, that needs a pack as it is there and not as it is `put`; empty for none. What one
    needs whose manifest cannot be read is told by the book; it may be any where that does not know."""
    copies = context.book.read().copies
    for found in list_remote_sets(context.remote).values():
        if found.id == own:
            continue
        try:
            packs = manifest_of(context.remote, found).packs
            named = [(each.stored_size, each.stored_sha256) for each in packs if pack_key(each.file) == path]
        except RemoteMissing:
            continue
        except (IntegrityError, RemoteDamaged, RemoteArchived):
            if not (copy := copies.get(found.id)) or not copy.items:
                return found.id
            named = [(item.size, item.sha256) for key, item in copy.items.items() if key == path]
        if any(size == entry.size and entry.sha256 in ("", sha) and sha != put.stored_sha256 for size, sha in named):
            return found.id
    return ""


def told(entry: RemoteObject, item: StoredObject | None) -> RemoteObject:
    """What the place says of an object, with the SHA-256 that is known of it from when it was read back."""
    same = item is not None and entry.checksum and (item.checksum, item.size) == (entry.checksum, entry.size)
    return replace(entry, sha256=item.sha256) if item and same and not entry.sha256 else entry


def digest(context: OffsiteContext, key: str, size: int) -> tuple[int, str]:
    """Size and SHA-256 of an object, from all its bytes."""
    context.progress.phase(f"reading {key}", size)
    found, count = hashlib.sha256(), 0
    for chunk in context.remote.get(key):
        found.update(chunk)
        count += len(chunk)
        context.progress.advance(len(chunk))
    return count, found.hexdigest()


def with_digest(context: OffsiteContext, entry: RemoteObject) -> RemoteObject:
    """An object that nobody knows the SHA-256 of, as its bytes tell it: after the book was lost, or replaced."""
    if entry.sha256 or entry.archived:
        return entry
    size, sha256 = digest(context, entry.key, entry.size)
    return replace(entry, size=size, sha256=sha256)


def candidates(remote: Remote, query: str) -> list[RemoteSet]:
    """The set there that a query names; for `latest` all that may hold a database, newest first. NotFound for none."""
    sets = list_remote_sets(remote)
    if query != "latest":
        if query not in sets:
            raise NotFound(f"no set at {remote.name} is called {printable(query)!r}", "`offsite list` shows them.")
        return [sets[query]]
    found = [each for each in sets.values() if each.tier not in NO_BACKUPS]
    return sorted(found, key=lambda each: each.id.removeprefix(f"{each.tier}_"), reverse=True)


def first(context: OffsiteContext, query: str, act: Callable[[RemoteSet, Manifest], Done]) -> Done:
    """What `act` makes of the set that a query names; for `latest` of the newest with a database that can be had.

    One that is not whole, is archived or comes as other bytes is passed over, and said. When none is left, the error
    of the newest; NotFound when there was none. A place that does not answer is no reason to take an older set. Nor is
    one that is dated ahead of the clock ever the newest.
    """
    passed: BackupError | None = None
    remote = context.remote
    for found in candidates(remote, query):
        try:
            manifest = manifest_of(remote, found)
            if query == "latest" and manifest.started > context.clock() + SKEW:
                logger.warning("skipped {}: it is dated ahead of the clock", found.id)
            elif manifest.database or query != "latest":
                return act(found, manifest)
        except (IntegrityError, RemoteArchived, RemoteDamaged, RemoteMissing) as error:
            if query == "latest":
                logger.warning("skipped {}: {}", found.id, error.message)
            passed = passed or error
    raise passed or NotFound(
        f"there is no complete set with a database at {remote.name}", "`offsite list` shows what is there."
    )
