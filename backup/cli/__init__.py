"""The commands. The only place that prints and decides the exit code.

Exit codes: 0 done · 1 a bug · 2 wrong usage · 3 done, but files changed while they were read · 4 done, but more waits
for `prune --force` · 10 settings · 11 another run holds the lock · 12 nobody confirmed · 20 database, engine or volume
cannot be read · 30 backup volume · 40 stored bytes are wrong · 41 not proven · 44 no such set · 50 not restored, all as
before · 51 a restore is unfinished · 52 restored, but something after it failed · 60 `monitor --alert`: warning ·
61 `monitor --alert`: critical · 62 a message was not delivered · 128+N ended by signal N.
"""

from __future__ import annotations

import os
import signal
import sys

import typer

from backup.cli import alerts, base, monitoring, proofs, restoring, retention, scheduled, service, sets
from backup.errors import BackupError, Interrupted

app = typer.Typer(
    name="backup",
    help="Backups of an OBCMS stack that have been read back. `serve` (the default) runs them on schedule.",
    epilog="Exit codes: 0 done, 2 usage, 3 done but files changed while read, 4 more waits for prune --force,"
    " 10 settings, 11 busy, 12 not confirmed, 20 source, 30 backup volume, 40 damaged, 41 not proven, 44 no such set,"
    " 50 not restored, 51 restore unfinished, 52 restored but something after it failed, 60 warning and 61 critical"
    " (monitor --alert), 62 message not delivered, 128+N signal N.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# In the order of the help text.
app.command()(sets.create)
app.command("list")(sets.list_sets)
app.command()(sets.show)
app.command()(sets.verify)
app.command()(proofs.drill)
app.command()(restoring.restore)
app.command()(restoring.undo)
app.command()(retention.prune)
app.command()(retention.pin)
app.command()(retention.unpin)
app.command()(monitoring.status)
app.command()(monitoring.monitor)
app.command()(monitoring.logs)
app.command()(alerts.notify)
app.command()(service.healthcheck)
app.command("schedule")(service.show_schedule)
app.command("serve")(service.run_service)


def main(argv: list[str]) -> int:
    """Run one command line; its exit code."""
    os.umask(0o077)
    try:
        # From the first moment: as PID 1 of a container there is no default action to end us.
        with base.signals():
            with scheduled.fulfilling(argv) as claim:
                if claim.wanted:
                    app(args=argv, prog_name="backup", obj=claim.account)
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
