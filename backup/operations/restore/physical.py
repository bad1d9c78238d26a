"""The whole cluster of a moment, recovered in the database's own volume and exchanged with the live one.

look → journal → recover beside the live data → check → stop → exchange → start → the same end as of every restore
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from backup.docker.container import DataPlace
from backup.docker.recovery_server import DATA
from backup.errors import IntegrityError, RestoreFailed
from backup.formatting import listed, local_time, plural, printable, size
from backup.model.finding import Finding, failure
from backup.model.run import RESTORE
from backup.model.wal import Base, lsn_text
from backup.operations.pitr.recover import Moment, RecoveredOrigin, recover_cluster, space_for
from backup.operations.restore import application, cluster
from backup.operations.restore.cluster_record import ClusterSwap
from backup.operations.restore.context import RestoreContext, Work
from backup.operations.restore.guarded import guarded
from backup.operations.restore.journal import Journal, JournalFile, Kept, RestoreStep
from backup.operations.restore.locking import recorded, refuse_unfinished, require_alone, require_unmoved, stamp
from backup.operations.restore.plan import Plan, PlanSection
from backup.postgres.cluster_trees import ClusterTrees, DataFolder, look_at
from backup.postgres.replication import ClusterUse, cluster_use

_LOGICAL: Final = "Leave out --physical: then the one database is restored, and the others stay as they are."
# What a server notes of its own start, and what it says of it, are this close. Seconds.
_STARTED: Final = 60
_OUTAGE: Final = "a few seconds: the server is stopped, its files are renamed, it is started"


@dataclass(frozen=True)
class PhysicalFacts:
    """What a plan is made from. `shown` is the image of the live server; `needed` are bytes in the volume."""

    place: DataPlace
    shown: str
    folder: DataFolder
    use: ClusterUse
    needed: int
    kept: Kept | None
    stops: tuple[str, ...]
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Physical:
    """A moment that is to be restored so; `kept` is what was kept for undo when it was agreed to."""

    origin: RecoveredOrigin
    place: DataPlace
    shown: str
    kept: Kept | None

    @property
    def name(self) -> str:
        """What is restored, in words."""
        asked = self.origin.moment
        if asked.wanted.moment:
            return f"the cluster as of {local_time(asked.wanted.moment, asked.zone, '%Y-%m-%d %H:%M:%S')}"
        place = asked.wanted.place
        return f"the cluster as of {'the last commit' if place is None else lsn_text(place)}"


def gather(wish: Physical, context: RestoreContext) -> PhysicalFacts:
    """Look at the server and at its data. BackupError when that is impossible; nothing is touched."""
    refuse_unfinished(context.catalog.root, context.clock())
    app = context.application()
    stops, use = app.running(context.stops, context.mounts()) if app else [], cluster_use(context.source().login)
    return PhysicalFacts(
        place=wish.place,
        shown=wish.shown,
        folder=look_at(context.server(wish.place)),
        use=use,
        # The live server writes on meanwhile, and must not run out of room.
        needed=space_for(wish.origin.moment) + use.wal,
        kept=wish.kept,
        stops=tuple(each.name for each in stops),
        commands=tuple(f"{service}: {command}" for service, command in context.commands),
    )


def plan(wish: Physical, facts: PhysicalFacts, outlook: list[tuple[str, str]]) -> Plan:
    """What would be done, and what forbids it. `outlook` is what the WAL says; nothing where it was not asked."""
    refused = tuple(refusals(wish.origin.moment, facts))
    names = [f"{name} ({size(count)}, {plural(sessions, 'session')})" for name, count, sessions in facts.use.databases]
    rows = [
        ("cluster", f"all of {printable(facts.place.name)}: {printable(listed(names))}; every session is ended"),
        ("with it", "all roles and their passwords, as of then. Configuration, certificates and logs stay as they are"),
        ("without it", "unlogged tables are empty, because their rows are not in the WAL"),
    ]
    stopped = f"{printable(listed(list(facts.stops)))}; started again at the end" if facts.stops else "no container"
    done = [
        ("safety set", "none: what is live is kept whole, and its WAL as far as it was received"),
        ("stopped", f"{printable(facts.place.name)}, for {_OUTAGE}; {stopped}"),
        *([("then run", printable(listed(list(facts.commands))))] if facts.commands else []),
        ("kept", "the cluster that is live now, beside the new one; `undo` exchanges them again, as fast"),
        ("media", "stay as they are"),
    ]
    room = [
        (f"volume of {printable(facts.place.name)}", f"{size(facts.needed)} needed, {size(facts.folder.free)} free")
    ]
    sections = [
        PlanSection("recovery", tuple(outlook)),
        PlanSection("is replaced", tuple(rows)),
        PlanSection("is done", tuple(done)),
        PlanSection("room", tuple(room)),
    ]
    return Plan(tuple(each for each in sections if each.rows), (), refused, ())


def refusals(asked: Moment, facts: PhysicalFacts) -> Iterator[Finding]:
    """Why it must not happen. Pure."""
    yield from _data_refused(asked.base, facts)
    yield from _server_refused(facts)
    if facts.folder.free < facts.needed:
        yield failure(
            f"it takes {size(facts.needed)} in the volume of {printable(facts.place.name)}, where"
            f" {size(facts.folder.free)} are free; the live cluster stays there for `undo`",
            "Give it a larger disk, or free space there.",
        )


def _data_refused(base: Base, facts: PhysicalFacts) -> Iterator[Finding]:
    """Why the files of the base and those that are live must not change places."""
    place, folder, use = facts.place, facts.folder, facts.use
    if not base.image_id or base.image_id != place.image_id:
        yield failure(
            f"the base backup {base.id} was taken with another image ({printable(base.image or 'unknown')}, PostgreSQL"
            f" {printable(base.server_version)}) than {printable(place.name)} runs now ({printable(facts.shown)}): its"
            " collations, architecture or version may differ, and indexes with them",
            f"Ask for a moment after the next base backup (`base` takes one). {_LOGICAL}",
        )
    if base.system_identifier != use.system_identifier:
        yield failure("the base backup is of another cluster than the one that is live", _LOGICAL)
    if folder.system_identifier != use.system_identifier or abs(folder.started - use.started) > _STARTED:
        yield failure(
            f"the data in {printable(place.pgdata)} of {printable(place.name)} are not those of the server that"
            " answers",
            "PGDATA of its container is to name them: the server may have been told another folder.",
        )
    if folder.links:
        yield failure(f"{printable(listed(list(folder.links)))} lies elsewhere, behind a symbolic link", _LOGICAL)
    if folder.others:
        yield failure(
            f"{printable(listed(list(folder.others)))} in the data folder may be an extension's data or an operator's;"
            " it would not be exchanged with the rest",
            f"Move it elsewhere if it is yours. {_LOGICAL}",
        )
    if folder.tablespaces:
        yield failure("the cluster has tablespaces, which base backups do not take along", _LOGICAL)


def _server_refused(facts: PhysicalFacts) -> Iterator[Finding]:
    """Why this server must not go back: others hang on it, or it on others."""
    use = facts.use
    if use.standby:
        yield failure("the database server is a standby: its WAL is that of another server", "Ask at the primary.")
    if use.archiving:
        yield failure(
            "the server archives its WAL (archive_mode), and the end of its old timeline could be archived twice",
            _LOGICAL,
        )
    if use.followers:
        names = printable(listed(list(use.followers)))
        yield failure(
            f"other servers or slots follow this one ({names}), and could not after it",
            f"Drop the slots and make the standbys anew afterwards. {_LOGICAL}",
        )
    if use.subscriptions:
        yield failure(
            f"it subscribes to other servers ({printable(listed(list(use.subscriptions)))}), which would not send again"
            " what they have sent since",
            f"Drop the subscriptions, and make them anew afterwards. {_LOGICAL}",
        )
    if facts.kept and facts.kept.database:
        yield failure(
            f"{printable(facts.kept.database.kept)} is kept for `undo` in this cluster, which would be replaced with"
            " it",
            "`undo --discard` removes it.",
        )


def restore_cluster(wish: Physical, context: RestoreContext) -> str:
    """Put the whole cluster of a moment in place of the live one, or leave all as it is; what is to be said of it."""
    require_alone(context)
    said: list[str] = []
    with recorded(context, RESTORE, wish.name, "database", said) as run:
        require_unmoved(context, wish.kept)
        facts = gather(wish, context)
        if refused := list(refusals(wish.origin.moment, facts)):
            raise RestoreFailed(f"nothing was restored, all is as before: {refused[0].text}", refused[0].hint)
        swap = ClusterSwap(
            place=wish.place, stamp=stamp(context.catalog.root, run), system_identifier=facts.use.system_identifier
        )
        journal = Journal(id=swap.stamp, run=run.id, set=wish.name, started=run.started, cluster=swap)
        work = Work(context, JournalFile(context.catalog.root), journal)
        guarded(work, lambda: _build(work, wish, facts, said))
    return "; ".join(
        [f"{wish.name} is restored", *said, *application.downtime(work), "`undo` brings back what was live before"]
    )


def _build(work: Work, wish: Physical, facts: PhysicalFacts, said: list[str]) -> None:
    """Recover the cluster beside the live one, shut down and checked."""
    swap = work.journal.cluster
    if swap is None:
        raise RestoreFailed("the journal names no cluster")
    trees: ClusterTrees = cluster.trees_of(work.context, swap)
    trees.prepare()
    asked = wish.origin.moment
    # Its own timeline must be one that no WAL of this cluster has, here or there.
    known = [facts.use.timeline, asked.archive.timeline(), *(each.timeline for each in asked.archive.list_bases())]
    known += [int(each.name[:8], 16) for each in asked.archive.list_segments()]
    taken = range(asked.base.timeline + 1, max(known) + 1)
    origin = replace(wish.origin, places=replace(wish.origin.places, data=trees.inside(DATA)))
    found, closed = recover_cluster(origin, work.journal.run, work.context.progress, facts.folder.owner, taken)
    if closed.timeline <= max(known):
        raise IntegrityError(f"the recovered cluster is on the timeline {closed.timeline}, which is another's already")
    if trees.server.container().image_id != wish.place.image_id:
        raise RestoreFailed(f"{printable(wish.place.name)} was made anew meanwhile, of another image")
    said += [f"{label}: {text}" for label, text in found]
    said.append("every page fits its checksum" if closed.checked else "pages have no checksums, and were not checked")
    work.advance(RestoreStep.READY, cluster=swap.model_copy(update={"timeline": closed.timeline}))
