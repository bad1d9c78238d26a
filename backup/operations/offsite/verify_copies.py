"""Look at the copies at a place: what is there, whether it is as it should be, and whether its bytes can be read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from backup.errors import IntegrityError, NotFound, RemoteArchived, RemoteDamaged, RemoteFailed, RemoteMissing
from backup.formatting import plural, printable, size
from backup.logging import logger
from backup.model.backup_set import StoredSet
from backup.model.manifest import Manifest
from backup.model.run import Outcome
from backup.operations import runs
from backup.operations.offsite.context import (
    OffsiteContext,
    digest,
    list_remote_sets,
    manifest_of,
    require_there,
    told,
    with_digest,
)
from backup.operations.offsite.layout import RemoteSet, compare, files_of, keys_of
from backup.operations.offsite.remote_state import Book, Copy, CopyState, StoredObject
from backup.operations.offsite.rules import VERIFY, share, unchanged
from backup.storage.remote import RemoteObject

_LISTED: Final = 20
# A place that fails so often fails the rest, too.
_PATIENCE: Final = 2
# A flipped bit on the way is another one the next time; that of a disk is not.
_READS: Final = 2
_GONE: Final = "it was there and is gone now"


@dataclass(frozen=True)
class Request(runs.Request):
    """What to look at: all sets or `only` one. `read`: all their bytes, or a `share` of them, are read, too.

    `accept`: what was there and is not any more is no longer missed.
    """

    only: str = ""
    accept: bool = False
    read: bool = False
    share: bool = False


@dataclass
class Report:
    """What was found: copies by set, how many bytes were read, and what kept others from being read."""

    place: str
    copies: dict[str, Copy] = field(default_factory=dict)
    read: int = 0
    failed: list[RemoteFailed] = field(default_factory=list)

    @property
    def newest_first(self) -> list[Copy]:
        """The copies in order."""
        return sorted(self.copies.values(), key=lambda copy: (copy.time, copy.id), reverse=True)

    @property
    def bad(self) -> list[Copy]:
        """Those that are not as they should be."""
        return [copy for copy in self.newest_first if not copy.held]

    @property
    def words(self) -> str:
        """In one line."""
        good = plural(len(self.copies) - len(self.bad), "set")
        archived = sum(copy.state == "archived" for copy in self.copies.values())
        parts = [f"{good} at {self.place} as they were sent"]
        parts += [f"{archived} of them archived"] if archived else []
        parts += [f"{size(self.read)} read"] if self.read else []
        return "; ".join(parts)


def verify_copies(request: Request, context: OffsiteContext) -> Report:
    """Ask the place for size and checksum of every object, read what is to be read, and keep what was found.

    IntegrityError when a copy is not as it should be, RemoteFailed when one cannot be read: after all were looked at.
    """
    run = request.run(VERIFY, context.clock(), set=request.only, place=context.place)
    with runs.recorded_beside(context, run, f"{context.place}-verify", request.wait) as recording:
        with runs.timed(recording.seconds, "total"):
            report = _look(request, context)
        recording.success = {"message": report.words}
        if report.bad:
            raise _bad(report)
        if report.failed:
            raise report.failed[0]
    return report


def _look(request: Request, context: OffsiteContext) -> Report:
    context.progress.phase(f"listing {context.remote.name}")
    book, remote, report = context.book.read(), list_remote_sets(context.remote), Report(context.remote.name)
    if request.only and request.only not in {*remote, *book.copies}:
        raise NotFound(f"no set at {context.remote.name} is called {printable(request.only)!r}", "`offsite list`")
    require_there(context, remote, book, accept=request.accept)
    wanted = [request.only] if request.only else sorted({*remote, *book.copies} - set(book.leaving))
    asked = dict[str, RemoteObject | None]()
    for identifier in wanted:
        before, there = book.copies.get(identifier), remote.get(identifier)
        if there is None:
            if before and not _over(request, before, context):
                gone = {"state": "gone", "problem": _GONE, "items": {}}
                report.copies[identifier] = before.model_copy(update=gone)
            elif before:
                _forget(context, identifier)
            continue
        copy = Look(context, before, asked).judge(there, ask=True)
        if before is None and there.manifest_key not in there.entries:
            continue  # it was never a set: an upload of it is under way, or did not end
        report.copies[identifier] = copy
    _keep(context, report.copies.values(), whole=not request.only)
    for copy in _to_read(request, report, context):
        if len(report.failed) < _PATIENCE:
            _read_copy(copy, remote[copy.id], context, report)
    return report


def _read_copy(copy: Copy, there: RemoteSet, context: OffsiteContext, report: Report) -> None:
    """One that cannot be read keeps no other from being read. Each pack is read with the oldest set that needs it."""
    held = sorted((each for each in report.copies.values() if each.state == "offsite"), key=lambda each: each.time)
    first = {path: each.id for each in reversed(held) for path in each.items if path in there.packs}
    try:
        found = Look(context, copy).read(copy, there, {path for path in first if first[path] != copy.id})
    except RemoteFailed as error:
        logger.error("{} could not be read: {} {}", copy.id, error.message, error.hint)
        report.failed.append(error)
        return
    report.copies[copy.id] = found
    report.read += copy.size
    _keep(context, [found, *_others(report, found, there)], whole=False)


def _others(report: Report, found: Copy, there: RemoteSet) -> list[Copy]:
    """The other sets that need a pack which is bad: they are as bad at once."""
    bad, others = [path for path in found.bad if path in there.packs], []
    for each in list(report.copies.values()):
        if each.id != found.id and (mine := tuple(path for path in bad if path in each.items)):
            others.append(each.model_copy(update={"state": "differs", "problem": found.problem, "bad": mine}))
            report.copies[each.id] = others[-1]
    return others


def _to_read(request: Request, report: Report, context: OffsiteContext) -> Sequence[Copy]:
    held = [copy for copy in report.copies.values() if copy.state == "offsite"]
    if request.read or not request.share:
        return held if request.read else []
    here = (run for run in context.records.all() if (run.operation, run.place) == (VERIFY, context.place))
    past = [run.started for run in here if run.slot and run.outcome is Outcome.SUCCESS]
    return share(held, context.clock(), max(past, default=None))


def _keep(context: OffsiteContext, copies: Iterable[Copy], *, whole: bool) -> None:
    found = list(copies)

    def changed(book: Book) -> Book:
        kept = book.model_copy(update={"copies": {**book.copies, **{copy.id: copy for copy in found}}})
        return kept.model_copy(update={"looked": context.clock()}) if whole else kept

    context.book.change(changed)


def _over(request: Request, copy: Copy, context: OffsiteContext) -> bool:
    """Whether a copy that is not there is not missed: its time was over, or a person says so."""
    limit = context.ages.get(copy.tier)
    return request.accept or (limit is not None and context.clock() - copy.time > limit)


def _forget(context: OffsiteContext, identifier: str) -> None:
    context.book.change(lambda book: book.without(identifier))


def _bad(report: Report) -> IntegrityError:
    listing = "".join(f"\n  - {copy.id} {copy.how}: {printable(copy.problem)}" for copy in report.bad[:_LISTED])
    more = f"\n  - and {len(report.bad) - _LISTED} more" if len(report.bad) > _LISTED else ""
    return IntegrityError(
        f"{plural(len(report.bad), 'set')} at {report.place} not as sent:{listing}{more}",
        "`upload --all` sends again what is still here; `offsite verify --accept` stops reporting what is gone for"
        " good.",
    )


@dataclass
class Look:
    """One set at a place. `before` is what was known of it, `asked` what the place has said of objects in this run."""

    context: OffsiteContext
    before: Copy | None
    asked: dict[str, RemoteObject | None] = field(default_factory=dict)

    def judge(self, there: RemoteSet, *, ask: bool) -> Copy:
        """By its manifest and the listing; `ask`: and by what the place says of each object."""
        try:
            manifest = manifest_of(self.context.remote, there)
        except RemoteMissing as error:
            return self._copy(there, None, "incomplete", error.message)
        except RemoteArchived as error:
            # What is in it was confirmed, if nothing has changed since.
            same = self.before is not None and self.before.held and unchanged(self.before, there.objects)
            return self._copy(there, None, "archived" if same else "incomplete", "" if same else error.message)
        except (IntegrityError, RemoteDamaged) as error:
            return self._copy(there, None, "differs", error.message)
        entries = self._asked(manifest) if ask else there.objects
        missing, wrong = compare(manifest, entries, whole=True)
        if ask and self._another(there, manifest, entries):
            wrong.append("its manifest has other bytes than were sent")
        if before := self._known_bad(manifest, entries, ask=ask):
            wrong += [before]
        if missing or wrong:
            return self._copy(there, manifest, "incomplete" if missing else "differs", "; ".join([*missing, *wrong]))
        archived = any(entry.archived for entry in entries.values())
        items = self._items(manifest, entries) if ask else {}
        return self._copy(there, manifest, "archived" if archived else "offsite", "", items)

    def _another(self, there: RemoteSet, manifest: Manifest, entries: dict[str, RemoteObject]) -> bool:
        """Whether the manifest is not the one that was sent: no sum in the set covers all of its words."""
        items = self.before.items if self.before and self.before.run == manifest.run else {}
        known, found = items.get(there.manifest_key), entries.get(there.manifest_key)
        return bool(known and found and found.sha256 and found.sha256 != known.sha256)

    def _known_bad(self, manifest: Manifest, entries: dict[str, RemoteObject], *, ask: bool) -> str:
        """What was found of it before, where nothing has changed since that this look could see."""
        before = self.before
        if before is None or before.run != manifest.run or before.held:
            return ""
        if not ask:
            return before.problem
        same = any(
            name in entries and name in before.items and before.items[name].modified == entries[name].modified
            for name in before.bad
        )
        return before.problem if same else ""

    def read(self, copy: Copy, there: RemoteSet, elsewhere: Collection[str] = ()) -> Copy:
        """Read every byte that its manifest tells and compare; `copy` is what was found of it without.

        `elsewhere` are packs that are read with other sets.
        """
        files = [each for each in files_of(manifest_of(self.context.remote, there)) if each[0] not in elsewhere]
        found = {path: self._bytes(path, count, sha256) for path, count, sha256 in files}
        if problems := [f"{path.partition('/')[2]} {problem}" for path, problem in found.items() if problem]:
            bad = tuple(path for path, problem in found.items() if problem)
            return copy.model_copy(update={"state": "differs", "problem": "; ".join(problems), "bad": bad})
        return copy.model_copy(update={"read": self.context.clock(), "bad": ()})

    def _bytes(self, path: str, size: int, sha256: str) -> str:
        """What is wrong with the bytes of a file there; nothing for those that were sent."""
        for _ in range(_READS):
            try:
                found = digest(self.context, path, size)
            except RemoteMissing:
                return "is missing"
            except RemoteDamaged:
                continue
            if found == (size, sha256):
                return ""
        return "has other bytes than were sent"

    def _asked(self, manifest: Manifest) -> dict[str, RemoteObject]:
        known, names = self.before.items if self.before else {}, keys_of(manifest)
        for name in names:
            entry = self.asked[name] if name in self.asked else self.context.remote.stat(name)
            # What one set does not know of it, another may.
            self.asked[name] = with_digest(self.context, told(entry, known.get(name))) if entry else None
        return {name: entry for name in names if (entry := self.asked[name])}

    def _items(self, manifest: Manifest, entries: dict[str, RemoteObject]) -> dict[str, StoredObject]:
        known = self.before.items if self.before and self.before.run == manifest.run else {}
        return {
            name: StoredObject(
                size=entry.size,
                sha256=entry.sha256,
                modified=entry.modified,
                checksum=entry.checksum,
                source=known[name].source if name in known and known[name].sha256 == entry.sha256 else "",
            )
            for name, entry in entries.items()
        }

    def _copy(
        self,
        there: RemoteSet,
        manifest: Manifest | None,
        state: CopyState,
        problem: str,
        items: dict[str, StoredObject] | None = None,
    ) -> Copy:
        before = self.before
        known = before if before and (manifest is None or before.run == manifest.run) else None
        when = min(entry.modified for entry in there.entries.values())
        return Copy(
            id=there.id,
            tier=there.tier,
            run=manifest.run if manifest else known.run if known else "",
            time=manifest.started if manifest else known.time if known else when,
            database=manifest.database is not None if manifest else known.database if known else False,
            state=state,
            problem=problem,
            confirmed=self.context.clock() if items else known.confirmed if known else when,
            read=known.read if known else None,
            proven=known.proven if known else None,
            items=items if items is not None else known.items if known else {},
            bad=known.bad if known and state == "differs" else (),
        )


@dataclass(frozen=True)
class CopyRow:
    """One set, here or there. `state` is that of the copy, or `only local`; `note` says more."""

    id: str
    tier: str
    time: datetime
    size: int
    state: str
    local: bool
    note: str = ""


def rows(context: OffsiteContext) -> list[CopyRow]:
    """Every set here and there, newest first, from one listing, what is known, and the manifests of what is not."""
    local = {stored.id: stored for stored in context.catalog.sets()}
    book, remote = context.book.read(), list_remote_sets(context.remote)
    found = []
    for identifier, there in remote.items():
        known, changed = book.copies.get(identifier), ""
        copy = known
        if copy is None or not copy.held or not unchanged(copy, there.objects):
            copy = Look(context, known).judge(there, ask=False)
            if copy.held and known and known.held and known.items:
                changed = "changed since it was confirmed; `offsite verify` asks for its checksums"
        note = copy.problem or changed or ("" if identifier in local else "only remote")
        found.append(CopyRow(identifier, copy.tier, copy.time, there.size, copy.state, identifier in local, note))
    for identifier, copy in book.copies.items():
        if identifier not in remote:
            found.append(CopyRow(identifier, copy.tier, copy.time, 0, "gone", identifier in local, _GONE))
    there_too = {row.id for row in found}
    found += [_here(stored) for stored in local.values() if stored.id not in there_too]
    return sorted(found, key=lambda row: (row.time, row.id), reverse=True)


def _here(stored: StoredSet) -> CopyRow:
    note = "" if stored.verified else "never sent: it is not verified or not good"
    return CopyRow(stored.id, stored.tier, stored.time, stored.size, "only local", local=True, note=note)
