"""What people are told of the copies: the third clock, what is wrong, how much waits. Pure; `now` is an argument."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from backup.formatting import age, plural, size
from backup.model.backup_set import SKEW, StoredSet
from backup.model.finding import Finding, warning
from backup.model.run import Outcome, Run
from backup.monitoring.overview import Clock, Offsite
from backup.operations.offsite.remote_state import Book, Copy, PlaceName
from backup.operations.offsite.rules import DRILL, OPERATIONS, PRUNE, VERIFY, sets_to_upload

_LISTED: Final = 5
_FAILED: Final = (Outcome.FAILED, Outcome.CRASHED)
_AGAIN: Final = "`offsite verify` looks again; `upload --all` sends what is missing or differs."


@dataclass(frozen=True)
class Seen:
    """What is known of one place. `belong` are the local sets that should be there, newest first."""

    place: PlaceName
    name: str
    book: Book
    belong: Sequence[StoredSet]
    limit: timedelta


def copy_summary(seen: Seen, now: datetime) -> Offsite:
    """One place in short."""
    newest, unsent = newest_held(seen.book, now), sets_to_upload(seen.belong, seen.book)
    return Offsite(
        place=seen.place,
        name=seen.name,
        sets=sum(copy.held for copy in seen.book.copies.values()),
        size=sum(copy.size for copy in seen.book.copies.values() if copy.held),
        waiting=len(unsent),
        waiting_size=sum(stored.size for stored in unsent),
        bad=sum(not copy.held for copy in seen.book.copies.values()),
        newest=newest.id if newest else "",
        newest_time=newest.time if newest else None,
        looked=seen.book.looked,
    )


def clock(seen: Seen, runs: Sequence[Run], now: datetime) -> Clock:
    """The third clock: how old the newest set is that is confirmed offsite."""
    newest, short = newest_held(seen.book, now), copy_summary(seen, now)
    wrong = any(copy_findings(seen, runs, now))
    waits = f"{plural(short.waiting, 'set')} waiting, {size(short.waiting_size)}" if short.waiting else ""
    if newest is None:
        note = "; ".join(filter(None, [f"none yet at {seen.name}", waits]))
        return Clock("offsite", None, None, seen.limit, "warn" if wrong else "starting", note)
    stored = StoredSet(Path(seen.name), newest.id, newest.tier, newest.time, "complete", (), newest.size)
    note = "; ".join(filter(None, [f"at {seen.name}", waits]))
    return Clock("offsite", stored, now - newest.time, seen.limit, "warn" if wrong else "pass", note)


def copy_findings(seen: Seen, runs: Sequence[Run], now: datetime) -> Iterator[Finding]:
    """What is not as it should be with the copies at a place. Local sets are good all the same: these are warnings."""
    yield from _failed(seen, runs)
    yield from _old(seen, now)
    bad = sorted(
        (copy for copy in seen.book.copies.values() if not copy.held), key=lambda copy: copy.time, reverse=True
    )
    for copy in bad[:_LISTED]:
        yield warning(f"the copy of {copy.id} at {seen.name} {copy.how}: {copy.problem}", _AGAIN)
    if len(bad) > _LISTED:
        more = plural(len(bad) - _LISTED, "more copy", "more copies")
        yield warning(f"{more} at {seen.name} not as sent", "`offsite list` shows them.")


def newest_held(book: Book, now: datetime) -> Copy | None:
    """The newest set with a database that is confirmed offsite. One dated ahead of the clock is not the newest."""
    held = [copy for copy in book.copies.values() if copy.held and copy.database and copy.time <= now + SKEW]
    return max(held, key=lambda copy: (copy.time, copy.id), default=None)


def _failed(seen: Seen, runs: Sequence[Run]) -> Iterator[Finding]:
    """The last upload, look, drill and cleanup of a place, if it failed; a cleanup also if it waits for a person."""
    for operation, what in (
        (OPERATIONS[seen.place], f"degraded: local only, the last upload to {seen.name}"),
        (VERIFY, "the last check of the offsite copies"),
        (DRILL, "the last drill from the offsite copies"),
        (PRUNE, "the last cleanup of the offsite copies"),
    ):
        here = (run for run in runs if run.operation == operation and run.place == seen.place)
        mine = [run for run in here if run.outcome is not Outcome.RUNNING]
        told = [run for run in mine if run.outcome is not Outcome.INTERRUPTED]
        last = max(told, key=lambda run: (run.started, run.id), default=None)
        if last and last.outcome in _FAILED:
            yield warning(f"{what} {last.outcome}: {last.message}", last.hint or "`offsite check` says why.")
        elif last and operation == PRUNE and last.exit_code:
            yield warning(f"{what}: {last.message}", last.hint)


def _old(seen: Seen, now: datetime) -> Iterator[Finding]:
    newest = newest_held(seen.book, now)
    if newest is not None:
        if now - newest.time > seen.limit:
            text = f"the newest set at {seen.name}, {newest.id}, is {age(now - newest.time)} old; the limit is"
            yield warning(f"{text} {age(seen.limit)}", "`upload` sends what is missing now.")
        return
    first = min((stored.time for stored in seen.belong), default=now)
    if now - first > seen.limit:
        text = f"no set has reached {seen.name} in {age(now - first)}; all sets are on this machine only"
        yield warning(text, "`upload` sends what is missing now; `offsite check` says what is wrong.")
