"""Whether any moment of late can be brought back. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, tzinfo
from typing import Final

from backup.formatting import age, duration, local_time
from backup.model.backup_set import SKEW
from backup.model.finding import Finding, failure, warning
from backup.model.run import Outcome, Run
from backup.model.wal import Stream
from backup.monitoring.health.model import failed
from backup.monitoring.window import Window, breaks_words

BASE: Final = "base"
# The first base begins at once, but may wait for a backup that runs, and for a checkpoint.
_FIRST: Final = timedelta(minutes=15)
_LOG: Final = "`docker compose logs --tail 50 backup` shows it; `doctor` says what the server lacks."
_TAKE: Final = "`base` takes one now."


def window_findings(window: Window, runs: Iterable[Run], now: datetime, zone: tzinfo) -> Iterator[Finding]:
    """A stream that stands still, a missing base, breaks, a base that is too old, records that cannot be read."""
    bases = sorted((run for run in runs if run.operation == BASE), key=lambda run: (run.started, run.id), reverse=True)
    yield from window.problems
    standing = _stream(window, now, zone)
    if standing:
        yield standing
    yield from _base(window, bases, now, zone)
    if closed := [each for each in window.breaks(now) if each.end]:
        yield warning(
            f"moments that cannot be brought back, because their WAL is missing: {breaks_words(closed, zone)} ({zone})",
            "`moments` lists what can be. They pass when they are older than BACKUP_PITR_DAYS.",
        )


def _stream(window: Window, now: datetime, zone: tzinfo) -> Finding | None:
    """Why WAL is not received; None while it is, and for a moment after it began."""
    stream = window.stream
    if stream is None:
        return failure(
            "BACKUP_PITR is on, but no WAL has ever been received here",
            f"The running service receives it: `docker compose up -d backup`. {_LOG}",
        )
    hint = " ".join(filter(None, [stream.hint, _LOG]))
    looked = now - stream.looked
    if not -SKEW <= looked <= window.max_lag:
        return failure(
            f"whether WAL is received is unknown: the stream was last looked at {local_time(stream.looked, zone)},"
            f" {age(looked)}{'' if looked < timedelta() else ' ago'}{_why(stream)}",
            hint,
        )
    since = stream.level or window.begun
    if since is None and stream.state not in ("streaming", "starting"):
        return failure(f"WAL is not received: the stream is {stream.state}{_why(stream)}", hint)
    if since and now - since > window.max_lag:
        return failure(
            f"nothing since {local_time(since, zone, '%Y-%m-%d %H:%M:%S')} can be brought back: the stream of WAL"
            f" {_standing(stream)}, for {age(now - since)} ({_limit(window)}){_why(stream)}",
            hint,
        )
    return None


def _standing(stream: Stream) -> str:
    return "is behind" if stream.state == "streaming" else f"is {stream.state}"


def _why(stream: Stream) -> str:
    return f": {stream.message}" if stream.message else ""


def _limit(window: Window) -> str:
    return f"BACKUP_PITR_MAX_LAG is {window.max_lag.total_seconds():.0f} s"


def _base(window: Window, runs: list[Run], now: datetime, zone: tzinfo) -> Iterator[Finding]:
    """What is wrong with the bases. `runs` are theirs, newest first."""
    running, last = _running(runs), next((run for run in runs if run.outcome is not Outcome.RUNNING), None)
    why = f"; the last one failed: {last.message}" if last and failed(last) else ""
    hint = (last.hint if why and last else "") or _TAKE
    if window.end is None:
        since = window.begun
        # Without a stream there can be none; it has been told.
        if since is None or window.stream is None or now - since <= _FIRST:
            return
        lone = "the base backup that is here lacks WAL" if window.bases else "there is no base backup"
        yield _missing(f"no moment can be brought back: {lone}", why, hint, running, now)
    elif not window.live:
        if now - window.end <= window.max_lag:
            return
        wanted = window.stream.wants_base if window.stream else ""
        text = f"a gap since {local_time(window.end, zone)}: nothing after it can be brought back without a new base"
        yield _missing(f"{text}{f' ({wanted})' if wanted else ''}", why, hint, running, now)
    elif (base := window.base) and window.base_age and now - base.ended > window.base_age:
        text = f"the newest base backup, {base.id}, is {age(now - base.ended)} old; the limit is"
        yield warning(f"{text} {duration(window.base_age.total_seconds())}{why}", hint)


def _missing(text: str, why: str, hint: str, running: Run | None, now: datetime) -> Finding:
    """A failure, or a warning while what ends it runs."""
    if running:
        text = f"{text}; one has been taken for {age(now - running.started)}"
        return warning(text, f"`logs --run {running.id}` shows its progress.")
    return failure(f"{text}{why}", hint)


def _running(runs: list[Run]) -> Run | None:
    """The base that is being taken, unless the one before failed: that may happen again."""
    if not runs or runs[0].outcome is not Outcome.RUNNING or any(failed(run) for run in runs[1:2]):
        return None
    return runs[0]
