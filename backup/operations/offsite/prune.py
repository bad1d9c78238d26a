"""Remove the copies whose time is over, by the rules that hold for local sets, where the key may do that at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from backup.catalog.retention import CleanupMemory, Decision, RetentionPolicy, identity_of, stale
from backup.errors import IntegrityError, RemoteArchived, RemoteDamaged
from backup.formatting import plural, size
from backup.logging import logger
from backup.model.backup_set import StoredSet, Verdict, newest_good, present
from backup.model.manifest import Manifest
from backup.operations import runs
from backup.operations.offsite.context import OffsiteContext, list_remote_sets, manifest_of
from backup.operations.offsite.layout import RemoteSet, RemoteSets, compare, keys_of
from backup.operations.offsite.remote_state import Book, Copy
from backup.operations.offsite.rules import PRUNE, unchanged
from backup.operations.prune import CleanupHistory, Decided, MemoryFile, careful
from backup.storage.remote import Removal


@dataclass(frozen=True)
class Request(runs.Request):
    """How to clean up, as in the local prune."""

    force: bool = False


@dataclass
class Report(Decided):
    """What was decided and done. `leftovers` are objects of uploads that never ended; `ends` is by set."""

    command: ClassVar[str] = "offsite prune"
    place: str
    decisions: Sequence[Decision]
    hold: str
    memory: CleanupMemory
    remote: RemoteSets
    leftovers: list[RemoteSet]
    ends: dict[str, Removal] = field(default_factory=dict)
    freed: int = 0

    @property
    def removed(self) -> list[str]:
        """The sets that are gone from there."""
        return [identifier for identifier, end in self.ends.items() if end == "removed"]

    @property
    def words(self) -> str:
        """What was done, and what was not."""
        ends, gone = list(self.ends.values()), len(self.removed)
        said = [
            f"removed {plural(gone, 'set')} from {self.place}, {size(self.freed)}" if gone else "nothing was removed"
        ]
        if denied := ends.count("denied"):
            said.append(f"{plural(denied, 'set')} stay, because the key may not delete, as it should be")
        if retained := ends.count("retained"):
            said.append(f"{plural(retained, 'set')} stay, because the place still retains them")
        if self.hold:
            said.append(self.hold)
        # What the key may not delete now, it may not delete later.
        return "; ".join([*said, *([] if denied else self.left)])


def plan(request: Request, context: OffsiteContext, policy: RetentionPolicy, own: str = "") -> Report:
    """What a cleanup would do now, from one complete listing; `own` is the run that asks. Touches nothing."""
    now, remote, book = context.clock(), list_remote_sets(context.remote), context.book.read()
    local = {stored.id: stored for stored in context.catalog.sets()}
    sets = [_stored(context, found, book.copies.get(found.id), local.get(found.id)) for found in remote.values()]
    known = [stored for stored in sets if stored is not None]
    runs = [run for run in context.records.all() if run.id != own]
    past = [run.started for run in runs if (run.operation, run.place) == (PRUNE, context.place)]
    here = newest_good(stored for stored in present(local.values(), now) if identity_of(stored))
    decided = careful(
        known,
        replace(policy, forgotten=MemoryFile(context.catalog.root).read().forgotten),
        now,
        CleanupHistory(MemoryFile(context.catalog.root, context.place).read(), runs, max(past, default=None)),
        identity=identity_of(here) if here else None,
        hold=stale(known, policy, now),
        force=request.force,
        agreed=request.force,
    )
    leftovers = list(_leftovers(context, remote, book, set(local), now))
    return Report(context.remote.name, *decided, remote, leftovers)


def prune_copies(request: Request, context: OffsiteContext, policy: RetentionPolicy) -> Report:
    """Remove what is to go, and record the run. A place that keeps its objects is no failure."""
    run = request.run(PRUNE, context.clock(), place=context.place)
    # Not beside an upload: what has no manifest yet may be under way.
    with runs.recorded_beside(context, run, f"{context.place}-write", request.wait) as recording:
        report = plan(request, context, policy, run.id)
        MemoryFile(context.catalog.root, context.place).note(report.memory)
        for stored in report.going:
            _remove(report, report.remote[stored.id], context, stored.manifest)
        for found in report.leftovers:
            _rest(found, list(found.entries), context)
        _remove_packs(report, context)
        recording.success = {"message": report.words, "exit_code": report.exit_code, "hint": report.hint}
    return report


def _stored(context: OffsiteContext, found: RemoteSet, copy: Copy | None, local: StoredSet | None) -> StoredSet | None:
    """A set there as retention judges it: verified when it is known to be as it was sent; None without a manifest."""
    if found.manifest_key not in found.entries:
        return None
    base = StoredSet(
        directory=Path(context.remote.name),
        id=found.id,
        tier=found.tier,
        time=min(entry.modified for entry in found.entries.values()),
        state="unreadable",
        files=tuple(name.partition("/")[2] for name in found.entries),
        size=found.size,
        pin=local.pin if local else None,
    )
    try:
        manifest = manifest_of(context.remote, found)
    except (IntegrityError, RemoteDamaged, RemoteArchived) as error:
        return replace(base, problem=error.message)
    missing, wrong = compare(manifest, found.objects)
    sound = copy is not None and copy.held and copy.run == manifest.run and unchanged(copy, found.objects)
    return replace(
        base,
        time=manifest.started,
        state="damaged" if missing or wrong or (copy and not copy.held) else "complete",
        manifest=manifest,
        verdict=Verdict(checked=copy.confirmed) if copy and sound else None,
        problem="; ".join([*missing, *wrong]),
    )


def _leftovers(
    context: OffsiteContext, remote: dict[str, RemoteSet], book: Book, local: set[str], now: datetime
) -> Iterator[RemoteSet]:
    """Objects without a manifest: of removals that did not end, and of uploads whose set is gone and over its time."""
    for found in remote.values():
        if found.manifest_key in found.entries:
            continue
        limit, newest = context.ages.get(found.tier), max(entry.modified for entry in found.entries.values())
        if found.id in book.leaving or (limit is not None and found.id not in local and now - newest > limit):
            yield found


def _remove(report: Report, found: RemoteSet, context: OffsiteContext, manifest: Manifest) -> None:
    """The manifest first: then it is a set no more, whatever becomes of the rest."""
    logger.info("removing {} from {}, {}", found.id, context.remote.name, size(found.size))
    ours = set(keys_of(manifest))
    rest = tuple(name for name in found.entries if name in ours and name != found.manifest_key)
    context.book.change(lambda book: book.model_copy(update={"leaving": {**book.leaving, found.id: rest}}))
    end = context.remote.remove(found.manifest_key)
    report.ends[found.id] = end
    if end != "removed":
        _settled(found.id, context)
        return
    context.book.change(lambda book: book.without(found.id))
    report.freed += found.size
    _rest(found, rest, context)


def _remove_packs(report: Report, context: OffsiteContext) -> None:
    """The packs that no set there needs any more, nor one here, whose upload may have been broken off.

    None while a manifest there cannot be read: it may name any of them.
    """
    kept = [each.stored for each in report.decisions if each.stored.id not in report.removed]
    if any(stored.state == "unreadable" for stored in kept):
        return
    needed = {pack.file for stored in (*kept, *context.catalog.sets()) for pack in stored.summary.packs}
    for path, entry in report.remote.packs.items():
        if path.partition("/")[2] not in needed and context.remote.remove(path) == "removed":
            report.freed += entry.size


def _rest(found: RemoteSet, keys: Sequence[str], context: OffsiteContext) -> None:
    """What has no manifest any more. What the place keeps is tried again by the next cleanup."""
    if all([context.remote.remove(name) == "removed" for name in keys]):
        _settled(found.id, context)


def _settled(identifier: str, context: OffsiteContext) -> None:
    def changed(book: Book) -> Book:
        leaving = {name: keys for name, keys in book.leaving.items() if name != identifier}
        return book.model_copy(update={"leaving": leaving})

    context.book.change(changed)
