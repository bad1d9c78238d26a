"""Commands about how long sets are kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from backup.app.volume import BackupVolume
from backup.catalog.retention import Decision
from backup.cli import base
from backup.cli.base import Json, Scheduled, Set, Wait
from backup.cli.render.set_tables import prune_lines, prune_table
from backup.logging import logger
from backup.operations import prune as operation

Forgotten = Annotated[
    str, typer.Option(metavar="NAME", help="Stop keeping the last sets of this volume, which left the stack.")
]
Ahead = Annotated[str, typer.Option(metavar="ID", help="Remove only this set, which is dated ahead of the clock.")]


def prune_command(
    invocation: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show why each set stays or goes; change nothing.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Remove all sets past retention, also those that wait for this option."),
    ] = False,
    make_room: Annotated[
        bool,
        typer.Option("--make-room", help="Clean up although the last backup failed or is old, for a full disk."),
    ] = False,
    server: Annotated[
        str,
        typer.Option(metavar="ID", help="Clean up the sets of another server instead, by its system identifier."),
    ] = "",
    forget_volume: Forgotten = "",
    ahead: Ahead = "",
    wait: Wait = 0.0,
    scheduled: Scheduled = False,
    as_json: Json = False,
) -> None:
    """Remove sets that are past retention. The newest good, proven, verified and pinned ones always stay.

    Examples: `prune --dry-run`, `prune`, `prune --force`, `prune --server 7396241105 --dry-run`,
    `prune --forget-volume ocr --dry-run`.
    """
    main = BackupVolume(base.prepare_command(as_json, kind="" if dry_run else "backup"))
    main.require_volume()
    rules = operation.retention_policy(main.settings)
    context = operation.PruneContext(catalog=main.catalog, records=main.records, lock=main.lock, policy=rules)
    request = operation.Request(
        force=force,
        make_room=make_room,
        server=server,
        forget_volume=forget_volume,
        ahead=ahead,
        wait=base.QUEUE if scheduled else wait,
        **base.occasion(invocation, scheduled)._asdict(),
    )
    now = datetime.now(UTC)
    report = operation.plan(request, context, now) if dry_run else operation.prune_sets(request, context)
    if as_json:
        base.print_json("cleanup", report, removed=[each.id for each in report.removed], dry_run=dry_run)
    elif dry_run:
        show_decisions(report.decisions, report.hold, now)
    if not dry_run:
        _tell(report)
    raise typer.Exit(report.exit_code)


def pin(
    which: Set,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why it is kept.")] = "",
    as_json: Json = False,
) -> None:
    """Keep a set whatever its age. Examples: `pin latest --reason "before the migration"`."""
    main = BackupVolume(base.prepare_command(as_json))
    main.require_volume()
    stored = main.catalog.find(which)
    main.catalog.pin(stored, reason, datetime.now(UTC))
    logger.success("{} is pinned: it is kept until `unpin {}`", stored.id, stored.id)
    if as_json:
        base.print_json("pin", set=stored.id, pinned=True)


def unpin(which: Set, as_json: Json = False) -> None:
    """Let the age of a set count again. Example: `unpin daily_2025-10-20_02-00-00`."""
    main = BackupVolume(base.prepare_command(as_json))
    main.require_volume()
    stored = main.catalog.find(which)
    if main.catalog.unpin(stored):
        logger.success("{} is no longer pinned: `prune --dry-run` shows whether it stays", stored.id)
    else:
        logger.info("{} was not pinned", stored.id)
    if as_json:
        base.print_json("pin", set=stored.id, pinned=False)


def show_decisions(decisions: Sequence[Decision], hold: str, now: datetime) -> None:
    """Print what a cleanup would do with each set."""
    base.show(lambda: prune_table(decisions, now, hold), lambda: prune_lines(decisions))


def _tell(report: operation.Report) -> None:
    if report.hold or report.waiting:
        logger.warning("{}", base.with_hint(report.words, report.hint))
    else:
        logger.success("{}", report.words)
