"""Commands about the service: ask how it is, show when it works."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from backup.catalog.scheduler_state import Ledger
from backup.cli import base
from backup.cli.base import Json
from backup.cli.render.schedule import schedule_json, schedule_lines, schedule_table
from backup.model import schedule
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
    """Show when each job runs next, when it ran last, and what is owed. Example: `schedule --count 10`."""
    settings = base.prepare(as_json)
    now, wanted = datetime.now(UTC), jobs(settings)
    slots = schedule.upcoming(wanted, now, settings.zone, count)
    book = Ledger(settings.root).seen(now)
    due = schedule.owed(wanted, book.jobs, now, settings.zone)
    if as_json:
        return base.print_json(schedule_json(slots, book.jobs, due))
    for note in book.recent(now):
        base.err.print(Text(note.text, style="yellow"))
    if base.out.is_terminal:
        return base.out.print(schedule_table(slots, book.jobs, due, settings.zone))
    return base.print_lines(schedule_lines(slots, book.jobs, due, settings.zone))
