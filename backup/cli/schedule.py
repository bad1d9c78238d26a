"""The command that shows when the jobs run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from rich.console import RenderableType
from rich.text import Text

from backup.catalog.run_records import Records
from backup.catalog.scheduler_state import ScheduleFile
from backup.cli import base
from backup.cli.base import Json
from backup.cli.render.set_tables import plain_table
from backup.formatting import local_time, printable
from backup.model import schedule
from backup.model.run import Outcome, Run
from backup.model.schedule import Due, JobState, Slot
from backup.operations.jobs import jobs
from backup.operations.missed_runs import find_missed, last_run, more_before
from backup.operations.runs import at_work


def show_schedule(
    count: Annotated[int, typer.Option(help="How many runs of each job.", min=1, max=100)] = 3, as_json: Json = False
) -> None:
    """Show when each job runs next and ran last, and what it missed. Example: `schedule --count 10`."""
    settings = base.prepare_command(as_json)
    now, wanted, file = datetime.now(UTC), jobs(settings), ScheduleFile(settings.root)
    slots, state = schedule.upcoming(wanted, now, settings.zone, count), file.read(now)
    runs = Records(settings.root / "state" / "runs").readable(at_work(settings.root))
    missed = {due.job: due for due in find_missed(file, state, runs, wanted, now, settings.zone)}
    ran = {slot.job: run for slot in slots if (run := last_run(slot.job, runs, now))}
    last = {job: (run, reason_of(run, state.jobs.get(job))) for job, run in ran.items()}
    if as_json:
        return base.print_json("schedule", jobs=_jobs(slots, last, missed))
    for note in state.recent(now):
        base.err.print(Text(note.text, style="yellow"))
    shown = (slots, last, missed, settings.zone)
    return base.show(lambda: schedule_table(*shown), lambda: schedule_lines(*shown))


def reason_of(run: Run, state: JobState | None) -> str:
    """Why a run was late, or how it died."""
    if run.outcome is Outcome.CRASHED or schedule.is_unfinished(run):
        return run.message
    return state.reason if state and run.trigger == "catch-up" else ""


def schedule_table(
    slots: Sequence[Slot], last: Mapping[str, tuple[Run, str]], missed: Mapping[str, Due], zone: ZoneInfo
) -> RenderableType:
    """One line a job, soonest first."""
    table = plain_table("job", "cron line", "next runs", "last run", "missed")
    for slot in slots:
        table.add_row(
            slot.job,
            slot.cron,
            "\n".join(local_time(moment, zone, "%a %Y-%m-%d %H:%M") for moment in slot.times),
            _last(last, slot.job, zone),
            _missed(missed[slot.job], zone) if slot.job in missed else "",
        )
    return table


def schedule_lines(
    slots: Sequence[Slot], last: Mapping[str, tuple[Run, str]], missed: Mapping[str, Due], zone: ZoneInfo
) -> list[str]:
    """The table for other programs, separated by tabs: next runs, then last runs, then missed ones."""
    lines = [f"{slot.job}\t{slot.cron}\t{moment.isoformat()}" for slot in slots for moment in slot.times]
    lines += [f"{slot.job}\tlast\t{_last(last, slot.job, zone)}" for slot in slots]
    return lines + [f"{job}\tmissed\t{_missed(due, zone)}" for job, due in missed.items()]


def _jobs(
    slots: Sequence[Slot], last: Mapping[str, tuple[Run, str]], missed: Mapping[str, Due]
) -> list[dict[str, object]]:
    """Each job with its last run, and what it missed."""
    ran = {job: _ran(*each) for job, each in last.items()}
    return [{**vars(slot), "last": ran.get(slot.job), "missed": missed.get(slot.job)} for slot in slots]


def _ran(run: Run, reason: str) -> SimpleNamespace:
    code = None if run.outcome is Outcome.RUNNING else run.exit_code
    return SimpleNamespace(run=run, reason=reason, exit_code=code, crashed=run.outcome is Outcome.CRASHED)


def _last(last: Mapping[str, tuple[Run, str]], job: str, zone: ZoneInfo) -> str:
    return last_words(*last[job], zone) if job in last else "none yet"


def last_words(run: Run, reason: str, zone: ZoneInfo) -> str:
    """The last run in one line."""
    what = f"caught up, once for {run.slots}" if run.trigger == "catch-up" else ""
    return "; ".join(filter(None, [f"{local_time(run.started, zone)} {_ending(run)}", what, printable(reason)]))


def _ending(run: Run) -> str:
    if run.outcome in (Outcome.RUNNING, Outcome.CRASHED):
        return str(run.outcome)
    words = {
        0: "done",
        3: "done, but files changed or the backup volume is memory",
        4: "done, but more sets need `prune --force`",
    }
    return words.get(run.exit_code) or f"ended with code {run.exit_code}"


def _missed(due: Due, zone: ZoneInfo) -> str:
    return f"{local_time(due.slot, zone)}{more_before(due)}"
