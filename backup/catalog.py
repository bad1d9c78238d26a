"""The sets on disk: which there are, in what state, and in which order their files appear and go.

    <root>/<tier>/obcms_backup_<id>.sql.gz …        artifacts
    <root>/<tier>/obcms_set_<id>.sha256             for `sha256sum -c`, without this product
    <root>/<tier>/obcms_set_<id>.json               the manifest, last: no manifest, no set
    <root>/<tier>/obcms_set_<id>.verdict            what the newest verification found
    <root>/<tier>/obcms_set_<id>.pin                the set is kept whatever its age
    <root>/<tier>/.obcms_set_<id>.json.removing     the manifest of a set that is being removed
    <root>/state/publishing.json                    the names of a set that is being published

Dumps and archives of the same names without a manifest are the old scripts' work: shown and verified, and removed only
when somebody decides so by the time in their names. What we ourselves left without a manifest is known from
state/publishing.json.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path, PurePath
from typing import Final
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ValidationError

from backup.errors import BackupError, IntegrityError, NotFound, StoreError
from backup.manifest import (
    FileId,
    Manifest,
    Tier,
    file_name,
    from_json,
    parse_file_name,
    set_id,
    stamp_time,
    to_json,
)
from backup.restorepage import PAGE
from backup.sets import (
    State,
    StoredSet,
    Verdict,
    manifest_name,
    merged,
    missing_or_resized,
    verdict_name,
)
from backup.stores import pins, removing
from backup.stores.disk import file_inode, file_size, sync_directory
from backup.stores.local import LocalStore
from backup.stores.notes import alone, forgotten, replace
from backup.stores.staged import STAGED_SUFFIX, Sealed, StagedFile, staged_name
from backup.text import printable

_INTENT: Final = "publishing.json"


class _Intent(BaseModel):
    """What is being published. A file is ours if it has the inode that we gave the name to, not by the name alone."""

    tier: Tier
    manifest: str
    files: dict[str, int]

    def present(self, store: LocalStore) -> list[str]:
        """Which of the files have got their final names, the manifest last."""
        at = store.directory
        ours = [name for name, number in self.files.items() if _identified(name) and file_inode(at / name) == number]
        return sorted(ours, key=lambda name: name == self.manifest)


class Catalog:
    """All tiers below one backup volume. `identity` names the file with the key of encrypted sets, if it is here."""

    def __init__(self, root: Path, zone: ZoneInfo, identity: Path | None = None) -> None:
        self.root = root
        self.identity = identity
        self._zone = zone
        self._intent = LocalStore(root / "state")

    def store(self, tier: Tier) -> LocalStore:
        """The directory of one tier."""
        return LocalStore(self.root / tier)

    def sets(self, tier: Tier | None = None) -> list[StoredSet]:
        """Every set, newest first."""
        found = [stored for each in ([tier] if tier else Tier) for stored in self.sets_in(self.root / each, each)]
        return sorted(found, key=lambda stored: (stored.time, stored.id), reverse=True)

    def find(self, query: str) -> StoredSet:
        """The set that `latest`, a set id, a file name or a path to a file of it names.

        `latest` is never a safety set: that holds what somebody has just replaced.
        """
        sets = self.sets()
        if query == "latest":
            good = next((stored for stored in sets if stored.good and not stored.safety), None)
            if good is None:
                raise NotFound("there is no good set yet", "`create` takes one now; `list` shows safety sets, too.")
            return good
        name = PurePath(query).name
        for stored in sets:
            if query == stored.id or name in stored.files:
                return stored
        raise NotFound(f"no set or file is called {printable(query)!r}", "`list` shows what is there.")

    def new_id(self, tier: Tier, now: datetime) -> str:
        """An id of which no file exists yet: a second run within a second takes the next one."""
        names = self.store(tier).names(foreign=True)
        taken = {parsed.set_id for name in names if (parsed := _identified(_bare(name)))}
        moment = now
        while (identifier := set_id(tier, moment, self._zone)) in taken:
            moment += timedelta(seconds=1)
        return identifier

    def publish(self, manifest: Manifest, staged: Sequence[StagedFile]) -> None:
        """Make a sealed set visible: its files first, the manifest last. A kill or an error before leaves no set."""
        store, sums = self.store(manifest.tier), file_name("set", manifest.id, "sha256")
        with store.stage(sums) as checksums, store.stage(manifest_name(manifest.id)) as last:
            checksums.write("".join(f"{a.stored_sha256}  {a.file}\n" for a in manifest.artifacts).encode())
            checksums.seal()
            last.write(to_json(manifest))
            last.seal()
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
        if stored.manifest and stored.manifest.id == stored.id:
            return removing.remove(store, stored.manifest, lambda: pins.pinned(store, stored.id))
        if pins.pinned(store, stored.id):
            return False
        removing.unlink(store, stored.files)
        sync_directory(store.directory)
        return True

    def finish_removing(self) -> None:
        """Finish removals that were killed. StoreError when one cannot be finished."""
        for tier in Tier:
            removing.finish(self.store(tier))

    def pin(self, stored: StoredSet, reason: str, now: datetime) -> None:
        """Keep a set whatever its age; NotFound when it is being removed at this moment."""
        store = LocalStore(stored.directory)
        pins.write(store, stored.id, reason, now)
        # A removal looks for the pin after it has unlisted the set, this looks for the set after the pin is there.
        if not any(there.id == stored.id for there in self.sets(stored.tier)):
            pins.remove(store, stored.id)
            raise NotFound(f"{stored.id} is being removed at this moment; it was not pinned", "`list` shows the rest.")

    def unpin(self, stored: StoredSet) -> bool:
        """Let the age of a set count again; whether it was pinned."""
        return pins.remove(LocalStore(stored.directory), stored.id)

    def finish_publishing(self) -> list[str]:
        """Remove what a publication that did not reach its manifest left; returns the names removed."""
        if _INTENT not in self._intent.names():
            return []
        leftovers: list[str] = []
        with contextlib.suppress(ValidationError):
            intent = _Intent.model_validate_json(self._intent.read(_INTENT))
            store, present = self.store(intent.tier), intent.present(self.store(intent.tier))
            leftovers = [] if intent.manifest in present else present
            store.remove_all(leftovers)
        self._intent.remove(_INTENT)
        return leftovers

    def sweep(self) -> list[str]:
        """Remove unpublished work of runs that died. Only for the holder of the lock."""
        removed = self.finish_publishing()
        # What cannot be removed stands in nobody's way; the cleanup itself says so.
        with contextlib.suppress(BackupError):
            self.finish_removing()
        for store in (*(self.store(tier) for tier in Tier), self._intent):
            left = [name for name in store.names() if name == staged_name(_bare(name))]
            if store is not self._intent:
                left = [name for name in left if _identified(_bare(name)) or _bare(name) == PAGE]
                left += [n for n in store.names() if (note := forgotten(store, n)) and _identified(note)]
            store.remove_all(left)
            removed += left
        return removed

    def record_verdict(
        self, stored: StoredSet, verdict: Verdict, begun: datetime | None = None, *, locked: bool = False
    ) -> Verdict:
        """Keep what a look that was begun then found, beside the set, with what others have found meanwhile.

        What is kept. `locked`: by the holder of the lock.
        """
        store, name = self.store(stored.tier), verdict_name(stored.id)
        with alone(store):
            there = (
                self._verdict(store, stored.id, stored.manifest) if stored.manifest and name in store.names() else None
            )
            verdict = merged(verdict, there, begun)
            replace(store, name, verdict.model_dump_json(indent=2).encode(), locked=locked)
        return verdict

    def sets_in(self, directory: Path, tier: Tier | None = None) -> Iterator[StoredSet]:
        """The sets (of one tier) whose files lie in a directory."""
        store = LocalStore(directory)
        names = store.names()
        gone = removing.leaving(names)
        by_id: dict[str, list[FileId]] = {}
        for name in names:
            parsed = parse_file_name(name)
            if parsed and tier in (None, parsed.tier) and parsed.set_id not in gone:
                by_id.setdefault(parsed.set_id, []).append(parsed)
        for identifier, parts in by_id.items():
            files = tuple(part.name for part in parts)
            stored = self._stored(store, parts[0].tier, identifier, files, verdict_name(identifier) in names)
            if stored.good or not removing.gone(store, identifier, files):
                yield stored

    def _stored(
        self, store: LocalStore, tier: Tier, identifier: str, files: tuple[str, ...], judged: bool
    ) -> StoredSet:
        sizes = {name: file_size(store.directory / name) for name in files}
        base = StoredSet(
            directory=store.directory,
            id=identifier,
            tier=tier,
            time=stamp_time(identifier.removeprefix(f"{tier}_"), self._zone),
            state="old script",
            files=files,
            size=sum(size or 0 for size in sizes.values()),
            pin=pins.read(store, identifier),
            identity=self.identity,
        )
        if manifest_name(identifier) not in files:
            lost = self._lost(store, identifier, files)
            return _with(base, state="unreadable", problem="its manifest is missing") if lost else base
        try:
            manifest = from_json(store.read(manifest_name(identifier)), manifest_name(identifier))
        except (IntegrityError, StoreError) as error:
            return _with(base, state="unreadable", problem=error.message)
        verdict = self._verdict(store, identifier, manifest) if judged else None
        problem = _problem(manifest, sizes, identifier) or "; ".join(verdict.problems if verdict else ())
        state: State = (
            "damaged" if problem else "complete" if manifest.status == "complete" else "complete with changes"
        )
        return _with(base, time=manifest.started, state=state, manifest=manifest, verdict=verdict, problem=problem)

    def _lost(self, store: LocalStore, identifier: str, files: tuple[str, ...]) -> bool:
        """Whether a set of ours has lost its manifest: the old scripts wrote neither checksums nor indexes."""
        if not any(name.endswith((".sha256", ".files.gz", ".files.gz.age")) for name in files):
            return False
        # One that is being published gets it last; one that has just been published has it by now.
        with contextlib.suppress(StoreError, ValidationError):
            if _Intent.model_validate_json(self._intent.read(_INTENT)).manifest == manifest_name(identifier):
                return False
        return manifest_name(identifier) not in store.names()

    @staticmethod
    def _verdict(store: LocalStore, identifier: str, manifest: Manifest) -> Verdict:
        try:
            return Verdict.model_validate_json(store.read(verdict_name(identifier)))
        except (StoreError, ValidationError):
            # It may have said that the set is damaged: until it is verified again, it is not good.
            problem = f"{verdict_name(identifier)} cannot be read; `verify {identifier}` judges the set again"
            return Verdict(checked=manifest.ended, problems=(problem,))


def _problem(manifest: Manifest, sizes: dict[str, int | None], identifier: str) -> str:
    if manifest.id != identifier:
        return f"the manifest is that of {printable(manifest.id)}"
    return "; ".join(missing_or_resized(manifest, sizes))


def _with(stored: StoredSet, **changes: object) -> StoredSet:
    return StoredSet(**{**stored.__dict__, **changes})


def _bare(name: str) -> str:
    return name.removeprefix(".").removesuffix(STAGED_SUFFIX)


def _identified(name: str) -> FileId | None:
    """A file name of a set taken apart, also that of a verdict or a pin."""
    return parse_file_name(name) or parse_file_name(name.removesuffix(".verdict").removesuffix(".pin") + ".json")
