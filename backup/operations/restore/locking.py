"""One at a time: the lock and the record of what changes the live data.

While a restore stands half way nothing else is done: a set made then would hold half of each state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from backup.errors import LockHeld
from backup.formatting import listed, printable
from backup.logging import logger
from backup.model.run import Run
from backup.operations import preemption, runs
from backup.operations.context import Context
from backup.operations.restore.journal import Journal, JournalFile, Kept, KeptFile, running, unfinished_refusal
from backup.storage import lock

# What a run that ends the restore of another one is called by the holder of the lock.
_RECOVER: Final = "recover "
LOOK: Final = "Wait for it to end, check what is live then, and decide again."
# A backup may have begun between the safety set and this.
RUN_WAIT: Final = 900.0
_CHANGING: Final = ("restore ", "undo ", "discard ", "recover ", "create pre-restore ")
_URGENT: Final = ("restore", "undo")
_DRILLS: Final = ("drill ", "offsite-drill ")


def unfinished_restore(root: Path) -> tuple[Journal, str] | None:
    """Find the restore that has not ended, and who is at work on it; empty when nobody is: then it stands half way.

    Journal and lock cannot be read at once. A restore notes its end before it lets go of the lock, so a journal that
    is the same after the lock was seen without it is one that nobody works on.
    """
    file = JournalFile(root)
    while journal := file.read():
        who = lock.holder(root / "state" / "lock") or ""
        at_it = who.startswith(_RECOVER) or lock.names(who, journal.run)
        if at_it or file.read() == journal:
            return journal, who if at_it else ""
    return None


def refuse_unfinished(root: Path, now: datetime) -> None:
    """Raise RestoreUnfinished while one stands half way, LockHeld while one is under way."""
    if found := unfinished_restore(root):
        journal, who = found
        if who:
            raise LockHeld(f"{running(journal, who)}; nothing was done", LOOK)
        raise unfinished_refusal(journal, now)


@contextlib.contextmanager
def recorded(context: Context, operation: str, name: str, only: str = "", said: Sequence[str] = ()) -> Iterator[Run]:
    """Hold the lock and record the run, with what the body has `said`.

    A backup is waited for; LockHeld for what changes the live data.
    """
    run = runs.Request().run(operation, context.clock(), only=only, set=name)
    with contextlib.ExitStack() as stack:
        try:
            modest = preemption.ask_holder(context.catalog.root, operation, behind)
            waiting = partial(first, context) if operation in _URGENT else modest
            stack.enter_context(runs.locked(context, run, RUN_WAIT, waiting))
        except LockHeld as error:
            hint = "Wait for it to end, or end it, then run this again." if "--wait" in error.hint else error.hint
            raise LockHeld(error.message, hint) from None
        recording = stack.enter_context(runs.recorded(context, run))
        yield run
        recording.success = {"message": listed(said, mark="; ")}


def require_alone(context: Context) -> None:
    """Raise LockHeld while another restore, or its safety set, is under way."""
    if who := lock.holder(context.lock):
        first(context, who)


def who_changes(root: Path) -> str:
    """Say who changes the live data now, or is about to; empty when nobody does."""
    who = lock.holder(root / "state" / "lock") or ""
    return f"another run is changing the live data: {who}" if who.startswith(_CHANGING) else ""


def require_undisturbed(context: Context) -> None:
    """Raise LockHeld while another run changes the live data; nobody is asked for anything."""
    if who := who_changes(context.catalog.root):
        raise LockHeld(f"{who}; nothing was done", LOOK)


def behind(who: str) -> None:
    """Say who is waited for; LockHeld when it changes the live data: nobody has agreed to what comes after that."""
    if who.startswith(_CHANGING):
        raise LockHeld(f"another run is changing the live data: {who}; nothing was done", LOOK)
    logger.info("waiting for another run to end: {}", who)


@contextlib.contextmanager
def looking(path: Path, what: str, run: str) -> Iterator[None]:
    """Hold the lock at `path` for a look that a person waits for: who gives way to all others is asked to end."""
    told = preemption.ask_holder(path.parent.parent, what, behind)
    with lock.hold(path, what, run, wait=RUN_WAIT, waiting=told):
        yield


def first(context: Context, who: str) -> None:
    """Wait as `behind`; but ask a drill, which touches nothing live, to end, and a backup that tries its set, too."""
    behind(who)
    if who.startswith(_DRILLS):
        logger.info("stopping the drill, because this goes first; a drill touches nothing live")
    if who.startswith((*_DRILLS, "create ")):
        preemption.ask(context.catalog.root, "a restore")


def kept_words(kept: Kept | None, zone: ZoneInfo) -> str:
    """Say what `undo` brings back."""
    if kept is None:
        return "what the last restore replaced"
    until = f"{kept.replaced.astimezone(zone):%Y-%m-%d %H:%M} ({zone.key})"
    return f"what was live until {until}, when the restore of {printable(kept.set)} or an undo replaced it"


def stamp(root: Path, run: Run) -> str:
    """Name the new state of a restore; otherwise than the state that is kept, however soon this follows."""
    moment, found = run.started, KeptFile(root).read()
    used = {found.id, *(volume.stamp for volume in found.volumes)} if found else set()
    while (name := f"{moment:%Y%m%d%H%M%S}") in used:
        moment += timedelta(seconds=1)
    return name


def require_unmoved(context: Context, seen: Kept | None) -> None:
    """Raise LockHeld when what is kept for undo is not what it was when a person agreed, `seen`."""
    found = KeptFile(context.catalog.root).read()
    # Whether its database can still come back is looked at anew by whoever needs it, and noted by the way.
    if (found and found.with_lost("")) != (seen and seen.with_lost("")):
        raise LockHeld("another restore or undo ended meanwhile, or what was kept was removed; nothing was done", LOOK)
