"""When jobs run: cron lines, their slots, which of them are due by the records of runs. Pure; `now` is an argument.

A slot is a moment at which a job is to run. It is settled when a run for it came to an end of its own, well or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AwareDatetime, model_validator

from backup.formatting import local_time, printable
from backup.model.frozen import Frozen
from backup.model.run import Outcome, Run

# A run that begins this long after its slot is a catch-up.
GRACE: Final = timedelta(seconds=90)
# What is settled further ahead of the clock than this was settled while the clock was wrong.
_AHEAD: Final = timedelta(days=1)
_COUNTED: Final = 1000
# A parsed line has to begin somewhere.
_ANY: Final = datetime(2024, 1, 1)  # noqa: DTZ001
# Short first: a line has many slots in one of them, or few in the next.
_WINDOWS: Final = (timedelta(hours=1), timedelta(days=1), timedelta(days=32), timedelta(days=3300))
# How often one slot is tried, if its runs are broken off.
TRIES: Final = 3
# Another run held the lock to the end; what a run that vanished is recorded with; SIGINT and SIGTERM.
BUSY, _VANISHED = 11, 137
BROKEN_OFF: Final = (BUSY, 130, 143)


@dataclass(frozen=True)
class Slot:
    """A job and the moments it runs next, in the operator's zone."""

    job: str
    cron: str
    times: tuple[datetime, ...]


@dataclass(frozen=True)
class Due:
    """A job that is to run: its latest slot, how many passed since the last run, how many runs were broken off."""

    job: str
    slot: datetime
    count: int
    tries: int = 0

    def is_late(self, now: datetime) -> bool:
        """Tell whether a run that begins now is a catch-up."""
        return self.count > 1 or now - self.slot >= GRACE


class JobState(Frozen):
    """What records do not tell of a job: the line and zone that count, up to when its slots are settled by now, and why
    its last catch-up was late."""

    cron: str
    zone: str
    until: AwareDatetime
    reason: str = ""

    def counts_as(self, other: JobState | None) -> bool:
        """Tell whether another state is of the same line and zone."""
        return other is not None and (self.cron, self.zone) == (other.cron, other.zone)

    @model_validator(mode="before")
    @classmethod
    def _reopen(cls, data: Any) -> Any:
        """An earlier release settled a slot when its run began: one that did not end has its slots open again."""
        if isinstance(data, dict) and data.get("before") and data.get("begun") and not data.get("ended"):
            return data | {"until": data["before"]}
        return data


@dataclass(frozen=True)
class Standing:
    """How a job stands by its records: slots up to `until` are settled, and `tries` runs since were broken off."""

    until: datetime
    tries: int = 0
    last: Run | None = None


def check_cron(cron: str) -> str:
    """`cron` with its blanks tidied; ValueError unless it has five fields and matches some day to come."""
    tidy = " ".join(cron.split())
    if len(tidy.split(" ")) != 5:
        raise ValueError(f"{printable(cron)!r} is not a cron line of five fields (minute hour day month weekday)")
    try:
        next(CronSim(tidy, _ANY))
    except CronSimError as error:
        raise ValueError(f"{printable(cron)!r} is not a cron line: {error}") from None
    except StopIteration:
        raise ValueError(f"{printable(cron)!r} never matches any day") from None
    return tidy


def moments(cron: str, after: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """The slots after `after`, in UTC, each later than the one before.

    Where the clock is set forward, a time that is not there becomes the first one after; where it is set back,
    the first of two counts. Asked within the second, the library would name the first, which has passed.
    """
    last = after.astimezone(UTC)
    for moment in CronSim(cron, last.astimezone(zone)):
        if (slot := moment.astimezone(UTC)) > last:
            last = slot
            yield slot


def upcoming(jobs: Mapping[str, str], now: datetime, zone: ZoneInfo, count: int = 1) -> list[Slot]:
    """The next `count` slots of each job that is not off, soonest first. `jobs` maps names to cron lines."""
    slots = [
        Slot(job, cron, tuple(moment.astimezone(zone) for moment in islice(moments(cron, now, zone), count)))
        for job, cron in jobs.items()
        if cron
    ]
    # Aware times of one zone compare by the wall clock, which runs twice through one hour a year.
    return sorted(slots, key=lambda slot: [moment.timestamp() for moment in slot.times])


def passed(cron: str, after: datetime, until: datetime, zone: ZoneInfo) -> tuple[datetime | None, int]:
    """The latest slot after `after` and not after `until`, and how many there are: at most a thousand are counted."""
    last, count = None, 0
    for moment in moments(cron, after, zone):
        if moment > until:
            return last, count
        last, count = moment, count + 1
        if count == _COUNTED:
            break
    for window in _WINDOWS:
        for moment in moments(cron, max(last, until - window) if last else until - window, zone):
            if moment > until:
                break
            last = moment
        if last and last > until - window:
            break
    return last, count


def is_unfinished(run: Run) -> bool:
    """Tell whether a run did not come to an end of its own."""
    return run.outcome is Outcome.INTERRUPTED or run.exit_code in (BUSY, _VANISHED)


def is_broken_off(run: Run, since: datetime | None) -> bool:
    """Tell whether a run was kept from its end and did not fail: by a signal, by another run that held the lock, or by
    the end of the service. `since`: when the service began."""
    if run.exit_code == _VANISHED:
        # Marked before it began: the machine went down, and came up with a clock that was not set yet.
        if run.ended and run.ended < run.started:
            return True
        return since is not None and run.started < since and (run.ended is None or run.ended >= since)
    return is_unfinished(run)


def counted(state: JobState | None, cron: str, now: datetime, zone: ZoneInfo) -> tuple[JobState, str]:
    """Return the state to go on with, and what is to be said of it.

    A new job and a changed line or zone count from now on; so does a state from the future, which would keep the job
    silent until then.
    """
    if state is None or (state.cron, state.zone) != (cron, zone.key):
        return JobState(cron=cron, zone=zone.key, until=now), ""
    if state.until > now + _AHEAD:
        note = f"its slots were settled until {local_time(state.until, zone)}: the clock jumped"
        return state.model_copy(update={"until": now}), note
    return state, ""


def standing(state: JobState, runs: Sequence[Run], now: datetime, since: datetime | None) -> Standing:
    """Tell how a job stands. `runs` are its records, newest first; `since` is when the service began.

    What was broken off is due again, three times. A run that vanished while the service went on may do so again: it is
    not repeated.
    """
    after = [run for run in reversed(runs) if run.slot and state.until < run.slot <= now + _AHEAD]
    last, until, tries = after[-1] if after else None, state.until, 0
    # A drill of several sets leaves a record for each: the last one tells whether it was broken off.
    latest = {run.slot: run for run in after}
    for run in after:
        if is_broken_off(run, since) if run is last else is_unfinished(run):
            tries += 1
            if tries < TRIES:
                continue
        elif run is not latest[run.slot] or run.outcome is Outcome.RUNNING:
            continue
        until, tries = max(until, run.slot or until), 0
    return Standing(until, tries, last)


def find_due(job: str, state: JobState, at: Standing, now: datetime, zone: ZoneInfo) -> Due | None:
    """Find what the job is to run for now: once, however much was missed. None also while it runs."""
    if at.last and at.last.outcome is Outcome.RUNNING:
        return None
    slot, count = passed(state.cron, at.until, now, zone)
    return Due(job, slot, count, at.tries) if slot else None


def is_resting(due: Due, at: Standing, since: datetime) -> bool:
    """Tell whether a slot is left to the next one or the next start: somebody stopped its run, and not the service."""
    last = at.last
    if last is None or last.slot != due.slot or last.started < since:
        return False
    return last.outcome is Outcome.INTERRUPTED and last.exit_code != BUSY
