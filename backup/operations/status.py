"""How the backups are, as the volume shows it now."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from backup import lock, schedule
from backup.catalog import Catalog
from backup.config import Settings
from backup.errors import BackupError
from backup.health import CREATE, Health, Reason, SchedulerState
from backup.journal import JournalFile, journal_reason
from backup.journal.files import KeptFile
from backup.journal.model import Kept
from backup.manifest import Tier
from backup.operations.jobs import jobs
from backup.overview import Overview, compute
from backup.overview.compute import NO_OFFSITE as NO_OFFSITE_CLOCK
from backup.overview.compute import Facts, Policy
from backup.records import Records, Run
from backup.sets import StoredSet
from backup.stores.disk import room

NO_OFFSITE: Final = (
    "AWS_S3_BACKUP_BUCKET is set, but this version makes no offsite copies: all sets are on this machine only"
)
_MEGA: Final = 10**6


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
    """Health alone, of the same overview that every surface shows."""
    return overview(settings, catalog, records, now, scheduler=scheduler, since=since, first=first).health


def overview(
    settings: Settings,
    catalog: Catalog,
    records: Records,
    now: datetime,
    *,
    scheduler: SchedulerState | None = None,
    since: datetime | None = None,
    first: Run | None = None,
) -> Overview:
    """Everything, as the volume shows it now. `first` stands for a first backup that has no record of its own yet."""
    facts = Facts(scheduler=scheduler, since=since)
    sets: list[StoredSet] = []
    runs: list[Run] = []
    try:
        free, total = room(catalog.root)
        facts = replace(facts, free=free, total=total)
        sets = catalog.sets()
    except BackupError as error:
        facts = replace(facts, problem=error.message, unread=True)
    try:
        runs = records.all()
    except BackupError as error:
        facts = replace(facts, problem=facts.problem or error.message)
    if first and not any(run.operation == CREATE and run.started >= first.started for run in runs):
        runs.append(first)
    kept, lost = _kept(catalog.root)
    facts = replace(
        facts,
        undo=kept.size if kept else None,
        undo_until=_until(kept),
        others=[*_restoring(catalog.root), *_offsite(settings), *lost],
        slots=schedule.upcoming(jobs(settings), now, settings.zone),
        offsite=replace(NO_OFFSITE_CLOCK, status="warn", note=NO_OFFSITE) if settings.bucket else NO_OFFSITE_CLOCK,
        # `alerting=` (overview.Alerting) is to be read from backup/alerts here.
    )
    return compute.overview(sets, runs, now, policy(settings), facts)


def policy(settings: Settings) -> Policy:
    """The numbers of the settings that sets and runs are judged by."""
    return Policy(
        zone=settings.zone,
        max_age=timedelta(hours=settings.max_age_hours),
        jobs=jobs(settings),
        keep={
            Tier.DAILY: timedelta(days=settings.retention_daily),
            Tier.WEEKLY: timedelta(days=settings.retention_weekly),
            Tier.MONTHLY: timedelta(days=settings.retention_monthly),
        },
        min_size=settings.min_size_kb * 1000,
        min_free=settings.min_free_gb * 1000 * _MEGA,
    )


def _offsite(settings: Settings) -> list[Reason]:
    return [Reason("warn", NO_OFFSITE)] if settings.bucket else []


def _kept(root: Path) -> tuple[Kept | None, list[Reason]]:
    """What is kept for `undo`, or why that cannot be told."""
    try:
        return KeptFile(root).read(), []
    except BackupError as error:
        return None, [Reason("warn", error.message, error.hint)]


def _until(kept: Kept | None) -> datetime | None:
    if kept is None or kept.days is None:
        return None
    try:
        return kept.replaced + timedelta(days=kept.days)
    except OverflowError:
        return None


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
