"""Settings → what brings back the database of a moment."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime

from backup.app.composition import App
from backup.docker.database_server import place_of
from backup.docker.engine import Engine, spool_mount
from backup.errors import BackupError, ConfigError, EngineError, NotFound
from backup.formatting import printable
from backup.model.backup_set import newest_good
from backup.model.manifest import DatabasePart, Preload
from backup.model.moment import Wanted
from backup.model.wal import Base
from backup.operations.pitr.proof import ProofContext
from backup.operations.pitr.recover import Moment, RecoveredOrigin, find_moment
from backup.operations.pitr.window_reader import read_window
from backup.operations.restore.journal import Kept
from backup.operations.restore.physical import Physical
from backup.postgres.clients import HelperClients
from backup.postgres.recovery import RecoveryPlaces
from backup.progress import Progress


def recovered_origin(app: App, wanted: Wanted) -> RecoveredOrigin:
    """Find what brings that back, and where it is to be done. NotFound, ConfigError, EngineError."""
    found = _moment(app, wanted)
    return RecoveredOrigin(found, _places(app, found.base))


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

    return ProofContext(catalog=app.catalog, records=app.records, lock=app.lock, progress=progress, origin=origin)


def _moment(app: App, wanted: Wanted) -> Moment:
    good = newest_good(app.catalog.sets())
    part = good.manifest.database if good else None
    settings = app.settings
    return find_moment(
        settings.root,
        wanted,
        _database(app, part),
        part.preload if part else Preload(),
        settings.age_identity,
        settings.zone,
    )


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
        raise EngineError(f"{error.message}; without an engine no moment can be brought back", error.hint) from error
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
    """(id, name) of the base's image, else of the one that the live database of its major version runs in."""
    for name in (base.image_id, base.image):
        if found := engine.image(name):
            return found, base.image or name
    major = base.server_version.partition(".")[0]
    with contextlib.suppress(BackupError):
        live = app.database_container(engine)
        if (said := re.match(r"\d+", live.environment.get("PG_MAJOR", ""))) and said[0] == major:
            return live.image_id, live.image
    raise EngineError(
        f"the image that the base backup {base.id} was taken with, {printable(base.image or base.image_id)}"
        f" (PostgreSQL {printable(base.server_version)}), is not here; nothing was done",
        "Pull it (`docker pull`), then run this again.",
    )
