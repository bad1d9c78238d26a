"""One set on its way to a place: artifacts first, the manifest last, nothing believed that was not read back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from backup.catalog.restore_page import restore_page
from backup.errors import (
    BackupError,
    ConfigError,
    IntegrityError,
    NotFound,
    NotTaken,
    RemoteDamaged,
    RemoteFailed,
)
from backup.formatting import printable
from backup.model.backup_set import StoredSet
from backup.model.manifest import Artifact, Manifest, to_json
from backup.model.pack import Pack
from backup.operations.offsite.context import OffsiteContext, set_needing, small, told, with_digest
from backup.operations.offsite.layout import (
    RemoteSet,
    compare,
    key,
    keys_of,
    pack_key,
    page_name,
    read_manifest,
    sums,
    sums_name,
)
from backup.operations.offsite.remote_state import Book, Copy, CopyState, StoredObject
from backup.pipeline.age import SUFFIX, encrypted_bound
from backup.storage.directory import LocalStore
from backup.storage.filesystem import storing
from backup.storage.remote import RemoteObject

# What is read is hashed at once: from the core's own cache, which larger blocks leave.
_BLOCK: Final = 256 << 10


@dataclass
class SentSet:
    """What became of one set: how many bytes had to be sent, and the copy as it is confirmed now."""

    copy: Copy
    bytes: int


@dataclass
class Sending:
    """The upload of one set. `remote` is what the listing shows of it."""

    context: OffsiteContext
    stored: StoredSet
    remote: RemoteSet
    book: Book
    sent: int = 0
    _items: dict[str, StoredObject] = field(default_factory=dict)
    _archived: bool = False
    _raw: bytes = b""
    _rotten: tuple[str, ...] = ()

    def run(self) -> SentSet:
        """Send what is missing or differs, and confirm the whole. An error leaves no manifest of this upload there."""
        local = self._local()
        there = self._there(local)
        if there and self._confirmed(there):
            return SentSet(self._copy(there), 0)
        packs = tuple(self._pack(pack, there.packs if there else ()) for pack in local.packs)
        earlier = there.artifacts if there else ()
        artifacts = tuple(self._artifact(a, earlier) for a in local.artifacts)
        manifest = local.model_copy(update={"artifacts": artifacts, "packs": packs})
        self._small(key(local.tier, sums_name(local.id)), sums(manifest))
        self._small(key(local.tier, page_name(local.id)), restore_page(manifest).encode())
        self._still_there(local)
        self._small(self.remote.manifest_key, to_json(manifest))
        return SentSet(self._copy(manifest), self.sent)

    def _local(self) -> Manifest:
        if not self.stored.verified:
            raise IntegrityError(
                f"{self.stored.id} was not sent: only verified, good sets are",
                f"`verify {self.stored.id}` judges it.",
            )
        return self.stored.manifest

    def _there(self, local: Manifest) -> Manifest | None:
        """The manifest that the place has for this very set: of the same run and content, encrypted or not."""
        if self.remote.manifest_key not in self.remote.entries:
            return None
        try:
            self._raw = small(self.context.remote, self.remote.manifest_key)
            found = read_manifest(self._raw, self.remote)
        except IntegrityError:
            return None
        except RemoteDamaged:
            self._rotten = (self.remote.manifest_key,)
            return None
        if found.run != local.run:
            raise RemoteFailed(
                f"another set called {local.id} is at {self.context.remote.name}, made by run"
                f" {printable(found.run)}: it was not overwritten",
                "Give each stack a place of its own: AWS_S3_BACKUP_PREFIX, or another BACKUP_COPY_DIR.",
            )
        return found if _contents(found) == _contents(local) else None

    def _confirmed(self, manifest: Manifest) -> bool:
        """Whether all of it is there, as the place itself says of each object now."""
        if self._bad:
            return False
        packs = {pack_key(pack.file) for pack in manifest.packs}
        found = {name: self._pack_there(name) if name in packs else self._stat(name) for name in keys_of(manifest)}
        entries = {name: entry for name, entry in found.items() if entry}
        expected = {
            self.remote.manifest_key: self._raw,
            key(manifest.tier, sums_name(manifest.id)): sums(manifest),
        }
        same = all(
            (entry := entries.get(name)) and entry.sha256 == hashlib.sha256(data).hexdigest()
            for name, data in expected.items()
        )
        if len(entries) < len(found) or not same or any(compare(manifest, entries)):
            return False
        # What nobody knows the checksum of is read: that is cheaper than to send it again, and may not be overwritten.
        entries = {name: with_digest(self.context, entry) for name, entry in entries.items()}
        if any(compare(manifest, entries)):
            return False
        for name, entry in entries.items():
            self._note(name, entry)
        return True

    @cached_property
    def _bad(self) -> tuple[str, ...]:
        """Objects whose bytes were read and are wrong, although the place says otherwise."""
        copy = self.book.copies.get(self.stored.id)
        shared = tuple(path for each in self.book.copies.values() for path in each.bad if path in self.remote.packs)
        return self._rotten + (copy.bad if copy else ()) + shared

    def _pack(self, pack: Pack, earlier: Iterable[Pack]) -> Pack:
        """A pack that the set needs, unless it is there: whichever set brought it. As it is there afterwards.

        One that was written anew here since goes as it is now; what is there as it was stays. So does what sets there
        need although it is neither: it was written anew at another time, and may lack what this set needs. `earlier`
        are those that its own manifest there names.
        """
        path = pack_key(pack.file)
        bad = path in self._bad
        entry = self._pack_there(path) if path in self.remote.packs and not bad else None
        now = self.context.catalog.packs.as_stored(pack)
        for known in (pack, now, *(each for each in earlier if each.file == pack.file)):
            if entry and (entry.size, entry.sha256) == (known.stored_size, known.stored_sha256):
                self._note(path, entry, known.stored_sha256)
                return known
        if self.context.encrypt:
            raise ConfigError(
                f"{self.stored.id} was not sent: it needs packs, which are not encrypted on their way",
                "With BACKUP_ENCRYPT=offsite, set BACKUP_MEDIA=full.",
            )
        if entry and (other := set_needing(self.context, path, entry, now, self.stored.id)):
            raise NotTaken(
                f"{self.stored.id} was not sent: {other} at {self.context.remote.name} may need {pack.file} as it is"
                " there, where it may lack what this set needs; nothing was overwritten",
                "`create daily --full` takes a set that needs no earlier pack: it is sent, and those after it.",
            )
        # The next set of this run finds it there.
        self.remote.packs[path] = self._put(path, _as_artifact(now), encrypts=False)
        if bad:
            self.context.book.change(lambda book: book.healed(path))
        return now

    def _pack_there(self, path: str) -> RemoteObject | None:
        """What the place says of a pack. Each is asked for once in a run: a listing tells no SHA-256."""
        entry = self.remote.packs.get(path)
        if entry is None or not entry.sha256:
            entry = self._stat(path)
            entry = with_digest(self.context, entry) if entry else None
        if entry:
            self.remote.packs[path] = entry
            self._archived = self._archived or entry.archived
        return entry

    def _artifact(self, artifact: Artifact, earlier: Iterable[Artifact]) -> Artifact:
        """The artifact as it is there afterwards."""
        encrypts = self.context.encrypt is not None and not artifact.encryption
        name = artifact.file + SUFFIX if encrypts else artifact.file
        path = key(self.stored.tier, name)
        found = self._reusable(path, artifact, earlier, encrypts=encrypts) or self._put(path, artifact, encrypts)
        described = {"file": name, "stored_size": found.size, "stored_sha256": found.sha256}
        return artifact.model_copy(update=described | ({"encryption": "age"} if encrypts else {}))

    def _reusable(
        self, path: str, artifact: Artifact, earlier: Iterable[Artifact], *, encrypts: bool
    ) -> RemoteObject | None:
        """The object that is there already, if the place says that it is the right one."""
        entry = self._stat(path) if path in self.remote.entries and path not in self._bad else None
        if entry is None:
            return None
        known = self._known(path)
        if encrypts and not entry.sha256 and known and known.source == artifact.stored_sha256:
            # Sent to its end, but never confirmed: it may be what was noted then. It must not need to be overwritten.
            entry = with_digest(self.context, entry)
        if not entry.sha256:
            return None
        if not encrypts:
            right = (entry.size, entry.sha256) == (artifact.stored_size, artifact.stored_sha256)
        else:
            # Encrypted bytes are other ones each time: what was noted when they were sent tells what is in them.
            noted = known and known.source == artifact.stored_sha256 and known.sha256 == entry.sha256
            listed = any(f"{self.stored.tier}/{a.file}" == path and a.stored_sha256 == entry.sha256 for a in earlier)
            right = bool(noted) or listed
        if right:
            self._note(path, entry, artifact.stored_sha256)
        return entry if right else None

    def _put(self, path: str, artifact: Artifact, encrypts: bool) -> RemoteObject:
        self.context.progress.phase(f"sending {artifact.file}", artifact.stored_size)
        advance = self.context.progress.advance
        if encrypts and self.context.encrypt:
            hashed = Hashed(
                self.context.encrypt(self._unchanged(artifact)), lambda: self._sent_whole(path, hashed, artifact)
            )
            entry = self.context.remote.put(path, hashed, None, advance, bound=encrypted_bound(artifact.stored_size))
            size, sha256 = hashed.size, hashed.sha256
        else:
            # `put` holds what it reads against these, so nobody else has to.
            size, sha256 = artifact.stored_size, artifact.stored_sha256
            try:
                entry = self.context.remote.put(path, self._file(artifact), size, advance, sha256)
            except IntegrityError as error:
                hint = f"{error.hint} `verify {self.stored.id}` reads the set again.".strip()
                raise IntegrityError(f"{self.stored.id} was not sent: {error.message}", hint) from error
        self._require(path, entry, size, sha256)
        self._note(path, entry, artifact.stored_sha256)
        self._keep_part(path, self._items[path])
        return entry

    def _sent_whole(self, path: str, hashed: Hashed, artifact: Artifact) -> None:
        """Noted before the request that makes the object: whether that was done may never be heard."""
        item = StoredObject(
            size=hashed.size, sha256=hashed.sha256, modified=self.context.clock(), source=artifact.stored_sha256
        )
        self._keep_part(path, item)

    def _keep_part(self, path: str, item: StoredObject) -> None:
        self.context.book.change(lambda book: book.with_part(self.stored.id, path, item))

    def _small(self, path: str, data: bytes) -> None:
        expected = hashlib.sha256(data).hexdigest()
        entry = self._stat(path) if path in self.remote.entries and path not in self._bad else None
        if entry is None or (entry.size, entry.sha256) != (len(data), expected):
            entry = self.context.remote.put(path, [data], len(data), sha256=expected)
            self._require(path, entry, len(data), expected)
        self._note(path, entry)

    def _require(self, path: str, entry: RemoteObject, size: int, sha256: str) -> None:
        self.sent += size
        if (entry.size, entry.sha256) != (size, sha256):
            raise IntegrityError(
                f"{path} was sent to {self.context.remote.name}, which then returned other bytes: {self.stored.id} is"
                " not offsite; the local set is untouched",
                "`upload` sends it again. If that fails too, the connection or the store changes data.",
            )

    def _file(self, artifact: Artifact) -> Iterator[bytes]:
        """The bytes of a local file."""
        packed = any(pack.file == artifact.file for pack in self.stored.manifest.packs)
        store = self.context.catalog.packs.store if packed else LocalStore(self.stored.directory)
        try:
            descriptor = store.open(artifact.file)
        except BackupError as error:
            raise self._gone(f"{artifact.file} cannot be read: {error.message}") from error
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            while True:
                with storing(store.directory / artifact.file):
                    chunk = file.read(_BLOCK)
                if not chunk:
                    break
                yield chunk

    def _unchanged(self, artifact: Artifact) -> Iterator[bytes]:
        """The same. IntegrityError at their end when they are not the manifest's."""
        hashed = Hashed(self._file(artifact))
        yield from hashed
        if (hashed.size, hashed.sha256) != (artifact.stored_size, artifact.stored_sha256):
            raise IntegrityError(
                f"{artifact.file} has changed since it was verified: {self.stored.id} was not sent",
                f"`verify {self.stored.id}` says what is wrong with it; `create` takes a new set.",
            )

    def _still_there(self, local: Manifest) -> None:
        """Nobody may think that a set is kept twice which was removed or changed here meanwhile."""
        now = self.context.catalog.read_again(self.stored)
        if now is None:
            raise self._gone("it was removed here meanwhile")
        if not now.good or now.manifest != local:
            raise self._gone(f"it was changed here meanwhile: {now.problem or 'it has another manifest'}")

    def _gone(self, why: str) -> NotFound:
        return NotFound(
            f"the upload of {self.stored.id} stopped: {printable(why)}; what was sent has no manifest and is no set",
            "`list` shows the sets there are; a cleanup or an operator may have removed it.",
        )

    def _stat(self, path: str) -> RemoteObject | None:
        entry = self.context.remote.stat(path)
        self._archived = self._archived or bool(entry and entry.archived)
        return told(entry, self._known(path)) if entry else None

    def _known(self, path: str) -> StoredObject | None:
        """What was noted of an object when it was last read back."""
        copy = self.book.copies.get(self.stored.id)
        known = self.book.parts.get(self.stored.id, {}).get(path) or (copy.items.get(path) if copy else None)
        if known is None and path in self.remote.packs:
            others = (each.items.get(path) for each in self.book.copies.values())
            return next((item for item in others if item), None)
        return known

    def _note(self, path: str, entry: RemoteObject, source: str = "") -> None:
        self._items[path] = StoredObject(
            size=entry.size, sha256=entry.sha256, modified=entry.modified, source=source, checksum=entry.checksum
        )

    def _copy(self, manifest: Manifest) -> Copy:
        before = self.book.copies.get(self.stored.id)
        same = before is not None and before.run == manifest.run and not self.sent
        state: CopyState = "archived" if self._archived else "offsite"
        return Copy(
            id=manifest.id,
            tier=manifest.tier,
            run=manifest.run,
            time=manifest.started,
            database=manifest.database is not None,
            state=state,
            confirmed=self.context.clock(),
            read=before.read if before and same else None,
            proven=before.proven if before and same else None,
            items=dict(self._items),
        )


class Hashed:
    """Chunks, and the size and SHA-256 of those that were taken. `ended` is called before their end is told."""

    def __init__(self, chunks: Iterable[bytes], ended: Callable[[], None] = lambda: None) -> None:
        self._chunks, self._hash, self.size, self._ended = chunks, hashlib.sha256(), 0, ended

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._hash.update(chunk)
            self.size += len(chunk)
            yield chunk
        self._ended()

    @property
    def sha256(self) -> str:
        """SHA-256 in hex."""
        return self._hash.hexdigest()


def _as_artifact(pack: Pack) -> Artifact:
    described = pack.model_dump(include={"file", "stored_size", "stored_sha256", "plain_size"})
    return Artifact(kind="volume", name=pack.volume, plain_sha256="", **described)


def _contents(manifest: Manifest) -> list[tuple[str, str, int, str]]:
    """What a set holds, whether it is encrypted or not."""
    return [(a.kind, a.name, a.plain_size, a.plain_sha256) for a in manifest.artifacts]
