"""A scheduled run's own side of the schedule: it makes sure that its job is due, and runs nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from backup.catalog.run_records import Records
from backup.catalog.scheduler_state import ScheduleFile
from backup.errors import BackupError
from backup.formatting import local_time
from backup.logging import logger
from backup.model.schedule import JobState, counted, find_due, standing
from backup.operations.jobs import runs_of
from backup.operations.runs import at_work

# A clock that was put right by seconds may have let the service start a job before its slot.
_EARLY: Final = timedelta(seconds=5)


@dataclass(frozen=True)
class Claim:
    """Whether to run, and for which slot: as in Run. `said` is what to tell about it."""

    wanted: bool = True
    trigger: str = ""
    slot: datetime | None = None
    slots: int = 0
    said: str = ""


@contextlib.contextmanager
def claim_slot(
    file: ScheduleFile,
    records: Records,
    job: str,
    cron: str,
    zone: ZoneInfo,
    clock: Callable[[], datetime],
    *,
    force: bool = False,
) -> Iterator[Claim]:
    """Keep `job` from running elsewhere for the body, and tell for which slot that is. `force`: also if none is due.

    A state that cannot be read never keeps a run from its work: a full disk may be what it puts right.
    """
    with contextlib.ExitStack() as stack:
        claim = Claim()
        try:
            if cron and stack.enter_context(file.running(job)):
                claim = _claim(file, records, job, cron, zone, clock())
                claim = Claim() if force and not claim.wanted else claim
            elif cron:
                claim = Claim(wanted=False, said=f"{job} is running already; nothing was done")
        except BackupError as error:
            logger.warning("the slot of {} is not known: {}", job, error.message)
        yield claim


def _claim(file: ScheduleFile, records: Records, job: str, cron: str, zone: ZoneInfo, now: datetime) -> Claim:
    schedule, runs = file.read(now), runs_of(job, records.readable(at_work(file.path.parent.parent)))
    found = schedule.jobs.get(job)
    if found is None and runs:
        # There is no service: somebody else's schedule runs the command.
        found = JobState(cron=cron, zone=zone.key, until=runs[0].slot or runs[0].started)
    # None, or that of another line which could not be replaced: whoever starts this knows why.
    if found is None or (found.cron, found.zone) != (cron, zone.key):
        return Claim(trigger="schedule")
    state, _ = counted(found, cron, now, zone)
    at = standing(state, runs, now, schedule.since)
    due = find_due(job, state, at, now + _EARLY, zone)
    if due is None:
        last = local_time(at.until, zone, "%Y-%m-%d %H:%M:%S")
        return Claim(wanted=False, said=f"{job} is not due: its slots until {last} are settled")
    if not due.is_late(now):
        return Claim(trigger="schedule", slot=due.slot, slots=due.count)
    said = f"{job} is caught up, once for {due.count}: it was due at {local_time(due.slot, zone)}"
    return Claim(trigger="catch-up", slot=due.slot, slots=due.count, said=said)
