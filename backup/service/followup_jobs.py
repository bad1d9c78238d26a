"""What the service starts besides the schedule: drills of new definitions, base backups that are wanted, uploads that
follow backups or failed."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, Final

from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.catalog.wal_archive import StreamFile
from backup.config.types import AFTER
from backup.errors import BackupError
from backup.logging import logger
from backup.model.backup_set import StoredSet, present
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run
from backup.model.wal import Stream
from backup.monitoring.health import newest_database
from backup.monitoring.health.proofs import DRILL
from backup.operations.drill.run import NEW
from backup.operations.offsite.remote_state import BookFile, PlaceName
from backup.operations.offsite.rules import OPERATIONS, candidates, sets_to_upload, tiers_due
from backup.operations.pitr.base import BASE, WINDOW
from backup.storage import lock

TRIGGER: Final = "after the backup"
_AGAIN: Final = timedelta(minutes=10)
# How old what is said of the stream may be.
_FRESH: Final = timedelta(seconds=30)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
# Starts of one set by one service: what ends without a record is not begun again and again.
_STARTS: Final = 3
# Runs that have found something out, or failed for want of what the next one would want, too.
_DECIDED: Final = (Outcome.SUCCESS, Outcome.CHANGED, Outcome.FAILED, Outcome.CRASHED)


@dataclass
class _Queue:
    """Looks every `pause` seconds; one child at a time."""

    catalog: Catalog
    records: Records
    spawn: Callable[[tuple[str, ...]], subprocess.Popen[bytes]]
    pause: ClassVar[float]
    _child: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _looked: float = field(default=0.0, init=False)

    @property
    def active(self) -> bool:
        """Whether what it started has not ended."""
        return self._child is not None and self._child.poll() is None

    def _is_time(self, steady: float) -> bool:
        """Whether to look now: the last look is long enough ago, and what it started has ended."""
        if (self._looked and steady - self._looked < self.pause) or self.active:
            return False
        self._looked, self._child = steady, None
        return True


@dataclass
class DrillQueue(_Queue):
    """The first set with new definitions is drilled as soon as nothing else runs; any other run goes before it."""

    lock: Path
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    pause = 30.0
    _starts: Counter[str] = field(default_factory=Counter, init=False)

    def tick(self, steady: float, *, busy: bool) -> None:
        """To be called every second; `steady` are seconds of a clock that nobody sets. `busy`: start nothing."""
        if busy or not self._is_time(steady):
            return
        try:
            if lock.holder(self.lock) is not None:
                return
            stored = drill_due(present(self.catalog.sets(), self.clock()), self.records.all())
        except BackupError:  # said by health
            return
        if stored and self._starts[stored.id] < _STARTS:
            self._starts[stored.id] += 1
            logger.info("the drill of {} starts: no set with its definitions has been drilled", stored.id)
            self._child = self.spawn(("drill", stored.id, "--trigger", NEW))


@dataclass
class BaseQueue(_Queue):
    """A base backup is taken when what receives the WAL says that one is needed: at first, and after each gap."""

    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    pause = 5.0

    def tick(self, steady: float, *, busy: bool) -> None:
        """To be called every second; `steady` are seconds of a clock that nobody sets. `busy`: start nothing."""
        if busy or not self._is_time(steady):
            return
        try:
            stream = StreamFile(self.catalog.root).read()
            if stream is None or not base_due(stream, self.records.all, self.clock()):
                return
        except BackupError:  # said by health
            return
        logger.info("a base backup starts: {}", stream.wants_base)
        self._child = self.spawn((BASE, "--trigger", WINDOW))


def base_due(stream: Stream, runs: Callable[[], Sequence[Run]], now: datetime) -> bool:
    """Whether a base backup is to be taken now: at once after a gap, but a while after one that failed."""
    if not stream.wants_base or now - stream.looked > _FRESH:
        return False
    taken = [(run.ended, run.outcome) for run in runs() if run.operation == BASE and run.ended]
    ended, outcome = max(taken, default=(_NEVER, Outcome.SUCCESS))
    # What is said of the stream may be older than the base.
    return stream.looked > ended if outcome is Outcome.SUCCESS else now - ended > _AGAIN


def drill_due(sets: Sequence[StoredSet], runs: Sequence[Run]) -> StoredSet | None:
    """The set that is to be drilled now; None when one with its definitions was, or could not be.

    After one whose rows did not load, the next is drilled again: somebody may have put them right.
    """
    newest = newest_database(sets)
    part = newest.manifest.database if newest else None
    if newest is None or part is None or not part.definitions:
        return None
    drilled = {run.set for run in runs if run.operation == DRILL and run.outcome in _DECIDED}
    alike = [s for s in sets if part.alike(s.summary.database)]
    proofs = [(s, s.verdict.proof) for s in alike if s.verdict and s.verdict.proof]
    refused = [s.time for s, proof in proofs if proof.refusal]
    if any(not proof.refusal for _, proof in proofs) or newest.id in drilled:
        return None
    tried = bool(refused) or any(s.id in drilled for s in alike)
    return newest if not tried or (refused and newest.time > max(refused)) else None


@dataclass
class UploadQueue(_Queue):
    """Uploads that follow each backup, and those to be tried again. `uploads` maps tiers to `after` or a cron line,
    without those off."""

    places: Sequence[PlaceName]
    uploads: Mapping[Tier, str]
    ages: Mapping[Tier, timedelta]
    pause = 60.0

    def tick(self, now: datetime, steady: float) -> None:
        """To be called every second; `steady` are seconds of a clock that nobody sets."""
        if not self.places or not self.uploads or not self._is_time(steady):
            return
        try:
            tiers = self.tiers(now)
        except BackupError:  # said by health
            return
        if tiers:
            logger.info("the upload of {} sets starts: they wait for it", tiers[0])
            self._child = self.spawn(("upload", str(tiers[0]), "--trigger", TRIGGER))

    def tiers(self, now: datetime) -> list[Tier]:
        """The tiers whose upload is due now."""
        found = candidates(self.catalog.sets(), self.uploads, self.ages, now)
        follows = [tier for tier, when in self.uploads.items() if when == AFTER]
        scheduled = [tier for tier, when in self.uploads.items() if when != AFTER]
        runs = self.records.all()
        tiers: set[Tier] = set()
        for place in self.places:
            unsent = sets_to_upload(found, BookFile(self.catalog.root, place).read())
            tiers |= set(tiers_due(follows, scheduled, unsent, runs, OPERATIONS[place], now))
        return [tier for tier in Tier if tier in tiers]
