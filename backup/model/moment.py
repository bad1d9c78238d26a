"""The moment that an operator asks for, and the last commit that belongs to it. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from backup.model.wal import lsn

FORMS: Final = "`YYYY-MM-DD HH:MM[:SS]`, the same with an offset such as +02:00 or Z, `10 minutes ago`, or `latest`"
_AGO: Final = re.compile(r"(\d{1,6}) (second|minute|hour|day)s? ago")
_CLOCK: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?) ?(Z|[+-]\d\d(?::?\d\d)?)?", re.IGNORECASE
)
# As pg_waldump writes it. A prepared transaction is committed when that is said, not when it is prepared.
_COMMIT: Final = re.compile(
    r"\btx: +(\d+), lsn: ([0-9A-F]+/[0-9A-F]+), .*? desc: COMMIT(?:_PREPARED)? (?:(\d+): )?"
    r"(\d{4,}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}) UTC"
)


def parse_moment(text: str, now: datetime, zone: ZoneInfo) -> datetime:
    """The moment (UTC) that is meant by the clock of `zone`; ValueError for none, two, or one to come."""
    words = " ".join(text.split())
    try:
        if match := _AGO.fullmatch(words):
            return now - timedelta(**{f"{match[2]}s": int(match[1])})
        if not (match := _CLOCK.fullmatch(words)):
            raise ValueError(f"{text!r} is not a moment; it may be {FORMS}")
        read = datetime.fromisoformat(f"{match[1]}T{match[2]}{(match[3] or '').upper()}")
        moment = (read if read.tzinfo else _local(read, zone)).astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is beyond the calendar") from None
    if moment > now:
        raise ValueError(f"{text!r} is still to come: it is {now.astimezone(zone):%Y-%m-%d %H:%M:%S %z} now")
    return moment


def _local(read: datetime, zone: ZoneInfo) -> datetime:
    """By the clock of `zone`, which shows an hour twice, or not at all, when it is changed."""
    first, second = (read.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != read:
        raise ValueError(f"{read} never was in {zone}: the clock was put forward over it")
    if first.utcoffset() != second.utcoffset():
        both = " or ".join(f"'{each.isoformat(' ')}'" for each in (first, second))
        raise ValueError(f"{read} was twice in {zone}, because the clock was put back: say {both}")
    return first


@dataclass(frozen=True)
class Commit:
    """A transaction's end in the WAL: where its record begins, and when that was by the server's clock (UTC).

    `number` is the transaction's, of 32 bits.
    """

    lsn: int
    time: datetime
    number: int = 0


def parse_commit(line: str) -> Commit | None:
    """The commit that a line of pg_waldump tells of; None for any other line. It is to write times in UTC."""
    if not (match := _COMMIT.search(line)):
        return None
    # Whoever commits a prepared transaction has no number.
    number, place, prepared, time = match.groups()
    return Commit(lsn(place), datetime.fromisoformat(time).replace(tzinfo=UTC), int(prepared or number))


@dataclass(frozen=True)
class Wanted:
    """What is to be brought back: all that was committed by a moment, or up to a place in the WAL; else all.

    `seen`: of what was committed before the place, only these transactions, by their numbers.
    """

    moment: datetime | None = None
    place: int | None = None
    seen: Callable[[int], bool] | None = None

    def holds(self, commit: Commit) -> bool:
        """Whether this commit is part of it."""
        if self.seen:
            return self.seen(commit.number)
        if self.place is not None:
            return commit.lsn <= self.place
        return self.moment is None or commit.time <= self.moment


@dataclass
class Survey:
    """Commits in the order of the WAL: `last` is the last one before the first that is not wanted, as
    recovery_target_time takes it; None: what is wanted is the base as it ended. `later` are those behind it.

    `newest` is the last one of all, `complete`: no WAL was left unread. `mixed`: a wanted one comes later than one that
    is not, so that no place in the WAL has exactly what is wanted.
    """

    wanted: Wanted
    last: Commit | None = None
    later: int = 0
    newest: Commit | None = None
    complete: bool = True
    mixed: bool = False
    _passed: bool = field(default=False, repr=False)

    def take(self, commit: Commit) -> None:
        """The next commit."""
        self.newest = commit
        held = self.wanted.holds(commit)
        self.mixed = self.mixed or (held and self._passed)
        self._passed = self._passed or not held
        if self._passed:
            self.later += 1
        else:
            self.last = commit

    @property
    def sure(self) -> bool:
        """Whether no further WAL can change `last`."""
        return self._passed or self.complete
