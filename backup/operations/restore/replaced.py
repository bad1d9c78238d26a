"""What the last restore replaced, kept for an undo: whether it is there yet, and how it goes."""

from __future__ import annotations

import contextlib
from pathlib import Path

from backup.catalog.retention import held_by_newer, old_safety_sets
from backup.errors import BackupError, DropDelayed
from backup.logging import logger
from backup.operations.restore.context import RestoreContext
from backup.operations.restore.journal import Kept, KeptFile, Lost
from backup.postgres.admin import drop
from backup.postgres.cluster_trees import ClusterTrees
from backup.postgres.server import find_database
from backup.postgres.session import Login


def lost(login: Login, kept: Kept) -> Lost:
    """Why its database cannot come back; empty if it can."""
    if kept.database is None:
        return ""
    found = find_database(login, oid=kept.database.kept_oid)
    if found is None:
        return "gone"
    return "half removed" if found.half_removed else ""


def note_lost(root: Path, login: Login) -> None:
    """Note for those who ask no server whether the database can come back, if that can be told. Only under the lock."""
    file = KeptFile(root)
    with contextlib.suppress(BackupError):
        kept = file.read()
        if kept and kept != (now := kept.with_lost(lost(login, kept))):
            file.write(now)


def discard_replaced(context: RestoreContext) -> int:
    """Remove what the last restore replaced; the bytes that it took. 0 when nothing is kept.

    DropDelayed when the rest of the database is to be dropped yet: nothing of all that can come back.
    """
    file = KeptFile(context.catalog.root)
    kept = file.read()
    if kept is None:
        return 0
    delayed = None
    if kept.database:
        try:
            drop(context.source().login, kept.database.kept_oid, kept.database.kept)
        except DropDelayed as error:
            delayed = error
            note_lost(context.catalog.root, context.source().login)
    if kept.cluster:
        ClusterTrees(context.server(kept.cluster.place), kept.cluster.stamp).discard()
    if kept.volumes:
        trees = context.trees()
        for volume in kept.volumes:
            trees.discard(volume.name, volume.stamp)
    if delayed:
        raise delayed
    file.remove()
    return kept.size


def sweep_safety_sets(context: RestoreContext) -> None:
    """What is restored stays so, whatever becomes of this; the cleanup tries again."""
    try:
        sets = context.catalog.sets()
        for old in old_safety_sets(sets, context.clock()):
            if not held_by_newer(old, sets):
                continue
            logger.info("removing the safety set {}: ten newer ones exist", old.id)
            context.catalog.remove(old)
    except BackupError as error:
        logger.warning("old safety sets could not be removed: {} {}", error.message, error.hint)
