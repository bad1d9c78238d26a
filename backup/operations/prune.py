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
from backup.errors import BackupError, NoSpace, NotFound
from backup.health import failed_backup
from backup.log import logger
from backup.manifest import Tier
from backup.operations import runs
from backup.operations.unfinished import refuse_unfinished
from backup.records import Outcome, Records, Run, new_run_id
from backup.retention import Decision, Identity, Policy, decide, identity_of, stale
from backup.sets import StoredSet
from backup.text import plural, printable, size

PRUNE: Final = "prune"
# The exit code of a run that did its part, and leaves more to a person.
WAITS: Final = 4
_SKEW: Final = timedelta(minutes=5)
_FORCE: Final = (
    "`prune --dry-run` shows the sets; if they may go, `prune --force` removes them. BACKUP_PRUNE_SHARE is what one"
    " cleanup may remove of a tier by itself."
)


@dataclass(frozen=True)
class Request:
    """`force` lifts the share of a tier that one run may remove, `make_room` that the backups must be well.

    `server` is the system identifier of another database server, whose sets are cleaned up instead. `wait` is in
    seconds; the rest is for the record.
    """

    force: bool = False
    make_room: bool = False
    server: str = ""
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


class Decided:
    """What follows from the decisions of a cleanup, wherever the sets are."""

    decisions: Sequence[Decision]

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


@dataclass
class Report(Decided):
    """What was decided, and what has been done of it. `hold` says why nothing goes at all."""

    decisions: Sequence[Decision]
    hold: str
    removed: list[StoredSet] = field(default_factory=list)

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


def plan(request: Request, shelf: Shelf, now: datetime, own: str = "") -> Report:
    """What `prune` would do now; `own` is the id of the run that asks. Touches nothing."""
    refuse_unfinished(shelf.catalog.root, now)
    sets = shelf.catalog.sets()
    # One from the future would stand before all that happens until then.
    runs = shelf.records.all()
    past = [run for run in runs if run.started <= now + _SKEW]
    hold = "" if request.make_room else _failed(past) or stale(sets, shelf.policy, now)
    since = _last(runs, but=own)
    # A person who names another server has looked; what a cleanup of this one left waiting says nothing of that.
    spent = _spent(past) and not request.server
    of = _of(sets, request.server)
    decided = decide(sets, shelf.policy, now, identity=of, hold=hold, force=request.force, spent=spent, since=since)
    return Report(decided, hold)


def _of(sets: Sequence[StoredSet], server: str) -> Identity | None:
    """The one database of that server here; None for no server: that of the newest good set."""
    known = {each for stored in sets if (each := identity_of(stored))}
    found = sorted((each for each in known if each.system == server), key=str)
    if not server or len(found) == 1:
        return found[0] if found else None
    there = ", ".join(sorted(str(each) for each in known)) or "none"
    what = "the sets here are of several databases" if found else "no set here is of a database"
    raise NotFound(
        f"{what} on the server {printable(server)}: {printable(there)}; nothing was removed",
        "`show` says of which database and server a set is; remove those by hand that are not needed.",
    )


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
            report = plan(request, shelf, run.started, run.id)
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


def _last(runs: Sequence[Run], but: str) -> datetime | None:
    """When the last cleanup began, however it ended. One ahead of the clock counts: it may have removed sets."""
    return max((run.started for run in runs if run.operation == PRUNE and run.id != but), default=None)
