"""Remove the sets whose time is over, as `retention` decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from backup import lock
from backup.catalog import Catalog
from backup.config import Settings
from backup.errors import BackupError, NoSpace
from backup.health import failed_backup
from backup.log import logger
from backup.manifest import Tier
from backup.operations import runs
from backup.operations.unfinished import refuse_unfinished
from backup.records import Outcome, Records, Run, new_run_id
from backup.retention import Decision, Policy, decide, stale
from backup.sets import StoredSet
from backup.text import plural, size

PRUNE: Final = "prune"
# The exit code of a run that did its part, and leaves more to a person.
WAITS: Final = 4
_SKEW: Final = timedelta(minutes=5)
_FORCE: Final = (
    "`prune --dry-run` shows the sets; if they may go, `prune --force` removes them. If it comes again, raise"
    " BACKUP_PRUNE_SHARE: more sets are made between two cleanups than it lets go."
)


@dataclass(frozen=True)
class Request:
    """`force` lifts the share of a tier that one run may remove, `make_room` that the backups must be well.

    `wait` is in seconds; the rest is for the record.
    """

    force: bool = False
    make_room: bool = False
    wait: float = 0.0
    trigger: str = "manual"
    slot: datetime | None = None
    slots: int = 0


@dataclass(frozen=True)
class Shelf:
    """What a cleanup works with."""

    catalog: Catalog
    records: Records
    lock: Path
    policy: Policy
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass
class Report:
    """What was decided, and what has been done of it. `hold` says why nothing goes at all."""

    decisions: Sequence[Decision]
    hold: str
    removed: list[StoredSet] = field(default_factory=list)

    @property
    def going(self) -> list[StoredSet]:
        """The sets to remove, oldest first."""
        return sorted((d.stored for d in self.decisions if not d.keep), key=lambda s: (s.time, s.id))

    @property
    def waiting(self) -> int:
        """How many sets wait for a person."""
        return sum(decision.waits for decision in self.decisions)

    @property
    def exit_code(self) -> int:
        """0, or WAITS."""
        return WAITS if self.waiting else 0

    @property
    def words(self) -> str:
        """What was done, and what was not."""
        freed = size(sum(stored.size for stored in self.removed))
        said = [f"removed {plural(len(self.removed), 'set')}, {freed}" if self.removed else "nothing was removed"]
        if self.hold:
            said.append(self.hold)
        if self.waiting:
            said.append(f"{plural(self.waiting, 'more set')} over the limit than one run removes: a person must agree")
        return "; ".join(said)


def policy(settings: Settings) -> Policy:
    """The retention that is set; a tier with 0 days is kept for ever."""
    days = {
        Tier.DAILY: settings.retention_daily,
        Tier.WEEKLY: settings.retention_weekly,
        Tier.MONTHLY: settings.retention_monthly,
        Tier.MANUAL: settings.retention_manual,
    }
    return Policy(
        ages={tier: timedelta(days=count) for tier, count in days.items() if count},
        minimum=settings.retention_minimum,
        share=settings.prune_share,
        fresh=timedelta(hours=settings.max_age_hours),
    )


def plan(request: Request, shelf: Shelf, now: datetime) -> Report:
    """What `prune` would do now. Touches nothing."""
    refuse_unfinished(shelf.catalog.root, now)
    sets = shelf.catalog.sets()
    # One from the future would stand before all that happens until then.
    past = [run for run in shelf.records.all() if run.started <= now + _SKEW]
    hold = "" if request.make_room else _failed(past) or stale(sets, shelf.policy, now)
    decided = decide(sets, shelf.policy, now, hold=hold, force=request.force, spent=_spent(past))
    return Report(decided, hold)


def prune(request: Request, shelf: Shelf) -> Report:
    """Remove what is to go, and record the run. Raises what made it fail, after recording that too."""
    asked = shelf.clock()
    run = Run(
        id=new_run_id(asked),
        operation=PRUNE,
        trigger=request.trigger,
        slot=request.slot,
        slots=request.slots,
        started=asked,
    )
    waiting = "waiting for another run to end: {}"
    with lock.hold(shelf.lock, PRUNE, run.id, wait=request.wait, waiting=lambda who: logger.info(waiting, who)):
        run = run.model_copy(update={"started": shelf.clock()})
        try:
            runs.recover(shelf.catalog, shelf.records, run.started)
            _begin(shelf.records, run)
            report = plan(request, shelf, run.started)
            _remove(report, shelf.catalog)
            # Tried already, and in vain if anything is left: said last, so that it does not keep the others.
            shelf.catalog.finish_removing()
        except BaseException as error:
            runs.record(shelf.records, runs.failed(run, error, shelf.clock(), {}))
            raise
        done = {"outcome": Outcome.SUCCESS, "ended": shelf.clock(), "message": report.words}
        left = {"exit_code": report.exit_code, "hint": _FORCE if report.waiting else ""}
        runs.record(shelf.records, run.model_copy(update=done | left))
    return report


def _begin(records: Records, run: Run) -> None:
    """A disk that has no room for the record is the one that a cleanup is needed on."""
    try:
        records.begin(run)
    except NoSpace as error:
        logger.warning("{}", error.message)


def _remove(report: Report, catalog: Catalog) -> None:
    reasons = {decision.stored.id: decision.reason for decision in report.decisions}
    failed: BackupError | None = None
    for stored in report.going:
        logger.info("removing {}, {}: {}", stored.id, size(stored.size), reasons[stored.id])
        try:
            if catalog.remove(stored):
                report.removed.append(stored)
            else:
                logger.info("{} was pinned meanwhile: it stays", stored.id)
        except BackupError as error:
            # One that cannot be removed must not keep the others for ever.
            logger.error("{}: {} {}", stored.id, error.message, error.hint)
            failed = error
    if failed:
        raise failed


def _failed(past: Sequence[Run]) -> str:
    run = failed_backup(past)
    return f"the last {run.tier} backup {run.outcome}: nothing is removed until one has succeeded" if run else ""


def _spent(past: Sequence[Run]) -> bool:
    """Whether the last cleanup that ended left something to a person, who has not answered."""
    last = next((r for r in past if r.operation == PRUNE and r.outcome is Outcome.SUCCESS), None)
    return last is not None and last.exit_code == WAITS
