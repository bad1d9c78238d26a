"""Remove the sets whose time is over, as `retention` decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar, Final

from pydantic import ValidationError

from backup.catalog.catalog import Catalog
from backup.catalog.retention import (
    CleanupMemory,
    DatabaseIdentity,
    Decision,
    RetentionPolicy,
    advanced,
    decide,
    identity_of,
    stale,
)
from backup.config.loader import Settings
from backup.errors import BackupError, NoSpace, NotFound, StoreError
from backup.formatting import age, plural, printable, size
from backup.logging import logger
from backup.model.backup_set import SKEW, StoredSet, is_ahead, left_volumes, present, volumes_of
from backup.model.manifest import Tier
from backup.model.pack import own_bytes
from backup.model.run import Run
from backup.monitoring.health import failed_backup
from backup.operations import runs
from backup.operations.context import Context
from backup.operations.repack import repack
from backup.operations.restore.locking import refuse_unfinished
from backup.operations.runs import at_work
from backup.storage import atomic_file
from backup.storage.directory import LocalStore

PRUNE: Final = "prune"
# The exit code of a run that did its part, and leaves more to a person.
WAITS: Final = 4
_MEMORY: Final = "retention.json"
_MAKE_ROOM: Final = "On a full disk, `prune --make-room` removes sets past retention anyway."


@dataclass(frozen=True)
class Request(runs.Request):
    """`force` lifts the share of a tier that one run may remove, `make_room` that the backups must be well.

    `server` is the system identifier of another database server, whose sets are cleaned up instead. `forget_volume` is
    a volume that has left the stack, and for which no set need be kept any longer. `ahead` is a set dated ahead of
    the clock, which goes, and nothing else.
    """

    force: bool = False
    make_room: bool = False
    server: str = ""
    forget_volume: str = ""
    ahead: str = ""


@dataclass(frozen=True, kw_only=True)
class PruneContext(Context):
    """What a cleanup works with."""

    policy: RetentionPolicy


class MemoryFile:
    """The memory of cleanups in state/ of the backup volume: retention.json, and one for each offsite place."""

    def __init__(self, root: Path, place: str = "") -> None:
        self._store = LocalStore(root / "state")
        self._name = f"retention-{place}.json" if place else _MEMORY

    def read(self) -> CleanupMemory:
        """What is remembered; StoreError when it cannot be understood."""
        if self._name not in self._store.names():
            return CleanupMemory()
        try:
            return CleanupMemory.model_validate_json(self._store.read(self._name))
        except ValidationError as error:
            raise StoreError(
                f"{self._store.directory / self._name} is damaged: nothing is removed",
                "Move it away. Then no volume counts as forgotten, and the current settings as confirmed.",
            ) from error

    def write(self, memory: CleanupMemory) -> None:
        """Replace it. Only for the holder of the lock."""
        if memory == self.read():
            return
        atomic_file.replace(self._store, self._name, memory.model_dump_json(indent=1).encode(), locked=True)

    def note(self, memory: CleanupMemory) -> None:
        """Before anything goes. Where there is no room for it, it says tomorrow what it would say today."""
        try:
            self.write(memory)
        except NoSpace as error:
            logger.warning("{}", error.message)


class Decided:
    """What follows from the decisions of a cleanup, wherever the sets are. `hold` says why nothing goes at all."""

    command: ClassVar[str] = PRUNE
    decisions: Sequence[Decision]
    hold: str

    @property
    def going(self) -> list[StoredSet]:
        """The sets to remove, oldest first."""
        return sorted((d.stored for d in self.decisions if not d.keep), key=lambda s: (s.time, s.id))

    @property
    def waiting(self) -> int:
        """How many sets wait for a person."""
        return sum(decision.waits for decision in self.decisions)

    @property
    def later(self) -> int:
        """How many sets the next runs remove by themselves."""
        return sum(decision.later for decision in self.decisions)

    @property
    def left(self) -> list[str]:
        """Why sets that are past their time stay, in words."""
        said = []
        if self.waiting:
            sets = plural(self.waiting, "more set is", "more sets are")
            said.append(f"{sets} past retention only because the clock jumped or a setting was shortened")
        if self.later:
            sets = plural(self.later, "more set is", "more sets are")
            said.append(f"{sets} past retention than one run may remove; the next runs remove the rest")
        return said

    @property
    def hint(self) -> str:
        """What removes the sets that stay for now; empty when nothing is kept from going."""
        if self.waiting:
            return (
                f"`{self.command} --dry-run` says which: the clock jumped, or a setting (BACKUP_…RETENTION_…) was"
                f" shortened. If that is right, `{self.command} --force` removes them."
            )
        return _MAKE_ROOM if self.hold and self.command == PRUNE else ""

    @property
    def exit_code(self) -> int:
        """0, or WAITS."""
        return WAITS if self.waiting else 0


@dataclass
class Report(Decided):
    """What was decided, and what has been done of it. `hold` says why nothing goes at all.

    `packs` are the bytes of those that no set needs any more.
    """

    decisions: Sequence[Decision]
    hold: str
    memory: CleanupMemory
    removed: list[StoredSet] = field(default_factory=list)
    packs: int = 0

    @property
    def words(self) -> str:
        """What was done, and what was not."""
        own = (stored.size - own_bytes(stored.summary.packs, stored.id) for stored in self.removed)
        freed = size(sum(own) + self.packs)
        said = [f"removed {plural(len(self.removed), 'set')}, {freed}" if self.removed else "nothing was removed"]
        if self.packs and not self.removed:
            said = [f"removed files that no set needs any more, {freed}"]
        if self.hold:
            said.append(self.hold)
        return "; ".join([*said, *self.left])


def retention_policy(settings: Settings) -> RetentionPolicy:
    """The retention that is set; a tier with 0 days is kept for ever."""
    days = {
        Tier.DAILY: settings.retention_daily,
        Tier.WEEKLY: settings.retention_weekly,
        Tier.MONTHLY: settings.retention_monthly,
        Tier.MANUAL: settings.retention_manual,
    }
    return RetentionPolicy(
        ages={tier: timedelta(days=count) for tier, count in days.items() if count},
        minimum=settings.retention_minimum,
        share=settings.prune_share,
        fresh=timedelta(hours=settings.max_age_hours),
    )


def remember_cleanup(
    request: Request, context: PruneContext, now: datetime, sets: Sequence[StoredSet]
) -> CleanupMemory:
    """What will be remembered of a cleanup now. NotFound when the volume to forget is in use, or in no set."""
    memory, name = MemoryFile(context.catalog.root).read(), request.forget_volume
    if not name:
        return memory
    sets = present(sets, now)
    holding = [stored.time for stored in sets if name in volumes_of(stored)]
    if not holding:
        held = ", ".join(sorted({each for stored in sets for each in volumes_of(stored)})) or "none"
        raise NotFound(
            f"no set holds a volume {printable(name)}; nothing was removed", f"There are: {printable(held)}."
        )
    fresh = [stored for stored in sets if stored.good and now - stored.time <= context.policy.fresh]
    if name not in left_volumes(sets) and any(name in volumes_of(stored) for stored in fresh):
        raise NotFound(
            f"the volume {printable(name)} has not left the stack: the newest set holds it; nothing was removed",
            "Take it out of the backup service's `volumes:` first; after the next backup it can be forgotten.",
        )
    return memory.model_copy(update={"forgotten": {**memory.forgotten, name: max(holding)}})


def plan(request: Request, context: PruneContext, now: datetime, own: str = "") -> Report:
    """What `prune` would do now; `own` is the id of the run that asks. Touches nothing."""
    refuse_unfinished(context.catalog.root, now)
    sets = context.catalog.sets()
    memory = remember_cleanup(request, context, now, sets)
    policy = replace(context.policy, forgotten=memory.forgotten)
    if request.ahead:
        stored = context.catalog.find(request.ahead)
        hold = f"{stored.id} is pinned; `unpin` it first" if stored.pin else stale(sets, policy, now)
        return Report([_unwanted(stored, now, hold)], hold, memory)
    # One from the future would stand before all that happens until then.
    runs = context.records.all(at_work(context.catalog.root))
    past = [run for run in runs if run.started <= now + SKEW]
    hold = "" if request.make_room else _failed(past) or stale(sets, policy, now)
    known = CleanupHistory(memory, [run for run in runs if run.id != own], _last(runs, but=own))
    of = _of(sets, request.server)
    agreed = request.force and not request.server
    return Report(*careful(sets, policy, now, known, identity=of, hold=hold, force=request.force, agreed=agreed))


@dataclass(frozen=True)
class CleanupHistory:
    """What is known of the time before a cleanup: its memory, the runs, and when the last cleanup was."""

    memory: CleanupMemory
    runs: Sequence[Run]
    last: datetime | None


def careful(
    sets: Sequence[StoredSet],
    policy: RetentionPolicy,
    now: datetime,
    known: CleanupHistory,
    *,
    identity: DatabaseIdentity | None,
    hold: str,
    force: bool,
    agreed: bool,
) -> tuple[list[Decision], str, CleanupMemory]:
    """What becomes of each set here or at a place, `hold`, and what to remember. `agreed`: a person wants all of it."""
    # Before there was a memory, the last cleanup is what is known of the time before this one.
    before = known.memory if known.memory.seen else known.memory.model_copy(update={"seen": known.last})
    times = [time for run in known.runs for time in (run.started, run.ended) if time]
    memory = advanced(before, policy, sets, times, now, agreed=agreed and not hold)
    decided = decide(sets, policy, now, identity=identity, hold=hold, force=force, since=known.last, memory=memory)
    return decided, hold, memory


def _unwanted(stored: StoredSet, now: datetime, hold: str) -> Decision:
    """The set dated ahead that a person named goes, while a fresh one shows that the clock is right now."""
    if not is_ahead(stored, now):
        raise NotFound(
            f"{stored.id} is not dated ahead of the clock; nothing was removed",
            "`prune --dry-run` says why each set stays or goes.",
        )
    reason = f"dated {age(now - stored.time)} of the clock"
    if hold:
        return Decision(stored, keep=True, reason=f"{reason}; {hold}")
    return Decision(stored, keep=False, reason=f"{reason}, and named with --ahead")


def _of(sets: Sequence[StoredSet], server: str) -> DatabaseIdentity | None:
    """The one database of that server here; None for no server: that of the newest good set."""
    known = {each for stored in sets if (each := identity_of(stored))}
    found = sorted((each for each in known if each.system == server), key=str)
    if not server or len(found) == 1:
        return found[0] if found else None
    there = ", ".join(sorted(str(each) for each in known)) or "none"
    what = "the sets here are of several databases" if found else "no set here is of a database"
    raise NotFound(
        f"{what} on the server {printable(server)}: {printable(there)}; nothing was removed",
        "`show` names the database and server of a set; remove those by hand that are not needed.",
    )


def is_cleanup(run: Run) -> bool:
    """Whether a run was one of all sets, not of a single one that a person named."""
    return run.operation == PRUNE and not run.set


def prune_sets(request: Request, context: PruneContext) -> Report:
    """Remove what is to go, and record the run. Raises what made it fail, after recording that too."""
    run = request.run(PRUNE, context.clock(), set=request.ahead)
    with runs.locked(context, run, request.wait) as run, runs.recorded(context, run, _begin) as recording:
        report = plan(request, context, run.started, run.id)
        MemoryFile(context.catalog.root).note(report.memory)
        _remove(report, context.catalog)
        # Tried already, and in vain if anything is left: said last, so that it does not keep the others.
        context.catalog.finish_removing()
        report.packs = context.catalog.remove_unneeded()
        if report.removed or report.packs:
            report.packs += repack(context.catalog, context.progress)
        recording.success = {"message": report.words, "exit_code": report.exit_code, "hint": report.hint}
    return report


def _begin(context: Context, run: Run) -> None:
    """A disk that has no room for the record is the one that a cleanup is needed on."""
    runs.recover(context.catalog, context.records, run.started)
    try:
        context.records.begin(run)
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


def _last(runs: Sequence[Run], but: str) -> datetime | None:
    """When the last cleanup began, however it ended. One ahead of the clock counts: it may have removed sets."""
    return max((run.started for run in runs if is_cleanup(run) and run.id != but), default=None)
