"""The commands. The only place that prints and decides the exit code.

Exit codes: 0 done · 1 a bug · 2 wrong usage · 3 done, but files changed, or it is in memory · 4 done, but more waits
for `prune --force` · 10 settings · 11 another run holds the lock · 12 nobody confirmed · 20 database, engine or volume
cannot be read · 30 backup volume · 32 place of the offsite copies · 40 stored bytes are wrong · 41 not proven ·
44 no such set · 45 its key is not here · 46 it is here already · 50 not restored, all as before · 51 a restore is
unfinished · 52 restored, but something after it failed · 60 `monitor --alert`, `doctor`: warning · 61 `monitor
--alert`: critical, `doctor`: failed · 62 a message was not delivered · 128+N ended by signal N.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import typer

from backup.catalog.run_records import Records
from backup.catalog.scheduler_state import ScheduleFile
from backup.cli import base
from backup.config import loader
from backup.errors import BackupError, ConfigError, Interrupted
from backup.logging import logger
from backup.operations.jobs import job_of, jobs
from backup.operations.scheduled_run import Claim, claim_slot

# In the order of the help text: where each command is.
COMMANDS: Final = {
    "create": "create:create_command",
    "list": "list_sets:list_sets",
    "show": "inspect:show",
    "du": "inspect:du",
    "verify": "verify:verify_command",
    "drill": "drill:drill_command",
    "base": "pitr:base_command",
    "restore": "restore:restore_command",
    "undo": "restore:undo_command",
    "cat": "inspect:cat",
    "extract": "inspect:extract_command",
    "export": "transfer:export",
    "import": "transfer:import_sets",
    "prune": "retention:prune_command",
    "pin": "retention:pin",
    "unpin": "retention:unpin",
    "upload": "offsite:upload_command",
    "offsite": "offsite:app",
    "status": "monitoring:status_command",
    "moments": "moments:show_moments",
    "monitor": "monitoring:monitor",
    "logs": "monitoring:logs",
    "notify": "alerts:notify",
    "doctor": "doctor:doctor",
    "setup": "setup:setup_command",
    "healthcheck": "healthcheck:healthcheck",
    "schedule": "schedule:show_schedule",
    "serve": "serve:run_service",
    "receive": "pitr:receive_command",
    "ship": "ship:ship_command",
}


class _OnDemand(Mapping[str, Any]):
    """Only the command that is asked for is imported: all of them together take a second on a small machine."""

    def __getitem__(self, name: str) -> Any:
        module, _, attribute = COMMANDS[name].partition(":")
        found = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(name)(found)
            found = alone
        command = typer.main.get_command(found)
        command.name = name
        if not gc.isenabled():  # as entrypoint.py leaves it
            gc.freeze()
            gc.enable()
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Commands(typer.core.TyperGroup):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = _OnDemand()


app = typer.Typer(
    cls=_Commands,
    name="backup",
    help="Back up an OBCMS stack and read every backup back. `serve` (the default) does it on schedule.",
    epilog="Exit codes: 0 done, 2 usage, 3 done with a warning, 4 more sets need prune --force, 10 settings, 11 "
    "busy, 12 not confirmed, 20 source, 30 backup volume, 32 offsite place, 40 damaged, 41 not proven, 44 "
    "no such set, 45 key missing, 46 already here, 50 not restored, 51 restore unfinished, 52 restored but "
    "a later step failed, 60 warning and 61 critical (monitor --alert, doctor), 62 message not delivered, "
    "128+N signal N.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# A group without a command of its own is refused otherwise.
@app.callback()
def _group() -> None: ...


@contextlib.contextmanager
def _claiming(argv: Sequence[str]) -> Iterator[Claim]:
    """For the body: claim the slot that this command line is for. Not `wanted` when there is none."""
    # Whatever sets may come while there is no good one: it is made, due or not.
    first = list(argv[-2:]) == ["--trigger", "first"]
    job = job_of(argv[:-2] if first else argv)
    settings = None
    if job:
        with contextlib.suppress(ConfigError):  # the command itself says so
            settings = loader.load_settings()
    if settings is None:
        yield Claim()
        return
    base.prepare_command(as_json=False)
    file, records = ScheduleFile(settings.root), Records(settings.root / "state" / "runs")
    cron, zone = jobs(settings)[job], settings.zone
    with claim_slot(file, records, job, cron, zone, lambda: datetime.now(UTC), force=first) as claim:
        if claim.said:
            logger.info("{}", claim.said)
        yield claim


def main(argv: list[str]) -> int:
    """Run one command line; its exit code."""
    os.umask(0o077)
    try:
        # From the first moment: as PID 1 of a container there is no default action to end us.
        with base.signals():
            with _claiming(argv) as claim:
                if claim.wanted:
                    app(args=argv, prog_name="backup", obj=claim)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except (BackupError, Interrupted) as error:
        return base.fail(error)
    except KeyboardInterrupt:
        return base.fail(Interrupted(signal.SIGINT))
    except BrokenPipeError:
        # The reader (`| head`) has enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:  # noqa: BLE001 - the last line of defence: a bug must show its traceback, without secrets
        return base.bug()
    return 0
