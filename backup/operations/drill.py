"""Prove a set: restore it into a server that is thrown away, dump that again, and compare."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from backup.catalog import Catalog
from backup.errors import LoadFailed, NotProven
from backup.log import logger
from backup.operations import check_volume, consistency, roles_file, runs
from backup.operations.check_bytes import Stored
from backup.operations.draft import timed
from backup.operations.drilled import judge, proven
from backup.operations.foresee import foreseeing
from backup.operations.giveway import giving_way
from backup.operations.load import Load, loading
from backup.operations.unfinished import refuse_unfinished
from backup.operations.verify import check
from backup.progress import Progress, Silent
from backup.records import Records, Run, new_run_id
from backup.sets import Missing, Proof, StoredSet, Verdict
from backup.sources.media import parse_index
from backup.sources.places import Place, Places, Wanted
from backup.sources.postgres import DUMP_OPTIONS, DUMP_SESSION
from backup.stores.local import LocalStore
from backup.stream.outline import OTHER_CONTENT, Outline, differences, in_question, same_order
from backup.text import plural

_HEAD: Final = 65_536
# The old scripts dumped without owners and privileges: then no object names its owner.
_OWNER: Final = re.compile(rb"; Owner: [^-\n]")


@dataclass(frozen=True)
class DrillShop:
    """What a drill works with. `places` decides, by the set, where it is restored."""

    catalog: Catalog
    records: Records
    lock: Path
    places: Callable[[StoredSet], Places]
    file_columns: Sequence[str]
    progress: Progress
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


def drill(
    stored: StoredSet,
    shop: DrillShop,
    *,
    trigger: str = "manual",
    wait: float = 0.0,
    slot: datetime | None = None,
    slots: int = 0,
) -> Verdict:
    """Verify and prove one set, and record the run. IntegrityError for a damaged one, NotProven for a difference."""
    started = shop.clock()
    run = Run(
        id=new_run_id(started),
        operation="drill",
        tier=stored.tier,
        trigger=trigger,
        slot=slot,
        slots=slots,
        started=started,
        set=stored.id,
    )
    with runs.locked(shop, run, wait), runs.recorded(shop, run) as recording:
        verdict = prove(stored, shop, run.id, recording.seconds)
        recording.success = {"message": proven(verdict)}
    return verdict


def prove(stored: StoredSet, shop: DrillShop, run: str, seconds: dict[str, float]) -> Verdict:
    """Verify and prove one set in the name of `run`, which holds the lock and is recorded; errors as in `drill`."""
    refuse_unfinished(shop.catalog.root, shop.clock())
    with giving_way(shop.catalog.root), timed(seconds, "total"):
        verdict = _Drill(stored, shop, run, seconds, shop.clock()).verdict()
    judge(stored, verdict)
    return verdict


class _Loaded(Outline):
    """An outline of a dump that is loaded as it streams by."""

    def __init__(self) -> None:
        super().__init__(unordered=False)
        self.head = b""
        self.load: Load | None = None

    def feed(self, chunk: bytes) -> None:
        self.head += chunk[: max(0, _HEAD - len(self.head))]
        super().feed(chunk)

    def section(self, kind: str, name: str) -> None:
        super().section(kind, name)
        if self.load:
            self.load.split.section(kind, name)

    def table(self, table: str) -> None:
        super().table(table)
        if self.load:
            self.load.split.table(table)

    def data(self, data: bytes) -> None:
        super().data(data)
        if self.load:
            self.load.split.data(data)


@dataclass
class _Drill:
    stored: StoredSet
    shop: DrillShop
    run: str
    seconds: dict[str, float]
    began: datetime
    indexes: float = 0.0
    problems: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def verdict(self) -> Verdict:
        """Verify, restore, compare; keep what was found beside the set."""
        database = self.stored.manifest.database if self.stored.manifest else None
        if self.stored.manifest and database is None:
            raise NotProven(
                f"{self.stored.id} holds no database, so there is nothing to restore into a server",
                f"`verify {self.stored.query}` reads and judges all that it holds.",
            )
        places = self.shop.places(self.stored)
        places.sweep()
        logger.info("restoring {} into {}", self.stored.id, places.way)
        with contextlib.ExitStack() as stack:
            with timed(self.seconds, "prepare"):
                self.shop.progress.phase("starting a throw-away server")
                place = stack.enter_context(places.prepare(self._wanted(), self.run))
            found, files = self._restored(place), None
            if not self.problems and not found:
                files = self._files(place)
            version = place.server_version
        now = self.shop.clock()
        total = round(sum(self.seconds.values()), 3)
        # A part of `load`, so it is no part of the sum.
        self.seconds["indexes"] = self.indexes
        proof = Proof(
            tried=now,
            server_version=version,
            differences=tuple(found),
            notes=tuple(self.notes),
            seconds={**self.seconds, "total": total},
            files=files,
        )
        kept = None if self.problems else proof
        verdict = Verdict(checked=now, problems=tuple(self.problems), unchecked=tuple(self.unchecked), proof=kept)
        if self.stored.manifest and self.stored.directory == self.shop.catalog.root / self.stored.tier:
            verdict = self.shop.catalog.record_verdict(self.stored, verdict, self.began, locked=True)
        return verdict

    def _restored(self, place: Place) -> list[str]:
        """Load, dump again, apply the database's settings: the differences."""
        loaded = _Loaded()
        try:
            with timed(self.seconds, "load"):
                self._load(place, loaded)
        except LoadFailed as error:
            # A damaged dump does not load either: that is the better word for it.
            self.problems, self.unchecked, _ = check(self.stored, self.shop.progress)
            return [] if self.problems else [f"it does not load: {self._of_the_set(error)}"]
        if self.problems:
            return []
        with timed(self.seconds, "dump"):
            expected: Outline = loaded
            found = self._dumped(place, loaded.head, Outline(unordered=False, counting=False))
            if in_question(expected, found):
                expected = self._read_again()
                if self.problems:
                    return []
                found = self._dumped(place, loaded.head, Outline())
        unequal = self._differences(expected, found)
        if not unequal and not same_order(expected, found):
            self.notes.append("rows or objects come in another order, or in other words, but are the same")
        try:
            place.settle(self.run)
        except LoadFailed as error:
            unequal.append(f"the settings of the database itself cannot be applied: {self._of_the_set(error)}")
        return unequal

    def _read_again(self) -> Outline:
        """The dump's outline with the sums of rows in any order: few dumps need them, and they take long."""
        outline = Outline()
        self.problems, self.unchecked, _ = check(self.stored, self.shop.progress, outline=outline)
        return outline

    def _of_the_set(self, error: LoadFailed) -> str:
        """What a load says against the set; LoadFailed when it says something of the server or its client alone."""
        if error.refused:
            return error.message
        raise LoadFailed(
            f"the drill of {self.stored.id} failed for want of something else, and says nothing of the set:"
            f" {error.message}",
            error.hint,
        ) from error

    def _differences(self, expected: Outline, found: Outline) -> list[str]:
        if self.stored.manifest:
            return differences(expected, found)
        # Its server's settings, the time zone above all, are not known, and they show in the values.
        self.notes.append("values were not compared: there is no manifest")
        return [line for line in differences(expected, found, 1 << 20) if not line.endswith(OTHER_CONTENT)]

    def _load(self, place: Place, expected: _Loaded) -> None:
        with foreseeing(self.stored) as foreseen, loading(place.clients, self.run, foreseen) as load:
            expected.load = load
            self.problems, self.unchecked, _ = check(self.stored, self.shop.progress, outline=expected)
            if not expected.head:
                what = "; ".join(self.problems) or "no plain dump is among its files"
                raise NotProven(
                    f"{self.stored.id} cannot be restored into a server: {what}", "`list` shows other sets."
                )
            if not self.problems:
                load.finish()
                self.indexes = round(time.monotonic() - load.rows_done, 3)

    def _dumped(self, place: Place, head: bytes, found: Outline) -> Outline:
        ownerless = self.stored.manifest is None and not _OWNER.search(head)
        options = (*DUMP_OPTIONS, *(("--no-owner", "--no-privileges") if ownerless else ()))
        self.shop.progress.phase("dumping what was restored")
        with place.clients.run("pg_dump", options, self.run, DUMP_SESSION) as output:
            for chunk in output.chunks():
                found.feed(chunk)
                self.shop.progress.advance(len(chunk))
        found.finish()
        found.check_whole()
        return found

    def _files(self, place: Place) -> Missing | None:
        """Whether the media that rows name are in the set's archives."""
        manifest = self.stored.manifest
        if manifest is None or not manifest.volumes:
            return None
        self.shop.progress.phase("looking up the files that rows name")
        with timed(self.seconds, "files"):
            try:
                found = consistency.look_up(place.clients, self._archived(), self.shop.file_columns, self.run)
            except LoadFailed as error:
                raise NotProven(
                    f"what files the rows of {self.stored.id} name could not be found out: {error.message}",
                    "Does BACKUP_FILE_COLUMNS name columns that this set has?",
                ) from error
        self.notes.append(
            f"{found.missing:,} of {plural(found.referenced, 'referenced file')} missing in the media"
            if found.columns
            else "no column of the database names files"
        )
        return found

    def _archived(self) -> Iterator[bytes]:
        """The paths of all archived files, below their volumes."""
        store = LocalStore(self.stored.directory)
        for artifact in self.stored.manifest.artifacts if self.stored.manifest else ():
            if artifact.kind == "index":
                source = Stored(store, artifact.file, Silent(), self.stored.identity)
                with contextlib.closing(source):
                    for entry in parse_index(check_volume.lines(source.content())):
                        yield entry.path.partition(b"/")[2]

    def _wanted(self) -> Wanted:
        manifest = self.stored.manifest
        part = manifest.database if manifest else None
        if manifest is None or part is None:
            return Wanted("restored", None, 10 * self.stored.size, "", "")
        roles = roles_file.read(self.stored, unchanged=False)
        return Wanted(part.name, part.locale, part.size, part.bootstrap, roles)


def newest_of_each_tier(sets: Sequence[StoredSet]) -> list[StoredSet]:
    """The newest good set with a database of each tier: what a scheduled drill proves."""
    newest: dict[str, StoredSet] = {}
    for stored in sorted(sets, key=lambda each: (each.time, each.id)):
        if stored.good and stored.manifest and stored.manifest.database:
            newest[stored.tier] = stored
    return list(newest.values())
