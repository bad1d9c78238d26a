"""One at a time: the lock and the record of what changes the live data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from backup.errors import LockHeld
from backup.formatting import listed, printable
from backup.logging import logger
from backup.model.run import Run
from backup.operations import preemption, runs
from backup.operations.restore.context import RestoreContext
from backup.operations.restore.journal import Kept, KeptFile
from backup.operations.restore.unfinished import LOOK
from backup.storage import lock

# A backup may have begun between the safety set and this.
PATIENCE: Final = 900.0
_CHANGING: Final = ("restore ", "undo ", "discard ", "recover ", "create pre-restore ")
_URGENT: Final = ("restore", "undo")
_DRILLS: Final = ("drill ", "offsite-drill ")


@contextlib.contextmanager
def recorded(
    context: RestoreContext, operation: str, name: str, only: str = "", said: Sequence[str] = ()
) -> Iterator[Run]:
    """Hold the lock and record the run, with what the body has `said`.

    A backup is waited for; LockHeld for what changes the live data.
    """
    run = runs.Request().run(operation, context.clock(), only=only, set=name)
    with contextlib.ExitStack() as stack:
        try:
            modest = preemption.asking(context.catalog.root, operation, behind)
            waiting = partial(first, context) if operation in _URGENT else modest
            stack.enter_context(runs.locked(context, run, PATIENCE, waiting))
        except LockHeld as error:
            hint = "Wait for it to end, or end it, then run this again." if "--wait" in error.hint else error.hint
            raise LockHeld(error.message, hint) from None
        recording = stack.enter_context(runs.recorded(context, run))
        yield run
        recording.success = {"message": listed(said, mark="; ")}


def alone(context: RestoreContext) -> None:
    """LockHeld while another restore, or its safety set, is under way."""
    if who := lock.holder(context.lock):
        first(context, who)


def changing(root: Path) -> str:
    """In words, who changes the live data now, or is about to; empty when nobody does."""
    who = lock.holder(root / "state" / "lock") or ""
    return f"another run is changing the live data: {who}" if who.startswith(_CHANGING) else ""


def undisturbed(context: RestoreContext) -> None:
    """LockHeld while another run changes the live data; nobody is asked for anything."""
    if who := changing(context.catalog.root):
        raise LockHeld(f"{who}; nothing was done", LOOK)


def behind(who: str) -> None:
    """Say who is waited for; LockHeld when it changes the live data: nobody has agreed to what comes after that."""
    if who.startswith(_CHANGING):
        raise LockHeld(f"another run is changing the live data: {who}; nothing was done", LOOK)
    logger.info("waiting for another run to end: {}", who)


def first(context: RestoreContext, who: str) -> None:
    """As `behind`; but a drill, which touches nothing live, is asked to end, and a backup that tries its set, too."""
    behind(who)
    if who.startswith(_DRILLS):
        logger.info("the drill is asked to end, since this goes first; it touches nothing live")
    if who.startswith((*_DRILLS, "create ")):
        preemption.ask(context.catalog.root, "a restore")


def kept_words(kept: Kept | None, zone: ZoneInfo) -> str:
    """In words, what `undo` brings back."""
    if kept is None:
        return "what the last restore replaced"
    until = f"{kept.replaced.astimezone(zone):%Y-%m-%d %H:%M} ({zone.key})"
    return f"what was live until {until}, when the restore of {printable(kept.set)} or an undo replaced it"


def stamp(root: Path, run: Run) -> str:
    """A name for the new state of a restore; another one than the state has that is kept, however soon this follows."""
    moment, found = run.started, KeptFile(root).read()
    used = {found.id, *(volume.stamp for volume in found.volumes)} if found else set()
    while (name := f"{moment:%Y%m%d%H%M%S}") in used:
        moment += timedelta(seconds=1)
    return name


def unmoved(context: RestoreContext, seen: Kept | None) -> None:
    """LockHeld when what is kept for undo is not what it was when a person agreed, `seen`."""
    found = KeptFile(context.catalog.root).read()
    # Whether its database can still come back is looked at anew by whoever needs it, and noted by the way.
    if (found and found.with_lost("")) != (seen and seen.with_lost("")):
        raise LockHeld(
            "another restore or undo has ended meanwhile, or what was kept was removed; nothing was done", LOOK
        )
