"""How healthy the backups are, with reasons a person can act on. Pure; `now` is an argument.

Green needs a fresh good set of the database and a last run that went well; whatever cannot be told is red.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from backup.formatting import age, plural, printable
from backup.model.backup_set import SKEW, StoredSet, newest_first, present, volumes_of
from backup.model.finding import LEVELS, Finding, failure, one_line_finding, warning
from backup.model.moment_media import has_own_media
from backup.model.run import CREATE, Outcome, Run
from backup.monitoring.health import proofs, shrink, volume
from backup.monitoring.health.model import (
    FIRST_BACKUP,
    WORDS,
    Health,
    Limits,
    SchedulerState,
    failed,
    newest,
    newest_database,
    newest_of_server,
    parts_of,
    server_of,
)

__all__ = [
    "WORDS",
    "Health",
    "Limits",
    "SchedulerState",
    "Status",
    "evaluate",
    "newest_database",
    "scheduler_reason",
]

_RUNNING_LONG: Final = timedelta(hours=24)
_DATABASE, _MEDIA = _HALVES = ("database", "media")
_LISTED: Final = 5
_UNLIMITED: Final = Limits()


def evaluate(
    sets: Sequence[StoredSet],
    runs: Sequence[Run],
    now: datetime,
    *,
    max_age: timedelta,
    scheduler: SchedulerState | None,
    problem: str = "",
    free: int | None = None,
    others: Sequence[Finding] = (),
    limits: Limits = _UNLIMITED,
) -> Health:
    """Judge sets and runs. `problem` says why the state could not be read, `scheduler` is None outside the service.

    `free` is the room in the backup volume in bytes, `others` what has been judged elsewhere: a restore half way,
    alerts that could not be delivered, slots that were missed.

    A first backup that failed does not forbid `starting` while the next start's first backup runs: its cause may just
    have been put right.
    """
    reasons = [*_scheduler(scheduler), *volume.space_findings(free, limits), *volume.dated_ahead(sets, now)]
    sets = present(sets, now)
    good = newest_database(sets)
    if problem:
        reasons.append(failure(problem, "Until it can be read, nothing here can be called good."))
        # A record that cannot be read hides no set that is too old.
        reasons += _stored(sets, good, now, max_age, limits) if sets else ()
    else:
        first = None if good else _first_backup(runs)
        if first:
            reasons.append(first)
        else:
            reasons += [*_stored(sets, good, now, max_age, limits), *_last_runs(runs)]
        reasons += [
            *_damage(sets, limits),
            *proofs.load_reasons(sets, runs, now),
            *_server(sets),
            *_long(runs, now),
            *_clock(runs, now),
        ]
        reasons += [*shrink.shrink_findings(sets, limits), *proofs.proof_findings(sets, runs, now, limits)]
        reasons += [*volume.empty(sets, limits), *volume.left(sets, limits)]
        # After a failed run nothing is removed: that there is too much then says nothing more.
        well = all(told.level != "fail" for told in _last_runs(runs))
        reasons += volume.counts(sets, now, limits, cleaned=well)
    worst_first = sorted(map(one_line_finding, [*reasons, *others]), key=lambda told: -LEVELS.index(told.level))
    return Health(worst_first[0].level if worst_first else "pass", tuple(worst_first), now, good, scheduler)


def scheduler_reason(state: SchedulerState) -> Finding | None:
    """What is wrong with the scheduler; None while it runs."""
    return next(_scheduler(state), None)


def _scheduler(state: SchedulerState | None) -> Iterator[Finding]:
    if state == "stopped":
        yield failure(
            "supercronic is stopped (frozen); the service starts the backups alone",
            "`docker compose restart backup` restarts it.",
        )
    elif state == "dead":
        yield failure(
            "supercronic is not running and is being started again; the service starts the backups alone",
            "`docker compose logs backup` says why it ended.",
        )


def _stored(
    sets: Sequence[StoredSet], good: StoredSet | None, now: datetime, max_age: timedelta, limits: Limits
) -> Iterator[Finding]:
    """Reasons about the age of what is there, of the database first."""
    if good is None:
        hint = "`create daily` takes one now; `list` shows what is there."
        yield failure("there is no good set of the database yet", hint)
        return
    due = "`schedule` shows when the next one is due."
    yield from _freshness("good set", good, now, max_age, due)
    backups = (s for s in sets if s.good and s.backup)
    holding = newest_first(s for s in backups if _MEDIA in _halves(s, limits))
    media = next(filter(has_own_media, holding), None)
    if media is not None and media is not good:
        names = [name for name in volumes_of(media) if f"volume {name}" in parts_of(media, limits)]
        forget = f"if {printable(names[0])} is not in use any more, `prune --forget-volume {shlex.quote(names[0])}`."
        yield from _freshness("good set that holds media", media, now, max_age, forget)


def _freshness(what: str, stored: StoredSet, now: datetime, max_age: timedelta, hint: str) -> Iterator[Finding]:
    if now - stored.time > max_age:
        yield failure(
            f"the newest {what}, {stored.id}, is {age(now - stored.time)} old; the limit is {age(max_age)}",
            f"`create daily` takes one now; {hint}",
        )


def _first_backup(runs: Iterable[Run]) -> Finding | None:
    """`starting` while the first backup runs and nothing has gone wrong before it; else None."""
    creates = [run for run in _creates(runs) if _covers(run, "database")]
    if not creates or creates[0].outcome is not Outcome.RUNNING:
        return None
    # From the records alone, so that whoever looks from outside of the service sees the same.
    since = creates[0].started if creates[0].trigger == FIRST_BACKUP else None
    if any(_spoils(run, since) for run in creates):
        return None
    text = f"the first backup has been running since {creates[0].started:%Y-%m-%d %H:%M:%S %Z}"
    return Finding("starting", text, "`docker compose logs -f backup` shows its progress.")


def _spoils(run: Run, since: datetime | None) -> bool:
    forgiven = since is not None and run.started < since and run.outcome is Outcome.FAILED
    return failed(run) and not forgiven


def _creates(runs: Iterable[Run]) -> list[Run]:
    """Backups, newest first."""
    backups = (run for run in runs if run.operation == CREATE and run.backup)
    return sorted(backups, key=lambda run: (run.started, run.id), reverse=True)


def _covers(run: Run, half: str) -> bool:
    return run.only in ("", half)


def _last_runs(runs: Iterable[Run]) -> Iterator[Finding]:
    """Each half is judged by its own last run, so that one of media alone does not hide a failed database."""
    ended = [run for run in _creates(runs) if run.outcome is not Outcome.RUNNING]
    told: dict[str, Finding] = {}
    for half in _HALVES:
        mine = [run for run in ended if _covers(run, half)]
        decisive = _decisive(mine)
        for run in [*mine[:1], *([decisive] if decisive else [])]:
            included = "" if run is ended[0] else f" that included the {half}"
            for each in _last_run(run, included):
                told.setdefault(run.id, each)
    yield from told.values()


def failed_backup(runs: Iterable[Run]) -> Run | None:
    """The last backup of the database or of the media, if it failed or crashed."""
    creates = _creates(runs)
    last = (_decisive(run for run in creates if _covers(run, half)) for half in _HALVES)
    return next((run for run in last if run and failed(run)), None)


def _decisive(newest_first: Iterable[Run]) -> Run | None:
    """The last run that says how things are. An interrupted one has proven nothing: what was wrong before, still is."""
    undecided = (Outcome.RUNNING, Outcome.INTERRUPTED)
    return next((run for run in newest_first if run.outcome not in undecided), None)


def _last_run(last: Run, included: str) -> Iterator[Finding]:
    what = f"the last {last.tier} backup{included}" if last.tier else f"the last backup{included}"
    why = f": {last.message}" if last.message else ""
    if failed(last):
        hint = last.hint or "`docker compose logs backup` shows the run; `create daily` tries again."
        yield failure(f"{what} {'failed' if last.outcome is Outcome.FAILED else 'crashed'}{why}", hint)
    elif last.outcome is Outcome.INTERRUPTED:
        yield warning(f"{what} was interrupted{why}", last.hint or "`create daily` takes one now.")
    elif last.outcome is Outcome.CHANGED:
        yield warning(
            f"{what} is complete, but files changed while they were read",
            f"`show {last.set or 'latest'}` lists them.",
        )


def _damage(sets: Iterable[StoredSet], limits: Limits) -> Iterator[Finding]:
    """The newest set damaged is a failure, and the newest backup of a half; older ones a warning.

    A safety set, a snapshot, or one of the other half, takes no backup's place. The old scripts' files have no state
    to judge.
    """
    ours = sorted((s for s in sets if s.state != "old script"), key=lambda s: (s.time, s.id), reverse=True)
    bad: list[tuple[str, StoredSet]] = []
    seen: set[str] = set()
    for stored in ours:
        halves = _halves(stored, limits) if stored.backup else set()
        if not stored.good and stored.state != "does not load":
            half = min(halves - seen, default="")
            which = "the newest set" if stored is ours[0] else f"the newest set of the {half}" if half else ""
            bad.append((which, stored))
        seen |= halves
    for which, stored in bad[:_LISTED]:
        what = f"{which}, {stored.id}, is" if which else f"{stored.id} is"
        hint = f"`verify {stored.id}` looks again; `create daily` takes a new set."
        yield Finding("fail" if which else "warn", f"{what} {stored.state}: {stored.problem}", hint)
    if len(bad) > _LISTED:
        yield warning(f"{plural(len(bad) - _LISTED, 'more damaged set')}", "`list` shows them.")


def _halves(stored: StoredSet, limits: Limits) -> set[str]:
    """Which halves a set holds; volumes that a person has forgotten are none."""
    return {_DATABASE if part == "the database" else _MEDIA for part in parts_of(stored, limits)}


def _server(sets: Sequence[StoredSet]) -> Iterator[Finding]:
    """A sidecar that has come upon another database server makes good sets, but of the wrong data.

    A safety set tells it first; it must not hide it from the backup after it.
    """
    good = newest_of_server(sets)
    if good is None:
        return
    backups = (s for s in sets if server_of(s) and not s.safety)
    before = newest(s for s in backups if (s.time, s.id) < (good.time, good.id))
    if before is not None and server_of(before) != server_of(good):
        yield warning(
            "the newest set is of another database server than the one before"
            f" (system identifier {server_of(good)} instead of {server_of(before)})",
            f"`show {good.id}` and `show {before.id}` say which; correct DB_HOST or DB_SERVICE unless it was replaced.",
        )


def _long(runs: Iterable[Run], now: datetime) -> Iterator[Finding]:
    for run in runs:
        if run.outcome is Outcome.RUNNING and now - run.started > _RUNNING_LONG:
            what = "a backup" if run.operation == CREATE else f"`{run.operation}`"
            text = f"{what} has been running since {run.started:%Y-%m-%d %H:%M:%S %Z}, for {age(now - run.started)}"
            yield warning(text, "`docker compose logs backup` shows what it is doing.")


def _clock(runs: Iterable[Run], now: datetime) -> Iterator[Finding]:
    """A record from the future would hide every failure until then."""
    ahead = max((run.started for run in runs), default=now)
    if ahead > now + SKEW:
        yield failure(
            f"the clock jumped: a run is recorded as started at {ahead:%Y-%m-%d %H:%M:%S %Z}, {age(now - ahead)}",
            "Correct the clock of this machine; if it was wrong before, move that record out of state/runs.",
        )
