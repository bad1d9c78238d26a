"""Commands that prove sets by restoring them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from backup.app.composition import App
from backup.app.offsite import find_in, parse_place
from backup.app.places import primary
from backup.app.recovery import proof_context
from backup.cli import base
from backup.cli.base import IdentityOption, Image, Json, Scheduled, Trigger, Wait
from backup.errors import NotFound
from backup.logging import logger
from backup.model.backup_set import StoredSet, Verdict
from backup.operations.drill import run as drill_operation
from backup.operations.drill.run import proven
from backup.operations.offsite import fetch
from backup.operations.pitr.proof import proof_words, prove_window
from backup.operations.runs import Request

_QUEUE: Final = 12 * 3600.0


def drill_command(
    invocation: typer.Context,
    which: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID|FILE|latest|s3:ID]",
            help="A set, or files of one folder; default: the newest good set of each tier.",
            autocompletion=base.set_ids,
        ),
    ] = None,
    moments: Annotated[
        bool, typer.Option("--moments", help="The newest moment of point-in-time recovery instead of a set.")
    ] = False,
    image: Image = "",
    identity: IdentityOption = None,
    wait: Wait = 0.0,
    scheduled: Scheduled = False,
    trigger: Trigger = "",
    as_json: Json = False,
) -> None:
    """Prove sets: restore them into a throw-away server, dump that and compare. The live database is not touched.

    With BACKUP_PITR=on, the scheduled one also recovers the newest moment from base backup and WAL.

    Examples: `drill`, `drill latest`, `drill s3:latest`, `drill latest --identity /key.txt`, `drill --moments`.
    """
    main = App(base.prepare_command(as_json, kind="verify", identity=identity))
    main.require_volume()
    wait, occasion = _QUEUE if scheduled else wait, base.occasion(invocation, scheduled, trigger)
    if moments:
        if which:
            raise typer.BadParameter("--moments names no set")
        return _moments(main, wait, occasion)
    if which and len(which) == 1 and parse_place(which[0]):
        return _offsite(main, which[0], image, as_json, wait, occasion)
    catalog = main.catalog
    sets = [main.find(*which)] if which else drill_operation.newest_of_each_tier(catalog.sets(), datetime.now(UTC))
    of_window = scheduled and main.settings.pitr == "on"
    if not sets and not of_window:
        raise NotFound("there is no good set to drill yet", "`create` takes one now; `list` shows what is there.")
    tasks: list[Callable[[], None]] = [
        functools.partial(prove_sets, main, stored, image, as_json, wait, occasion) for stored in sets
    ]
    if of_window:
        tasks.append(lambda: _moments(main, wait, occasion))
    for _ in base.do_each(tasks, lambda task: task()):
        pass
    return None


def _moments(main: App, wait: float, occasion: base.Occasion) -> None:
    """Drill the window, and say how it went."""
    if occasion.slot and main.alone:
        logger.warning("the window is not drilled: without a Docker engine this machine brings no moment back")
        return
    request = Request(wait=wait, **occasion._asdict())
    with base.progress(as_json=False) as progress:
        context = proof_context(main, progress)
        proof = prove_window(request, context)
    logger.success("the window is proven: {}", proof_words(proof, context))


def _offsite(main: App, which: str, image: str, as_json: bool, wait: float, occasion: base.Occasion) -> None:
    """Drill a copy, with nothing but the place that it is at."""
    scheme, query = parse_place(which) or ("", which)
    with base.progress(as_json) as progress:
        context, local = primary(main, progress, scheme), main.drill_context(progress, image)
        if occasion.slot and not context.book.read().copies:
            logger.info("no copy is at {} yet: there is nothing to drill", context.remote.name)
            return
        if occasion.slot and context.encrypt and not main.settings.age_identity:
            logger.warning("the copies are encrypted and their key is not here, so this machine cannot drill them")
            return
        stored, verdict = fetch.drill_copy(
            query, context, local, lambda folder: find_in(main, folder), wait=wait, **occasion._asdict()
        )
    _tell(stored, verdict, as_json)


def prove_sets(
    main: App, stored: StoredSet, image: str, as_json: bool, wait: float = 0.0, occasion: base.Occasion = base.BY_HAND
) -> None:
    """Drill one set and say how it went."""
    with base.progress(as_json) as progress:
        verdict = drill_operation.drill_set(
            stored, main.drill_context(progress, image), wait=wait, **occasion._asdict()
        )
    _tell(stored, verdict, as_json)


def _tell(stored: StoredSet, verdict: Verdict, as_json: bool) -> None:
    if verdict.unchecked:
        logger.warning("{}: not checked: {}", stored.id, "; ".join(verdict.unchecked))
    files = verdict.proof.files if verdict.proof else None
    if files and files.missing:
        logger.warning("{}: files that rows refer to are missing in the media:", stored.id)
        for line in files.listed[:20]:
            logger.warning("  {}", line)
    logger.success("{} is proven: {}", stored.id, proven(verdict))
    if as_json:
        base.print_json("verdict", verdict, set=stored.id)
