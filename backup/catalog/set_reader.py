"""The sets whose files lie in one directory, in what state: what the disk shows of them, judged.

Sizes and presence of all files are looked at each time. Of a tier of many sets, only the newest manifests and verdicts
are read each time; what the others said is remembered as long as their files are the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from os import stat_result
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from backup.catalog import delete, pins
from backup.catalog.manifest_cache import ManifestCache
from backup.catalog.packs import PackFolder, packs_beside
from backup.errors import IntegrityError, StoreError
from backup.formatting import printable
from backup.model.backup_set import (
    Remembered,
    StoredSet,
    Verdict,
    judge,
    manifest_name,
    missing_or_resized,
    pin_name,
    verdict_name,
)
from backup.model.derived_manifest import bare_file, derive
from backup.model.legacy_sets import bare, ids_of, pair
from backup.model.manifest import FileId, Manifest, Summary, Tier, from_json, parse_file_name, stamp_time, summarise
from backup.model.pack import own_bytes
from backup.storage.directory import LocalStore
from backup.storage.filesystem import statuses_of

# So many of the newest sets of a tier are always read whole: they are what is restored, compared and drilled.
WHOLE: Final = 50


class BareVerdict(Verdict):
    """The verdict on files without a manifest, as long as they are what was read: by name, bytes and mtime (ns)."""

    files: dict[str, tuple[int, int]]


class SetReader:
    """Reads one directory. `publishes` says of a manifest's name whether its set is being published just now; `packs`
    are those that its sets need, if they are known."""

    def __init__(
        self,
        store: LocalStore,
        zone: ZoneInfo,
        identity: Path | None,
        publishes: Callable[[str], bool],
        packs: PackFolder | None = None,
    ) -> None:
        self._store, self._zone, self._identity, self._publishes = store, zone, identity, publishes
        self._listing: Mapping[str, bool] = {}
        self._packs = packs or packs_beside(store.directory)

    def sets(self, tier: Tier | None, only: str, cache: ManifestCache | None) -> Iterator[StoredSet]:
        """The sets (of one tier, or one of them `only`), by the order of their ids."""
        self._listing = self._store.listing()
        names = {name for name, regular in self._listing.items() if regular}
        gone = delete.leaving(names)
        found = self._grouped(names, tier, gone)
        ids = sorted(found.keys() - gone if not only else found.keys() & {only} - gone)
        newest = set(ids[-WHOLE:])
        for identifier in ids:
            files = found[identifier]
            its_tier = next(iter(files.values())).tier
            stored = self._set(its_tier, identifier, tuple(files), None if identifier in newest else cache)
            if stored.good or not delete.is_gone(self._store, identifier, files):
                yield stored
        if cache and len(ids) > WHOLE:
            cache.keep(names)

    def _grouped(
        self, names: Collection[str], tier: Tier | None, gone: Collection[str]
    ) -> Mapping[str, Mapping[str, FileId]]:
        """The files of each set (of one tier), by its id. Dumps of older names are of the folder's tier."""
        folder = tier or next((each for each in Tier if each == self._store.directory.name), None)
        found: dict[str, dict[str, FileId]] = {}
        without: dict[str, FileId] = {}
        for name in sorted(names):
            parsed = parse_file_name(name, folder)
            if parsed and tier in (None, parsed.tier):
                (without if parsed.older else found.setdefault(parsed.set_id, {}))[name] = parsed
        for identifier in [each for each in found if each not in gone and bare(found[each])]:
            without |= found.pop(identifier)
        paired = pair(without, found.keys() | gone, self._zone)
        return found | {each: {name: without[name] for name in files} for each, files in paired.items()}

    def _set(self, tier: Tier, identifier: str, files: tuple[str, ...], cache: ManifestCache | None) -> StoredSet:
        statuses, name = statuses_of(self._store.directory, files), manifest_name(identifier)
        sizes = {each: status.st_size if status else None for each, status in statuses.items()}
        made = partial(
            StoredSet,
            directory=self._store.directory,
            id=identifier,
            tier=tier,
            files=files,
            size=sum(size or 0 for size in sizes.values()),
            pin=pins.read_pin(self._store, identifier) if pin_name(identifier) in self._listing else None,
            identity=self._identity,
        )
        try:
            manifest = self._manifest(name, statuses[name], cache) if name in statuses else None
            problem = "" if manifest or not self._lost(identifier, files) else "its manifest is missing"
        except (IntegrityError, StoreError) as error:
            manifest, problem = None, error.message
        if manifest is None:
            stored = made(time=stamp_time(identifier.removeprefix(f"{tier}_"), self._zone), state="old script")
            return self._adopted(stored, statuses, problem)
        summary = manifest.summary if isinstance(manifest, Remembered) else summarise(manifest)
        verdict = self._verdict(identifier, summary, cache)
        state, problem = judge(summary, verdict, self._problem(summary, sizes, identifier))
        stored = made(time=_utc(summary.started), state=state, manifest=manifest, verdict=verdict, problem=problem)
        # What it brought, whoever needs it by now.
        return replace(stored, size=stored.size + own_bytes(summary.packs, identifier)) if summary.packs else stored

    def _adopted(self, stored: StoredSet, statuses: Mapping[str, stat_result | None], problem: str) -> StoredSet:
        """A set with the manifest that its files have by their names; `problem`: why there is no other."""
        files = (
            bare_file(name, stored.tier, self._zone, *((status.st_size, status.st_mtime_ns) if status else ()))
            for name, status in statuses.items()
        )
        manifest = derive(stored.id, stored.tier, stored.time, filter(None, files))
        if problem:
            return replace(stored, state="unreadable", manifest=manifest, problem=problem)
        noted = self._listing.get(verdict_name(stored.id))
        verdict = bare_verdict(self._store, stored.id, manifest.seen) if noted else None
        pinned = next((each for each in ids_of(stored) if pin_name(each) in self._listing), "")
        pin = pins.read_pin(self._store, pinned) if pinned else None
        return replace(stored, manifest=manifest, verdict=verdict, pin=pin)

    def _manifest(self, name: str, status: stat_result | None, cache: ManifestCache | None) -> Manifest | Remembered:
        read = partial(_manifest_of, self._store, name)
        if cache and status:
            return Remembered(cache.summary(name, status, read), partial(cache.whole, name, read))
        return read()

    def _verdict(self, identifier: str, manifest: Summary, cache: ManifestCache | None) -> Verdict | None:
        name = verdict_name(identifier)
        if not self._listing.get(name):
            return None
        if cache and (status := statuses_of(self._store.directory, [name])[name]):
            return verdict_of(self._store, identifier, manifest, partial(cache.verdict, name, status))
        return verdict_of(self._store, identifier, manifest)

    def _problem(self, manifest: Summary, sizes: dict[str, int | None], identifier: str) -> str:
        if manifest.id != identifier:
            return f"the manifest is that of {printable(manifest.id)}"
        return "; ".join([*missing_or_resized(manifest, sizes), *self._packs.problems(manifest.packs)])

    def _lost(self, identifier: str, files: tuple[str, ...]) -> bool:
        """Whether a set of ours has lost its manifest: the old scripts wrote neither checksums nor indexes."""
        if not any(
            name.removesuffix(".age").endswith((".sha256", ".files.gz", ".tree.gz", ".contents.gz")) for name in files
        ):
            return False
        # One that is being published gets it last; one that has just been published has it by now.
        name = manifest_name(identifier)
        return not self._publishes(name) and name not in self._store.names()


def bare_verdict(store: LocalStore, identifier: str, seen: Mapping[str, tuple[int, int]]) -> BareVerdict | None:
    """The verdict beside files without a manifest; None when there is none on them as they are now."""
    with contextlib.suppress(StoreError, ValidationError):
        found = BareVerdict.model_validate_json(store.read(verdict_name(identifier)))
        return found if found.files == seen else None
    return None


def verdict_of(
    store: LocalStore,
    identifier: str,
    manifest: Summary,
    known: Callable[[Callable[[], Verdict]], Verdict] = lambda read: read(),
) -> Verdict:
    """The verdict beside a set; `known` is given how to read it, and may know it without."""
    name = verdict_name(identifier)
    try:
        return known(lambda: Verdict.model_validate_json(store.read(name)))
    except (StoreError, ValidationError):
        # It may have said that the set is damaged: until it is verified again, it is not good.
        problem = f"{name} cannot be read; `verify {identifier}` judges the set again"
        return Verdict(checked=manifest.ended, problems=(problem,))


def _manifest_of(store: LocalStore, name: str) -> Manifest:
    return from_json(store.read(name), name)


def _utc(moment: datetime) -> datetime:
    """The same moment; of one zone, so that thousands are compared quickly, but at the ends of the calendar."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return moment
