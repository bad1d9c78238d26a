"""Commands about the service: ask how it is, show when it works."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from rich.console import RenderableType
from rich.text import Text

from backup.catalog.scheduler_state import Ledger
from backup.cli import base
from backup.cli.base import Json
from backup.cli.render.tables import plain_table
from backup.formatting import local_time, plural, printable
from backup.model import schedule
from backup.model.schedule import Account, Owed, Slot
from backup.operations.jobs import jobs
from backup.service.probe import login, probe, target


def healthcheck(as_json: Json = False) -> None:
    """Ask the running service how it is; exit 0 when healthy.

    Example: `docker compose exec backup backup healthcheck`.
    """
    settings = base.prepare(as_json)
    host, _ = target(os.environ)
    code, text = probe(settings.http_port, "/healthz", 0, host, login(os.environ))
    if as_json:
        base.print_json({"exit_code": code, "health": text})
    else:
        base.out.print(Text(text))
    raise typer.Exit(code)


def show_schedule(
    count: Annotated[int, typer.Option(help="How many runs of each job.", min=1, max=100)] = 3, as_json: Json = False
) -> None:
    """Show when each job runs next, when it ran last, and which runs were missed. Example: `schedule --count 10`."""
    settings = base.prepare(as_json)
    now, wanted = datetime.now(UTC), jobs(settings)
    slots = schedule.upcoming(wanted, now, settings.zone, count)
    book = Ledger(settings.root).seen(now)
    due = schedule.owed(wanted, book.jobs, now, settings.zone)
    if as_json:
        return base.print_json(schedule_json(slots, book.jobs, due))
    for note in book.recent(now):
        base.err.print(Text(note.text, style="yellow"))
    shown = (slots, book.jobs, due, settings.zone)
    return base.show(lambda: schedule_table(*shown), lambda: schedule_lines(*shown))


def schedule_table(
    slots: Sequence[Slot], accounts: Mapping[str, Account], due: Sequence[Owed], zone: ZoneInfo
) -> RenderableType:
    """One line a job, soonest first."""
    table = plain_table("job", "cron line", "next runs", "last run", "owed")
    late = {each.job: each for each in due}
    for slot in slots:
        table.add_row(
            slot.job,
            slot.cron,
            "\n".join(local_time(moment, zone, "%a %Y-%m-%d %H:%M") for moment in slot.times),
            last_run(accounts.get(slot.job), zone),
            _owed(late.get(slot.job), zone),
        )
    return table


def schedule_lines(
    slots: Sequence[Slot], accounts: Mapping[str, Account], due: Sequence[Owed], zone: ZoneInfo
) -> list[str]:
    """The table for other programs, separated by tabs: next runs, then last runs, then missed ones."""
    lines = [f"{slot.job}\t{slot.cron}\t{moment.isoformat()}" for slot in slots for moment in slot.times]
    lines += [f"{slot.job}\tlast\t{last_run(accounts.get(slot.job), zone)}" for slot in slots]
    return lines + [f"{each.job}\tmissed\t{_owed(each, zone)}" for each in due]


def schedule_json(slots: Sequence[Slot], accounts: Mapping[str, Account], due: Sequence[Owed]) -> list[dict[str, Any]]:
    """The schedule as `--json` prints it."""
    late = {each.job: {"slot": each.slot.isoformat(), "missed": each.missed} for each in due}
    shown = {"slot", "slots", "trigger", "begun", "ended", "exit_code", "reason", "crashed"}
    return [
        {
            "job": slot.job,
            "cron": slot.cron,
            "next": [moment.isoformat() for moment in slot.times],
            "last": account.model_dump(mode="json", include=shown)
            if (account := accounts.get(slot.job)) and account.begun
            else None,
            "owed": late.get(slot.job),
        }
        for slot in slots
    ]


def last_run(account: Account | None, zone: ZoneInfo) -> str:
    """The last run in words, with why it was late or how it died."""
    if account is None or account.begun is None:
        return "none yet"
    how = _ending(account) if account.crashed or not account.open else "running"
    what = f"caught up, once for {account.slots}" if account.trigger == "catch-up" else ""
    why = printable(account.reason)
    parts = [f"{local_time(account.begun, zone)} {how}", *(text for text in (what, why) if text)]
    return "; ".join(parts)


def _ending(account: Account) -> str:
    if account.crashed:
        return "crashed"
    words = {
        0: "done",
        3: "done, but files changed or the backup volume is memory",
        4: "done, but more sets need `prune --force`",
    }
    return words.get(account.exit_code or 0) or f"ended with code {account.exit_code}"


def _owed(slot: Owed | None, zone: ZoneInfo) -> str:
    if slot is None:
        return ""
    more = f" and {plural(slot.missed - 1, 'time')} before" if slot.missed > 1 else ""
    return f"{local_time(slot.slot, zone)}{more}"
