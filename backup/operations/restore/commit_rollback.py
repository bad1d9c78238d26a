"""Commit a restore or an undo, or roll it back: forward to the new state, or back to the old one.

Both go by the journal and by what is found, so that they can be begun again after a kill at any point.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from backup.errors import AfterRestore, BackupError, DropDelayed, RestoreFailed, RestoreUnfinished
from backup.formatting import printable, size
from backup.logging import logger
from backup.operations.restore import application, cluster
from backup.operations.restore.context import Work
from backup.operations.restore.journal import DatabaseSwap, Kept, KeptDatabase, KeptVolume, Lost, RestoreStep
from backup.operations.restore.replaced import discard_replaced
from backup.postgres.admin import drop, drop_marked, drop_roles
from backup.postgres.availability import watching
from backup.postgres.deferred_statements import DONE, SCHEMA, deferred
from backup.postgres.psql import STRICT, confined
from backup.postgres.server import find_database
from backup.postgres.session import Login
from backup.postgres.swap import Exchange, exchange_databases, foresee, swap_state

_TELLING: Final = (*STRICT, "--tuples-only", "--no-align")


def forward(work: Work) -> None:
    """Exchange, run the commands, start what was stopped, note what is kept. Idempotent. AfterRestore when all is
    restored, but something that belongs after it failed."""
    step = work.journal.step
    if step.number <= RestoreStep.SWAPPING_DATABASE.number:
        work.advance(RestoreStep.SWAPPING_DATABASE)
    if step.number <= RestoreStep.SWAPPING_MEDIA.number:
        if work.journal.cluster:
            cluster.exchange(work, onward=work.journal.cluster.onward)
        with watching(work.way) as watch:
            # Whatever is noted: a person, or a server that lost its last moment, may have brought the old one back.
            _exchange_database(work)
            work.advance(RestoreStep.SWAPPING_MEDIA)
            _exchange_trees(work)
            _exchange_database(work)
            if watch and work.journal.database:
                application.measure_outage(work, watch)
    if step.number <= RestoreStep.SWAPPED.number:
        late = _put_in(work)
        application.run_commands(work)
        work.advance(RestoreStep.SWAPPED, failed=(*late, *work.journal.failed))
    _start_and_note(work)
    work.file.finish()
    if work.journal.failed:
        raise after(work)


def start_again(work: Work) -> None:
    """After an exchange that something went wrong after: start what was stopped, note what is kept, end the journal."""
    _start_and_note(work)
    work.file.finish()


def after(work: Work, why: str = "") -> AfterRestore:
    """All is exchanged, but `why`, and what the journal says, went wrong after that."""
    done = f"{work.journal.set} is restored" if work.journal.kind == "restore" else "what was live before is live again"
    failed = "; ".join(filter(None, (why, *work.journal.failed))) or "it was interrupted"
    return AfterRestore(
        f"{done}, but a later step failed: {failed}",
        "Fix that by hand; `undo` brings back the earlier state.",
    )


def _put_in(work: Work) -> list[str]:
    """Run what was put aside in the database that is live now, all or nothing; what went wrong, in words."""
    swap = work.journal.database
    if swap is None:
        return []
    source = work.context.source()
    try:
        with deferred(source.login) as pieces:
            if pieces is None:
                return []
            clients = source.loading(swap.live, work.journal.run)
            with clients.talk((*_TELLING, "--single-transaction"), work.journal.run) as psql:
                psql.enter()
                psql.load.write(confined(psql.version))
                for piece in pieces:
                    psql.load.write(piece)
                psql.load.finish(DONE)
    except BackupError as error:
        return [
            f"statements that run only in the live database failed, and are kept in the schema {SCHEMA}:"
            f" {error.message}"
        ]
    return []


def _start_and_note(work: Work) -> None:
    work.advance(RestoreStep.STARTING)
    if work.journal.cluster:
        work.context.server(work.journal.cluster.place).start()
    if failed := application.start(work):
        work.advance(RestoreStep.STARTING, failed=tuple(dict.fromkeys((*work.journal.failed, *failed))))
    _note_kept(work)


def back(work: Work) -> None:
    """Bring back the old state, remove what was made beside it, start what was stopped. Idempotent."""
    work.journal = work.file.turn_back(work.journal)
    journal, context = work.journal, work.context
    if journal.volumes:
        trees = context.trees()
        for volume in journal.volumes:
            (trees.exchange_back if volume.onward else trees.exchange)(volume.name, volume.stamp)
    if journal.database:
        _database_back(work, journal.database)
    cluster.back(work, begun=journal.step.number >= RestoreStep.SWAPPING_DATABASE.number)
    _forget_kept(work)
    # The application first: what is left beside the live data harms nobody.
    failed = application.start(work)
    if journal.kind == "restore":
        _remove_made(work)
    work.file.finish()
    if failed:
        raise RestoreFailed(f"all is as it was before, but: {'; '.join(failed)}", "Start them by hand.")


def _forget_kept(work: Work) -> None:
    """What was noted as kept just before a kill is live again."""
    kept, journal = work.kept.read(), work.journal
    if kept is None or kept.id != journal.id:
        return
    if journal.kind == "restore":
        work.kept.remove()
    elif kept.database and journal.database and journal.database.live_oid and journal.database.new_oid:
        oids = {"current_oid": journal.database.live_oid, "kept_oid": journal.database.new_oid}
        work.kept.write(kept.model_copy(update={"database": kept.database.model_copy(update=oids)}))


def possible(login: Login, swap: DatabaseSwap) -> None:
    """RestoreFailed when the databases could not be exchanged now. Nothing is touched."""
    foresee(login, _wanted(swap))


def _exchange_database(work: Work) -> None:
    swap = work.journal.database
    if swap is None:
        return
    work.context.progress.phase("swapping the databases")
    work.window += exchange_databases(work.context.source().login, _wanted(swap))


def _exchange_trees(work: Work) -> None:
    if not work.journal.volumes:
        return
    work.context.progress.phase("swapping the files")
    trees = work.context.trees()
    for volume in work.journal.volumes:
        (trees.exchange if volume.onward else trees.exchange_back)(volume.name, volume.stamp)


def _wanted(swap: DatabaseSwap) -> Exchange:
    if swap.new_oid is None:
        raise RestoreUnfinished("the journal does not name the new database", "`restore --rollback` ends it.")
    return Exchange(swap.live, swap.live_oid, swap.new_oid, swap.kept, swap.settings)


def _database_back(work: Work, swap: DatabaseSwap) -> None:
    login = work.context.source().login
    if swap.new_oid and swap.live_oid and swap_state(login, _wanted(swap)) == "after":
        name = swap.kept if work.journal.kind == "undo" else swap.new
        exchange_databases(login, Exchange(swap.live, swap.new_oid, swap.live_oid, name))


def _remove_made(work: Work) -> None:
    """Remove what was made beside the live data. What never goes by itself is named; a failing disk is tried again."""
    swap = work.journal.database
    try:
        if work.journal.volumes:
            trees = work.context.trees()
            for volume in work.journal.volumes:
                trees.discard(volume.name, volume.stamp)
        if swap:
            _drop_made(work.context.source().login, swap)
            _drop_roles(work.context.source().login, work.journal.roles)
        cluster.remove_made(work)
    except RestoreFailed as error:
        logger.warning("what the restore made could not be removed: {} {}", error.message, error.hint)


def _drop_made(login: Login, swap: DatabaseSwap) -> None:
    if swap.new_oid is None:
        drop_marked(login, swap.new, swap.marker)
    elif swap.live_oid is None and swap_state(login, _wanted(swap)) == "after":
        # There was none before, so what has the name is ours alone.
        drop(replace(login, name=swap.new), swap.new_oid, swap.live)
    else:
        drop(login, swap.new_oid, swap.new)


def _drop_roles(login: Login, made: tuple[str, ...]) -> None:
    """The roles that were missing and made for the set; what somebody has begun to use meanwhile is named."""
    if left := drop_roles(login, made) if made else []:
        names = printable(", ".join(left))
        logger.warning("roles that the restore made stay, because they are in use: {}; DROP ROLE removes them", names)


def _note_kept(work: Work) -> None:
    """What was replaced is kept from now on; what an earlier restore replaced, no longer."""
    journal, context = work.journal, work.context
    earlier = work.kept.read()
    if earlier and journal.kind == "restore" and earlier.id != journal.id:
        try:
            logger.info("removed what the previous restore replaced: {}", size(discard_replaced(context)))
        except DropDelayed as error:
            logger.warning("{} {}", error.message, error.hint)
        except BackupError as error:
            left = [earlier.database.kept] if earlier.database else []
            left += [f".obcms-restore-{volume.stamp} in {volume.name}" for volume in earlier.volumes]
            left += [cluster.trees_of(context, earlier.cluster).where] if earlier.cluster else []
            told = printable(", ".join(left))
            logger.warning("{} could not be removed; remove it by hand: {} {}", told, error.message, error.hint)
    database, swap = None, journal.database
    if swap and swap.live_oid and swap.new_oid:
        found = find_database(context.source().login, swap.kept)
        half: Lost = "half removed" if found and found.half_removed else ""
        database = KeptDatabase(
            live=swap.live,
            current_oid=swap.new_oid,
            kept=swap.kept,
            kept_oid=swap.live_oid,
            size=found.size if found else 0,
            lost=half,
        )
    volumes, whole = _kept_volumes(work), cluster.kept_cluster(work)
    if database or volumes or whole:
        work.kept.write(
            Kept(
                id=journal.id,
                set=journal.set,
                replaced=context.clock(),
                safety=journal.safety,
                database=database,
                cluster=whole,
                volumes=volumes,
                days=context.days,
            )
        )


def _kept_volumes(work: Work) -> tuple[KeptVolume, ...]:
    volumes = work.journal.volumes
    if not volumes:
        return ()
    trees = work.context.trees()
    return tuple(KeptVolume(name=v.name, stamp=v.stamp, bytes=trees.kept(v.name, v.stamp)) for v in volumes)
