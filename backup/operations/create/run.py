"""One backup: everything a run does between taking the lock and recording how it ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal
from zoneinfo import ZoneInfo

from backup import __version__, formatting
from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.errors import BackupError
from backup.logging import logger
from backup.media import archive_tree, volumes
from backup.model.backup_set import StoredSet, filled_volumes, newest_good, present
from backup.model.manifest import STAMP, Change, Manifest, Tier, VolumePart, file_name
from backup.model.run import Outcome, Run, new_run_id
from backup.monitoring import forecast
from backup.operations import runs
from backup.operations.create.draft import Draft
from backup.operations.create.reach_database import reach, reach_again, went_away
from backup.operations.create.verify_new import end_made, verify_made
from backup.operations.load_test import Dumped
from backup.operations.restore.replaced import note_lost
from backup.operations.restore.unfinished import refuse_unfinished
from backup.operations.watchdog import Watchdog
from backup.pipeline.age import Recipient
from backup.postgres import Facts
from backup.postgres.dump_source import PostgresSource
from backup.postgres.scratch_place import Places
from backup.progress import Progress
from backup.storage.artifact_writer import ArtifactWriter
from backup.storage.errors import ON_A_DISK, free_space, in_memory, storing

Only = Literal["database", "media"]
_AGAIN: Final = "It was tried twice: `docker compose ps` and the database's log say why; then `create` makes a set."
# A question about a silent dump is no sign of life, and may take so long.
LEAST: Final = 30.0


@dataclass(frozen=True)
class Request:
    """What to back up, `slot` and `slots` as in Run. `wait` to queue, `patience` for a starting database: seconds."""

    tier: Tier
    only: Only | None = None
    trigger: str = "manual"
    wait: float = 0.0
    patience: float = 0.0
    slot: datetime | None = None
    slots: int = 0


@dataclass(frozen=True)
class Workshop:
    """What a backup works with. `source` connects when called, so that its failure is the run's.

    `places` decides where a set is tried.

    A volume that stands still for twice `stall_timeout` seconds, but half a minute at least, ends the run.
    `recipients`: what to encrypt to.
    """

    catalog: Catalog
    records: Records
    lock: Path
    zone: ZoneInfo
    volumes: Path
    excludes: Sequence[str]
    allow_empty: Sequence[str]
    compression: int
    stall_timeout: float
    source: Callable[[], PostgresSource]
    places: Callable[[StoredSet], Places]
    progress: Progress
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    recipients: Sequence[Recipient] = ()


def create(request: Request, shop: Workshop, least: float = LEAST) -> Run:
    """Make one set and record the run. Raises what made it fail, after recording that too.

    A disk that stands still is waited for `least` seconds, or twice the patience of the settings.
    """
    started = shop.clock()
    run = Run(
        id=new_run_id(started),
        operation="create",
        tier=request.tier,
        trigger=request.trigger,
        only=request.only or "",
        slot=request.slot,
        slots=request.slots,
        started=started,
    )

    def stuck(idle: float) -> None:
        # It has a set when that was published, and was being verified.
        known = recording.run
        runs.record(shop.records, runs.failed(known, runs.stuck(idle, known.set), shop.clock(), recording.seconds))
        os.kill(os.getpid(), signal.SIGKILL)

    patience = max(2 * shop.stall_timeout, least)
    with runs.locked(shop, run, request.wait):
        # It may have queued for hours: a set is as old as its dump, not as its request.
        started = shop.clock()
        run = run.model_copy(update={"started": started})
        with ExitStack() as undisturbed, runs.recorded(shop, run) as recording:
            refuse_unfinished(shop.catalog.root, started)
            identifier = shop.catalog.new_id(request.tier, started)
            draft = Draft(identifier, run.id, shop.catalog.store(request.tier), seconds=recording.seconds)
            with draft.timed("total"), Watchdog(shop.progress, patience, stuck) as watched:
                manifest = _make(request, replace(shop, progress=watched), draft, started, undisturbed)
            recording.success = _succeeded(manifest, in_memory(shop.catalog.root))
        with Watchdog(shop.progress, patience, stuck) as watched:
            done = verify_made(shop.catalog, shop.records, recording.run, watched, shop.clock)
            dumped = Dumped(draft.definitions.script, draft.roles) if manifest.database else None
            return end_made(replace(shop, progress=watched), manifest, done, dumped)


def _make(request: Request, shop: Workshop, draft: Draft, started: datetime, undisturbed: ExitStack) -> Manifest:
    with draft.timed("prepare"):
        previous = newest_good(present(shop.catalog.sets(), started))
        before = previous.manifest if previous else None
        source, facts = None, None
        if request.only != "media":
            shop.progress.phase("asking the database")
            source, facts = reach(shop, before, request.patience)
            note_lost(shop.catalog.root, source.login)
        found = _prepare_volumes(request, shop)
        needed = forecast.next_set(before, facts.size if facts else None, {v.name: v.bytes for v in found})
        forecast.require(needed, free_space(shop.catalog.root))
    with runs.tidied(shop.catalog), ExitStack() as stack:
        if source and facts:
            stack.push(_database_twice(source, facts, shop, draft, before))
        for volume in found:
            with draft.timed(f"volume {volume.name}"):
                _volume(volume, shop, draft, stack)
        with draft.timed("publish"):
            manifest = _manifest(request, shop, draft, started)
            undisturbed.enter_context(runs.undisturbed())
            shop.catalog.publish(manifest, draft.staged)
    return manifest


def _prepare_volumes(request: Request, shop: Workshop) -> list[volumes.Volume]:
    if request.only == "database":
        return []
    shop.progress.phase("measuring the volumes")
    # Without a database there would be nothing in the set.
    filled = None if request.only else filled_volumes(shop.catalog.sets())
    return volumes.find(shop.volumes, _excludes(shop), _own_directory(shop), shop.allow_empty, filled)


def _database_twice(
    source: PostgresSource, facts: Facts, shop: Workshop, draft: Draft, before: Manifest | None
) -> ExitStack:
    """The dump and the roles; once more, if the database went away meanwhile. What keeps their files open."""
    try:
        return _database_and_roles(source, facts, shop, draft, before)
    except BackupError as error:
        if not went_away(error):
            raise
        logger.warning("the database went away while it was dumped, and is looked up once more: {}", error.message)
    draft.forget()
    try:
        return _database_and_roles(*reach_again(shop, facts), shop, draft, before)
    except BackupError as error:
        error.hint = f"{error.hint} {_AGAIN}".strip()
        raise


def _database_and_roles(
    source: PostgresSource, facts: Facts, shop: Workshop, draft: Draft, before: Manifest | None
) -> ExitStack:
    with ExitStack() as stack:
        with draft.timed("database"):
            _database(source, facts, shop, draft, stack, forecast.plain_dump(before, facts.size))
        with draft.timed("roles"):
            _roles(source, facts, shop, draft, stack)
        return stack.pop_all()


def _database(
    source: PostgresSource, facts: Facts, shop: Workshop, draft: Draft, stack: ExitStack, total: int | None
) -> None:
    shop.progress.phase("database", total)
    file = file_name("backup", draft.id, "sql.gz")
    writer = stack.enter_context(_writer(shop, draft, file, "database"))
    draft.database = source.dump(facts, writer, draft.run, shop.progress.advance, draft.definitions)
    shop.progress.phase("reading the dump back")
    draft.take(writer)


def _writer(
    shop: Workshop, draft: Draft, file: str, kind: Literal["database", "roles", "volume", "index"], name: str = ""
) -> ArtifactWriter:
    return ArtifactWriter(draft.store, file, kind, name, shop.compression, shop.recipients)


def _roles(source: PostgresSource, facts: Facts, shop: Workshop, draft: Draft, stack: ExitStack) -> None:
    shop.progress.phase("roles")
    file = file_name("roles", draft.id, "sql.gz")
    writer = stack.enter_context(_writer(shop, draft, file, "roles"))
    draft.roles = source.roles(facts, writer, draft.run)
    draft.take(writer)


def _volume(volume: volumes.Volume, shop: Workshop, draft: Draft, stack: ExitStack) -> None:
    shop.progress.phase(f"volume {volume.name}", volume.bytes)
    name = volume.name
    archive, index = (file_name(name, draft.id, suffix) for suffix in ("tar.gz", "files.gz"))
    writer = stack.enter_context(_writer(shop, draft, archive, "volume", name))
    listing = stack.enter_context(_writer(shop, draft, index, "index", name))
    report = archive_tree.archive(
        volume.path,
        name,
        writer,
        listing,
        excludes=_excludes(shop),
        forbidden=_own_directory(shop),
        progress=shop.progress.advance,
    )
    shop.progress.phase(f"reading the archive of {name} back")
    draft.take(writer)
    draft.take(listing)
    draft.volumes.append(
        VolumePart(
            name=name,
            files=report.files,
            directories=report.directories,
            links=report.links,
            hard_links=report.hard_links,
            bytes=report.bytes,
            excludes=tuple(_excludes(shop)),
            changed=tuple(Change(path=c.path, what=c.what) for c in report.changed),
            changed_total=report.changed_total,
            skipped=tuple(Change(path=c.path, what=c.what) for c in report.skipped),
            skipped_total=report.skipped_total,
        )
    )


def _manifest(request: Request, shop: Workshop, draft: Draft, started: datetime) -> Manifest:
    ended = shop.clock()
    return Manifest(
        id=draft.id,
        tier=request.tier,
        run=draft.run,
        started=started,
        ended=ended,
        started_local=started.astimezone(shop.zone).strftime(STAMP),
        ended_local=ended.astimezone(shop.zone).strftime(STAMP),
        zone=str(shop.zone),
        product_version=__version__,
        artifacts=tuple(draft.artifacts),
        database=draft.database,
        volumes=tuple(draft.volumes),
    )


def _excludes(shop: Workshop) -> list[str]:
    return [*archive_tree.DEFAULT_EXCLUDES, *shop.excludes]


def _own_directory(shop: Workshop) -> frozenset[tuple[int, int]]:
    with storing(shop.catalog.root):
        found = shop.catalog.root.stat()
    return frozenset({(found.st_dev, found.st_ino)})


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
