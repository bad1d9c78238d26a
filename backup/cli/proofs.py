"""Commands that prove sets by restoring them."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from backup.cli import base
from backup.cli.base import Json
from backup.errors import BackupError, NotFound
from backup.log import logger
from backup.operations import drill as drill_operation
from backup.sets import StoredSet, Verdict
from backup.wiring import App

_QUEUE: Final = 12 * 3600.0

Image = Annotated[str, typer.Option(metavar="IMAGE", help="Database image to restore into; default: the set's own.")]


def drill(
    context: typer.Context,
    which: Annotated[
        str, typer.Argument(metavar="[ID|FILE|latest]", help="A set; without one, the newest good set of each tier.")
    ] = "",
    image: Image = "",
    wait: Annotated[float, typer.Option(help="Seconds to queue behind another run.", min=0)] = 0.0,
    scheduled: Annotated[bool, typer.Option("--scheduled", hidden=True)] = False,
    as_json: Json = False,
) -> None:
    """Prove sets: restore them into a throw-away server, dump that again, compare. The live database is not touched.

    Examples: `drill`, `drill latest`, `drill daily_2025-10-20_02-00-00`.
    """
    main = App(base.prepare(as_json, kind="verify"))
    main.require_volume()
    catalog = main.catalog
    sets = [main.find(which)] if which else drill_operation.newest_of_each_tier(catalog.sets())
    if not sets:
        raise NotFound("there is no good set to prove yet", "`create` takes one now; `list` shows what is there.")
    patience = _QUEUE if scheduled else wait
    failed = None
    for stored in sets:
        try:
            prove(main, stored, image, as_json, patience, base.occasion(context, scheduled))
        except BackupError as error:
            # The others are proven all the same; the last error is the command's.
            if failed:
                logger.error("{} {}", failed.message, failed.hint)
            failed = error
    if failed:
        raise failed


def prove(
    main: App, stored: StoredSet, image: str, as_json: bool, wait: float = 0.0, occasion: base.Occasion = base.BY_HAND
) -> Verdict:
    """Drill one set and say how it went."""
    with base.progress(as_json) as progress:
        shop, (trigger, slot, slots) = main.drill_shop(progress, image), occasion
        verdict = drill_operation.drill(stored, shop, trigger=trigger, wait=wait, slot=slot, slots=slots)
    if verdict.unchecked:
        logger.warning("{}: not checked: {}", stored.id, "; ".join(verdict.unchecked))
    files = verdict.proof.files if verdict.proof else None
    if files and files.missing:
        logger.warning("{}: files that rows name are not in the media:", stored.id)
        for line in files.listed[:20]:
            logger.warning("  {}", line)
    logger.success("{} is proven: {}", stored.id, drill_operation.proven(verdict))
    if as_json:
        base.print_json({"id": stored.id, **verdict.model_dump(mode="json")})
    return verdict
