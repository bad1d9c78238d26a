"""Commands about the service: ask how it is, show when it works."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from rich.console import RenderableType
from rich.text import Text

from backup.catalog.run_records import Records
from backup.catalog.scheduler_state import ScheduleFile
from backup.cli import base
from backup.cli.base import Json
from backup.cli.render.tables import plain_table
from backup.formatting import local_time, printable
from backup.model import schedule
from backup.model.run import Outcome, Run
from backup.model.schedule import Due, JobState, Slot
from backup.operations.jobs import jobs
from backup.operations.missed_runs import find_missed, last_run, more_before
from backup.operations.runs import at_work
from backup.service.probe import login, probe, target


def healthcheck(as_json: Json = False) -> None:
    """Ask the running service how it is; exit 0 when healthy.

    Example: `docker compose exec backup backup healthcheck`.
    """
    settings = base.prepare(as_json)
    host, _ = target(os.environ)
    code, text = probe(settings.http_port, "/healthz", 0, host, login(os.environ))
    if as_json:
        base.print_json("probe", exit_code=code, text=text)
    else:
        base.out.print(Text(text))
    raise typer.Exit(code)


def show_schedule(
    count: Annotated[int, typer.Option(help="How many runs of each job.", min=1, max=100)] = 3, as_json: Json = False
) -> None:
    """Show when each job runs next and ran last, and what it missed. Example: `schedule --count 10`."""
    settings = base.prepare(as_json)
    now, wanted, file = datetime.now(UTC), jobs(settings), ScheduleFile(settings.root)
    slots, state = schedule.upcoming(wanted, now, settings.zone, count), file.read(now)
    runs = Records(settings.root / "state" / "runs").readable(at_work(settings.root))
    missed = {due.job: due for due in find_missed(file, state, runs, wanted, now, settings.zone)}
    last = {slot.job: LastRun.of(last_run(slot.job, runs, now), state.jobs.get(slot.job)) for slot in slots}
    if as_json:
        return base.print_json("schedule", jobs=_jobs(slots, last, missed))
    for note in state.recent(now):
        base.err.print(Text(note.text, style="yellow"))
    shown = (slots, last, missed, settings.zone)
    return base.show(lambda: schedule_table(*shown), lambda: schedule_lines(*shown))


@dataclass(frozen=True)
class LastRun:
    """The last scheduled run of a job, and why it was late or how it died."""

    run: Run
    reason: str

    @classmethod
    def of(cls, run: Run | None, state: JobState | None) -> LastRun | None:
        """What the record and the schedule know of it."""
        if run is None:
            return None
        died = run.outcome is Outcome.CRASHED or schedule.is_unfinished(run)
        why = state.reason if state and run.trigger == "catch-up" else ""
        return cls(run, run.message if died else why)

    def words(self, zone: ZoneInfo) -> str:
        """In one line."""
        run = self.run
        what = f"caught up, once for {run.slots}" if run.trigger == "catch-up" else ""
        parts = [f"{local_time(run.started, zone)} {_ending(run)}", what, printable(self.reason)]
        return "; ".join(filter(None, parts))

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self.run.outcome is Outcome.RUNNING else self.run.exit_code

    @property
    def crashed(self) -> bool:
        """Whether it ended without a word."""
        return self.run.outcome is Outcome.CRASHED


def schedule_table(
    slots: Sequence[Slot], last: Mapping[str, LastRun | None], missed: Mapping[str, Due], zone: ZoneInfo
) -> RenderableType:
    """One line a job, soonest first."""
    table = plain_table("job", "cron line", "next runs", "last run", "missed")
    for slot in slots:
        table.add_row(
            slot.job,
            slot.cron,
            "\n".join(local_time(moment, zone, "%a %Y-%m-%d %H:%M") for moment in slot.times),
            _words(last[slot.job], zone),
            _missed(missed[slot.job], zone) if slot.job in missed else "",
        )
    return table


def schedule_lines(
    slots: Sequence[Slot], last: Mapping[str, LastRun | None], missed: Mapping[str, Due], zone: ZoneInfo
) -> list[str]:
    """The table for other programs' eyes, separated by tabs: next runs first, then last runs, then what was missed."""
    lines = [f"{slot.job}\t{slot.cron}\t{moment.isoformat()}" for slot in slots for moment in slot.times]
    lines += [f"{slot.job}\tlast\t{_words(last[slot.job], zone)}" for slot in slots]
    return lines + [f"{job}\tmissed\t{_missed(due, zone)}" for job, due in missed.items()]


def _jobs(
    slots: Sequence[Slot], last: Mapping[str, LastRun | None], missed: Mapping[str, Due]
) -> list[dict[str, object]]:
    """Each job with its last run, and what it missed."""
    return [{**vars(slot), "last": last[slot.job], "missed": missed.get(slot.job)} for slot in slots]


def _words(last: LastRun | None, zone: ZoneInfo) -> str:
    return last.words(zone) if last else "none yet"


def _ending(run: Run) -> str:
    if run.outcome in (Outcome.RUNNING, Outcome.CRASHED):
        return str(run.outcome)
    words = {
        0: "done",
        3: "done, but files changed or its place is memory",
        4: "done, but more waits for `prune --force`",
    }
    return words.get(run.exit_code) or f"ended with code {run.exit_code}"


def _missed(due: Due, zone: ZoneInfo) -> str:
    return f"{local_time(due.slot, zone)}{more_before(due)}"
