"""One backup: everything a run does between taking the lock and recording how it ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal

from backup import __version__, formatting
from backup.errors import BackupError
from backup.logging import logger
from backup.media import volumes
from backup.model.backup_set import filled_volumes, newest_good, present
from backup.model.manifest import INCREMENTAL_FORMAT, MANIFEST_FORMAT, STAMP, Manifest, Tier, file_name
from backup.model.run import Outcome, Run
from backup.monitoring import forecast
from backup.operations import runs
from backup.operations.create.context import CreateContext, Reached
from backup.operations.create.draft import SetDraft
from backup.operations.create.media import (
    KnownVolumes,
    archive_increment,
    archive_volume,
    as_before,
    excludes,
    own_directory,
)
from backup.operations.create.moment_media import take_media, with_media
from backup.operations.create.reach import reach, reach_again, went_away
from backup.operations.create.roles_reader import RolesReader
from backup.operations.create.verify_new import end_made, verify_made
from backup.operations.load_test import Dumped
from backup.operations.preemption import giving_way
from backup.operations.restore.locking import refuse_unfinished
from backup.operations.restore.replaced import note_lost
from backup.operations.watchdog import Watchdog, stuck
from backup.postgres.dump_source import PostgresSource
from backup.postgres.inspect import DatabaseFacts
from backup.storage.filesystem import ON_A_DISK, free_space, in_memory

Only = Literal["database", "media"]
_NEXT: Final = "Nothing was published; the next snapshot holds what this one would have."
_AGAIN: Final = "It was tried twice: `docker compose ps` and the database's log say why. Then run `create` again."
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
            done = verify_made(context, recording.run)
            dumped = Dumped(draft.definitions.script, draft.roles) if manifest.database else None
            return end_made(context, manifest, done, dumped)


def _giving_way(request: Request, context: CreateContext) -> AbstractContextManager[None]:
    return giving_way(context.catalog.root, hint=_NEXT) if request.snapshot else nullcontext()


def _make(request: Request, context: CreateContext, draft: SetDraft, undisturbed: ExitStack) -> Manifest | str:
    """The set that was published, or the id of the one that holds the same."""
    with runs.tidied(context.catalog), ExitStack() as stack, ExitStack() as connected:
        with draft.timed("prepare"):
            previous = newest_good(present(context.catalog.sets(), draft.started))
            before = previous.manifest if previous else None
            reached = None if request.only == "media" else _reach(request, context, draft, before, connected)
            known = KnownVolumes(context, full=request.full, snapshot=request.snapshot)
            found = _prepare_volumes(request, context, known)
            size = reached.facts.size if reached else None
            needed = forecast.next_set(before, size, {v.name: v.bytes for v in found})
            forecast.require_space(needed, free_space(context.catalog.root))
        if reached:
            stack.push(_database_twice(reached, context, draft, before))
        connected.close()
        if context.takes_media and context.origin:
            take_media(context, draft, stack)
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


def _reach(
    request: Request, context: CreateContext, draft: SetDraft, before: Manifest | None, connected: ExitStack
) -> Reached:
    """The database to dump. One of another moment makes a set of that moment."""
    if context.origin:
        reached = connected.enter_context(context.origin.reach(draft.run, context.progress))
        if reached.moment:
            draft.started, draft.id = reached.moment, context.catalog.new_id(request.tier, reached.moment)
        return reached
    context.progress.phase("querying the database")
    source, facts = reach(context, before, request.patience)
    note_lost(context.catalog.root, source.login)
    return Reached(source, facts)


def _prepare_volumes(request: Request, context: CreateContext, known: KnownVolumes) -> list[volumes.Volume]:
    if request.only == "database":
        return []
    context.progress.phase("measuring the volumes")
    # Without a database there would be nothing in the set.
    filled = None if request.only else filled_volumes(context.catalog.sets())
    return volumes.find_volumes(
        context.volumes,
        excludes(context),
        own_directory(context),
        context.allow_empty,
        filled,
        known.since if context.incremental else None,
    )


def _database_twice(reached: Reached, context: CreateContext, draft: SetDraft, before: Manifest | None) -> ExitStack:
    """The dump and the roles; once more, if the database went away meanwhile. What keeps their files open."""
    try:
        return _database_and_roles(reached, context, draft, before)
    except BackupError as error:
        if reached.recovered or not went_away(error):
            raise
        logger.warning("the database went away during the dump; looking it up once more: {}", error.message)
    draft.forget()
    try:
        return _database_and_roles(Reached(*reach_again(context, reached.facts)), context, draft, before)
    except BackupError as error:
        error.hint = f"{error.hint} {_AGAIN}".strip()
        raise


def _database_and_roles(
    reached: Reached, context: CreateContext, draft: SetDraft, before: Manifest | None
) -> ExitStack:
    source, facts = reached.source, reached.facts
    with ExitStack() as stack, RolesReader(partial(source.roles, facts, draft.run)) as roles:
        with draft.timed("database"):
            context.progress.phase("database", forecast.plain_dump(before, facts.size))
            _database(source, facts, context, draft, stack, roles.begin)
        with draft.timed("roles"):
            _roles(roles, context, draft, stack)
        if draft.database and reached.recovered:
            recovered = with_media(reached.recovered, reached, context, draft)
            draft.database = draft.database.model_copy(update={"recovered": recovered})
        return stack.pop_all()


def _database(
    source: PostgresSource,
    facts: DatabaseFacts,
    context: CreateContext,
    draft: SetDraft,
    stack: ExitStack,
    begun: Callable[[], None],
) -> None:
    def advance(count: int) -> None:
        if count:
            begun()
        context.progress.advance(count)

    file = file_name("backup", draft.id, "sql.gz")
    writer = stack.enter_context(draft.writer(context, file, "database"))
    writer.hashing = writer.encrypted
    draft.database, cutter = source.dump(facts, writer, draft.run, advance, draft.definitions)
    writer.plain_sha256 = cutter.sha256 if cutter else ""
    context.progress.phase("reading the dump back")
    dump = draft.take(writer)
    if cutter and (contents := cutter.contents(writer.marks, dump.stored_size)):
        file = file_name("backup", draft.id, "contents.gz")
        listing = stack.enter_context(draft.writer(context, file, "contents"))
        listing.write(contents.encode())
        draft.take(listing)


def _roles(roles: RolesReader, context: CreateContext, draft: SetDraft, stack: ExitStack) -> None:
    context.progress.phase("roles")
    file = file_name("roles", draft.id, "sql.gz")
    writer = stack.enter_context(draft.writer(context, file, "roles"))
    draft.roles = roles.read()
    writer.write(draft.roles.encode(errors="surrogateescape"))
    draft.take(writer)


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
