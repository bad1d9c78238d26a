"""One backup: everything a run does between taking the lock and recording how it ended."""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from backup import __version__, formatting
from backup.errors import MediaFailed
from backup.logging import logger
from backup.media import volumes
from backup.model.backup_set import StoredSet, filled_volumes, newest_good, present
from backup.model.manifest import INCREMENTAL_FORMAT, MANIFEST_FORMAT, STAMP, Manifest, Tier
from backup.model.run import Outcome, Run
from backup.monitoring import forecast
from backup.operations import runs
from backup.operations.create.context import CreateContext
from backup.operations.create.draft import SetDraft
from backup.operations.create.media import (
    KnownVolumes,
    archive_increment,
    archive_volume,
    as_before,
    excludes,
    own_directory,
)
from backup.operations.create.verify_new import end_made, verify_made
from backup.operations.preemption import giving_way
from backup.operations.restore.locking import refuse_unfinished
from backup.operations.watchdog import Watchdog, stuck
from backup.storage.filesystem import ON_A_DISK, free_space, in_memory

if TYPE_CHECKING:
    from backup.operations.create.database import DatabaseHalf

Only = Literal["database", "media"]
_NEXT: Final = "Nothing was published; the next snapshot holds what this one would have."
# A question about a silent dump is no sign of life, and may take so long.
LEAST: Final = 30.0


@dataclass(frozen=True)
class Request(runs.Request):
    """What to back up. `patience` are the seconds for which a starting database is waited for.

    `full`: where sets are incremental, this one needs no pack of an earlier one. A snapshot is of the media alone.
    """

    tier: Tier
    only: Only | None = None
    patience: float = 0.0
    full: bool = False

    @property
    def snapshot(self) -> bool:
        """Whether it gives way to all others, and makes no set where nothing has changed."""
        return self.tier is Tier.SNAPSHOT


def create_set(request: Request, context: CreateContext, least: float = LEAST) -> Run:
    """Make one set and record the run. Raises what made it fail, after recording that too.

    A snapshot that is as the set before names that instead of a set of its own.

    A disk that stands still is waited for `least` seconds, or twice the patience of the settings.
    """
    run = request.run("create", context.clock(), tier=request.tier, only=request.only or "")

    def ended(idle: float) -> None:
        # It has a set when that was published, and was being verified.
        known = recording.run
        runs.record_failure(context, known, stuck(idle, known.set), recording.seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    patience = max(2 * context.stall_timeout, least)
    # It may have queued for hours: a set is as old as its dump, not as its request.
    with runs.locked(context, run, request.wait, yielding=request.snapshot) as run:
        started = run.started
        with ExitStack() as undisturbed, runs.recorded(context, run) as recording, _giving_way(request, context):
            refuse_unfinished(context.catalog.root, started)
            identifier = context.catalog.new_id(request.tier, started)
            store, seconds = context.catalog.store(request.tier), recording.seconds
            draft = SetDraft(identifier, run.id, store, started, seconds=seconds)
            with draft.timed("total"), Watchdog(context.progress, patience, ended) as watched:
                manifest = _make(request, replace(context, progress=watched), draft, undisturbed)
            recording.success = _succeeded(manifest, in_memory(context.catalog.root))
        if isinstance(manifest, str):
            return recording.run
        with _giving_way(request, context), Watchdog(context.progress, patience, ended) as watched:
            context = replace(context, progress=watched)
            done = verify_made(context, recording.run, draft.written)
            return end_made(context, manifest, done, draft)


def _giving_way(request: Request, context: CreateContext) -> AbstractContextManager[None]:
    return giving_way(context.catalog.root, hint=_NEXT) if request.snapshot else nullcontext()


def _make(request: Request, context: CreateContext, draft: SetDraft, undisturbed: ExitStack) -> Manifest | str:
    """The set that was published, or the id of the one that holds the same."""
    with runs.tidied(context.catalog), ExitStack() as stack, ExitStack() as connected:
        with draft.timed("prepare"):
            # Under the lock no set comes or goes: they are read once, and handed on.
            sets = context.catalog.sets()
            previous = newest_good(present(sets, draft.started))
            before = previous.manifest if previous else None
            database = _database_half(request, context, draft, before, connected)
            known = KnownVolumes(context, sets, full=request.full, snapshot=request.snapshot)
            found = _prepare_volumes(request, context, sets, known)
            size = database.facts.size if database else None
            if request.snapshot and before and before.database:
                # It leaves the room that the next set takes.
                size = before.database.size
            needed = forecast.next_set(before, size, {v.name: v.bytes for v in found})
            forecast.require_space(needed, free_space(context.catalog.root))
        if database:
            stack.push(database.take())
        connected.close()
        if database:
            database.take_media(stack)
        for volume in found:
            with draft.timed(f"volume {volume.name}"):
                if context.incremental:
                    archive_increment(volume, known, context, draft, stack)
                else:
                    archive_volume(volume, context, draft, stack)
        if request.snapshot and (same := as_before(known, draft)):
            draft.discard()
            return same
        with draft.timed("publish"):
            manifest = _manifest(request, context, draft)
            undisturbed.enter_context(runs.undisturbed())
            context.catalog.publish(manifest, draft.staged, draft.new_packs)
    return manifest


def _database_half(
    request: Request, context: CreateContext, draft: SetDraft, before: Manifest | None, connected: ExitStack
) -> DatabaseHalf | None:
    if request.only == "media":
        return None
    # Who takes the media alone need not wait for the imports of engine and database.
    from backup.operations.create.database import reached_half  # noqa: PLC0415

    return reached_half(request.patience, request.tier, context, draft, before, connected)


def _prepare_volumes(
    request: Request, context: CreateContext, sets: list[StoredSet], known: KnownVolumes
) -> list[volumes.Volume]:
    if request.only == "database":
        return []
    context.progress.phase("measuring the volumes")
    # Without a database there would be nothing in the set; a snapshot is as the set before.
    filled = None if request.only and not request.snapshot else filled_volumes(sets)
    found = volumes.find_volumes(
        context.volumes,
        excludes(context),
        own_directory(context),
        context.allow_empty,
        filled,
        known.since if context.incremental else None,
    )
    if request.snapshot and not found:
        raise MediaFailed(
            f"no volume is mounted below {context.volumes}, so a snapshot would hold nothing; nothing was started",
            "Where there is no media at all, unset BACKUP_MEDIA_EVERY.",
        )
    return found


def _manifest(request: Request, context: CreateContext, draft: SetDraft) -> Manifest:
    started, ended = draft.started, context.clock()
    return Manifest(
        format=INCREMENTAL_FORMAT if context.incremental and draft.volumes else MANIFEST_FORMAT,
        id=draft.id,
        tier=request.tier,
        run=draft.run,
        started=started,
        ended=ended,
        started_local=started.astimezone(context.zone).strftime(STAMP),
        ended_local=ended.astimezone(context.zone).strftime(STAMP),
        zone=str(context.zone),
        product_version=__version__,
        artifacts=tuple(draft.artifacts),
        database=draft.database,
        volumes=tuple(draft.volumes),
        packs=tuple(draft.packs),
        named=draft.named,
    )


def _succeeded(manifest: Manifest | str, memory: str) -> dict[str, object]:
    """What is recorded of a set; `memory` says that it does not last, and is empty on a disk."""
    if isinstance(manifest, str):
        logger.info("nothing has changed since {}: no set is made", manifest)
        return {"set": manifest, "message": f"nothing has changed since {manifest}"}
    changed = sum(volume.changed_total for volume in manifest.volumes)
    files = f"{formatting.plural(changed, 'file')} changed while being read"
    said = [(files, f"`show {manifest.id}` lists them.")] if changed else []
    said += [(memory, ON_A_DISK)] if memory else []
    return {
        "outcome": Outcome.CHANGED if changed else Outcome.SUCCESS,
        "ended": manifest.ended,
        "set": manifest.id,
        "message": "; ".join(message for message, _ in said),
        "hint": " ".join(hint for _, hint in said),
        "exit_code": 3 if said else 0,
    }
