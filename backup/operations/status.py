"""How the backups are, as the volume shows it now."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.catalog.scheduler_state import ScheduleFile
from backup.config.loader import Settings
from backup.errors import BackupError
from backup.logging.files import recent
from backup.model import schedule
from backup.model.backup_set import StoredSet
from backup.model.finding import Finding, failure, one_line_finding, warning
from backup.model.run import CREATE, Outcome, Run
from backup.monitoring import alerts
from backup.monitoring.health import Health, SchedulerState
from backup.monitoring.overview import Overview, compute
from backup.monitoring.overview.compute import NO_OFFSITE, Facts, Policy
from backup.monitoring.window import Window
from backup.operations.jobs import jobs
from backup.operations.missed_runs import reasons
from backup.operations.offsite import copy_status as told
from backup.operations.offsite.remote_state import BookFile
from backup.operations.offsite.rules import ages, candidates, places, uploads
from backup.operations.pitr.window_reader import read_offsite, read_window
from backup.operations.prune import WAITS, MemoryFile, is_cleanup, retention_policy
from backup.operations.restore.journal import Kept, KeptFile, journal_reason, lost_words
from backup.operations.restore.locking import unfinished_restore
from backup.operations.runs import at_work
from backup.storage.filesystem import ON_A_DISK, disk_space, in_memory, try_write

_MEGA: Final = 10**6
_LOGGED: Final = 15


def status(
    settings: Settings,
    catalog: Catalog,
    records: Records,
    now: datetime,
    *,
    scheduler: SchedulerState | None = None,
) -> Health:
    """Health alone, of the same overview that every surface shows."""
    return overview(settings, catalog, records, now, scheduler=scheduler).health


def overview(
    settings: Settings,
    catalog: Catalog,
    records: Records,
    now: datetime,
    *,
    scheduler: SchedulerState | None = None,
    first: Run | None = None,
    lost: Sequence[Run] = (),
    alerting: bool = True,
) -> Overview:
    """Everything, as the volume shows it now. `first` stands for a first backup that has no record of its own yet,
    `lost` for runs whose end could not be recorded.

    Without `alerting`, the state of the alerts themselves is left out: they are not to tell of themselves.
    """
    sets, runs, facts = _read(catalog, records, Facts(scheduler=scheduler))
    if first and not any(run.operation == CREATE and run.started >= first.started for run in runs):
        runs.append(first)
    runs += lost
    (kept, unread), (places, missed) = _kept(catalog.root), offsite(settings, catalog.root, sets, runs, now)
    forgotten, unknown = _forgotten(catalog.root)
    facts = replace(
        facts,
        forgotten=forgotten,
        undo=kept.size if kept else None,
        undo_until=_until(kept),
        others=[
            *restoring(catalog.root),
            *_scheduled(settings, catalog.root, runs, now),
            *_cleanup(runs),
            *(alerts.reasons(catalog.root, now) if alerting else []),
            *[*missed, *unread, *unknown],
            *_unwritable(catalog.root, facts.free),
            *_passing(catalog.root),
        ],
        pinned=frozenset(stored.id for stored in sets if stored.pin),
        slots=schedule.upcoming(jobs(settings), now, settings.zone),
        offsite=told.clock(places[0], runs, now) if places else NO_OFFSITE,
        places=[told.copy_summary(seen, now) for seen in places],
        alerting=alerts.summary(catalog.root, settings),
        window=_window(settings, catalog.root, now) if settings.pitr == "on" else None,
        since=_since(catalog.root, now),
    )
    found = compute.compute_overview(sets, runs, now, overview_policy(settings), facts)
    return replace(found, logged=_logged(catalog.root)) if alerting else found


def _window(settings: Settings, root: Path, now: datetime) -> Window:
    return read_offsite(settings, root, read_window(settings, root, now))


def _read(catalog: Catalog, records: Records, facts: Facts) -> tuple[list[StoredSet], list[Run], Facts]:
    """Read the sets and the runs, and the facts with the room, or with why not all of that can be read."""
    sets: list[StoredSet] = []
    runs: list[Run] = []
    try:
        free, total = disk_space(catalog.root)
        facts = replace(facts, free=free, total=total)
        sets = catalog.sets()
    except BackupError as error:
        facts = replace(facts, problem=error.message, unread=True)
    try:
        runs = records.all(at_work(catalog.root))
    except BackupError as error:
        facts = replace(facts, problem=facts.problem or error.message)
    return sets, runs, facts


def _logged(root: Path) -> dict[str, tuple[str, ...]]:
    """The last lines of each run of late: what a person would ask for next."""
    entries = recent(root / "logs").items()
    return {run: tuple("\n".join(each.text for each in told).splitlines()[-_LOGGED:]) for run, told in entries}


def overview_policy(settings: Settings) -> Policy:
    """The numbers of the settings that sets and runs are judged by."""
    return Policy(
        zone=settings.zone,
        max_age=timedelta(hours=settings.max_age_hours),
        jobs=jobs(settings),
        keep=retention_policy(settings).ages,
        minimum=settings.retention_minimum,
        min_size=settings.min_size_kb * 1000,
        min_free=settings.min_free_gb * 1000 * _MEGA,
        allow_empty=frozenset(settings.allow_empty),
    )


def _scheduled(settings: Settings, root: Path, runs: Sequence[Run], now: datetime) -> list[Finding]:
    """Runs that were missed, and whatever else is to be said of the schedule."""
    file = ScheduleFile(root)
    try:
        return reasons(file, file.read(now), runs, jobs(settings), now, settings.zone)
    except BackupError as error:
        return [warning(f"missed runs are unknown: {error.message}", error.hint)]


def _since(root: Path, now: datetime) -> datetime | None:
    """When the service began, as far as that is known."""
    with contextlib.suppress(BackupError):  # told with the missed runs
        return ScheduleFile(root).read(now).since
    return None


def offsite(
    settings: Settings, root: Path, sets: list[StoredSet], runs: list[Run], now: datetime
) -> tuple[list[told.Seen], list[Finding]]:
    """What is known of the offsite copies, the bucket first, without asking anybody; and what is wrong with them."""
    belong = candidates(sets, uploads(settings), ages(settings), now)
    limit = timedelta(hours=settings.offsite_max_age_hours)
    try:
        seen = [told.Seen(place, name, BookFile(root, place).read(), belong, limit) for place, name in places(settings)]
    except BackupError as error:
        return [], [warning(f"the state of the offsite copies is unknown: {error.message}", error.hint)]
    return seen, [one_line_finding(each) for place in seen for each in told.copy_findings(place, runs, now)]


def _unwritable(root: Path, free: int | None) -> list[Finding]:
    """Say why no run could record its end. A volume that cannot be asked for its room, or has none, is told as that."""
    if not free:
        return []
    try:
        try_write(root)
    except BackupError as error:
        return [failure(f"no run can be recorded: {error.message}", error.hint)]
    return []


def _passing(root: Path) -> list[Finding]:
    """Say that no set is kept, however good it is: its place is memory."""
    why = in_memory(root)
    return [failure(f"no set is on a disk: {why}", f"{ON_A_DISK} `create daily` takes one there.")] if why else []


def _cleanup(runs: list[Run]) -> list[Finding]:
    """The last cleanup, if it failed or left something to a person."""
    ended = (run for run in runs if is_cleanup(run) and run.outcome is not Outcome.RUNNING)
    last = max(ended, key=lambda run: (run.started, run.id), default=None)
    if last is None or (last.outcome is Outcome.SUCCESS and not last.exit_code):
        return []
    left = last.message if last.exit_code == WAITS else f"{last.outcome}: {last.message}"
    return [warning(f"the last cleanup: {left}", last.hint or "`prune --dry-run` shows what it would do.")]


def _forgotten(root: Path) -> tuple[Mapping[str, datetime], list[Finding]]:
    """The volumes that need no set any more and since when, or why that cannot be told."""
    try:
        return MemoryFile(root).read().forgotten, []
    except BackupError as error:
        return {}, [warning(error.message, error.hint)]


def _kept(root: Path) -> tuple[Kept | None, list[Finding]]:
    """What is kept for `undo`, or why that cannot be told."""
    try:
        kept = KeptFile(root).read()
        if kept and kept.database and kept.database.lost:
            # What it takes is no use to anybody.
            return None, [warning(*lost_words(kept.database.lost, kept))]
        return kept, []
    except BackupError as error:
        return None, [warning(error.message, error.hint)]


def _until(kept: Kept | None) -> datetime | None:
    if kept is None or kept.days is None:
        return None
    try:
        return kept.replaced + timedelta(days=kept.days)
    except OverflowError:
        return None


def restoring(root: Path) -> list[Finding]:
    """A restore that is under way, or that stands half way."""
    try:
        found = unfinished_restore(root)
    except BackupError as error:
        return [failure(error.message, error.hint)]
    return [Finding(*journal_reason(*found))] if found else []
