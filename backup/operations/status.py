"""How the backups are, as the volume shows it now."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from backup import lock
from backup.catalog import Catalog
from backup.config import Settings
from backup.errors import BackupError
from backup.health import CREATE, Health, Reason, SchedulerState, evaluate
from backup.journal import JournalFile, journal_reason
from backup.ledger import Ledger
from backup.operations.accounting import reasons
from backup.operations.jobs import jobs
from backup.operations.prune import PRUNE, WAITS
from backup.records import Outcome, Records, Run
from backup.sets import StoredSet
from backup.stores.disk import free_space

NO_OFFSITE: Final = (
    "AWS_S3_BACKUP_BUCKET is set, but this version makes no offsite copies: all sets are on this machine only"
)


def status(
    settings: Settings,
    catalog: Catalog,
    records: Records,
    now: datetime,
    *,
    scheduler: SchedulerState | None = None,
    since: datetime | None = None,
    first: Run | None = None,
) -> Health:
    """Health as the volume shows it now. `first` stands for a first backup that has no record of its own yet."""
    sets: list[StoredSet] = []
    runs: list[Run] = []
    problem, free = "", None
    try:
        free = free_space(catalog.root)
        sets, runs = catalog.sets(), records.all()
    except BackupError as error:
        problem = error.message
    if first and not any(run.operation == CREATE and run.started >= first.started for run in runs):
        runs.append(first)
    return evaluate(
        sets,
        runs,
        now,
        max_age=timedelta(hours=settings.max_age_hours),
        scheduler=scheduler,
        problem=problem,
        since=since,
        free=free,
        others=[
            *_restoring(catalog.root),
            *_scheduled(settings, catalog.root, now),
            *_cleanup(runs),
            *_offsite(settings),
        ],
    )


def _scheduled(settings: Settings, root: Path, now: datetime) -> list[Reason]:
    """Slots that were missed, and whatever else the accounts of the schedule say."""
    try:
        return reasons(Ledger(root).read(now), jobs(settings), now, settings.zone)
    except BackupError as error:
        return [Reason("warn", f"what is owed of the schedule cannot be told: {error.message}", error.hint)]


def _offsite(settings: Settings) -> list[Reason]:
    return [Reason("warn", NO_OFFSITE)] if settings.bucket else []


def _cleanup(runs: list[Run]) -> list[Reason]:
    """The last cleanup, if it failed or left something to a person."""
    last = next((run for run in runs if run.operation == PRUNE and run.outcome is not Outcome.RUNNING), None)
    if last is None or (last.outcome is Outcome.SUCCESS and not last.exit_code):
        return []
    left = last.message if last.exit_code == WAITS else f"{last.outcome}: {last.message}"
    return [Reason("warn", f"the last cleanup: {left}", last.hint or "`prune --dry-run` shows what it would do.")]


def _restoring(root: Path) -> list[Reason]:
    """A restore that is under way, or that stands half way."""
    try:
        journal = JournalFile(root).read()
    except BackupError as error:
        return [Reason("fail", error.message, error.hint)]
    if journal is None:
        return []
    severity, text, hint = journal_reason(journal, alive=lock.holder(root / "state" / "lock") is not None)
    return [Reason(severity, text, hint)]
