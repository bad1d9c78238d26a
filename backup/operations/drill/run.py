"""Prove a set: restore it into a server that is thrown away, dump that again, and compare."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from backup.errors import IntegrityError, LoadFailed, NotProven, StoreError
from backup.formatting import duration, plural, printable
from backup.logging import logger
from backup.model.backup_set import NOT_LOADED, Proof, StoredSet, Verdict, holds_database, present
from backup.model.recovered import Missing
from backup.operations import bare_dump, media_references, runs
from backup.operations.context import Context
from backup.operations.load import Load, against_set, attempt_for, complete, load_dump, rows_apart, wanted
from backup.operations.preemption import giving_way
from backup.operations.restore.locking import refuse_unfinished
from backup.operations.set_artifacts import read_roles
from backup.operations.verify import volume_archive
from backup.operations.verify.run import check_set
from backup.postgres.dump.dump_digest import OTHER_CONTENT, Outline, differences, in_question, same_order
from backup.postgres.dump.dump_reader import DumpReader, Watcher
from backup.postgres.dump.money import has_setting, with_setting
from backup.postgres.dump_source import DUMP_SESSION, dump_options
from backup.postgres.scratch_server import Place, Places
from backup.progress import Progress, Silent

# Of drills that the service begins because a set has definitions that none was drilled with.
NEW: Final = "new definitions"
_HEAD: Final = 65_536
_ENCODING: Final = re.compile(rb"^SET client_encoding = '([A-Za-z0-9_]+)';$", re.MULTILINE)
_LISTED: Final = 20


@dataclass(frozen=True, kw_only=True)
class DrillContext(Context):
    """What a drill works with. `places` decides, by the set, where it is restored; `jobs`: sessions of a load."""

    places: Callable[[StoredSet], Places]
    file_columns: Sequence[str]
    jobs: int


def drill_set(
    stored: StoredSet,
    context: DrillContext,
    *,
    trigger: str = "manual",
    wait: float = 0.0,
    slot: datetime | None = None,
    slots: int = 0,
) -> Verdict:
    """Verify and prove one set, and record the run. IntegrityError for a damaged one, NotProven for a difference.

    With the trigger NEW it gives way to every other run.
    """
    request = runs.Request(wait=wait, trigger=trigger, slot=slot, slots=slots)
    run = request.run("drill", context.clock(), tier=stored.tier, set=stored.id)
    with runs.locked(context, run, wait, yielding=trigger == NEW), runs.recorded(context, run) as recording:
        verdict = prove_set(stored, context, run.id, recording.seconds)
        recording.success = {"message": proven(verdict)}
    return verdict


def prove_set(stored: StoredSet, context: DrillContext, run: str, seconds: dict[str, float]) -> Verdict:
    """Verify and prove one set in the name of `run`, which holds the lock and is recorded; errors as in `drill`."""
    refuse_unfinished(context.catalog.root, context.clock())
    with giving_way(context.catalog.root), runs.timed(seconds, "total"):
        verdict = _Drill(stored, context, run, seconds, context.clock()).verdict()
    require_proven(stored, verdict)
    return verdict


class _Expected(Outline):
    """The outline of a set's dump, and how that begins."""

    def __init__(self) -> None:
        super().__init__(unordered=False)
        self.head = b""

    def feed(self, chunk: bytes) -> None:
        self.head += chunk[: max(0, _HEAD - len(self.head))]
        super().feed(chunk)


class _Loaded(_Expected):
    """That of a dump that is loaded as it streams by."""

    def __init__(self, into: Watcher) -> None:
        super().__init__()
        self._into = into

    def section(self, kind: str, name: str) -> None:
        super().section(kind, name)
        self._into.section(kind, name)

    def table(self, table: str) -> None:
        super().table(table)
        self._into.table(table)

    def data(self, data: bytes) -> None:
        super().data(data)
        self._into.data(data)


class _NotWanted(Exception):
    """Nobody waits for it any more."""


class _Wanted(Silent):
    """The progress of what is broken off, at its next piece, when the body has ended."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._over.set()

    def advance(self, count: int) -> None:
        if self._over.is_set():
            raise _NotWanted


@dataclass
class _Drill:
    stored: StoredSet
    context: DrillContext
    run: str
    seconds: dict[str, float]
    began: datetime
    indexes: float = 0.0
    remedy: str = ""
    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # Views that could not be filled, as sections of a dump are called.
    empty: list[str] = field(default_factory=list)
    path: str = ""

    def verdict(self) -> Verdict:
        """Verify, restore, compare; keep what was found beside the set."""
        if not holds_database(self.stored):
            raise NotProven(
                f"{self.stored.id} holds no database, so there is nothing to restore into a server",
                f"`verify {self.stored.query}` reads and judges all that it holds.",
            )
        places = self.context.places(self.stored)
        places.sweep()
        logger.info("restoring {} into {}", self.stored.id, places.way)
        with contextlib.ExitStack() as stack:
            with runs.timed(self.seconds, "prepare"):
                self.context.progress.phase("starting a throw-away server")
                roles = read_roles(self.stored, unchanged=False)
                place = stack.enter_context(places.prepare(wanted(self.stored, roles), self.run))
            if self.stored.derived:
                place = bare_dump.with_roles(self.stored, place, self.run)
            found, files = self._restored(place), None
            if not self.problems and not found:
                files = self._files(place)
        now = self.context.clock()
        total = round(sum(self.seconds.values()), 3)
        # A part of `load`, so it is no part of the sum.
        self.seconds["indexes"] = self.indexes
        proof = Proof(
            tried=now,
            server_version=place.server_version,
            differences=tuple(found),
            remedy=self.remedy,
            notes=tuple(self.notes),
            seconds={**self.seconds, "total": total},
            files=files,
        )
        kept = None if self.problems else proof
        verdict = Verdict(checked=now, problems=tuple(self.problems), unchecked=tuple(self.unchecked), proof=kept)
        if self.context.catalog.keeps_verdict(self.stored):
            verdict = self.context.catalog.record_verdict(self.stored, verdict, self.began, locked=True)
        return verdict

    def _restored(self, place: Place) -> list[str]:
        """Load, dump again, apply the database's settings: the differences."""
        try:
            with runs.timed(self.seconds, "load"):
                loaded = self._load(place)
        except (IntegrityError, StoreError) as error:
            self.problems, self.unchecked, _ = check_set(self.stored, self.context.progress)
            if isinstance(error, StoreError) and not self.problems:
                raise  # it was not the set that could not be read
            self.problems = self.problems or [error.message]
            return []
        except LoadFailed as error:
            # A damaged dump does not load either: that is the better word for it.
            self.problems, self.unchecked, _ = check_set(self.stored, self.context.progress)
            if self.problems:
                return []
            refusal, self.remedy = self._of_the_set(error, place), error.hint
            return [f"{NOT_LOADED}{refusal}"]
        if self.problems:
            return []
        with runs.timed(self.seconds, "dump"):
            expected: Outline = loaded
            options = self._options(loaded)
            found = self._dumped(place, options, Outline(unordered=False, counting=False), loaded.head)
            if in_question(expected, found):
                # Read again with the sums of rows in any order: few dumps need them, and they take long.
                self._check(place, expected := Outline(), self.context.progress)
                if self.problems:
                    return []
                found = self._dumped(place, options, Outline(), loaded.head)
        for outline in (expected, found) if place.adaptation.waiting else ():
            outline.leave_out(place.adaptation.waits)
        unequal = self._differences(expected, found)
        if not unequal and not self.empty and not same_order(expected, found):
            self.notes.append("rows or objects are the same, in another order or notation")
        try:
            self.notes += [*place.notes, *place.settle(self.run)]
        except LoadFailed as error:
            unequal.append(f"the settings of the database itself cannot be applied: {self._of_the_set(error, place)}")
        return unequal

    def _check(self, place: Place, outline: Outline, progress: Progress) -> None:
        found = bare_dump.read_files(self.stored, place.clients, self.run, progress, outline)
        self.problems, self.unchecked, _ = found

    def _of_the_set(self, error: LoadFailed, place: Place) -> str:
        """What a load says against the set; LoadFailed when it says something of the server or its client alone."""
        if against_set(error, place):
            return error.message
        raise LoadFailed(
            f"the drill of {self.stored.id} failed for another reason, and does not judge the set: {error.message}",
            error.hint,
        ) from error

    def _differences(self, expected: Outline, found: Outline) -> list[str]:
        for view in self.empty:
            expected.sections.pop(view, None)
        if not self.stored.derived:
            return differences(expected, found)
        # Its server's settings, the time zone above all, are not known, and they show in the values.
        self.notes.append("values were not compared: there is no manifest")
        inserted = [key for key, each in expected.sections.items() if each.kind == "TABLE DATA" and each.rows is None]
        roots = [f"TABLE DATA {table}" for table in found.roots] if inserted else []
        for key in (*inserted, *roots):
            expected.sections.pop(key, None)
            found.sections.pop(key, None)
        if inserted:
            what = plural(len(inserted), "table")
            self.notes.append(f"the rows of {what} are INSERT statements: each was run, none was counted")
        return [line for line in differences(expected, found, 1 << 20) if not line.endswith(OTHER_CONTENT)]

    def _load(self, place: Place) -> _Expected:
        loaded: list[_Expected] = []
        attempt, jobs = attempt_for(self.stored), self.context.jobs
        # In another order, rows would have to be compared by sums.
        apart = rows_apart(self.stored, self.context.progress, shared=False) if jobs > 1 else None

        def go(load: Load) -> None:
            watcher = place.adaptation.applied(load.split)
            expected = _Expected() if apart else _Loaded(watcher)
            loaded.append(expected)
            if apart:
                # Parts are read where they lie, so nobody sees all of it in order: it is judged beside.
                with ThreadPoolExecutor(1, thread_name_prefix="check") as pool, _Wanted() as progress:
                    checked = pool.submit(self._check, place, expected, progress)
                    self.context.progress.phase("loading the database", self.stored.size)
                    DumpReader(watcher, counting=False).read(load.pieces())
                    self._finish(load)
                    checked.result()
            else:
                self._check(place, expected, self.context.progress)
            if not expected.head:
                what = "; ".join(self.problems) or "no dump is among its files"
                told = f"{self.stored.id} cannot be restored into a server: {what}"
                raise NotProven(told, "`list` shows other sets.")
            if not self.problems and not apart:
                self._finish(load)

        done = load_dump(place.clients, self.run, attempt, go, lambda: place.renew(self.run), jobs=jobs, apart=apart)
        if not self.problems:
            complete(place.clients, loaded[-1].extensions, self.run)
        self.path = done.path
        self.notes += [*done.notes, *(each.told for each in done.left)]
        self.empty = [f"MATERIALIZED VIEW DATA {each.name}" for each in done.left if each.kind == "empty"]
        return loaded[-1]

    def _finish(self, load: Load) -> None:
        load.finish()
        self.indexes = round(time.monotonic() - load.rows_done, 3)

    def _options(self, loaded: _Expected) -> Sequence[str]:
        """How the dump that was loaded had been made."""
        if self.stored.derived:
            return bare_dump.writer_options(loaded.head, loaded)
        encoding = _ENCODING.search(loaded.head)
        return dump_options(encoding[1].decode() if encoding else "", statistics=loaded.statistics)

    def _dumped(self, place: Place, options: Sequence[str], found: Outline, head: bytes) -> Outline:
        self.context.progress.phase("dumping what was restored")
        with place.clients.run("pg_dump", options, self.run, DUMP_SESSION) as output:
            for chunk in with_setting(output.chunks()) if has_setting(head) else output.chunks():
                found.feed(chunk)
                self.context.progress.advance(len(chunk))
        found.finish()
        found.check_whole()
        return found

    def _files(self, place: Place) -> Missing | None:
        """Whether the media that rows name are in the set's archives."""
        if not self.stored.manifest.volumes:
            return None
        archived, columns = volume_archive.archived(self.stored), self.context.file_columns
        self.context.progress.phase("looking up the files that rows refer to")
        with runs.timed(self.seconds, "files"):
            try:
                found = media_references.look_up(place.clients, archived, columns, self.run, self.path)
            except LoadFailed as error:
                told = f"the files that rows of {self.stored.id} refer to could not be determined: {error.message}"
                if not columns and error.refused:
                    # Whether it restores does not hang on it.
                    self.notes.append(told)
                    return None
                raise NotProven(told, "Does BACKUP_FILE_COLUMNS name columns that this set has?") from error
        self.notes.append(
            f"{found.missing:,} of {plural(found.referenced, 'referenced file')} missing in the media"
            if found.columns
            else "no column of the database refers to files"
        )
        return found


def newest_of_each_tier(sets: Sequence[StoredSet], now: datetime) -> list[StoredSet]:
    """The newest good set with a database of each tier, none of them dated ahead: what a scheduled drill proves."""
    newest: dict[str, StoredSet] = {}
    for stored in sorted(present(sets, now), key=lambda each: (each.time, each.id)):
        if stored.good and stored.manifest.database:
            newest[stored.tier] = stored
    return list(newest.values())


def proven(verdict: Verdict) -> str:
    """What a drill that went well found, in one line."""
    proof = verdict.proof
    if proof is None:
        return "not drilled"
    took = f"restored and dumped again in {duration(proof.seconds.get('total', 0))}: equal"
    return "; ".join([took, *(printable(note) for note in proof.notes)])


def require_proven(stored: StoredSet, verdict: Verdict) -> None:
    """IntegrityError for a damaged set, NotProven for one that does not load, or was restored to something else."""
    if verdict.problems:
        raise IntegrityError(
            f"{stored.id} is damaged:{_listing(verdict.problems)}",
            "Do not restore it; `list` shows other sets, `create` takes a new one.",
        )
    if verdict.refusal:
        raise NotProven(
            f"{stored.id} does not load: {printable(verdict.refusal)}",
            f"{verdict.remedy} `list` shows which sets load; `drill` tries the newest of them.".strip(),
        )
    if verdict.proof and verdict.proof.differences:
        raise NotProven(
            f"{stored.id} was restored, but differs from the dump:{_listing(verdict.proof.differences)}",
            "Its bytes are as they were written, but do not rely on it alone: `create` takes a new set, `drill"
            " latest` proves that one.",
        )


def _listing(found: Sequence[str]) -> str:
    more = [f"and {len(found) - _LISTED} more"] if len(found) > _LISTED else []
    return "".join(f"\n  - {printable(line)}" for line in [*found[:_LISTED], *more])
