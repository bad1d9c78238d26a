"""Whether any moment of late can be brought back. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, tzinfo
from typing import Final

from backup.formatting import age, local_time
from backup.model.backup_set import SKEW
from backup.model.finding import Finding, failure, warning
from backup.model.run import Outcome, Run
from backup.model.wal import STREAMING, Stream
from backup.monitoring.health.proofs import PROOF_GRACE
from backup.monitoring.window import OffsiteWindow, Window, breaks_words

_BASE: Final = "base"
_DRILLED: Final = "drill-moments"
# The first base begins at once, but may wait for a backup that runs, and for a checkpoint.
_FIRST: Final = timedelta(minutes=15)
_LOG: Final = "`docker compose logs --tail 50 backup` shows it; `doctor` says what the server lacks."
_DAY: Final = timedelta(days=1)
_SHIP: Final = "`ship --once` sends what waits, or says why not; `offsite check` tries the bucket."
_TAKE: Final = "`base` takes one now."
_DRILL: Final = (
    "`drill --moments` recovers the newest moment, and reads it. It needs an engine, and the key of encrypted files."
)


def window_findings(
    window: Window, runs: Iterable[Run], now: datetime, zone: tzinfo, proof_age: timedelta | None = None
) -> Iterator[Finding]:
    """A stream that stands still, a missing base, breaks, what is too old, records that cannot be read.

    `proof_age`: how old its newest drill may be; None where none is scheduled.
    """
    yield from window.problems
    newest_first = sorted(runs, key=lambda run: (run.started, run.id), reverse=True)
    yield from _stream(window, now, zone)
    yield from _base(window, newest_first, now, zone)
    if (stream := window.stream) and stream.slot and stream.slot.problem:
        yield warning(f"WAL is received without a slot: {stream.slot.problem}", stream.slot.hint)
    yield from _proof(window, _last(newest_first, _DRILLED), now, zone, proof_age)
    for each in window.offsite:
        yield from _offsite(each, window, now, zone)
    if closed := [each for each in window.breaks(now) if each.end]:
        yield warning(
            f"moments that cannot be brought back, because their WAL is missing: {breaks_words(closed, zone)} ({zone})",
            "`moments` lists what can be. They pass when they are older than BACKUP_PITR_DAYS.",
        )


def _last(newest_first: Iterable[Run], operation: str) -> Run | None:
    """The last run of it that says how things are."""
    undecided = (Outcome.RUNNING, Outcome.INTERRUPTED)
    return next((run for run in newest_first if run.operation == operation and run.outcome not in undecided), None)


def _proof(window: Window, last: Run | None, now: datetime, zone: tzinfo, limit: timedelta | None) -> Iterator[Finding]:
    """A drill of the window that failed, or is too old; that there is none after a time in which there should be.

    `last` may have failed for want of something, and found nothing that is kept.
    """
    proof = window.proof
    if proof and proof.problem:
        yield failure(
            f"the drill of the window failed at {local_time(proof.tried, zone)}: {proof.problem}",
            "`base --full` takes a new base backup, and `drill --moments` tries it. Sets are not concerned.",
        )
    elif last and not _well(last) and not (proof and proof.tried >= last.started):
        hint = last.hint or f"`logs --run {last.id}` shows it; `drill --moments` tries again."
        yield warning(f"the last drill of the window {last.outcome}: {last.message}", hint)
    elif proof and limit and not -SKEW <= (tried := now - proof.tried) <= limit:
        when = "is dated ahead of the clock" if tried < timedelta() else f"is {age(tried)} old"
        yield warning(f"the newest drill of the window {when}; the limit is {age(limit)}", _DRILL)
    elif window.start and not proof and (waits := now - (window.since or window.start)) > (limit or PROOF_GRACE):
        off = "" if limit else "; BACKUP_DRILL is off"
        yield warning(f"no moment has ever been recovered as a drill, in {age(waits)}{off}", _DRILL)


def _offsite(window: OffsiteWindow, here: Window, now: datetime, zone: tzinfo) -> Iterator[Finding]:
    """What a place lacks. What is here is good all the same: a warning, until a nightly set would lose less."""
    stream, name = window.stream, window.name
    looked = stream.looked if stream else window.begun
    if looked and not -SKEW <= now - looked <= window.max_lag:
        why, hint = (_why(stream), stream.hint) if stream else ("", "")
        text = f"the WAL does not reach {name}: all of it was there last at {local_time(looked, zone)}"
        yield _late(f"{text}, {age(now - looked)} ago{why}", hint or _SHIP, now - looked)
    elif window.every and stream and stream.level and here.stream and here.stream.level:
        if (lag := here.stream.level - stream.level) > window.max_lag:
            yield _late(f"the window at {name} is {age(lag)} behind the one here", _SHIP, lag)
    yield from _offsite_bases(window, here, now)
    closed = [each for each in window.breaks(now) if each.end]
    if len(closed) > len([each for each in here.breaks(now) if each.end]):
        text = f"moments that {name} alone cannot bring back: {breaks_words(closed, zone)} ({zone})"
        yield warning(text, f"`moments --from {window.place}` looks at what is there; they pass when they are older.")


def _offsite_bases(window: OffsiteWindow, here: Window, now: datetime) -> Iterator[Finding]:
    sent = window.bases_stream
    why = _why(sent) if sent else ""
    since = max([base.ended for base in here.bases[:1]] + ([sent.looked] if sent else []), default=now)
    if here.bases and not window.bases and (waits := now - since) > _FIRST:
        yield _late(f"no base backup has reached {window.name}: it alone brings no moment back{why}", _SHIP, waits)
    elif (base := window.base) and here.base_age and now - base.ended > here.base_age:
        text = f"the newest base backup at {window.name}, {base.id}, is {age(now - base.ended)} old"
        yield warning(f"{text}; the limit is {age(here.base_age)}{why}", _SHIP)


def _late(text: str, hint: str, late: timedelta) -> Finding:
    return (failure if late > _DAY else warning)(text, hint)


def _stream(window: Window, now: datetime, zone: tzinfo) -> Iterator[Finding]:
    """Why WAL is not received; a stream that has just begun, or been cut, has the time of BACKUP_PITR_MAX_LAG."""
    stream = window.stream
    if stream is None:
        yield failure(
            "BACKUP_PITR is on, but no WAL has ever been received here",
            f"The running service receives it: `docker compose up -d backup`. {_LOG}",
        )
        return
    hint = " ".join(filter(None, [stream.hint, _LOG]))
    looked = now - stream.looked
    since = stream.level or window.begun
    if stream.level and stream.level > stream.looked + SKEW:
        yield failure(
            f"how far the stream is behind is unknown: its newest moment, {local_time(stream.level, zone)}, is ahead of"
            f" the clock of the look at it, {local_time(stream.looked, zone)}",
            "Are the clocks of this machine and of the database server right? `date` in both containers shows them.",
        )
    if not -SKEW <= looked <= window.max_lag:
        yield failure(
            f"whether WAL is received is unknown: the stream was last looked at {local_time(stream.looked, zone)},"
            f" {age(looked)}{'' if looked < timedelta() else ' ago'}{_why(stream)}",
            hint,
        )
    elif since is None and stream.state not in (STREAMING, "starting"):
        yield failure(f"WAL is not received: the stream is {stream.state}{_why(stream)}", hint)
    elif since and now - since > window.max_lag:
        yield failure(
            f"nothing since {local_time(since, zone, '%Y-%m-%d %H:%M:%S')} can be brought back: the stream of WAL"
            f" {_standing(stream)}, for {age(now - since)} ({_limit(window)}){_why(stream)}",
            hint,
        )


def _standing(stream: Stream) -> str:
    return "is behind" if stream.up else f"is {stream.state}"


def _why(stream: Stream) -> str:
    return f": {stream.message}" if stream.message else ""


def _limit(window: Window) -> str:
    return f"BACKUP_PITR_MAX_LAG is {window.max_lag.total_seconds():.0f} s"


def _base(window: Window, runs: list[Run], now: datetime, zone: tzinfo) -> Iterator[Finding]:
    """What is wrong with the bases. `runs` are newest first."""
    ended = [run for run in runs if run.operation == _BASE and run.outcome is not Outcome.RUNNING]
    why = f"; the last one: {ended[0].outcome}: {ended[0].message}" if ended and not _well(ended[0]) else ""
    hint = (ended[0].hint if why else "") or _TAKE
    # It waits for whoever holds the backup volume. One that has failed may fail again.
    running = None if why else next((run for run in runs if run.outcome is Outcome.RUNNING), None)
    stream = window.stream
    # Without a stream there can be none; that has been told.
    if window.end is None and window.begun and stream:
        lone = "the base backup that is here lacks WAL" if window.bases else "there is no base backup"
        if why or now - window.begun > _FIRST:
            yield _missing(f"no moment can be brought back: {lone}", why, hint, running, now)
    elif window.end and not window.live:
        if stream and stream.up and now - window.end > window.max_lag:
            text = (
                f"a gap since {local_time(window.end, zone)}: nothing after it can be brought back without a new base"
            )
            yield _missing(text, why, hint, running, now)
    elif (base := window.base) and window.base_age and now - base.ended > window.base_age:
        text = f"the newest base backup, {base.id}, is {age(now - base.ended)} old; the limit is"
        yield warning(f"{text} {age(window.base_age)}{why}", hint)
    elif (last := _last(runs, _BASE)) and not _well(last):
        # There is a newer base than that, or it was taken, and something else was not well.
        yield warning(f"the last run of `base` {last.outcome}: {last.message}", last.hint or _LOG)


def _well(run: Run) -> bool:
    return run.outcome in (Outcome.SUCCESS, Outcome.CHANGED)


def _missing(text: str, why: str, hint: str, running: Run | None, now: datetime) -> Finding:
    """A failure, or a warning while what ends it runs, or is waited for."""
    if running:
        text = f"{text}; {running.operation} has been running for {age(now - running.started)}"
        return warning(text, f"`logs --run {running.id}` shows its progress.")
    return failure(f"{text}{why}", hint)
