"""How the backups are, as the volume shows it now."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from backup import alerts, lock
from backup.catalog import Catalog
from backup.config import Settings
from backup.errors import BackupError
from backup.health import CREATE, Health, Reason, SchedulerState, evaluate
from backup.journal import JournalFile, journal_reason
from backup.records import Records, Run
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
    alerting: bool = True,
) -> Health:
    """Health as the volume shows it now. `first` stands for a first backup that has no record of its own yet.

    Without `alerting`, the state of the alerts themselves is left out: they are not to tell of themselves.
    """
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
            *_offsite(settings),
            *(alerts.reasons(catalog.root, now) if alerting else []),
        ],
    )


def _offsite(settings: Settings) -> list[Reason]:
    return [Reason("warn", NO_OFFSITE)] if settings.bucket else []


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
