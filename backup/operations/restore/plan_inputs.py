"""What a plan of a restore is made from, gathered without touching anything."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from backup.docker.container import Container
from backup.errors import BackupError, EngineError
from backup.media import archive_tree, case_folding
from backup.media.tar_reader import shown_path
from backup.model.backup_set import StoredSet, newest_good, present, volumes_of
from backup.model.moment_media import media_then
from backup.model.recovered import MediaThen
from backup.monitoring.health import shrink
from backup.operations.inspect import file_index
from backup.operations.restore import build
from backup.operations.restore.context import RestoreContext
from backup.operations.restore.journal import KeptFile, commands, running, words
from backup.operations.restore.locking import LOOK, unfinished_restore, who_changes
from backup.operations.restore.plan import LiveDatabase, Only, RestoreFacts, Server, VolumeFacts
from backup.operations.restore.server_compatibility import contrast, fit
from backup.operations.set_artifacts import dump_of
from backup.postgres.inspect import settings_for
from backup.postgres.server import extensions_available, find_database, identity, replication, sessions, usable
from backup.postgres.server import roles as roles_there
from backup.postgres.session import Login, keeping
from backup.storage.filesystem import free_space

# More than is written to a disk between two looks at it: this part of what is free.
_ALIKE: Final = 0.01
# In older manifests: a pattern of ours, by which also an application's file was left out.
_OF_RESTORES: Final = "/.obcms-restore-*"


@keeping()
def gather(context: RestoreContext, stored: StoredSet, only: Only, safety: bool) -> RestoreFacts:
    """The facts of restoring `stored`. BackupError when the database server does not answer and is needed."""
    if only != "database" and volumes_of(stored):
        context.reach(stored.directory)
    if only == "media" or not dump_of(stored):
        return _without_database(context, stored, only, safety)
    with ThreadPoolExecutor(1) as aside:
        # A container is started to see it: that takes longer than all else here, unless there are many files.
        room = aside.submit(context.server_free)
        facts = _with_server(_without_database(context, stored, only, safety), context, stored)
        found = room.result()
    if facts.server is None or found is None:
        return facts
    return replace(facts, server=replace(facts.server, free=found[0], disk=_disk_of_server(facts, context, *found)))


def _without_database(context: RestoreContext, stored: StoredSet, only: Only, safety: bool) -> RestoreFacts:
    now, stops, kept = context.clock(), _stops(context), KeptFile(context.catalog.root).read()
    unfinished, hint, busy = _in_the_way(context.catalog.root, now)
    newest = newest_good(present(context.catalog.sets(), now))
    return RestoreFacts(
        now=now,
        zone=context.zone,
        source=stored,
        only=only,
        safety=safety,
        volumes=tuple(_volume(context, stored, name) for name in volumes_of(stored)),
        safety_bytes=newest.size if newest and safety else 0,
        backup_free=free_space(context.catalog.root),
        backup_disk=_disk(context.catalog.root),
        kept_bytes=kept.size if kept else None,
        unfinished=unfinished,
        unfinished_hint=hint,
        busy=busy,
        commands=tuple(f"{service}: {command}" for service, command in context.commands),
        stops=tuple(each.name for each in stops),
        stop_seconds=max((each.stop_seconds for each in stops), default=0),
        writers=_writers(context),
        less=tuple(each.text for each in shrink.of_set(stored, context.catalog.sets())),
        media=_media(context, stored),
    )


def _media(context: RestoreContext, stored: StoredSet) -> MediaThen | None:
    """The media that go with a set of a moment: as it says, or as the sets here tell now."""
    recovered = stored.manifest.database.recovered if stored.manifest.database else None
    if recovered is None or recovered.media:
        return recovered.media if recovered else None
    return media_then(context.catalog.sets(), context.records.readable(), stored.time, context.clock())


def _in_the_way(root: Path, now: datetime) -> tuple[str, str, bool]:
    """What changes the live data now or stands half way, what to do about it, and whether it is under way."""
    found = unfinished_restore(root)
    if found and not found[1]:
        return words(found[0], now), commands(found[0]), False
    text = running(*found) if found else who_changes(root)
    return text, LOOK if text else "", bool(text)


def _disk_of_server(facts: RestoreFacts, context: RestoreContext, free: int, system: int) -> str:
    """The disk of the place that shares the server's; empty where none does. All is on one disk as a rule."""
    places = [(context.volumes / each.name, each.free, each.disk) for each in facts.volumes if each.mounted]
    places.append((context.catalog.root, facts.backup_free, facts.backup_disk))
    for path, _, disk in places:
        if system and os.statvfs(path).f_fsid == system:
            return disk
    # A container's own layer, or a file system within another's pool, has a number of its own, but the same room.
    return next((disk for _, room, disk in places if room is not None and abs(room - free) <= room * _ALIKE), "")


def _with_server(facts: RestoreFacts, context: RestoreContext, stored: StoredSet) -> RestoreFacts:
    source = context.source()
    login = source.login
    part = stored.manifest.database
    (version, identifier), live = identity(login), usable(find_database(login, login.name))
    listed, fitted = build.roles_of(stored), fit(login, part, version)
    slots, subscriptions = replication(login, login.name)
    return replace(
        facts,
        target=login.name,
        database_bytes=_unpacked(stored) if stored.derived else None,
        server=Server(
            version=version,
            system_identifier=identifier,
            missing_extensions=missing_extensions(login, part.extensions) if part else (),
            missing_roles=tuple(listed.missing(roles_there(login))) if listed else (),
            free=None,
        ),
        live=LiveDatabase(
            live.name, live.size, sum(s.count for s in sessions(login, live.name)), live.owner, slots, subscriptions
        )
        if live
        else None,
        lacking=fitted.lacks,
        contrast=contrast(login, live, settings_for(login, login.name) if live else (), listed, part),
    )


def _unpacked(stored: StoredSet) -> int:
    """Bytes that a database may take of whose dump only the file is known: text packs to a tenth of it."""
    if not stored.loose:
        return 10 * stored.size
    return sum(each.stored_size * (10 if each.packed or each.content == "custom" else 2) for each in stored.loose)


def missing_extensions(login: Login, wanted: Iterable[str]) -> tuple[str, ...]:
    """Which of these extensions the server cannot make."""
    names = list(wanted)
    there = extensions_available(login) if names else {}
    return tuple(name for name in names if name not in there)


def _volume(context: RestoreContext, stored: StoredSet, name: str) -> VolumeFacts:
    part = next((volume for volume in stored.manifest.volumes if volume.name == name), None)
    archive = (part.files + part.hard_links, part.bytes) if part else (None, None)
    path = context.volumes / name
    if not path.is_dir():
        return VolumeFacts(name, mounted=False, archive_files=archive[0], archive_bytes=archive[1])
    live = archive_tree.measure_tree(path, archive_tree.DEFAULT_EXCLUDES)
    usual = (*archive_tree.DEFAULT_EXCLUDES, _OF_RESTORES)
    left_out = tuple(each for each in part.excludes if each not in usual) if part else ()
    carried = archive_tree.measure_tree(path, [*archive_tree.DEFAULT_EXCLUDES, *left_out]) if left_out else live
    return VolumeFacts(
        name=name,
        live_files=live.files,
        live_bytes=live.bytes,
        archive_files=archive[0],
        archive_bytes=archive[1],
        free=free_space(path),
        disk=_disk(path),
        left_files=live.files - carried.files,
        left_bytes=live.bytes - carried.bytes,
        left_out=left_out,
        one_name=_one_name(stored, name, path),
    )


def _one_name(stored: StoredSet, volume: str, live: Path) -> tuple[str, ...]:
    """Two files or directories of the set that are one name in the volume; none as far as that can be told before."""
    with contextlib.suppress(BackupError, OSError):
        if case_folding.folds_case(live):
            paths = (entry.path.partition(b"/")[2] for entry in file_index.index_entries(stored, volume))
            return tuple(map(shown_path, next(case_folding.alike(paths), ())))
    return ()


def _stops(context: RestoreContext) -> Sequence[Container]:
    try:
        application = context.application()
        if application is None:
            return ()
        application.require(context.stops)
        return application.running(context.stops, context.mounts())
    except EngineError:
        return ()


def _writers(context: RestoreContext) -> tuple[str, ...]:
    """Whoever writes where there is no engine to stop them with."""
    with contextlib.suppress(EngineError):
        if context.application():
            return ()
    return ("the application's containers (there is no Docker engine here)",)


def _disk(path: Path) -> str:
    return str(os.stat(path).st_dev)
