"""The command that runs the service."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import typer

from backup.app.alerts import notifier
from backup.app.composition import App
from backup.app.restore import restore_context
from backup.cli import base
from backup.errors import BackupError
from backup.logging import logger
from backup.monitoring.alerts.delivery import check_targets
from backup.monitoring.alerts.destinations import targets
from backup.operations.restore import run, single_files
from backup.operations.restore.journal import words
from backup.operations.restore.locking import unfinished_restore
from backup.progress import Silent
from backup.service.main import serve
from backup.service.probe import run_dir


def run_service() -> None:
    """Run backups on schedule and answer health checks: the container's default.

    Example: `docker compose up -d backup`.
    """
    settings = base.prepare_command(as_json=False)
    main = App(settings)
    main.require_volume()
    check_targets(targets(settings))
    code = serve(
        settings,
        catalog=main.catalog,
        records=main.records,
        recover=lambda: _recover(main),
        ready=main.ready,
        command=base.COMMAND,
        way=lambda: _way(main),
        notifier=lambda health: notifier(main, base.COMMAND, health),
        run_dir=run_dir(os.environ),
    )
    raise typer.Exit(code)


def _recover(main: App) -> None:
    """Sweep what dead runs left, and end a restore that was killed: nobody else may come by for hours."""
    main.recover()
    found = unfinished_restore(main.settings.root)
    if found and not found[1]:
        logger.warning("{}", words(found[0], datetime.now(UTC)))
        logger.success("{}", run.end(restore_context(main, Silent())))
    if single_files.interrupted_volumes(main.settings.volumes):
        single_files.recover(restore_context(main, Silent()))


def _way(main: App) -> str:
    """How the database is reached, for the service's log; a reason when it cannot be just now."""
    try:
        return main.source().clients.way
    except BackupError as error:
        return f"not yet: {error.message}"
