"""Restore, undo, and the end of what was left unfinished."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from backup.errors import (
    AfterRestore,
    BackupError,
    DatabaseUnavailable,
    IntegrityError,
    NotFound,
    RestoreFailed,
    RestoreUnfinished,
)
from backup.formatting import listed, plural, printable, size
from backup.logging import logger
from backup.model.backup_set import StoredSet, volumes_of
from backup.model.run import RESTORE, Run
from backup.operations.restore import application, build, cluster, commit_rollback, replaced
from backup.operations.restore.context import RestoreContext, Work
from backup.operations.restore.guarded import guarded, half
from backup.operations.restore.journal import (
    DatabaseSwap,
    Journal,
    JournalFile,
    Kept,
    KeptDatabase,
    KeptFile,
    RestoreStep,
    VolumeSwap,
    direction,
    lost_words,
)
from backup.operations.restore.locking import (
    recorded,
    refuse_unfinished,
    require_alone,
    require_undisturbed,
    require_unmoved,
    stamp,
)
from backup.operations.restore.plan import Only
from backup.operations.restore.preflight import check_fit, require_extensions, safety_set
from backup.operations.restore.replaced import lost
from backup.operations.restore.server_compatibility import Fit
from backup.operations.set_artifacts import dump_of
from backup.operations.verify.run import SetContent, check_set
from backup.postgres.server import find_database
from backup.postgres.session import keeping

# Done, but not all is as it was dumped.
_OTHERWISE: Final = 3
_BROKEN: Final = ("invalid", "absent")


@dataclass(frozen=True)
class Wish:
    """What is to be restored; `kept` is what was kept for undo when it was agreed to.

    `allow_invalid`: constraints that rows of the set break are made for later rows alone.
    """

    stored: StoredSet
    only: Only = ""
    safety: bool = True
    kept: Kept | None = None
    allow_invalid: bool = False


@keeping()
def restore_set(wish: Wish, context: RestoreContext) -> tuple[str, int]:
    """Put a set back, wholly or not at all; what is to be said of it, and the exit code. The plan was agreed to before.

    3 when constraints are not as they were dumped, as was allowed.
    """
    stored = wish.stored
    require_alone(context)
    refuse_unfinished(context.catalog.root, context.clock())
    fitted = check_fit(stored, wish.only, context)
    # What its files hold was read once. If they are those files, it is read again where it is restored from them.
    quick = stored.verified and not stored.encrypted and stored.verdict is not None and not stored.verdict.unchecked
    problems, unchecked, found = check_set(stored, context.progress, quick=quick)
    if problems:
        wrong = listed(problems, mark="; ")
        raise IntegrityError(
            f"{stored.id} is damaged and was not restored: {wrong}; the live data were not touched",
            "`list` shows other sets; `verify` lists all that is wrong with this one.",
        )
    for line in () if quick else unchecked:
        logger.warning("not checked: {}", line)
    require_extensions(stored, wish.only, context, found)
    safety = safety_set(wish.only, context, wanted=wish.safety)
    said: list[str] = []
    with recorded(context, RESTORE, stored.id, wish.only, said) as run:
        require_unmoved(context, wish.kept)
        work = Work(context, JournalFile(context.catalog.root), _journal(wish, context, run, safety))
        work.allow_invalid = wish.allow_invalid
        guarded(work, lambda: _build(work, stored, found, fitted))
        replaced.sweep_safety_sets(context)
        said += _nearest(work)
    for text, hint in work.told:
        logger.log("WARNING" if hint else "INFO", "{}", f"{text}. {hint}" if hint else text)
    text = "; ".join([f"{stored.id} is restored", *_without(work), *said, *application.downtime(work), _undoing(work)])
    return text, _OTHERWISE if any(each.kind in _BROKEN for each in work.loaded.left) else 0


def _without(work: Work) -> Iterator[str]:
    """What the load did without, in short; it was told one by one when it was loaded."""
    kinds = [each.kind for each in work.loaded.left]
    if empty := kinds.count("empty"):
        yield f"{plural(empty, 'materialized view')} left empty (named above)"
    if broken := sum(kind in _BROKEN for kind in kinds):
        yield f"{plural(broken, 'constraint')} not valid for the rows that are there (named above)"


def _nearest(work: Work) -> list[str]:
    """Which values of files the volumes did not take, also when it is ended after a kill."""
    lines = work.journal.nearest
    return [f"file contents are restored, but not all metadata: {listed(lines, mark='; ')}"] if lines else []


def _undoing(work: Work) -> str:
    journal, kept = work.journal, work.kept.read()
    if kept and kept.database and kept.database.lost:
        return ". ".join(lost_words(kept.database.lost, kept)).removesuffix(".")
    if journal.database is None or journal.database.live_oid is not None:
        return "`undo` brings back what was live before"
    files = ", it brings back only the files" if journal.volumes else ""
    return f"the database is new: `undo` does not remove it{files}"


def foresee_undo(context: RestoreContext, kept: Kept | None) -> None:
    """BackupError when `undo` could not bring back what is kept. Nothing is touched."""
    require_undisturbed(context)
    refuse_unfinished(context.catalog.root, context.clock())
    _require_kept(context, kept)


def _require_kept(context: RestoreContext, kept: Kept | None) -> Kept:
    """What can be brought back; NotFound, RestoreFailed when it cannot. Nothing is touched."""
    if kept is None:
        raise NotFound("there is nothing to undo", "`list pre-restore` shows safety sets, which `restore` puts back.")
    if kept.database:
        login = context.source().login
        if gone := lost(login, kept):
            why, hint = lost_words(gone, kept)
            raise RestoreFailed(f"{why}; nothing was touched", hint)
        commit_rollback.possible(login, _database_of(kept.database))
    if kept.cluster:
        cluster.swap_back(context, kept.cluster)
    return kept


def undo_restore(context: RestoreContext, kept: Kept | None) -> str:
    """Bring back what the last restore (or undo) replaced; what is to be said of it. `kept` is what was agreed to."""
    require_alone(context)
    refuse_unfinished(context.catalog.root, context.clock())
    kept = _require_kept(context, kept)
    with recorded(context, "undo", kept.set) as run:
        require_unmoved(context, kept)
        _require_kept(context, kept)
        journal = Journal(
            id=kept.id,
            run=run.id,
            kind="undo",
            set=kept.set,
            started=run.started,
            database=_database_of(kept.database) if kept.database else None,
            cluster=cluster.swap_back(context, kept.cluster) if kept.cluster else None,
            volumes=_volumes_of(kept, context),
            safety=kept.safety,
        )
        work = Work(context, JournalFile(context.catalog.root), journal)
        guarded(work, lambda: None)
    return "; ".join(["what was live before is live again", *application.downtime(work), "`undo` changes it back"])


def _database_of(kept: KeptDatabase) -> DatabaseSwap:
    """The kept database as the new one, and the other way round."""
    return DatabaseSwap(live=kept.live, live_oid=kept.current_oid, new=kept.kept, new_oid=kept.kept_oid, kept=kept.kept)


def _volumes_of(kept: Kept, context: RestoreContext) -> tuple[VolumeSwap, ...]:
    if not kept.volumes:
        return ()
    trees = context.trees()
    return tuple(
        VolumeSwap(name=v.name, stamp=v.stamp, onward=not trees.exchanged(v.name, v.stamp)) for v in kept.volumes
    )


def discard(context: RestoreContext, kept: Kept | None) -> str:
    """Remove what is kept for undo; what is to be said of it. `kept` is what was agreed to."""
    refuse_unfinished(context.catalog.root, context.clock())
    with recorded(context, "discard", ""):
        # A restore may have come and gone, or been killed, while this waited.
        refuse_unfinished(context.catalog.root, context.clock())
        require_unmoved(context, kept)
        freed = replaced.discard_replaced(context)
    told = f", {size(freed)}" if freed else ""
    return f"removed what the last restore replaced{told}" if kept else "nothing was kept"


def expire(context: RestoreContext) -> None:
    """Remove what is kept for undo when its days are over."""
    kept = KeptFile(context.catalog.root).read()
    if kept and kept.expired(context.clock()) and JournalFile(context.catalog.root).read() is None:
        logger.info("what the restore of {} replaced is past BACKUP_UNDO_DAYS", kept.set)
        logger.info("{}", discard(context, kept))


def end(context: RestoreContext, *, back: bool = False) -> str:
    """End what was left unfinished: as its journal says, or back, or forward; what is to be said of it."""
    file = JournalFile(context.catalog.root)
    if file.read() is None:
        raise NotFound("no restore is unfinished", "`list` shows the sets.")
    with recorded(context, "recover", ""):
        journal = file.read()
        if journal is None:
            return "it has ended meanwhile"
        work = Work(context, file, journal)
        try:
            return _end(work, back)
        except BackupError as error:
            if isinstance(error, AfterRestore) or file.read() is None:
                raise
            more = "" if isinstance(error, RestoreUnfinished) else error.hint
            raise half(work, error.message, more) from error


def _end(work: Work, back: bool) -> str:
    journal = work.journal
    if journal.database:
        # A client may be at work yet: its container outlives the sidecar, and the engine, too.
        with contextlib.suppress(BackupError):
            work.context.source().sweep()
    if back or journal.step.number < RestoreStep.SWAPPED.number:
        application.stop_again(work)
    if back or direction(journal) == "back":
        commit_rollback.back(work)
        done = f"the {journal.kind} of {printable(journal.set)} is rolled back: all is as it was before"
    else:
        application.find_way(work)
        _forward(work)
        done = f"the {journal.kind} of {printable(journal.set)} is finished"
    return "; ".join([done, *_nearest(work), *application.downtime(work)])


def _forward(work: Work) -> None:
    """Finish it; a cluster that does not come up as the new one is brought back, as in the run that was killed."""
    try:
        commit_rollback.forward(work)
    except DatabaseUnavailable as error:
        if not work.journal.cluster or work.journal.step.number >= RestoreStep.SWAPPED.number:
            raise
        commit_rollback.back(work)
        raise RestoreFailed(f"it is rolled back, all is as it was before: {error.message}", error.hint) from error


def _build(work: Work, stored: StoredSet, found: SetContent, fitted: Fit) -> None:
    """Make the new state beside the old one; the application runs on."""
    if work.journal.database:
        build.load_database(work, work.context.source(), stored, found, fitted)
    build.extract_volumes(work, stored)
    work.advance(RestoreStep.READY)


def _journal(wish: Wish, context: RestoreContext, run: Run, safety: str) -> Journal:
    name, stored = stamp(context.catalog.root, run), wish.stored
    swap = None
    if wish.only != "media" and dump_of(stored):
        source = context.source()
        marker = f"obcms-backup {context.instance} {run.id}: a restore that has not ended; may be dropped"
        swap = build.swap_for(source, find_database(source.login, source.login.name), name, marker)
    names = volumes_of(stored) if wish.only != "database" else ()
    if swap is None and not names:
        raise RestoreFailed(
            f"{stored.id} holds nothing to restore", f"`show {printable(stored.query)}` says what it holds."
        )
    return Journal(
        id=name,
        run=run.id,
        set=stored.id,
        only=wish.only,
        started=run.started,
        database=swap,
        volumes=tuple(VolumeSwap(name=volume, stamp=name) for volume in names),
        safety=safety,
    )
