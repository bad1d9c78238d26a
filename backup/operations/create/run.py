"""One backup: everything a run does between taking the lock and recording how it ended."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from backup import __version__, formatting
from backup.docker.translate_errors import Gone
from backup.errors import BackupError, ConfigError, DatabaseNotYet, DatabaseUnavailable, DumpFailed, EngineError
from backup.formatting import printable
from backup.logging import logger
from backup.media import volumes
from backup.model.backup_set import filled_volumes, newest_good, present
from backup.model.manifest import INCREMENTAL_FORMAT, MANIFEST_FORMAT, STAMP, Manifest, Tier, file_name
from backup.model.run import Outcome, Run
from backup.monitoring import forecast
from backup.operations import runs
from backup.operations.create.context import CreateContext
from backup.operations.create.draft import SetDraft
from backup.operations.create.media import (
    KnownVolumes,
    archive_increment,
    archive_volume,
    excludes,
    own_directory,
)
from backup.operations.create.verify_new import end_made, verify_made
from backup.operations.load_test import Dumped
from backup.operations.restore.locking import refuse_unfinished
from backup.operations.restore.replaced import note_lost
from backup.operations.watchdog import Watchdog, stuck
from backup.postgres.dump_source import PostgresSource
from backup.postgres.inspect import DatabaseFacts
from backup.storage.filesystem import ON_A_DISK, free_space, in_memory

Only = Literal["database", "media"]
_AGAIN: Final = "It was tried twice: `docker compose ps` and the database's log say why. Then run `create` again."
# A question about a silent dump is no sign of life, and may take so long.
LEAST: Final = 30.0
# For a database that went away, such as one that Compose makes anew.
_RETURN: Final = 60.0
_RETRY: Final = 5.0
_SWEEP_FAILED: Final = "what an earlier run left in the database could not be removed: {}"
# What clients and the engine say of a server or a container that was stopped, restarted or made anew.
_WENT: Final = (
    *("server closed the connection", "terminating connection", "connection is lost", "Connection refused"),
    *("is shutting down", "is starting up", "in recovery mode", "is not running", "non running container"),
)


@dataclass(frozen=True)
class Request(runs.Request):
    """What to back up. `patience` are the seconds for which a starting database is waited for.

    `full`: where sets are incremental, this one needs no pack of an earlier one.
    """

    tier: Tier
    only: Only | None = None
    patience: float = 0.0
    full: bool = False


def create_set(request: Request, context: CreateContext, least: float = LEAST) -> Run:
    """Make one set and record the run. Raises what made it fail, after recording that too.

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
    with runs.locked(context, run, request.wait) as run:
        started = run.started
        with ExitStack() as undisturbed, runs.recorded(context, run) as recording:
            refuse_unfinished(context.catalog.root, started)
            identifier = context.catalog.new_id(request.tier, started)
            draft = SetDraft(identifier, run.id, context.catalog.store(request.tier), seconds=recording.seconds)
            with draft.timed("total"), Watchdog(context.progress, patience, ended) as watched:
                manifest = _make(request, replace(context, progress=watched), draft, started, undisturbed)
            recording.success = _succeeded(manifest, in_memory(context.catalog.root))
        with Watchdog(context.progress, patience, ended) as watched:
            context = replace(context, progress=watched)
            done = verify_made(context, recording.run)
            dumped = Dumped(draft.definitions.script, draft.roles) if manifest.database else None
            return end_made(context, manifest, done, dumped)


def _make(
    request: Request, context: CreateContext, draft: SetDraft, started: datetime, undisturbed: ExitStack
) -> Manifest:
    with draft.timed("prepare"):
        previous = newest_good(present(context.catalog.sets(), started))
        before = previous.manifest if previous else None
        source, facts = None, None
        if request.only != "media":
            context.progress.phase("querying the database")
            source, facts = _reach(context, before, request.patience)
            note_lost(context.catalog.root, source.login)
        known = KnownVolumes(context, full=request.full)
        found = _prepare_volumes(request, context, known)
        needed = forecast.next_set(before, facts.size if facts else None, {v.name: v.bytes for v in found})
        forecast.require_space(needed, free_space(context.catalog.root))
    with runs.tidied(context.catalog), ExitStack() as stack:
        if source and facts:
            stack.push(_database_twice(source, facts, context, draft, before))
        for volume in found:
            with draft.timed(f"volume {volume.name}"):
                if context.incremental:
                    archive_increment(volume, known.of(volume.name), context, draft, stack)
                else:
                    archive_volume(volume, context, draft, stack)
        with draft.timed("publish"):
            manifest = _manifest(request, context, draft, started)
            undisturbed.enter_context(runs.undisturbed())
            context.catalog.publish(manifest, draft.staged, draft.new_packs)
    return manifest


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
        known.untouched if context.incremental else None,
    )


def _database_twice(
    source: PostgresSource, facts: DatabaseFacts, context: CreateContext, draft: SetDraft, before: Manifest | None
) -> ExitStack:
    """The dump and the roles; once more, if the database went away meanwhile. What keeps their files open."""
    try:
        return _database_and_roles(source, facts, context, draft, before)
    except BackupError as error:
        if not _went_away(error):
            raise
        logger.warning("the database went away during the dump; looking it up once more: {}", error.message)
    draft.forget()
    try:
        return _database_and_roles(*_reach_again(context, facts), context, draft, before)
    except BackupError as error:
        error.hint = f"{error.hint} {_AGAIN}".strip()
        raise


def _database_and_roles(
    source: PostgresSource, facts: DatabaseFacts, context: CreateContext, draft: SetDraft, before: Manifest | None
) -> ExitStack:
    with ExitStack() as stack:
        with draft.timed("database"):
            _database(source, facts, context, draft, stack, forecast.plain_dump(before, facts.size))
        with draft.timed("roles"):
            _roles(source, facts, context, draft, stack)
        return stack.pop_all()


def _database(
    source: PostgresSource,
    facts: DatabaseFacts,
    context: CreateContext,
    draft: SetDraft,
    stack: ExitStack,
    total: int | None,
) -> None:
    context.progress.phase("database", total)
    file = file_name("backup", draft.id, "sql.gz")
    writer = stack.enter_context(draft.writer(context, file, "database"))
    writer.hashing = writer.encrypted
    draft.database, cutter = source.dump(facts, writer, draft.run, context.progress.advance, draft.definitions)
    writer.plain_sha256 = cutter.sha256 if cutter else ""
    context.progress.phase("reading the dump back")
    dump = draft.take(writer)
    if cutter and (contents := cutter.contents(writer.marks, dump.stored_size)):
        file = file_name("backup", draft.id, "contents.gz")
        listing = stack.enter_context(draft.writer(context, file, "contents"))
        listing.write(contents.encode())
        draft.take(listing)


def _roles(
    source: PostgresSource, facts: DatabaseFacts, context: CreateContext, draft: SetDraft, stack: ExitStack
) -> None:
    context.progress.phase("roles")
    file = file_name("roles", draft.id, "sql.gz")
    writer = stack.enter_context(draft.writer(context, file, "roles"))
    draft.roles = source.roles(facts, writer, draft.run)
    draft.take(writer)


def _manifest(request: Request, context: CreateContext, draft: SetDraft, started: datetime) -> Manifest:
    ended = context.clock()
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
    )


def _succeeded(manifest: Manifest, memory: str) -> dict[str, object]:
    """What is recorded of a set; `memory` says that it does not last, and is empty on a disk."""
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


def _went_away(error: BackupError) -> bool:
    """Whether a dump failed because the database was stopped, restarted or made anew meanwhile."""
    if isinstance(error, (Gone, DatabaseNotYet)):
        return True
    return isinstance(error, (DumpFailed, EngineError)) and any(words in error.message for words in _WENT)


def _reach(
    context: CreateContext, before: Manifest | None, patience: float, waited: type[BackupError] = DatabaseNotYet
) -> tuple[PostgresSource, DatabaseFacts]:
    """The database and what it says, once it answers; what dead runs left at it is swept. `before` is the last set.

    An error of the kind `waited` is waited for up to `patience` seconds, any other is raised at once.
    """
    source, facts = _answering(context, patience, waited)
    logger.info("backing up the database by {}", source.clients.way)
    try:
        source.sweep()
    except BackupError as error:
        logger.warning(_SWEEP_FAILED, error.message)
    last = before.database if before else None
    if last and last.system_identifier != facts.system_identifier:
        logger.warning(
            "this is not the database server of the last set (system identifier {} instead of {})",
            facts.system_identifier,
            last.system_identifier,
        )
    return source, facts


def _reach_again(context: CreateContext, facts: DatabaseFacts) -> tuple[PostgresSource, DatabaseFacts]:
    """The database that `facts` are of, after it went away; DumpFailed when another one has taken its place."""
    # While Compose makes a container anew there is none, or there are two, by that name: no fault of the settings.
    try:
        source, now = _reach(context, None, min(_RETURN, context.stall_timeout), BackupError)
    except ConfigError as error:
        raise DatabaseUnavailable(error.message, error.hint) from error
    if (now.system_identifier, now.oid) != (facts.system_identifier, facts.oid):
        raise DumpFailed(
            f"{printable(facts.name)} was replaced by another database during the dump (system identifier"
            f" {now.system_identifier}, oid {now.oid}, instead of {facts.system_identifier}, {facts.oid}). Nothing"
            " was published",
            "If that was on purpose, `create` makes a set of the new one.",
        )
    return source, now


def _answering(
    context: CreateContext, patience: float, waited: type[BackupError]
) -> tuple[PostgresSource, DatabaseFacts]:
    """A stack that has just been started needs a moment."""
    deadline = time.monotonic() + patience
    while True:
        try:
            source = context.source()
            return source, source.inspect()
        except waited as error:
            if time.monotonic() >= deadline:
                raise
            logger.info("waiting for the database: {}", error.message)
            time.sleep(_RETRY)
