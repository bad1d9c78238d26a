"""The commands. The only place that prints and decides the exit code.

Exit codes: 0 done · 1 a bug · 2 wrong usage · 3 done, but files changed while they were read · 10 settings ·
11 another run holds the lock · 12 nobody confirmed · 20 database, engine or volume cannot be read · 30 backup volume ·
40 stored bytes are wrong · 41 not proven · 44 no such set · 50 not restored, all as before · 51 a restore is
unfinished · 52 restored, but something after it failed · 128+N ended by signal N.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from backup import config, display, log, schedule
from backup.errors import BackupError, IntegrityError, Interrupted
from backup.log import logger
from backup.manifest import Tier
from backup.operations import backup as backup_operation
from backup.operations import runs
from backup.operations import verify as verify_operation
from backup.operations.serve import jobs, serve
from backup.probe import probe, target
from backup.progress import Progress, Silent
from backup.sets import StoredSet
from backup.text import age, plural, printable, size
from backup.wiring import App

_QUEUE: Final = 6 * 3600.0
# Long enough for a database that recovers from a crash, short enough to be told of one that does not come.
_PATIENCE: Final = 300.0
_COMMAND: Final = Path(__file__).resolve().parent.parent / "entrypoint.py"

app = typer.Typer(
    name="backup",
    help="Backups of an OBCMS stack that have been read back. `serve` (the default) runs them on schedule.",
    epilog="Exit codes: 0 done, 2 usage, 3 done but files changed while read, 10 settings, 11 busy,"
    " 12 not confirmed, 20 source, 30 backup volume, 40 damaged, 41 not proven, 44 no such set, 50 not restored,"
    " 51 restore unfinished, 52 restored but something after it failed, 128+N signal N.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
Set = Annotated[str, typer.Argument(metavar="ID|FILE|latest", help="A set id, one of its files, or `latest`.")]


class MadeTier(StrEnum):
    """A tier that sets are made in by command; safety sets are made by restores alone."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    MANUAL = "manual"


class Only(StrEnum):
    """Half of a set."""

    DATABASE = "database"
    MEDIA = "media"


@app.command()
def create(
    tier: Annotated[MadeTier, typer.Argument(help="Where the set belongs.")] = MadeTier.MANUAL,
    only: Annotated[Only | None, typer.Option(help="Back up only the database or only the volumes.")] = None,
    wait: Annotated[float, typer.Option(help="Seconds to queue behind another run.", min=0)] = 0.0,
    scheduled: Annotated[bool, typer.Option("--scheduled", hidden=True)] = False,
    trigger: Annotated[str, typer.Option(hidden=True)] = "",
    as_json: Json = False,
) -> None:
    """Make one complete, read-back set.

    Examples: `create daily`, `create manual --only database`, `create --wait 600`.
    """
    settings = _settings(as_json, kind="backup")
    main = App(settings)
    main.require_volume()
    request = backup_operation.Request(
        tier=Tier(tier),
        only=only.value if only else None,
        trigger=trigger or ("schedule" if scheduled else "manual"),
        wait=_QUEUE if scheduled else wait,
        patience=_PATIENCE if scheduled else 0.0,
    )
    with _progress(as_json) as progress:
        run = backup_operation.create(request, main.workshop(progress))
    if as_json:
        _json(run.model_dump(mode="json"))
    if run.exit_code:
        logger.warning("{}: {} {}", run.outcome, run.message, run.hint)
    raise typer.Exit(run.exit_code)


@app.command("list")
def list_sets(
    tier: Annotated[Tier | None, typer.Argument(help="Only this tier.")] = None, as_json: Json = False
) -> None:
    """List the sets, newest first. Examples: `list`, `list weekly --json`."""
    settings = _settings(as_json)
    sets = App(settings).catalog.sets(tier)
    if as_json:
        return _json([display.set_json(stored) for stored in sets])
    if _out.is_terminal:
        return _out.print(display.sets_table(sets, datetime.now(UTC)))
    return _lines(display.sets_lines(sets))


@app.command()
def show(which: Set, as_json: Json = False) -> None:
    """Show one set: identity, files, rows per table. Examples: `show latest`, `show daily_2025-10-20_02-00-00`."""
    settings = _settings(as_json)
    stored = App(settings).catalog.find(which)
    if as_json:
        return _json(display.set_json(stored))
    return _out.print(display.set_page(stored, settings.zone))


@app.command()
def verify(which: Set, as_json: Json = False) -> None:
    """Read every stored byte of a set and compare it with its manifest. Example: `verify latest`."""
    settings = _settings(as_json, kind="verify")
    main = App(settings)
    stored = main.catalog.find(which)
    with _progress(as_json) as progress:
        verdict = verify_operation.verify(main.catalog, stored, progress, datetime.now(UTC))
    if as_json:
        _json({"id": stored.id, **verdict.model_dump(mode="json")})
    if verdict.problems:
        found = "".join(f"\n  - {printable(problem)}" for problem in verdict.problems)
        raise IntegrityError(
            f"{stored.id} is damaged:{found}", "Do not restore it; `list` shows other sets, `create` takes a new one."
        )
    logger.success("{}: {}", stored.id, _checked(stored, verdict.unchecked))


@app.command()
def healthcheck(as_json: Json = False) -> None:
    """Ask the running service how it is; exit 0 when healthy."""
    settings = _settings(as_json)
    host, _ = target(dict(os.environ))
    code, text = probe(settings.http_port, "/healthz", 0, host)
    if as_json:
        _json({"exit_code": code, "health": text})
    else:
        _out.print(Text(text))
    raise typer.Exit(code)


@app.command("schedule")
def show_schedule(
    count: Annotated[int, typer.Option(help="How many runs of each job.", min=1, max=100)] = 3, as_json: Json = False
) -> None:
    """Show when the next backups run. Example: `schedule --count 10`."""
    settings = _settings(as_json)
    slots = schedule.upcoming(jobs(settings), datetime.now(UTC), settings.zone, count)
    if as_json:
        return _json([{"job": s.job, "cron": s.cron, "next": [t.isoformat() for t in s.times]} for s in slots])
    if _out.is_terminal:
        return _out.print(display.schedule_table(slots))
    return _lines(f"{slot.job}\t{slot.cron}\t{moment.isoformat()}" for slot in slots for moment in slot.times)


@app.command("serve")
def run_service() -> None:
    """Run backups on schedule and answer health checks. What the container does by default."""
    settings = _settings(as_json=False)
    main = App(settings)
    main.require_volume()
    code = serve(
        settings,
        catalog=main.catalog,
        records=main.records,
        recover=main.recover,
        ready=main.ready,
        command=[sys.executable, str(_COMMAND)],
        way=lambda: _way(main),
        run_dir=Path(os.environ.get("XDG_RUNTIME_DIR") or "/run"),
    )
    raise typer.Exit(code)


def main(argv: list[str]) -> int:
    """Run one command line; its exit code."""
    os.umask(0o077)
    try:
        # From the first moment: as PID 1 of a container there is no default action to end us.
        with _signals():
            app(args=argv, prog_name="backup")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except (BackupError, Interrupted) as error:
        return _fail(error)
    except KeyboardInterrupt:
        return _fail(Interrupted(signal.SIGINT))
    except BrokenPipeError:
        # The reader (`| head`) has enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:  # noqa: BLE001 - the last line of defence: a bug must show its traceback, without secrets
        _err.print(Text(log.redacted(traceback.format_exc())))
        _err.print(Text("This is a bug in the backup sidecar; nothing unfinished was published.", style="bold red"))
        return 1
    return 0


def _fail(error: BackupError | Interrupted) -> int:
    message, hint = log.redacted(error.message), log.redacted(error.hint)
    logger.error("{}", message + (f"\n  {hint}" if hint else ""))
    return error.exit_code


def _settings(as_json: bool, kind: str = "") -> config.Settings:
    """Settings, and logs set up: on stdout, or on stderr when stdout carries JSON."""
    console = _err if as_json else _out
    log.setup(None, lambda line: _log_line(console, line))
    settings = config.load()
    log.setup(settings.zone, lambda line: _log_line(console, line))
    if settings.db_password:
        log.redacting([settings.db_password.get_secret_value()])
    if kind and settings.root.is_dir():
        log.to_file(settings.root / "logs", kind, settings.zone)
    return settings


def _log_line(console: Console, line: str) -> None:
    if console.is_terminal:
        level = line[line.find("] [") + 3 :].split("]", 1)[0]
        style = {"ERROR": "red", "WARNING": "yellow", "SUCCESS": "green"}.get(level, "")
        console.print(Text(line.rstrip("\n"), style=style))
    else:
        console.file.write(line)
        console.file.flush()


@contextlib.contextmanager
def _progress(as_json: bool) -> Iterator[Progress]:
    console = _err if as_json else _out
    if not console.is_terminal:
        yield Silent()
        return
    with display.Drawn(console) as drawn:
        yield drawn


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Let SIGTERM and SIGINT end the work in good order; a second one is ignored while that happens."""

    def stop(number: int, _frame: object) -> NoReturn:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, runs.deaf)
        raise Interrupted(number)

    before = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            # Once told to end, it stays deaf; the interpreter's own end would wake a handler of ours, but not SIG_IGN.
            signal.signal(each, handler if signal.getsignal(each) is stop else signal.SIG_IGN)


def _way(main: App) -> str:
    """How the database is reached, for the service's log; a reason when it cannot be just now."""
    try:
        return main.source().clients.way
    except BackupError as error:
        return f"not yet: {error.message}"


def _checked(stored: StoredSet, unchecked: tuple[str, ...]) -> str:
    what = f"{plural(len(stored.files), 'file')}, {size(stored.size)}, {age(datetime.now(UTC) - stored.time)} old"
    if unchecked:
        return f"unpacks to its end ({what}). Not checked: {'; '.join(unchecked)}"
    return f"every byte is as it was written ({what})"


def _json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _lines(lines: Any) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
