"""Settings → what brings back the database of a moment."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from backup.app.composition import App
from backup.app.places import primary
from backup.catalog.wal_archive import WalArchive
from backup.docker.database_server import place_of
from backup.docker.engine import Engine, spool_mount
from backup.errors import BackupError, ConfigError, EngineError, NotFound
from backup.formatting import printable
from backup.logging import logger
from backup.model.backup_set import newest_good, present
from backup.model.deletion import TableFile
from backup.model.manifest import DatabasePart, Preload
from backup.model.moment import Wanted
from backup.model.run import new_run_id
from backup.model.wal import Base, lsn
from backup.operations.offsite.context import OffsiteContext
from backup.operations.pitr.base_choice import Cluster
from backup.operations.pitr.comparison import Night
from backup.operations.pitr.deletions import SearchContext
from backup.operations.pitr.proof import ProofContext
from backup.operations.pitr.pull import newest_database_there, remote_clusters
from backup.operations.pitr.recover import RecoveredOrigin, await_wal, find_moment, local_clusters
from backup.operations.pitr.window_reader import read_window
from backup.operations.restore.journal import Kept
from backup.operations.restore.physical import Physical
from backup.operations.temporary import temporary_folder
from backup.postgres.clients import HelperClients
from backup.postgres.recovery import RecoveryPlaces
from backup.postgres.table_files import table_files
from backup.progress import Progress

NEEDS_ENGINE: Final = (
    "Mount the Docker socket of this machine, or bring it back from copies offsite on one that has an engine (the"
    " option --from s3)."
)


def recovered_origin(app: App, wanted: Wanted) -> RecoveredOrigin:
    """Find what brings that back, and where it is to be done. NotFound, ConfigError, EngineError."""
    if wanted.moment:
        await_wal(app.settings.root, wanted.moment, lambda: datetime.now(UTC))
    return _origin(app, wanted, local_clusters(app.settings.root), None)


@contextlib.contextmanager
def moment_origin(app: App, wanted: Wanted, place: str, progress: Progress) -> Iterator[RecoveredOrigin]:
    """The same for the body; from a `place` of copies, where one is named. Of what is here nothing is used then."""
    if not place:
        yield recovered_origin(app, wanted)
        return
    context = primary(app, progress, place)
    with temporary_folder(app.settings.root, new_run_id(datetime.now(UTC)), "fetch") as folder:
        yield _origin(app, wanted, remote_clusters(context, folder), context)


def physical(app: App, wanted: Wanted, kept: Kept | None) -> Physical:
    """What restores the whole cluster of a moment. NotFound; ConfigError where its volume cannot be worked on."""
    origin = recovered_origin(app, wanted)
    engine = origin.places.engine
    if app.settings.db_host and not engine.has(app.settings.db_host, app.surroundings(engine)[1]):
        raise ConfigError(
            "the database server is no container of this engine, so its data cannot be exchanged; nothing was touched",
            "Leave out --physical: then the database is restored over the network.",
        )
    live = app.database_container(engine)
    return Physical(origin, place_of(engine, live), live.image, kept)


def proof_context(app: App, progress: Progress) -> ProofContext:
    """What a drill of the window works with: the newest moment that can be had. NotFound while there is none."""

    def origin() -> RecoveredOrigin:
        found = read_window(app.settings, app.settings.root, datetime.now(UTC)).spans
        if not found:
            raise NotFound(
                "there is no moment that could be brought back yet, so there is nothing to drill",
                "`moments` says what there is; BACKUP_PITR=on receives WAL.",
            )
        return recovered_origin(app, Wanted(moment=found[-1].end))

    return ProofContext(
        catalog=app.catalog,
        records=app.records,
        lock=app.lock,
        progress=progress,
        origin=origin,
        nights=lambda: _nights(app, datetime.now(UTC)),
    )


def _nights(app: App, now: datetime) -> Iterator[Night]:
    """The good sets that were dumped within the window and noted what they saw, newest first."""
    found = read_window(app.settings, app.settings.root, now).spans
    for stored in sorted(present(app.catalog.sets(), now), key=lambda each: (each.time, each.id), reverse=True):
        if not stored.good or stored.safety or not any(span.may_hold(stored.time) for span in found):
            continue
        part = stored.manifest.database
        if part is None or part.snapshot is None:
            continue
        snapshot = part.snapshot
        try:
            origin = recovered_origin(app, Wanted(place=lsn(snapshot.place), seen=snapshot.seeing()))
        except (NotFound, ValueError):
            continue
        base, database = origin.moment.base, origin.moment.database
        recovered = (base.system_identifier, base.timeline, database)
        # After another state was put back on the server, its places and numbers may mean something else. A set's time
        # is a whole second, in which its base may have ended.
        until = stored.time + timedelta(seconds=1)
        if recovered == (part.system_identifier, snapshot.timeline, part.name) and base.ended < until:
            yield Night(stored, snapshot, origin)


def search_context(app: App, progress: Progress) -> SearchContext:
    """What a search for deleted rows works with. NotFound while there is no window; errors as of recovered_origin."""
    origin = recovered_origin(app, Wanted())

    def names() -> Mapping[TableFile, str]:
        try:
            return table_files(app.source().login)
        except BackupError as error:
            logger.warning("tables are told by the numbers of their files: {}", error.message)
            return {}

    return SearchContext(origin, app.lock, names, progress)


def _origin(
    app: App, wanted: Wanted, there: Sequence[tuple[WalArchive, Cluster]], context: OffsiteContext | None
) -> RecoveredOrigin:
    good = newest_good(app.catalog.sets())
    part = good.manifest.database if good else newest_database_there(context) if context else None
    settings, preload = app.settings, part.preload if part else Preload()
    found = find_moment(there, wanted, _database(app, part), preload, settings.age_identity, settings.zone)
    return RecoveredOrigin(found, _places(app, found.base))


def _database(app: App, part: DatabasePart | None) -> str:
    """The database's name: as it is set, as its container says, or as the newest set has it."""
    if app.settings.db_name:
        return app.settings.db_name
    with contextlib.suppress(BackupError):
        return app.source().login.name
    if part:
        return part.name
    raise ConfigError(
        "it is not known which database is meant: its container does not say, and there is no set",
        "Set DB_NAME of the backup service.",
    )


def _places(app: App, base: Base) -> RecoveryPlaces:
    try:
        engine = Engine()
    except EngineError as error:
        hint = NEEDS_ENGINE if app.alone else error.hint
        raise EngineError(f"{error.message}; without an engine no moment can be brought back", hint) from error
    identifier, shown = _image(app, engine, base)
    settings, own = app.settings, engine.own()
    app.private(settings.spool)
    return RecoveryPlaces(
        engine=engine,
        image=identifier,
        shown=shown,
        spool=settings.spool,
        mount=spool_mount(own, settings.spool, HelperClients.inside),
        writable=spool_mount(own, settings.spool, HelperClients.inside, writable=True),
        instance=app.instance(),
        lock_timeout=settings.lock_timeout,
        stall=settings.stall_timeout,
    )


def _image(app: App, engine: Engine, base: Base) -> tuple[str, str]:
    """(id, name) of the base's image, else the live database's of that version; over the network the official one."""
    for name in (base.image_id, base.image):
        if found := engine.image(name):
            return found, base.image or name
    major = base.server_version.partition(".")[0]
    with contextlib.suppress(BackupError):
        live = app.database_container(engine)
        if (said := re.match(r"\d+", live.environment.get("PG_MAJOR", ""))) and said[0] == major:
            return live.image_id, live.image
    wanted = f"the image that the base backup {base.id} was taken with, {printable(base.image or base.image_id)}"
    if not base.image:
        wanted = official_image(base.server_version)
        if found := engine.image(wanted):
            return found, wanted
        wanted = f"the image {wanted}"
    raise EngineError(
        f"{wanted} (PostgreSQL {printable(base.server_version)}), is not here; nothing was done",
        "Pull it (`docker pull`), then run this again.",
    )


def official_image(version: str) -> str:
    """The official image of that version of the server: over the network nobody knows another one."""
    return f"postgres:{version.partition('.')[0]}"
