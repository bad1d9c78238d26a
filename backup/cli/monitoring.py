"""Commands that say how the backups are, and show the logs."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final
from zoneinfo import ZoneInfo

import typer

from backup.app.volume import BackupVolume
from backup.cli import base
from backup.cli.base import Json, Scheduled
from backup.cli.render import monitor as shown
from backup.config.loader import Settings
from backup.errors import BackupError, ConfigError, NotFound
from backup.formatting import printable
from backup.logging import files, logger, of_run
from backup.model.finding import Level
from backup.model.run import Outcome, Run, new_run_id
from backup.monitoring import alerts
from backup.monitoring.alerts.destinations import targets
from backup.monitoring.health import WORDS, SchedulerState
from backup.monitoring.overview import Overview
from backup.operations.status import overview as overview_now
from backup.service.probe import SOCKET, login, run_dir, scheduler_state, target

# Of `monitor --alert`. A service that is still making its first backup has not failed, but is not healthy yet.
ALERTS: Final[dict[Level, int]] = {"pass": 0, "warn": 60, "starting": 60, "fail": 61}
_LEVELS: Final[dict[Level, str]] = {"pass": "INFO", "warn": "WARNING", "starting": "WARNING", "fail": "ERROR"}


# Seconds to find out what the stack is called.
_NAMING: Final = 5.0


class LogKind(StrEnum):
    """A log file."""

    BACKUP = "backup"
    RESTORE = "restore"
    VERIFY = "verify"
    MONITOR = "monitor"


def status_command(as_json: Json = False) -> None:
    """Say in a few lines how the backups are: the verdict, the reasons, and what to do.

    Examples: `status`, `status --json`.
    """
    base.switch_off_gc()
    settings = base.prepare_command(as_json)
    seen = _look(settings)
    if as_json:
        return base.print_json("status", seen)
    return _show(seen, shown.status_sections(seen), boxed=False)


def monitor(
    context: typer.Context,
    short: Annotated[bool, typer.Option("--status", help="The report on one page; the default.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Add every set and the recent runs.")] = False,
    alert: Annotated[
        bool, typer.Option("--alert", help="Only what is wrong; exit 0 healthy, 60 warning, 61 critical.")
    ] = False,
    scheduled: Scheduled = False,
    as_json: Json = False,
) -> None:
    """Report on the backups. Examples: `monitor`, `monitor --report`, `monitor --alert`, `monitor --status --json`."""
    if [short, report, alert].count(True) > 1:
        raise typer.BadParameter("choose one of --status, --report and --alert")
    settings = base.prepare_command(as_json, kind="monitor" if scheduled else "")
    if scheduled:
        return _scheduled(settings, "report" if report else "monitor", base.occasion(context, scheduled))
    seen = _look(settings)
    if as_json:
        base.print_json("status", seen)
    elif alert:
        _alert(seen)
    else:
        _show(seen, shown.report_sections(seen) + (shown.detail_sections(seen) if report else []), boxed=True)
    if alert:
        raise typer.Exit(ALERTS[seen.health.status])
    return None


def logs(
    tail: Annotated[int, typer.Option(help="How many of the newest entries; 0: all.", min=0)] = 100,
    run: Annotated[str, typer.Option(help="Only this run; the end of its id is enough.")] = "",
    kind: Annotated[LogKind | None, typer.Option(help="Only this log.")] = None,
    as_json: Json = False,
) -> None:
    """Show the logs. Examples: `logs`, `logs --tail 20 --kind backup`, `logs --run 20251020T020000Z-3f9a1c`."""
    settings = base.prepare_command(as_json)
    directory, kinds = settings.root / "logs", [kind.value] if kind else list(files.LOG_KINDS)
    if run:
        found = _run(BackupVolume(settings).records.all(), run)
        entries = files.of_run(directory, found.id, found.started, found.ended, settings.zone, kinds)
        entries = entries[-tail:] if tail else entries
    else:
        entries = files.tail(directory, kinds, tail or None)
    if as_json:
        return base.print_json("log", entries=[_entry(each, settings.zone) for each in entries])
    return base.print_lines(printable(line) for entry in entries for line in entry.text.split("\n"))


def _entry(entry: files.LogEntry, zone: ZoneInfo) -> dict[str, object]:
    """A log has the operator's clock; of an hour that comes twice it is taken for the first, and no time is no time."""
    moment = None
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(entry.stamp).replace(tzinfo=zone)
    return {**vars(entry), "time": moment, "log": entry.kind}


def _run(runs: list[Run], wanted: str) -> Run:
    found = [run for run in runs if run.id == wanted] or [run for run in runs if run.id.endswith(f"-{wanted}")]
    if not found:
        hint = "`monitor --report --json` lists the runs with their ids."
        raise NotFound(f"no run matches {printable(wanted)!r}", hint)
    return found[0]


def _look(settings: Settings) -> Overview:
    main = BackupVolume(settings)
    return overview_now(settings, main.catalog, main.records, datetime.now(UTC), scheduler=_scheduler(settings))


def _scheduler(settings: Settings) -> SchedulerState | None:
    """What the service in this container says of its scheduler; None where there is no service to ask."""
    host, port = target({"BACKUP_HTTP_HOST": settings.http_host, "BACKUP_HTTP_PORT": str(settings.http_port)})
    try:
        return scheduler_state(port, host, login(os.environ), run_dir(os.environ) / SOCKET)
    except ValueError as error:
        raise ConfigError(str(error), "Correct the file that the setting names.") from error


def _show(seen: Overview, sections: list[shown.ReportSection], *, boxed: bool) -> None:
    page, lines = shown.draw_page, shown.draw_lines
    base.show(lambda: page(seen, sections, boxed=boxed), lambda: lines(seen, sections, boxed=boxed), soft_wrap=False)


def _alert(seen: Overview) -> None:
    if seen.health.reasons:
        base.show(lambda: shown.alert_page(seen.health), lambda: shown.alert_lines(seen.health), soft_wrap=False)


def _send(settings: Settings, status: Level, text: str, now: datetime) -> None:
    """Hand the report to the alerts; the service delivers it."""
    if not targets(settings):
        return
    # Of all that this module is for, this alone speaks to the engine.
    from backup.app.alerts import StackName  # noqa: PLC0415
    from backup.app.composition import App  # noqa: PLC0415

    name = StackName(App(settings)).find(_NAMING)
    try:
        title = f"[{name}] BACKUP REPORT: {WORDS[status]}"
        alerts.enqueue(settings.root, alerts.Notice(kind="report", title=title, body=text), now)
    except BackupError as error:
        logger.warning("the report could not be queued: {} {}", error.message, error.hint)


def _scheduled(settings: Settings, operation: str, occasion: base.Occasion) -> None:
    """Log what is seen, and record the run. That something is wrong is no failure of this job: its exit code is 0."""
    main = BackupVolume(settings)
    main.require_volume()
    now = datetime.now(UTC)
    identifier = new_run_id(now)
    of_run(identifier)
    seen = _look(settings)
    health = seen.health
    if operation == "report":
        text = "\n".join(shown.draw_lines(seen, shown.report_sections(seen) + shown.detail_sections(seen), boxed=True))
        _send(settings, health.status, text, now)
    else:
        text = "\n".join(shown.alert_lines(health))
    logger.log(_LEVELS[health.status], "{}", text)
    run = Run(
        id=identifier,
        operation=operation,
        started=now,
        ended=datetime.now(UTC),
        outcome=Outcome.SUCCESS,
        message=WORDS[health.status],
        **occasion._asdict(),
    )
    try:
        main.records.end(run)
    except BackupError as error:
        # A full volume is what it is there to tell of.
        logger.warning("this check could not be recorded: {}", error.message)
