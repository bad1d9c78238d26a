"""Commands of point-in-time recovery: base backups, and what receives the WAL."""

from __future__ import annotations

from typing import Annotated

import typer

from backup.app.composition import App
from backup.app.pitr import base_context, receive_context
from backup.cli import base
from backup.cli.base import Scheduled, Trigger, Wait
from backup.logging import logger
from backup.operations.pitr.base import take_base
from backup.operations.pitr.receive import receive_wal
from backup.operations.runs import Request


def base_command(
    invocation: typer.Context,
    wait: Wait = 0.0,
    full: Annotated[bool, typer.Option("--full", help="Not only what has changed since the last one.")] = False,
    scheduled: Scheduled = False,
    trigger: Trigger = "",
) -> None:
    """Take a base backup of the whole cluster, on which received WAL is replayed to restore any moment.

    Needs BACKUP_PITR=on. The service does this by schedule, and whenever the WAL alone is not enough. From PostgreSQL
    17 on, with `summarize_wal`, it holds what has changed since the last one, on a full one each week.

    Examples: `base`, `base --full`.
    """
    main = App(base.prepare_command(as_json=False, kind="backup"))
    main.require_volume()
    occasion = base.occasion(invocation, scheduled, trigger)
    request = Request(wait=base.QUEUE if scheduled or trigger else wait, **occasion._asdict())
    with base.progress(as_json=False) as progress:
        run = take_base(request, base_context(main, progress), full=full)
    logger.success("base backup {}", run.message)


def receive_command() -> None:
    """Receive the WAL of the database until a signal ends it. The service runs this.

    Example: `receive`.
    """
    main = App(base.prepare_command(as_json=False))
    main.require_volume()
    with base.until_signal() as (ended, came):
        receive_wal(receive_context(main, ended.wait))
    logger.info("the WAL is no longer received")
    raise typer.Exit(128 + came[0])
