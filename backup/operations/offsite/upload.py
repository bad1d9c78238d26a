"""Send the sets that belong to a place and are not there, newest first."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from backup.errors import BackupError, NotTaken, RemoteFailed
from backup.formatting import plural, size
from backup.logging import logger
from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier
from backup.model.tiers import NO_BACKUPS
from backup.operations import runs
from backup.operations.offsite.context import OffsiteContext, list_remote_sets, require_there
from backup.operations.offsite.layout import RemoteSets
from backup.operations.offsite.rules import OPERATIONS, candidates, there, unchanged
from backup.operations.offsite.send import Sending

# One run sends no more; what is left goes with the next one, newest first again.
_MOST: Final = 100
# A place that fails so often in a row fails the rest, too.
_PATIENCE: Final = 2


@dataclass(frozen=True)
class Request(runs.Request):
    """What to send: sets of `tiers`, or the one called `only`."""

    tiers: Sequence[Tier] = ()
    only: str = ""


@dataclass
class Report:
    """What became of an upload: ids of the sets sent, how many were there already, and what failed, by set.

    `refused`: what the place cannot take, older than a set that is there. It stays so for as long as it is kept.
    """

    place: str
    sent: list[str] = field(default_factory=list)
    bytes: int = 0
    same: int = 0
    failed: dict[str, BackupError] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    left: int = 0

    @property
    def words(self) -> str:
        """In one line."""
        what = f"{plural(len(self.sent), 'set')} sent to {self.place}, {size(self.bytes)}" if self.sent else ""
        same = f"{plural(self.same, 'set')} there already" if self.same else ""
        refused = f"{plural(len(self.refused), 'older set')} not taken there" if self.refused else ""
        left = f"{plural(self.left, 'set')} left for the next run" if self.left else ""
        return "; ".join(filter(None, [what, same, refused, left])) or f"no verified set belongs to {self.place} yet"


def upload_sets(request: Request, context: OffsiteContext) -> Report:
    """Send and record. The first error is raised in the end, after all that can be sent was.

    The lock of the volume is not held: neither a backup nor a restore waits for this, however long it takes.
    """
    tier = str(request.tiers[0]) if len(request.tiers) == 1 else ""
    run = request.run(OPERATIONS[context.place], context.clock(), tier=tier, set=request.only, place=context.place)
    with runs.recorded_beside(context, run, f"{context.place}-write", request.wait) as recording:
        with runs.timed(recording.seconds, "total"):
            report = _Upload(request, context, Report(context.remote.name)).run()
        newest = {"set": report.sent[0]} if report.sent else {}
        recording.success = {"message": report.words, **newest}
        if report.failed:
            raise _failure(report)
    return report


@dataclass
class _Upload:
    request: Request
    context: OffsiteContext
    report: Report
    tried: set[str] = field(default_factory=set)

    def run(self) -> Report:
        """One listing, then set by set; what is new here meanwhile comes first."""
        self.context.progress.phase(f"listing {self.context.remote.name}")
        if removed := self.context.remote.sweep():
            logger.info("{} of killed uploads removed at {}", plural(removed, "leftover"), self.context.remote.name)
        sets, failures = list_remote_sets(self.context.remote), 0
        require_there(self.context, sets, self.context.book.read())
        self.context.book.change(lambda book: book.model_copy(update={"looked": self.context.clock()}))
        for sending in itertools.islice(iter(lambda: self._next(sets), None), _MOST):
            try:
                self._send(sending)
                failures = 0
            except BackupError as error:
                identifier = sending.stored.id
                # Newest first: with a newer one there, this is no failure that each run would repeat for as long as
                # the set is kept.
                if isinstance(error, NotTaken) and (self.report.sent or self.report.same):
                    logger.warning("{} {}", error.message, error.hint)
                    self.report.refused.append(identifier)
                    continue
                logger.error("{}: {} {}", identifier, error.message, error.hint)
                self.report.failed[identifier] = error
                failures = failures + 1 if isinstance(error, RemoteFailed) else 0
                if failures >= _PATIENCE:
                    break
        self.report.left = len(self._open())
        return self.report

    def _next(self, sets: RemoteSets) -> Sending | None:
        """The next set to be sent. Those that are there, unchanged, are passed over: the sets here and the book are
        read once for all of them."""
        book = self.context.book.read()
        for stored in self._open():
            self.tried.add(stored.id)
            copy, remote = book.copies.get(stored.id), sets.of(stored.id, stored.tier)
            if not (copy and there(stored, copy) and unchanged(copy, remote.objects)):
                return Sending(self.context, stored, remote, book)
            self.report.same += 1
        return None

    def _open(self) -> list[StoredSet]:
        if self.request.only:
            stored = [] if self.tried else [self.context.catalog.find(self.request.only)]
            return [each for each in stored if each.id not in self.tried]
        sets = self.context.catalog.sets()
        found = candidates(sets, self.request.tiers, self.context.ages, self.context.clock())
        return [stored for stored in found if stored.id not in self.tried]

    def _send(self, sending: Sending) -> None:
        sent, stored = sending.run(), sending.stored
        self.context.book.change(lambda book: book.with_copy(sent.copy))
        if not sent.bytes:
            self.report.same += 1
            return
        self.report.sent.append(stored.id)
        self.report.bytes += sent.bytes
        logger.success("{} is offsite: {} sent to {}, read back", stored.id, size(sent.bytes), self.context.remote.name)


def _failure(report: Report) -> BackupError:
    """The error of the newest set that was not sent, with what became of the others."""
    identifier, first = next(iter(report.failed.items()))
    rest = [*report.sent, *report.failed][1:]
    others = f" ({report.words}; {plural(len(report.failed), 'set')} not sent)" if rest or report.same else ""
    named = first.message if identifier in first.message else f"{identifier}: {first.message}"
    error = type(first)(f"{named}{others}; local sets are untouched", first.hint)
    error.exit_code = first.exit_code
    return error


def request_for(tier: Tier | None, everything: bool, settings_tiers: Sequence[Tier]) -> tuple[Tier, ...]:
    """The tiers that a command means: the one named, all, or those that are uploaded by themselves."""
    if tier:
        return (tier,)
    return tuple(each for each in Tier if each not in NO_BACKUPS) if everything else tuple(settings_tiers)
