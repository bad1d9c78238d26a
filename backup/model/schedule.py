"""When jobs run: cron lines, their slots, what is owed of them, the crontab. Pure; `now` is an argument.

A slot is a moment at which a job is to run. This module is the authority: a start that comes at another moment
(supercronic has its own opinion of nights when the clock changes) finds nothing owed, and a slot that nobody
started stays owed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AwareDatetime, BaseModel, ConfigDict

from backup.formatting import local_time, printable

# A run that begins this long after its slot is a catch-up.
GRACE: Final = timedelta(seconds=90)
# A clock that was put right by seconds may let the scheduler start a job before its slot.
_EARLY: Final = timedelta(seconds=5)
# Accounts ahead of the clock by more than this were made while it was wrong.
_AHEAD: Final = timedelta(days=1)
_COUNTED: Final = 1000
_DAYS, _WEEKDAYS = frozenset(range(1, 32)), frozenset(range(7))
# A parsed line has to begin somewhere.
_ANY: Final = datetime(2024, 1, 1)  # noqa: DTZ001
# Short first: a line has many slots in one of them, or few in the next.
_WINDOWS: Final = (timedelta(hours=1), timedelta(days=1), timedelta(days=32), timedelta(days=3300))
# How far the scheduler's next starts are looked at, and how far from a change of the clock it may go wrong.
_FORESIGHT: Final = timedelta(hours=26)
_NEAR: Final = timedelta(hours=6)
# How often one slot is tried again after runs that were broken off.
_TRIES: Final = 3
# Another run held the lock to the end; SIGINT; SIGTERM; and what a run that vanished is counted as.
BUSY, _INTERRUPTED, VANISHED = 11, (130, 143), 137
# Done, though files changed while they were read, or more waits for a person.
WELL = (0, 3, 4)


@dataclass(frozen=True)
class Slot:
    """A job and the moments it runs next, in the operator's zone."""

    job: str
    cron: str
    times: tuple[datetime, ...]


@dataclass(frozen=True)
class Owed:
    """A job that should have run: the latest slot that passed, and how many did since the last run."""

    job: str
    slot: datetime
    missed: int


class Account(BaseModel):
    """What is accounted for of one job: every slot until `until`.

    `slot` to `exit_code` tell of the last run: the slot it was for, how many slots it stands for, and its trigger.
    `reason` says why slots were missed or what became of the run, `crashed` that it ended without a word of its own;
    `before` is what `until` was before it, and `tries` counts runs in a row that were broken off.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    cron: str
    zone: str
    until: AwareDatetime
    slot: AwareDatetime | None = None
    slots: int = 0
    trigger: str = ""
    begun: AwareDatetime | None = None
    ended: AwareDatetime | None = None
    exit_code: int | None = None
    reason: str = ""
    crashed: bool = False
    before: AwareDatetime | None = None
    tries: int = 0

    @property
    def open(self) -> bool:
        """A run has begun and not said how it ended."""
        return self.begun is not None and self.ended is None


def check(cron: str) -> str:
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


def plain(cron: str) -> str | None:
    """The line as lists of numbers, which every program reads alike; None where no such line means the same.

    A month's last day or its second Monday is no number, and where both lists of days are given, either is enough:
    none says that both must be right.
    """
    parsed = CronSim(cron, _ANY)
    days: Set[int] = parsed.days
    weekdays: Set[int] = {each % 7 if isinstance(each, int) else -1 for each in parsed.weekdays}
    every = _DAYS <= days, _WEEKDAYS <= weekdays
    if any(every):
        # Of the two, the one that leaves days out decides, or none does.
        days = _DAYS if every[0] or not parsed.day_and else days
        weekdays = _WEEKDAYS if every[1] or not parsed.day_and else weekdays
    elif parsed.day_and:
        return None
    if min(days) < 0 or min(weekdays) < 0:
        return None
    fields = ((parsed.minutes, 60), (parsed.hours, 24), (days, 31), (parsed.months, 12), (weekdays, 7))
    return " ".join("*" if len(found) == all_ else ",".join(map(str, sorted(found))) for found, all_ in fields)


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


def opened(account: Account | None, cron: str, now: datetime, zone: ZoneInfo) -> tuple[Account, str]:
    """The account to go on with, and what is to be said of it.

    A new job and a changed line or zone count from now on; so does an account from the future, which would keep the job
    silent until then.
    """
    if account is None:
        return Account(cron=cron, zone=zone.key, until=now), ""
    if (account.cron, account.zone) != (cron, zone.key):
        return account.model_copy(update={"cron": cron, "zone": zone.key, "until": now, "before": None, "tries": 0}), ""
    if account.until > now + _AHEAD:
        note = f"its slots were accounted for until {local_time(account.until, zone)}: the clock jumped"
        return account.model_copy(update={"until": now, "before": None, "tries": 0}), note
    return account, ""


def owed(jobs: Mapping[str, str], accounts: Mapping[str, Account], now: datetime, zone: ZoneInfo) -> list[Owed]:
    """What should have run by now and did not, in the order of `jobs`; once for each job, however much was missed."""
    found = []
    for job, cron in jobs.items():
        account = accounts.get(job)
        if cron and account and (account.cron, account.zone) == (cron, zone.key):
            slot, missed = passed(cron, account.until, now, zone)
            if slot:
                found.append(Owed(job, slot, missed))
    return found


def claim(account: Account, now: datetime, zone: ZoneInfo) -> Account | None:
    """The account when a run begins now for what is owed; None when nothing is."""
    slot, count = passed(account.cron, account.until, now + _EARLY, zone)
    if slot is None:
        return None
    late = count > 1 or now - slot >= GRACE
    return account.model_copy(
        update={
            "until": slot,
            "slot": slot,
            "slots": count,
            "trigger": "catch-up" if late else "schedule",
            "begun": now,
            "ended": None,
            "exit_code": None,
            "reason": account.reason if late else "",
            "crashed": False,
            "before": account.until,
            "tries": account.tries + 1,
        }
    )


def settle(account: Account, now: datetime, exit_code: int, since: datetime | None = None) -> Account:
    """The account when its run has ended. `since`: when the service began, for a run that vanished without a word.

    What was broken off, not failed, is owed again, three times: by a signal, by another run that kept the lock, or by
    the machine going down. A run that vanished while the service went on may do so again: it is not repeated.
    """
    reason, vanished = account.reason, since is not None
    again = exit_code in (BUSY, *_INTERRUPTED)
    if exit_code == BUSY:
        reason = "another run held the backup volume all the time"
    elif again:
        reason = "the run was interrupted"
    elif since is not None:
        again = account.begun is not None and account.begun < since
        reason = "the run was killed together with the service" if again else "the run ended without a word: killed?"
    again = again and account.tries < _TRIES and account.before is not None
    ended = {"ended": now, "exit_code": exit_code, "reason": reason}
    if again:
        return account.model_copy(update=ended | {"until": account.before})
    return account.model_copy(update=ended | {"tries": 0, "crashed": vanished})


def stillborn(account: Account, slot: Owed, begun: datetime, ended: datetime, exit_code: int) -> Account:
    """The account when a run ended before it could even claim its slot, so that nothing starts it again and again."""
    return account.model_copy(
        update={
            "until": slot.slot,
            "slot": slot.slot,
            "slots": slot.missed,
            "trigger": "catch-up",
            "begun": begun,
            "ended": ended,
            "exit_code": exit_code,
            "reason": f"the run ended with code {exit_code} before it could record anything",
            "crashed": exit_code != 0,
            "before": None,
            "tries": 0,
        }
    )


def resting(account: Account, slot: datetime, since: datetime) -> bool:
    """Whether `slot` is left to the next one or the next start: somebody ended its run, and not with the service."""
    ours = account.begun is not None and account.begun >= since
    return ours and account.exit_code in _INTERRUPTED and account.slot == slot


def misled(cron: str, now: datetime, zone: ZoneInfo) -> bool:
    """Whether the scheduler would soon start `cron` at another moment than its slot, or spin: the clock changes.

    Or it would always do so, because there is no plain line that means the same.
    Measured with supercronic 0.2.45 (Go's `time.Date`): a time that is not there is run an hour too early in the west
    and then logged without end until the hour is over, gigabytes of it; a time that comes twice is run the second
    time in the east.
    """
    if plain(cron) is None:
        return True
    due = next(moments(cron, now, zone))
    horizon = max(due, now + _FORESIGHT)
    if not _changes(zone, now - _NEAR, horizon + _NEAR):
        return False
    before = now
    for slot in moments(cron, now, zone):
        if _started(cron, before, zone) != slot:
            return True
        if slot >= horizon:
            break
        before = slot
    return False


def _changes(zone: ZoneInfo, begin: datetime, end: datetime) -> bool:
    offset = begin.astimezone(zone).utcoffset()
    while begin < end:
        begin = min(begin + _NEAR, end)
        if begin.astimezone(zone).utcoffset() != offset:
            return True
    return False


def _started(cron: str, after: datetime, zone: ZoneInfo) -> datetime:
    """When the scheduler would start a line: the next time on the wall, made a moment as Go does it."""
    wall = next(CronSim(cron, after.astimezone(zone).replace(tzinfo=None)))
    guess = wall.replace(tzinfo=UTC)
    for _ in range(2):
        offset = guess.astimezone(zone).utcoffset() or timedelta()
        guess = wall.replace(tzinfo=UTC) - offset
    return guess


def crontab(jobs: Mapping[str, str], commands: Mapping[str, str], held: frozenset[str] = frozenset()) -> str:
    """The text supercronic runs: a plain line for each job that is not off; those `held` as comments."""
    text = ""
    for job, cron in jobs.items():
        line = plain(cron) if cron and job not in held else None
        if cron:
            text += f"{line or f'# the service starts it itself: {cron}'} {commands[job]}\n"
    return text
