"""When rows went: what was received of WAL is read for commits that deleted many, by the database's own pg_waldump."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate
from pathlib import Path

from backup.errors import NotFound
from backup.formatting import printable
from backup.model.deletion import Deletion, DeletionReader, TableFile
from backup.model.wal import SegmentId, lsn_text, spans
from backup.operations.pitr.recover import Moment, RecoveredOrigin
from backup.operations.pitr.wal_files import SegmentFiles, received_to
from backup.operations.restore.locking import looking
from backup.progress import Progress


@dataclass(frozen=True)
class SearchContext:
    """`origin` is the newest moment; `names` tells which table a file is of, and needs the live server."""

    origin: RecoveredOrigin
    lock: Path
    names: Callable[[], Mapping[TableFile, str]]
    progress: Progress


@dataclass(frozen=True)
class LostRows:
    """A commit that took rows of `table`, or of one that has gone and is told by its file; empty for whole files."""

    deletion: Deletion
    table: str


@dataclass(frozen=True)
class Search:
    """What was found: `losses`, the oldest first, from `since` to `until`."""

    since: datetime
    until: datetime
    losses: Sequence[LostRows]


def search(context: SearchContext, since: datetime, least: int, table: str, run: str) -> Search:
    """Look for commits since then that took at least so many rows of `table`, or of any, and for whole tables.

    IntegrityError, KeyMissing, NoSpace, NotFound for no such table.
    """
    names = context.names()
    if table and names and not any(_is_named(name, table) for name in names.values()):
        raise NotFound(
            f"there is no table {printable(table)} now",
            "Without --table all are looked at, and those that were dropped are told as well.",
        )
    with looking(context.lock, "search the WAL", run):
        part = _since(context.origin.moment, since)
        losses = []
        for each in _deletions(part, least, context.origin, run, context.progress):
            file = each.files[0]
            name = names.get(file, _gone(file)) if each.rows else ""
            # Parts of rows are told by their rows. A file that has no name now may have been that of the table.
            if not each.rows or (name and (not table or file not in names or _is_named(name, table))):
                losses.append(LostRows(each, name))
    return Search(part.since, part.until, losses)


def _is_named(name: str, wanted: str) -> bool:
    return wanted in (name, name.partition(".")[2])


def _gone(file: TableFile) -> str:
    return f"a table that is gone (file {file.database}/{file.number})"


@dataclass(frozen=True)
class _WalPart:
    """WAL to be read: `segments` of what `moment` has, which hold all that was committed from `since` to `until`."""

    moment: Moment
    segments: Sequence[SegmentId]
    since: datetime
    until: datetime


def _since(moment: Moment, since: datetime) -> _WalPart:
    """What there is of WAL from `since` on; less if the window begins later. NotFound for none.

    `moment` is the newest one.
    """
    span = next(
        (each for each in spans(moment.archive.list_bases(), moment.received) if moment.base in each.bases), None
    )
    if span is None:
        raise NotFound("no WAL that is here can be read", "`moments` says what there is.")
    base = max((each for each in span.bases if each.ended <= since), key=lambda each: each.ended, default=span.bases[0])
    moment = replace(moment, base=base)
    return _WalPart(
        moment, _segments_since(moment.segments, moment.received.whole, since), max(since, base.ended), span.end
    )


def _segments_since(
    segments: Sequence[SegmentId], whole: Mapping[SegmentId, datetime], since: datetime
) -> Sequence[SegmentId]:
    """Those from the first on that may hold anything committed after `since`.

    The moment of a segment is one that it had passed. What came late has that of the last look before: with it come all
    that have the same.
    """
    passed = list(accumulate((whole.get(each, since) for each in segments), max))
    first = bisect_left(passed, since)
    return segments[bisect_left(passed, passed[first - 1]) if first else 0 :]


def _deletions(part: _WalPart, least: int, origin: RecoveredOrigin, run: str, progress: Progress) -> Iterator[Deletion]:
    """Commits since then that took at least so many rows of one table, or whole tables, the oldest first.

    IntegrityError, KeyMissing, NoSpace. Only under the lock.
    """
    base, segments = part.moment.base, part.segments
    if not segments:
        return
    asked, reader = part.moment, DeletionReader(least)
    files = SegmentFiles(asked.archive, base, asked.identity, progress, asked.received.live)
    origin.places.sweep()
    with origin.places.prepare(run) as work:
        work.require_space(len(segments) * base.size)
        progress.phase("unpacking the WAL")
        work.unpack(files.as_tar(segments), into_wal=True)
        progress.phase("reading the WAL")
        start = base.end if segments[0] <= base.last else lsn_text(segments[0].number * base.size)
        until = received_to(part.moment.received, segments[-1], base.size)
        for line in work.deletions(start, base.timeline, base.size, until):
            progress.advance(0)
            for each in reader.take(line):
                if each.time >= part.since:
                    yield each
