"""The sets on disk: which there are, in what state, and in which order their files appear and go.

    <root>/<tier>/obcms_backup_<id>.sql.gz …        artifacts
    <root>/<tier>/obcms_set_<id>.sha256             for `sha256sum -c`, without this product
    <root>/<tier>/obcms_set_<id>.json               the manifest, last: no manifest, no set
    <root>/<tier>/obcms_set_<id>.verdict            what the newest verification found
    <root>/<tier>/obcms_set_<id>.pin                the set is kept whatever its age
    <root>/packs/                                   what incremental sets name of each other (see packs.py)
    <root>/<tier>/.obcms_set_<id>.json.removing     the manifest of a set that is being removed
    <root>/damaged/<id>/                            what a good copy is to take the place of, until it is verified
    <root>/state/publishing.json                    the names of a set that is being published
    <root>/state/catalogue-<tier>.json              what older manifests and verdicts said (see manifest_cache.py)

Dumps and archives of the same names without a manifest are the old scripts' work: shown and verified, and removed only
when somebody decides so by the time in their names. What we ourselves left without a manifest is known from
state/publishing.json.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePath
from typing import Final
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ValidationError

from backup.catalog import delete, packs, pins, quarantine
from backup.catalog.manifest_cache import ManifestCache
from backup.catalog.packs import PackFolder
from backup.catalog.restore_page import PAGE
from backup.catalog.set_reader import BareVerdict, SetReader, bare_verdict, verdict_of
from backup.errors import BackupError, NotFound, StoreError
from backup.formatting import printable
from backup.media.rewritten_packs import REPACKED
from backup.model.backup_set import (
    StoredSet,
    Verdict,
    manifest_name,
    merge_verdicts,
    newest_first,
    present,
    verdict_name,
)
from backup.model.derived_manifest import DerivedManifest
from backup.model.legacy_sets import ids_of
from backup.model.manifest import FileId, Manifest, Tier, file_name, parse_file_name, set_id, to_json
from backup.storage.atomic_file import alone, forgotten, replace
from backup.storage.directory import LocalStore
from backup.storage.filesystem import statuses_of, sync_directory
from backup.storage.staged_file import Sealed, StagedFile, bare_name, staged_name

_INTENT: Final = "publishing.json"


class _Intent(BaseModel):
    """What is being published. A file is ours if it has the inode that we gave the name to, not by the name alone."""

    tier: Tier
    manifest: str
    files: dict[str, int]

    def present(self, store: LocalStore) -> list[str]:
        """Which of the files have got their final names, the manifest last."""
        there = statuses_of(store.directory, [name for name in self.files if _identified(name, self.tier)])
        ours = [name for name, status in there.items() if status and status.st_ino == self.files[name]]
        return sorted(ours, key=lambda name: name == self.manifest)


class Catalog:
    """All tiers of one backup volume; `zone` is that of names, `identity` the file with the key to encrypted ones.

    `clock` says what is dated ahead, and therefore never `latest`.
    """

    def __init__(
        self,
        root: Path,
        zone: ZoneInfo,
        identity: Path | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.root, self._clock = root, clock
        self.identity = identity
        self.zone = zone
        self._intent = LocalStore(root / "state")
        self._caches: dict[Tier, ManifestCache] = {}

    def store(self, tier: Tier) -> LocalStore:
        """The directory of one tier."""
        return LocalStore(self.root / tier)

    def sets(self, tier: Tier | None = None) -> list[StoredSet]:
        """Every set, newest first."""
        found, needed = list[StoredSet](), self.packs
        with _uncollected():
            for each in [tier] if tier else Tier:
                found += self.sets_in(self.root / each, each, needed=needed)
        return newest_first(found)

    def find(self, query: str) -> StoredSet:
        """The set that `latest`, a set id, a file name or a path to a file of it names.

        `latest` is never a safety set: that holds what somebody has just replaced; nor a snapshot, which has no
        database; nor one dated ahead of the clock.
        """
        tier = next((each for each in Tier if query.startswith(f"{each}_")), None)
        named = next(self.sets_in(self.root / tier, tier, only=query), None) if tier else None
        if named and not named.derived:  # which may be called otherwise, too
            return named
        sets = self.sets()
        if query == "latest":
            all_good = [s for s in sets if s.good and s.backup]
            now = self._clock()
            good = next(iter(present(all_good, now)), None)
            if good is None and all_good:
                raise NotFound(
                    f"every good set is dated ahead of this machine's clock, which says {now:%Y-%m-%d %H:%M} UTC",
                    "Set the clock, or name the set that you mean by its id: `list` shows them.",
                )
            if good is None:
                raise NotFound("there is no good set yet", "`create` takes one now; `list` shows the others, too.")
            return self._read_whole(good)
        name = PurePath(query).name
        found = (s for s in sets if query == s.id or name in s.files)
        # Ids that archives of a pair bear, too: after all sets that are called so.
        paired = (s for s in sets if s.state == "old script" and query in ids_of(s))
        for stored in (*found, *paired):
            return self._read_whole(stored)
        raise NotFound(f"no set or file is called {printable(query)!r}", "`list` shows what is there.")

    def new_id(self, tier: Tier, now: datetime) -> str:
        """An id of which no file exists yet: a second run within a second takes the next one."""
        names = [*self.store(tier).names(foreign=True), *self.packs.store.names(foreign=True)]
        taken = {parsed.set_id for name in names if (parsed := _identified(bare_name(name), tier))}
        moment = now
        while (identifier := set_id(tier, moment, self.zone)) in taken:
            moment += timedelta(seconds=1)
        return identifier

    @property
    def packs(self) -> PackFolder:
        """The packs that sets need, as they are now."""
        return PackFolder(self.root / packs.PACKS_FOLDER)

    def publish(self, manifest: Manifest, staged: Sequence[StagedFile], new: Sequence[StagedFile] = ()) -> None:
        """Make a sealed set visible: its `new` packs first, its files, the manifest last. A kill or an error before
        leaves no set; a pack that no set names is removed by a cleanup."""
        store, sums = self.store(manifest.tier), file_name("set", manifest.id, "sha256")
        with store.stage(sums) as checksums, store.stage(manifest_name(manifest.id)) as last:
            checksums.write("".join(f"{a.stored_sha256}  {a.file}\n" for a in manifest.artifacts).encode())
            checksums.seal()
            last.write(to_json(manifest))
            last.seal()
            if new:
                self.packs.store.publish(new)
            self.give_names(manifest.tier, [*staged, checksums, last])

    def give_names(self, tier: Tier, files: Sequence[Sealed]) -> None:
        """Give sealed files their final names, the last one last: until it has its own, all are taken back."""
        store, last = self.store(tier), files[-1]
        intent = _Intent(tier=tier, manifest=last.name, files={file.name: file.inode for file in files})
        try:
            self._intent.put(_INTENT, intent.model_dump_json().encode())
            store.publish(files[:-1])
            store.publish([last])
            self._intent.remove(_INTENT)
        except BaseException:
            # What cannot be taken back now is taken back by the next sweep.
            with contextlib.suppress(StoreError):
                store.remove_all(reversed(intent.present(store)))
                self._intent.remove(_INTENT)
            raise

    def remove(self, stored: StoredSet) -> bool:
        """Remove a set; False if it was pinned meanwhile. A kill in between is finished by `sweep`.

        Only for the holder of the lock. Files without a manifest go one by one: what a kill leaves is such a set, too.
        """
        store = LocalStore(stored.directory)
        if not stored.derived and stored.manifest.id == stored.id:
            removed = delete.remove_set(store, stored.manifest, lambda: pins.is_pinned(store, stored.id))
            if removed:
                quarantine.forget_damaged(self.root, stored.id)
            return removed
        if any(pins.is_pinned(store, each) for each in ids_of(stored)):
            return False
        delete.unlink(store, [verdict_name(stored.id), *stored.files])
        sync_directory(store.directory)
        return True

    def finish_removing(self) -> None:
        """Finish removals that were killed. StoreError when one cannot be finished."""
        for tier in Tier:
            delete.finish(self.store(tier))

    def remove_unneeded(self) -> int:
        """Remove the packs that no set needs; their bytes. Only for the holder of the lock."""
        return packs.remove_unneeded(self.root, self.sets())

    def put_aside(self, stored: StoredSet) -> Path:
        """Keep the files of a damaged set out of the way of a good copy; where. Only for the holder of the lock."""
        return quarantine.put_aside(self.root, stored)

    def settle(self) -> list[str]:
        """Remove what was put aside for copies that are verified by now, put back the rest; the ids of that."""

        def find(tier: Tier, identifier: str) -> StoredSet | None:
            return next((stored for stored in self.sets(tier) if stored.id == identifier), None)

        return quarantine.settle_damaged(self.root, find)

    def pin(self, stored: StoredSet, reason: str, now: datetime) -> None:
        """Keep a set whatever its age; NotFound when it is being removed at this moment."""
        store = LocalStore(stored.directory)
        pins.write(store, stored.id, reason, now)
        # A removal looks for the pin after it has unlisted the set, this looks for the set after the pin is there.
        if not any(there.id == stored.id for there in self.sets(stored.tier)):
            pins.remove_pin(store, stored.id)
            raise NotFound(f"{stored.id} is being removed at this moment; it was not pinned", "`list` shows the rest.")

    def unpin(self, stored: StoredSet) -> bool:
        """Let the age of a set count again; whether it was pinned."""
        return any([pins.remove_pin(LocalStore(stored.directory), each) for each in ids_of(stored)])

    def finish_publishing(self) -> list[str]:
        """Remove what a publication that did not reach its manifest left; returns the names removed."""
        if _INTENT not in self._intent.names():
            return []
        leftovers: list[str] = []
        with contextlib.suppress(ValidationError):
            intent = _Intent.model_validate_json(self._intent.read(_INTENT))
            store, present = self.store(intent.tier), intent.present(self.store(intent.tier))
            leftovers = [] if intent.manifest in store.listing() else present
            store.remove_all(leftovers)
        self._intent.remove(_INTENT)
        return leftovers

    def sweep(self) -> list[str]:
        """Remove unpublished work of runs that died. Only for the holder of the lock."""
        removed = self.finish_publishing()
        # What cannot be removed stands in nobody's way; the cleanup itself says so.
        with contextlib.suppress(BackupError):
            self.finish_removing()
        for store in (*(self.store(tier) for tier in Tier), self.packs.store, self._intent):
            names = store.names()
            # In `state`, others stage without this lock. Theirs is left to them, until nobody can be writing it.
            in_state = store is self._intent
            left = [
                name
                for name in names
                if name == staged_name(bare := bare_name(name)) and (bare == _INTENT if in_state else _ours(bare))
            ]
            left += [name for name in names if (note := forgotten(store, name)) and (in_state or _ours(note))]
            store.remove_all(left)
            removed += left
        return removed

    def keeps_verdict(self, stored: StoredSet) -> bool:
        """Whether what is found of a set is kept: it is one of this volume, and no files that were put together."""
        return stored.state != "unreadable" and not stored.loose and stored.directory == self.root / stored.tier

    def record_verdict(
        self, stored: StoredSet, verdict: Verdict, begun: datetime | None = None, *, locked: bool = False
    ) -> Verdict:
        """Keep what a look that was begun then found, beside the set, with what others have found meanwhile.

        What is kept. `locked`: by the holder of the lock.
        """
        store, name = self.store(stored.tier), verdict_name(stored.id)
        with alone(store):
            there: Verdict | None
            if isinstance(manifest := stored.manifest, DerivedManifest):
                there = bare_verdict(store, stored.id, manifest.seen)
                verdict = BareVerdict.model_validate({**dict(verdict), "files": manifest.seen})
            else:
                there = verdict_of(store, stored.id, stored.summary) if name in store.names() else None
            verdict = merge_verdicts(verdict, there, begun)
            replace(store, name, verdict.model_dump_json(indent=2).encode(), locked=locked)
        return verdict

    def sets_in(
        self, directory: Path, tier: Tier | None = None, only: str = "", needed: PackFolder | None = None
    ) -> Iterator[StoredSet]:
        """The sets (of one tier, or one of them `only`) whose files lie in a directory; `needed` are their packs."""
        reader = SetReader(LocalStore(directory), self.zone, self.identity, self._publishes, needed)
        own = tier if tier and directory == self.root / tier else None
        return reader.sets(tier, only, self._cache(own) if own else None)

    def _cache(self, tier: Tier) -> ManifestCache:
        return self._caches.setdefault(tier, ManifestCache(self.root, tier, self._clock))

    def read_again(self, stored: StoredSet, needed: PackFolder | None = None) -> StoredSet | None:
        """A set that was listed, as its files are now, whatever is remembered of them; None where it has gone."""
        return next(self.sets_in(stored.directory, stored.tier, only=stored.id, needed=needed), None)

    def _read_whole(self, stored: StoredSet) -> StoredSet:
        return (self.read_again(stored) if stored.remembered else None) or stored

    def _publishes(self, manifest: str) -> bool:
        """Whether a set is being published whose manifest gets that name last."""
        with contextlib.suppress(StoreError, ValidationError):
            return _Intent.model_validate_json(self._intent.read(_INTENT)).manifest == manifest
        return False


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage while thousands of sets are read, of which none is any: that would take half of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _ours(name: str) -> bool:
    return name == PAGE or _identified(name) is not None


def _identified(name: str, folder: Tier | None = None) -> FileId | None:
    """A file name of a set taken apart, also that of a verdict or a pin; of older dumps in the folder of that tier."""
    noted = name
    for suffix in (".verdict", ".pin", ".checked", ".damaged", REPACKED):
        noted = noted.removesuffix(suffix)
    return parse_file_name(name, folder) or parse_file_name(f"{noted}.json") or parse_file_name(noted)
