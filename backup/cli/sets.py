"""Commands about sets: make one, list and verify them."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final

import typer

from backup import display
from backup.cli import base
from backup.cli.base import Identity, Json, Only, Set
from backup.cli.proofs import Image, prove
from backup.errors import BackupError, IntegrityError
from backup.log import logger
from backup.manifest import Tier
from backup.operations import backup as backup_operation
from backup.operations import verify as verify_operation
from backup.operations.restore.run import expire
from backup.progress import Silent
from backup.sets import SEALED, StoredSet
from backup.text import age, plural, printable, size
from backup.wiring import App
from backup.wiring_restore import shop as shop_for

_QUEUE: Final = 6 * 3600.0
# Long enough for a database that recovers from a crash, short enough to be told of one that does not come.
_PATIENCE: Final = 300.0


class MadeTier(StrEnum):
    """A tier that sets are made in by command; safety sets are made by restores alone."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    MANUAL = "manual"


def create(
    context: typer.Context,
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
    settings = base.prepare(as_json, kind="backup")
    main = App(settings)
    main.require_volume()
    occasion = base.occasion(context, scheduled)
    request = backup_operation.Request(
        tier=Tier(tier),
        only=only.value if only else None,
        trigger=trigger or occasion.trigger,
        slot=occasion.slot,
        slots=occasion.slots,
        wait=_QUEUE if scheduled else wait,
        patience=_PATIENCE if scheduled else 0.0,
    )
    with base.progress(as_json) as progress:
        run = backup_operation.create(request, main.workshop(progress))
    try:
        expire(shop_for(main, Silent()))
    except BackupError as error:
        logger.warning("what the last restore replaced could not be removed: {} {}", error.message, error.hint)
    if as_json:
        base.print_json(run.model_dump(mode="json"))
    if run.exit_code:
        logger.warning("{}: {} {}", run.outcome, run.message, run.hint)
    raise typer.Exit(run.exit_code)


def list_sets(
    tier: Annotated[Tier | None, typer.Argument(help="Only this tier.")] = None, as_json: Json = False
) -> None:
    """List the sets, newest first. Examples: `list`, `list weekly --json`."""
    settings = base.prepare(as_json)
    sets = App(settings).catalog.sets(tier)
    if as_json:
        return base.print_json([display.set_json(stored) for stored in sets])
    if not sets:
        # Not on stdout, where a script counts lines.
        return base.err.print(
            f"No {tier.value + ' ' if tier else ''}set is in {settings.root}."
            " `create` makes one, `import` takes some in, `offsite pull` fetches one.",
            markup=False,
            emoji=False,
        )
    if base.out.is_terminal:
        return base.out.print(display.sets_table(sets, datetime.now(UTC)))
    return base.print_lines(display.sets_lines(sets))


def verify(
    which: Set,
    quick: Annotated[bool, typer.Option("--quick", help="Compare the stored bytes alone, unpack nothing.")] = False,
    test_restore: Annotated[
        bool, typer.Option("--test-restore", help="Prove it too: restore it into a throw-away server. As `drill`.")
    ] = False,
    image: Image = "",
    identity: Identity = None,
    as_json: Json = False,
) -> None:
    """Read every stored byte of a set, unpack it, and compare all that it holds with its manifest.

    Examples: `verify latest`, `verify latest --quick`, `verify daily_2025-10-20_02-00-00 --test-restore`,
    `verify latest --identity /key.txt`.
    """
    main = App(base.identified(base.prepare(as_json, kind="verify"), identity))
    stored = main.find(which)
    if test_restore:
        main.require_volume()
        prove(main, stored, image, as_json)
        return
    with base.progress(as_json) as progress:
        verdict = verify_operation.verify(main.catalog, stored, progress, datetime.now(UTC), quick=quick)
    if as_json:
        base.print_json({"id": stored.id, **verdict.model_dump(mode="json")})
    if verdict.problems:
        found = "".join(f"\n  - {printable(problem)}" for problem in verdict.problems)
        raise IntegrityError(
            f"{stored.id} is damaged:{found}", "Do not restore it; `list` shows other sets, `create` takes a new one."
        )
    logger.success("{}: {}", stored.id, _checked(stored, verdict.unchecked))


def _checked(stored: StoredSet, unchecked: tuple[str, ...]) -> str:
    what = f"{plural(len(stored.files), 'file')}, {size(stored.size)}, {age(datetime.now(UTC) - stored.time)} old"
    if SEALED in unchecked:
        return f"every stored byte is as it was written ({what}). Not checked: {'; '.join(unchecked)}"
    if unchecked:
        return f"unpacks to its end ({what}). Not checked: {'; '.join(unchecked)}"
    return f"every byte is as it was written ({what})"
