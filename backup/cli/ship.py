"""The command that sends WAL and base backups offsite."""

from __future__ import annotations

from typing import Annotated

import typer

from backup.app.shipping import shippers
from backup.app.volume import BackupVolume
from backup.cli import base
from backup.logging import logger
from backup.operations.pitr.ship import ship_all


def ship_command(
    once: Annotated[bool, typer.Option("--once", help="Send what waits now, and end.")] = False,
) -> None:
    """Send base backups and received WAL to the places of copies until a signal ends it. The service runs this.

    Each is an object that is written once and read back. Examples: `ship`, `ship --once`.
    """
    main = BackupVolume(base.prepare_command(as_json=False))
    main.require_volume()
    if once:
        list(base.do_each(shippers(main, lambda _: False), lambda each: each.look()))
        return
    with base.until_signal() as (ended, came):
        ship_all(shippers(main, ended.wait), ended)
    logger.info("the WAL is no longer sent offsite")
    raise typer.Exit(128 + came[0])
