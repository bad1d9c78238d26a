"""Prove a copy: fetch it with nothing but the place, restore it into a throw-away server, dump that, compare."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from backup.model.backup_set import StoredSet, Verdict
from backup.model.run import Run, new_run_id
from backup.operations import runs
from backup.operations.create.draft import timed
from backup.operations.drill.messages import proven
from backup.operations.drill.run import DrillContext, prove
from backup.operations.offsite.context import OffsiteContext
from backup.operations.offsite.copy_status import DRILL
from backup.operations.offsite.fetch import temporarily
from backup.operations.offsite.model import Book


def drill(
    query: str,
    context: OffsiteContext,
    local: DrillContext,
    find: Callable[[Path], StoredSet],
    *,
    wait: float = 0.0,
    trigger: str = "manual",
    slot: datetime | None = None,
    slots: int = 0,
) -> tuple[StoredSet, Verdict]:
    """Fetch, verify and prove one copy, and record the run. The lock of the volume is held for the proof alone."""
    run = Run(
        id=new_run_id(context.clock()),
        operation=DRILL,
        trigger=trigger,
        slot=slot,
        slots=slots,
        started=context.clock(),
        set=query,
        place=context.place,
    )
    with runs.recorded_beside(context, run, f"{context.place}-drill", wait) as recording, ExitStack() as stack:
        with timed(recording.seconds, "fetch"):
            stored = stack.enter_context(temporarily(context, query, find))
        with runs.locked(local, run, wait):
            verdict = prove(stored, local, run.id, recording.seconds)
        context.book.change(lambda book: _proven(book, stored, context.clock()))
        recording.success = {
            "set": stored.id,
            "tier": str(stored.tier),
            "message": f"from {context.remote.name}, {proven(verdict)}",
        }
    return stored, verdict


def _proven(book: Book, stored: StoredSet, now: datetime) -> Book:
    """A copy that was fetched and restored has been read, too."""
    copy = book.copies.get(stored.id)
    if copy is None or stored.manifest is None or copy.run != stored.manifest.run:
        return book
    return book.with_copy(copy.model_copy(update={"proven": now, "read": now}))
