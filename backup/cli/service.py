"""Commands about the service: run it, ask how it is, show when it works."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from backup import schedule
from backup.alerts.deliver import check
from backup.alerts.targets import targets
from backup.cli import base
from backup.cli.base import Json
from backup.display.schedule import schedule_json, schedule_lines, schedule_table
from backup.errors import BackupError
from backup.journal import JournalFile, words
from backup.ledger import Ledger
from backup.log import logger
from backup.operations.jobs import jobs
from backup.operations.restore import run, single
from backup.operations.serve import serve
from backup.probe import login, probe, target
from backup.progress import Silent
from backup.wiring import App
from backup.wiring_alerts import desk
from backup.wiring_restore import shop as shop_for

_COMMAND: Final = Path(__file__).resolve().parents[2] / "entrypoint.py"


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
    book = Ledger(settings.root).read(now)
    due = schedule.owed(wanted, book.jobs, now, settings.zone)
    if as_json:
        return base.print_json(schedule_json(slots, book.jobs, due))
    for note in book.recent(now):
        base.err.print(Text(note.text, style="yellow"))
    if base.out.is_terminal:
        return base.out.print(schedule_table(slots, book.jobs, due, settings.zone))
    return base.print_lines(schedule_lines(slots, book.jobs, due, settings.zone))


def run_service() -> None:
    """Run backups on schedule and answer health checks. What the container does by default.

    Example: `docker compose up -d backup`.
    """
    settings = base.prepare(as_json=False)
    main = App(settings)
    main.require_volume()
    check(targets(settings))
    command = [sys.executable, str(_COMMAND)]
    code = serve(
        settings,
        catalog=main.catalog,
        records=main.records,
        recover=lambda: _recover(main),
        ready=main.ready,
        command=command,
        way=lambda: _way(main),
        desk=lambda health: desk(main, command, health),
        run_dir=Path(os.environ.get("XDG_RUNTIME_DIR") or "/run"),
    )
    raise typer.Exit(code)


def _recover(main: App) -> None:
    """Sweep what dead runs left, and end a restore that was killed: nobody else may come by for hours."""
    main.recover()
    if journal := JournalFile(main.settings.root).read():
        logger.warning("{}", words(journal, datetime.now(UTC)))
        logger.success("{}", run.end(shop_for(main, Silent())))
    if single.begun(main.settings.volumes):
        single.recover(shop_for(main, Silent()))


def _way(main: App) -> str:
    """How the database is reached, for the service's log; a reason when it cannot be just now."""
    try:
        return main.source().clients.way
    except BackupError as error:
        return f"not yet: {error.message}"
