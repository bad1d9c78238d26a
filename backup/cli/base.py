"""What every command uses: consoles, settings and logs, progress, output for programs, signals, failures."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, NoReturn, TypeVar
from zoneinfo import ZoneInfo

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from backup import logging
from backup.catalog.catalog import Catalog
from backup.config import loader
from backup.errors import BackupError, Interrupted
from backup.formatting import printable
from backup.logging import logger
from backup.model.moment import Wanted, parse_moment
from backup.model.wal import lsn
from backup.operations import runs
from backup.operations.scheduled_run import Claim
from backup.progress import Progress, Silent

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

# What runs our command line.
COMMAND: Final = (sys.executable, str(Path(__file__).resolve().parents[2] / "entrypoint.py"))
# Seconds that a scheduled run queues behind another one.
QUEUE: Final = 6 * 3600.0

_Item = TypeVar("_Item")
_Done = TypeVar("_Done")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
IdentityOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="File with the private key of an encrypted set; default: BACKUP_AGE_IDENTITY_FILE."
    ),
]
Image = Annotated[str, typer.Option(metavar="IMAGE", help="Database image to restore into; default: the set's own.")]
Wait = Annotated[float, typer.Option(help="Seconds to wait for another run to end.", min=0)]
At = Annotated[
    str,
    typer.Option(
        "--at", metavar="TIME", help="The database of a moment: 'YYYY-MM-DD HH:MM[:SS]', '10 minutes ago', 'latest'."
    ),
]
AtLsn = Annotated[
    str, typer.Option("--at-lsn", metavar="LSN", help="The database as of a place in the WAL, such as 0/16B3748.")
]
FromPlace = Annotated[
    str,
    typer.Option("--from", metavar="s3|copy", help="With --at: from base backups and WAL that lie there, not here."),
]
Scheduled = Annotated[bool, typer.Option("--scheduled", hidden=True)]
Trigger = Annotated[str, typer.Option(hidden=True)]


def set_ids(incomplete: str) -> list[str]:
    """For the shell to complete: the sets that are there, newest first. It must never be in anybody's way."""
    with contextlib.suppress(Exception):
        settings = loader.load_settings()
        ids = ["latest", *(stored.id for stored in Catalog(settings.root, settings.zone).sets())]
        return [each for each in ids if each.startswith(incomplete)]
    return []


Set = Annotated[
    str,
    typer.Argument(metavar="ID|FILE|latest", help="A set id, one of its files, or `latest`.", autocompletion=set_ids),
]


Sets = Annotated[
    list[str],
    typer.Argument(
        metavar="ID|FILE|latest",
        help="A set id, one of its files, or `latest`; or a dump and its archives from one folder.",
        autocompletion=set_ids,
    ),
]


class Occasion(NamedTuple):
    """Why a run happens, for its record: trigger, slot and slots of Run."""

    trigger: str
    slot: datetime | None = None
    slots: int = 0


BY_HAND: Final = Occasion("manual")


class OnlyOption(StrEnum):
    """Half of a set."""

    DATABASE = "database"
    MEDIA = "media"


def prepare_command(as_json: bool, kind: str = "", identity: Path | None = None) -> loader.Settings:
    """Read the settings and set up logs: on stdout, or on stderr when stdout carries JSON.

    `kind`: also into that log file. `identity` replaces the identity file that the settings name.
    """
    console = err if as_json else out
    # A setting that is wrong is told in the form that was asked for, too.
    logging.setup_logging(
        None, lambda line: _log_line(console, line), as_json=os.environ.get("BACKUP_LOG_FORMAT") == "json"
    )
    settings = loader.load_settings()
    logging.setup_logging(settings.zone, lambda line: _log_line(console, line), as_json=settings.log_format == "json")
    names = (settings.db_user, settings.db_name, settings.db_host, settings.bucket, settings.http_user)
    logging.redacting(settings.secrets, filter(None, names))
    if kind and settings.root.is_dir():
        logging.to_file(settings.root / "logs", kind, settings.zone, settings.log_max_mb)
    return settings.model_copy(update={"age_identity": identity}) if identity else settings


def wanted_moment(at: str, at_lsn: str, zone: ZoneInfo, place: str = "") -> Wanted | None:
    """Read what is to be recovered; None when nothing is. A wrong usage is said as one."""
    try:
        if place and not (at or at_lsn):
            raise ValueError("--from goes with --at; a set comes from there as `s3:ID`")
        if place not in ("", "s3", "copy"):
            raise ValueError("--from is s3 or copy")
        if at and at_lsn:
            raise ValueError("choose one of --at and --at-lsn")
        if at_lsn:
            return Wanted(place=lsn(at_lsn))
        if at == "latest":
            return Wanted()
        return Wanted(parse_moment(at, datetime.now(UTC), zone)) if at else None
    except ValueError as error:
        raise typer.BadParameter(printable(str(error))) from None


def switch_off_gc() -> None:
    """Look for no garbage in a command that reads thousands of sets and ends: it would take a third of the time."""
    gc.disable()


def prepare_without_settings(as_json: bool) -> None:
    """Set up logs for a command that needs no settings, and may come before there are any."""
    console = err if as_json else out
    logging.setup_logging(None, lambda line: _log_line(console, line))


def occasion(context: typer.Context, scheduled: bool, trigger: str = "") -> Occasion:
    """Say why this run happens: `main` has claimed the slot of a scheduled one; `trigger` says what else started it."""
    claim = context.obj if isinstance(context.obj, Claim) else Claim()
    return Occasion(trigger or claim.trigger or ("schedule" if scheduled else BY_HAND.trigger), claim.slot, claim.slots)


def _log_line(console: Console, line: str) -> None:
    if console.is_terminal:
        level = line[line.find("] [") + 3 :].split("]", 1)[0]
        style = {"ERROR": "red", "WARNING": "yellow", "SUCCESS": "green"}.get(level, "")
        console.print(Text(line.rstrip("\n"), style=style))
    else:
        console.file.write(line)
        console.file.flush()


@contextlib.contextmanager
def progress(as_json: bool) -> Iterator[Progress]:
    """Bars on a terminal, else nothing; off stdout when that carries JSON."""
    console = err if as_json else out
    if not console.is_terminal:
        yield Silent()
        return
    from backup.cli.render.progress_bars import Drawn  # noqa: PLC0415 - most runs have no terminal

    with Drawn(console) as drawn:
        yield drawn


@contextlib.contextmanager
def signals() -> Iterator[None]:
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


def do_each(items: Iterable[_Item], act: Callable[[_Item], _Done]) -> Iterator[_Done]:
    """Do it with each; what fails with one keeps nobody from the others. The last failure is raised in the end."""
    failed = None
    for item in items:
        try:
            yield act(item)
        except BackupError as error:
            if failed:
                logger.error("{} {}", failed.message, failed.hint)
            failed = error
    if failed:
        raise failed


def fail(error: BackupError | Interrupted) -> int:
    """Say what failed and what to do about it, without secrets; its exit code."""
    message, hint = (logging.redacted(text).strip() for text in (error.message, error.hint))
    logger.error("{}", with_hint(message, hint))
    return error.exit_code


def with_hint(message: str, hint: str) -> str:
    """The message, and below it what to do about it, if there is anything."""
    return message + (f"\n  {hint}" if hint else "")


def bug() -> int:
    """Print the traceback of the exception at hand, without secrets; its exit code."""
    err.print(Text(logging.redacted(traceback.format_exc()).rstrip()))
    err.print(Text("This is a bug in the backup sidecar; nothing unfinished was published.", style="bold red"))
    return 1


def print_json(kind: str, thing: object = None, /, *, items: Iterable[object] | None = None, **fields: Any) -> None:
    """Print the document of this kind for other programs: of the attributes of `thing`, and of `fields`.

    `items` go into its last field, one after the other.
    """
    from backup.documents.results import DOCUMENTS  # noqa: PLC0415 - who reads plain lines need not wait for it

    made = DOCUMENTS[kind]
    sys.stdout.writelines([made.of(thing, **fields).encode()] if items is None else made.pieces(items, **fields))


def show(page: Callable[[], RenderableType], lines: Callable[[], Iterable[str]], *, soft_wrap: bool = True) -> None:
    """Print the page on a terminal, and its lines for other programs elsewhere."""
    if out.is_terminal:
        out.print(page(), soft_wrap=soft_wrap)
    else:
        print_lines(lines())


def print_lines(lines: Iterable[str]) -> None:
    """Print as they are: no styles, no wrapping."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


@contextlib.contextmanager
def until_signal() -> Iterator[tuple[threading.Event, list[int]]]:
    """For the body: an event that a signal sets, and the signals that came.

    Not as an exception: one that a signal raises where nobody hears it would be lost, and this never ends by itself.
    """
    ended, came = threading.Event(), list[int]()

    def end(number: int, _frame: object) -> None:
        came.append(number)
        ended.set()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, end)
    yield ended, came
