"""The command that makes sets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Final

import typer

from backup.app.creation import SetMaker
from backup.cli import base
from backup.cli.base import At, AtLsn, FromPlace, IdentityOption, Json, OnlyOption, Scheduled, Trigger, Wait
from backup.errors import BackupError, ConfigError, LockHeld
from backup.logging import logger
from backup.model.manifest import Tier
from backup.model.moment import Wanted
from backup.model.run import Outcome
from backup.operations.create import run as backup_operation
from backup.operations.create.context import CreateContext
from backup.operations.preemption import GaveWay
from backup.operations.restore.journal import KeptFile
from backup.progress import Progress, Silent

# Long enough for a database that recovers from a crash, short enough to be told of one that does not come.
_PATIENCE: Final = 300.0


class MadeTier(StrEnum):
    """A tier that sets are made in by command; safety sets are made by restores alone."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    MANUAL = "manual"
    SNAPSHOT = "snapshot"


def create_command(
    invocation: typer.Context,
    tier: Annotated[MadeTier, typer.Argument(help="Tier of the set.")] = MadeTier.MANUAL,
    only: Annotated[OnlyOption | None, typer.Option(help="Back up only the database or only the volumes.")] = None,
    at: At = "",
    at_lsn: AtLsn = "",
    place: FromPlace = "",
    full: Annotated[
        bool, typer.Option("--full", help="Archive every file anew, also where BACKUP_MEDIA=incremental.")
    ] = False,
    wait: Wait = 0.0,
    identity: IdentityOption = None,
    scheduled: Scheduled = False,
    trigger: Trigger = "",
    as_json: Json = False,
) -> None:
    """Make one complete set and read it back.

    With `--at` it is recovered from a base backup and WAL, without touching the live database, and is as old as that
    moment; with `--from s3` from those in the bucket. A `snapshot` is of the media alone, and incremental: it gives
    way to all other runs, and makes no set where nothing has changed.

    Examples: `create daily`, `create manual --only database`, `create --wait 600`, `create --at '10 minutes ago'`.
    """
    settings = base.prepare_command(as_json, kind="backup", identity=identity)
    main = SetMaker(settings)
    main.require_volume()
    wanted = base.wanted_moment(at, at_lsn, settings.zone, place)
    if wanted and (tier is not MadeTier.MANUAL or only is OnlyOption.MEDIA):
        raise typer.BadParameter("--at makes a manual set of the database alone")
    request = backup_operation.Request(
        tier=Tier(tier),
        only="database" if wanted else _half(main, tier, only, full=full),
        full=full,
        wait=base.QUEUE if scheduled and tier is not MadeTier.SNAPSHOT else wait,
        patience=_PATIENCE if scheduled else 0.0,
        **_occasion(base.occasion(invocation, scheduled, trigger), tier)._asdict(),
    )
    with _skipped(request.snapshot and scheduled), base.progress(as_json) as progress:
        with _context(main, progress, wanted, place, alone=only is not None) as context:
            run = backup_operation.create_set(request, context)
    try:
        _expire(main)
    except BackupError as error:
        logger.warning("what the last restore replaced could not be removed: {} {}", error.message, error.hint)
    if as_json:
        base.print_json("run", run)
    if run.outcome is Outcome.CHANGED:
        logger.warning("{}: {} {}", run.outcome, run.message, run.hint)
    raise typer.Exit(run.exit_code)


def _half(main: SetMaker, tier: MadeTier, only: OnlyOption | None, *, full: bool) -> backup_operation.Only | None:
    """Which half is asked for: a snapshot is one of the media, which wrong usage or settings are told of."""
    if tier is not MadeTier.SNAPSHOT:
        return only.value if only else None
    if full or only is OnlyOption.DATABASE:
        raise typer.BadParameter("a snapshot is of the media alone, and goes on from the set before")
    if main.settings.media != "incremental":
        raise ConfigError(
            "a snapshot needs BACKUP_MEDIA=incremental: a full set would hold all files each time",
            "`create manual --only media` makes a full one.",
        )
    return "media"


def _occasion(found: base.Occasion, tier: MadeTier) -> base.Occasion:
    """A snapshot is for no slot of its own: one that was skipped or gave way is not made up for."""
    return base.Occasion("schedule" if found.slot else found.trigger) if tier is MadeTier.SNAPSHOT else found


@contextlib.contextmanager
def _skipped(scheduled: bool) -> Iterator[None]:
    """A scheduled snapshot that finds another run at work, or gives way to one, is left to the next slot."""
    try:
        yield
    except (LockHeld, GaveWay) as error:
        if not scheduled:
            raise
        logger.info("no snapshot now: {}", error.message)
        raise typer.Exit from None


@contextlib.contextmanager
def _context(
    main: SetMaker, progress: Progress, wanted: Wanted | None, place: str, *, alone: bool
) -> Iterator[CreateContext]:
    """`alone`: of a moment, the database is all that is asked for."""
    context = main.create_context(progress)
    if wanted is None:
        yield context
        return
    # Who asks for no moment need not wait for its imports.
    from backup.app.recovery import moment_origin  # noqa: PLC0415

    with moment_origin(main.app, wanted, place, progress) as origin:
        yield replace(context, origin=origin, takes_media=context.takes_media and not alone)


def _expire(main: SetMaker) -> None:
    """Remove what a restore replaced and its days for `undo` are over; mostly there is nothing to import for."""
    if KeptFile(main.settings.root).read():
        from backup.app.restore import restore_context  # noqa: PLC0415
        from backup.operations.restore.run import expire  # noqa: PLC0415

        expire(restore_context(main.app, Silent()))
