"""What is to be said of the schedule: missed runs, and jobs whose last run crashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from backup.catalog.scheduler_state import ScheduleFile, ScheduleState
from backup.formatting import local_time, plural
from backup.model.finding import Finding, warning
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run
from backup.model.schedule import Due, Standing, find_due, is_resting, is_unfinished, standing
from backup.operations.jobs import JOB_COMMANDS, runs_of

_OVERDUE: Final = timedelta(minutes=10)


def find_missed(
    file: ScheduleFile,
    state: ScheduleState,
    runs: Sequence[Run],
    jobs: Mapping[str, str],
    now: datetime,
    zone: ZoneInfo,
) -> list[Due]:
    """Find the jobs that should have run by now and did not, in the order of `jobs`; once each, however much it was."""
    found = []
    for job, cron in jobs.items():
        each = state.jobs.get(job)
        if cron and each and (each.cron, each.zone) == (cron, zone.key) and not file.is_running(job):
            at = standing(each, runs_of(job, runs), now, state.since)
            due = find_due(job, each, at, now, zone)
            found += [due] if due and due.is_late(now) else []
    return found


def last_run(job: str, runs: Sequence[Run], now: datetime) -> Run | None:
    """The last run of a job: of several for one slot, as those of a drill are, the worst that came to its end."""
    mine = [run for run in runs_of(job, runs) if run.slot is None or run.slot <= now + timedelta(days=1)]
    if not mine or mine[0].outcome is Outcome.RUNNING or mine[0].slot is None or is_unfinished(mine[0]):
        return mine[0] if mine else None
    same = [run for run in mine if run.slot == mine[0].slot and not is_unfinished(run)]
    return max(same, key=lambda run: run.exit_code)


def reasons(
    file: ScheduleFile,
    state: ScheduleState,
    runs: Sequence[Run],
    jobs: Mapping[str, str],
    now: datetime,
    zone: ZoneInfo,
) -> list[Finding]:
    """Tell what of the schedule is not as it should be. Failed backups are told by their records."""
    found = [warning(note.text, "`schedule` shows what each job did last.") for note in state.recent(now)]
    for due in find_missed(file, state, runs, jobs, now, zone):
        if now - due.slot > _OVERDUE:
            last = last_run(due.job, runs, now)
            why = f": {last.message}" if due.tries and last and last.message else ""
            at = local_time(due.slot, zone)
            text = f"{due.job} should have run at {at}{more_before(due)} and has not{why}"
            rests = state.since and is_resting(due, Standing(due.slot, due.tries, last), state.since)
            what = (
                "It was stopped by hand and waits for its next slot"
                if rests
                else "It is caught up when nothing else runs"
            )
            found.append(warning(text, f"{what}; `schedule` shows missed runs."))
    for job, cron in jobs.items():
        last = last_run(job, runs, now) if cron and job not in set(Tier) else None
        if last and last.outcome is Outcome.CRASHED:
            found.append(warning(f"{job}: {last.message}", hint_of(job)))
    return found


def hint_of(job: str) -> str:
    """What shows why a run of the job died, and what begins one by hand."""
    command = " ".join(word for word in JOB_COMMANDS[job] if word != "--scheduled")
    return f"`docker compose logs backup` shows what it said; `{command}` tries it now."


def more_before(due: Due) -> str:
    """How many more slots were missed."""
    return f" and {plural(due.count - 1, 'time')} before" if due.count > 1 else ""
