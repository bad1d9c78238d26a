"""The database of a moment, recovered from a base backup and WAL in a server of its own.

space → WAL → where to stop (pg_waldump) → base → server, which replays, stops behind that commit and is dumped
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from backup.catalog.wal_archive import StreamFile, WalArchive, clusters
from backup.errors import DatabaseUnavailable, NotFound
from backup.formatting import duration, listed, local_time, plural, printable, size
from backup.logging import logger
from backup.model.manifest import Preload
from backup.model.moment import Survey, Wanted
from backup.model.recovered import Recovered
from backup.model.wal import Base, Received, SegmentId, chain, lsn, lsn_text
from backup.operations.create.context import Reached
from backup.operations.pitr.base_choice import Cluster, choose
from backup.operations.pitr.wal_files import SegmentFiles, needed, received_to, unpacked_base
from backup.postgres.recovered_tables import make_maps, unlogged
from backup.postgres.recovery import SPARE, ClosedCluster, Recovery, RecoveryPlaces
from backup.postgres.server import databases, identity
from backup.postgres.session import Login
from backup.progress import Progress

_SHOWN: Final = "%Y-%m-%d %H:%M:%S.%f"
# Files take a little more than what the server counts.
_ROOM: Final = 1.1
# By how much the server's clock may be behind ours, so that a later commit of it is in an earlier segment.
_SKEW: Final = timedelta(minutes=1)
# Looks at the receiver's WAL are two seconds apart, and longer on a busy machine.
_ON_ITS_WAY: Final = timedelta(seconds=30)
_GLANCE: Final = 0.2
# So many segments beyond the moment are read, too, to count what is not brought back; then so many more at a time,
# until there is a later commit.
_BEYOND: Final = 64


@dataclass(frozen=True)
class Moment:
    """What is asked for, and what it is recovered from. `preload`: what the database's server preloads.

    `links` are the bases that an incremental one builds on, the full one first, and itself.
    """

    wanted: Wanted
    archive: WalArchive
    base: Base
    received: Received
    database: str
    preload: Preload
    identity: Path | None
    zone: ZoneInfo
    links: Sequence[Base] = ()

    @property
    def bytes(self) -> int:
        """Of the base and of all that it builds on."""
        return sum(each.bytes for each in self.links or [self.base])

    @property
    def room(self) -> int:
        """Bytes that the base takes at most: while it is put together it is there twice."""
        return int(self.bytes * _ROOM) * (2 if len(self.links) > 1 else 1)

    @property
    def segments(self) -> list[SegmentId]:
        """The WAL behind the base, as far as there is no gap."""
        return needed(self.base, self.received)


def local_clusters(root: Path) -> list[tuple[WalArchive, Cluster]]:
    """Every cluster of which there is a base here. StoreError."""
    stream, found = StreamFile(root).read_quietly(), []
    for archive in clusters(root):
        if bases := archive.list_bases():
            found.append((archive, Cluster(bases, archive.received(bases[-1].size, stream))))
    return found


def await_wal(
    root: Path, moment: datetime, clock: Callable[[], datetime], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Wait for the WAL of a moment that has passed where it is on its way: a receiver at work is seconds behind."""
    file, until = StreamFile(root), clock() + _ON_ITS_WAY
    while (now := clock()) < until and moment <= now:
        stream = file.read_quietly()
        if not stream or not stream.as_of(now).up or not stream.level or stream.level >= moment:
            return
        sleep(_GLANCE)


def find_moment(
    there: Sequence[tuple[WalArchive, Cluster]],
    wanted: Wanted,
    database: str,
    preload: Preload,
    identity: Path | None,
    zone: ZoneInfo,
) -> Moment:
    """Find the base and the WAL for it; NotFound with what there is instead."""
    base = choose([cluster for _, cluster in there], wanted, zone)
    archive, found = next((archive, each) for archive, each in there if base in each.bases)
    links = chain(base, found.bases)
    return Moment(wanted, archive, base, found.received, database, preload, identity, zone, links)


@dataclass(frozen=True)
class RecoveredOrigin:
    """Where a set of a moment comes from; see Origin in operations/create/context.py."""

    moment: Moment
    places: RecoveryPlaces

    def look(self, run: str, progress: Progress) -> list[tuple[str, str]]:
        """Say what would be brought back, as far as the WAL tells; see `outlook`. Only under the lock."""
        self.places.sweep()
        with self.places.prepare(run) as work:
            return outlook(self.moment, look(self.moment, work, progress, replay=False))

    @contextlib.contextmanager
    def reach(self, run: str, progress: Progress) -> Iterator[Reached]:
        """Recover it for the body. BackupError when that cannot be done, or ended elsewhere than it was to."""
        asked, base = self.moment, self.moment.base
        self.places.sweep()
        with self.places.prepare(run) as work:
            logger.info("recovering from the base backup {} in {}", base.id, work.way)
            found = look(asked, work, progress, replay=True)
            if asked.wanted.seen and found.mixed:
                raise NotFound("transactions ended in another order than the WAL has them in, just then")
            for label, text in outlook(asked, found):
                logger.info("{}: {}", label, text)
            unpack_base(asked, work, progress)
            progress.phase("replaying the WAL")
            login, major = _login(asked)
            with work.start(found.last, login, major, asked.preload) as (source, wait):
                wait(progress.advance)
                _require_database(asked, source.login)
                facts = source.inspect()
                if facts.system_identifier != base.system_identifier:
                    raise DatabaseUnavailable("the recovered server is of another cluster. Nothing was published")
                # Of libraries it has what we gave it, and those quietened.
                needs = replace(facts.dependencies, preload=asked.preload)
                cautions = (*facts.cautions, *filter(None, [unlogged(source.login)]))
                known = replace(facts, dependencies=needs, cautions=cautions)
                yield Reached(source, known, _as_of(asked, found), recovered(asked, found))


def recover_cluster(
    origin: RecoveredOrigin, run: str, progress: Progress, owner: str, taken: Sequence[int]
) -> tuple[list[tuple[str, str]], ClosedCluster]:
    """Recover the whole cluster where its `places` have their data, shut down, as `owner`'s (uid:gid).

    What was brought back (see `outlook`), and what it is. `taken`: timelines behind the base's that are not to be its.
    """
    asked = origin.moment
    origin.places.sweep()
    with origin.places.prepare(run) as work:
        logger.info("recovering from the base backup {} in {}", asked.base.id, work.way)
        found = look(asked, work, progress, replay=True)
        unpack_base(asked, work, progress)
        progress.phase("replaying the WAL")
        login, major = _login(asked)
        with work.start(found.last, login, major, asked.preload, taken) as (source, wait):
            wait(progress.advance)
            _require_database(asked, source.login)
            if identity(source.login)[1] != asked.base.system_identifier:
                raise DatabaseUnavailable("the recovered server is of another cluster")
            if len(asked.links) > 1:
                progress.phase("making the maps of visible rows")
                make_maps(source.login)
        progress.phase("checking the pages")
        return outlook(asked, found), work.close(owner, taken)


def space_for(asked: Moment) -> int:
    """Bytes that its recovery takes at most: its base, the WAL that a first look is taken at, and what that adds."""
    return asked.room + 2 * len(_first(asked)) * asked.base.size + SPARE


def unpack_base(asked: Moment, work: Recovery, progress: Progress) -> None:
    """Unpack the base, put together with those that it builds on. IntegrityError, KeyMissing, EngineError."""
    links = asked.links or [asked.base]
    progress.phase("unpacking the base backup", sum(each.artifact.stored_size for each in links))
    work.unpack_base([unpacked_base(asked.archive, each, asked.identity, progress) for each in links])


def _login(asked: Moment) -> tuple[Login, int]:
    """How to enter the recovered server, and its major version."""
    return Login("", 5432, asked.base.user, asked.database), int(asked.base.server_version.partition(".")[0])


def _require_database(asked: Moment, login: Login) -> None:
    there = databases(login).values()
    if asked.database not in there:
        raise NotFound(
            f"at that moment there was no database {printable(asked.database)!r}, but"
            f" {printable(', '.join(sorted(there)))}. Nothing was published",
            "Was it made later? Ask for a moment after that. DB_NAME names the one to bring back.",
        )


def _first(asked: Moment) -> Sequence[SegmentId]:
    """The WAL that a first look is taken at: a little more than what is brought back."""
    segments, whole, wanted = asked.segments, asked.received.whole, asked.wanted
    for number, each in enumerate(segments):
        if wanted.place is not None and each.number * asked.base.size > wanted.place:
            return segments[: number + _BEYOND]
        if wanted.moment and (came := whole.get(each)) and came > wanted.moment + _SKEW:
            return segments[: number + _BEYOND]
    return segments


def look(asked: Moment, work: Recovery, progress: Progress, *, replay: bool) -> Survey:
    """Unpack as much WAL as it takes to know the last commit, and read which there are. IntegrityError, KeyMissing.

    NoSpace unless there is room for that; `replay`: also for the base, and for what the WAL adds to it.
    """
    base, segments = asked.base, asked.segments
    files = SegmentFiles(asked.archive, base, asked.identity, progress, asked.received.live)
    more, count = _first(asked), 0
    while True:
        count += len(more)
        replayed = asked.room + count * base.size if replay else 0
        work.require_space(len(more) * base.size + replayed)
        progress.phase("unpacking the WAL")
        work.unpack(files.as_tar(more), into_wal=True)
        until = received_to(asked.received, segments[count - 1], base.size)
        found = Survey(asked.wanted, complete=count == len(segments))
        progress.phase("reading the WAL")
        for commit in work.commits(base.end, base.timeline, base.size, until):
            found.take(commit)
        if found.sure:
            return found
        more = segments[count : count + _BEYOND]


def outlook(asked: Moment, found: Survey) -> list[tuple[str, str]]:
    """Say what a recovery brings back, and what it does not: labels and texts."""
    base, zone = asked.base, asked.zone
    until = found.last.lsn if found.last else lsn(base.end)
    last = "none between the base backup and that moment"
    if found.last:
        last = f"{local_time(found.last.time, zone, _SHOWN)} ({lsn_text(found.last.lsn)})"
    left = "nothing that was received is left out"
    if found.later and found.newest:
        least = "" if found.complete else "at least "
        left = f"{least}{plural(found.later, 'later commit')}, of up to {local_time(found.newest.time, zone, _SHOWN)}"
    proof = asked.archive.proof()
    takes = proof.seconds * work_size(asked, until) / proof.bytes if proof and proof.bytes else 0.0
    known = (
        [("takes", f"about {duration(takes)}, as the last drill of moments did; then it is restored")] if takes else []
    )
    earlier = [each.id for each in asked.links[:-1]]
    built = f", with {listed(earlier)}, which it builds on; {size(asked.room)} to put them together" if earlier else ""
    return [
        (
            "base backup",
            f"{base.id} of {local_time(base.ended, zone, '%Y-%m-%d %H:%M:%S')}, {size(asked.bytes)}{built}",
        ),
        ("WAL to replay", size(work_size(asked, until) - asked.bytes)),
        ("last commit", last),
        ("not brought back", left),
        *known,
    ]


def work_size(asked: Moment, until: int) -> int:
    """Bytes that a recovery works on: those of the base, and the WAL up to that place."""
    return asked.bytes + max(0, until - lsn(asked.base.start))


def recovered(asked: Moment, found: Survey) -> Recovered:
    """What the manifest says of it."""
    return Recovered(
        base=asked.base.id,
        moment=asked.wanted.moment,
        lsn=lsn_text(found.last.lsn) if found.last else asked.base.end,
        last_commit=found.last.time if found.last else None,
        later=found.later,
    )


def _as_of(asked: Moment, found: Survey) -> datetime:
    """How old the set is."""
    if asked.wanted.moment:
        return asked.wanted.moment
    return found.last.time if found.last else asked.base.ended
