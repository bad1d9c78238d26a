"""Commands of point-in-time recovery: base backups, what receives the WAL, and what sends both offsite."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Annotated

import typer

from backup.app.composition import App
from backup.app.pitr import base_context, receive_context, shippers
from backup.cli import base
from backup.cli.base import Scheduled, Trigger, Wait
from backup.logging import logger
from backup.operations.pitr.base import take_base
from backup.operations.pitr.receive import receive_wal
from backup.operations.pitr.ship import ship_all
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
    with _until_signal() as (ended, came):
        receive_wal(receive_context(main, ended.wait))
    logger.info("the WAL is no longer received")
    raise typer.Exit(128 + came[0])


def ship_command(
    once: Annotated[bool, typer.Option("--once", help="Send what waits now, and end.")] = False,
) -> None:
    """Send base backups and received WAL to the places of copies until a signal ends it. The service runs this.

    Each is an object that is written once and read back. Examples: `ship`, `ship --once`.
    """
    main = App(base.prepare_command(as_json=False))
    main.require_volume()
    if once:
        list(base.do_each(shippers(main, lambda _: False), lambda each: each.look()))
        return
    with _until_signal() as (ended, came):
        ship_all(shippers(main, ended.wait), ended)
    logger.info("the WAL is no longer sent offsite")
    raise typer.Exit(128 + came[0])


@contextlib.contextmanager
def _until_signal() -> Iterator[tuple[threading.Event, list[int]]]:
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
