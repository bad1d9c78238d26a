"""Which moments of the past can be brought back, and what breaks them. Pure; `now` is an argument."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Final

from backup.formatting import duration, size
from backup.model.finding import Finding
from backup.model.wal import LONGEST_CHAIN, Base, Span, Stream, WalSlot, WindowProof, whole_second

_LISTED: Final = 3
_MINUTE: Final = timedelta(minutes=1)
_SHORT: Final = timedelta(minutes=5)
_DAY: Final = timedelta(days=1)
# A full base backup is taken each seventh night, where the others are incremental.
_WEEK: Final = 7


@dataclass(frozen=True)
class Break:
    """Moments that cannot be brought back: WAL of them is missing. `end` is None as long as they go on."""

    start: datetime
    end: datetime | None


@dataclass(frozen=True)
class Window:
    """The moments of the last `keep` that can be brought back; `offered` spans and bases of all clusters, oldest first.

    `segments` and `segment_bytes` count the WAL that is here, packed or not. `begun` is when the newest cluster's
    folder for bases was made, or last changed; `since` when its WAL was first received.
    `max_lag` is how far the stream may be behind, `base_age` how old the newest base may be; None: no
    base is taken by schedule. `kept` is how many bases there will be once all of `keep` is here. `problems`: records
    that cannot be read. `proof` is the newest cluster's. `offsite` are those of the places that WAL and base backups
    are sent to.
    """

    keep: timedelta
    max_lag: timedelta
    base_age: timedelta | None = None
    spans: tuple[Span, ...] = ()
    bases: tuple[Base, ...] = ()
    stream: Stream | None = None
    segments: int = 0
    segment_bytes: int = 0
    begun: datetime | None = None
    since: datetime | None = None
    problems: tuple[Finding, ...] = ()
    proof: WindowProof | None = None
    kept: int = 1
    offsite: tuple[OffsiteWindow, ...] = ()

    @property
    def start(self) -> datetime | None:
        """The oldest moment; None while there is none."""
        return self.spans[0].start if self.spans else None

    @property
    def end(self) -> datetime | None:
        """The newest moment."""
        return self.spans[-1].end if self.spans else None

    @property
    def live(self) -> bool:
        """Whether the newest span grows while the stream runs."""
        return bool(self.spans) and self.spans[-1].live

    @property
    def base(self) -> Base | None:
        """The newest base."""
        return self.bases[-1] if self.bases else None

    def lag(self, now: datetime) -> timedelta | None:
        """What would be lost now: the time since the newest moment that is safe here; None for none."""
        return max(timedelta(), now - self.end) if self.end and self.live else None

    def follows(self, now: datetime) -> bool:
        """Whether the newest moment is as good as now."""
        lag = self.lag(now)
        return lag is not None and lag <= self.max_lag

    def breaks(self, now: datetime) -> tuple[Break, ...]:
        """What is missing of the last `keep`, oldest first; before the first span nothing was promised.

        A stream that is down for less than `max_lag` has broken nothing yet.
        """
        pairs = itertools.pairwise(self.spans)
        found = [Break(one.end, two.start) for one, two in pairs if now - self.keep < two.start > one.end]
        ended = self.end if self.end and not self.live and now - self.end > self.max_lag else None
        return (*found, *([Break(ended, None)] if ended else []))


def wal_a_day(window: Window, now: datetime) -> float:
    """Bytes, as far as that is known; too short a time says nothing."""
    lived = now - window.start if window.start else timedelta()
    return window.segment_bytes / (lived / _DAY) if lived >= _DAY else 0.0


def base_sizes(window: Window, cluster: int) -> list[tuple[int, int]]:
    """How many base backups of how many bytes there will be: full ones, then those that build on them.

    `cluster`: the size of a first one. Of incremental ones a week more is kept: what the oldest moment builds on.
    """
    recent = window.bases[-_WEEK:]
    full = next((each.artifact.stored_size for each in reversed(window.bases) if not each.parent), cluster)
    step = next((each.artifact.stored_size for each in reversed(recent) if each.parent), None)
    if step is None:
        return [(window.kept, full)]
    more = _chained(window) / _DAY
    count = window.kept + round(more * (window.kept - 1) / window.keep.days)
    # One a week, unless so many are taken in between that a chain ends earlier.
    fulls = max(math.ceil((window.keep.days + more) / _WEEK), math.ceil(count / LONGEST_CHAIN))
    return [(fulls, full), (max(0, count - fulls), step)]


def wal_kept(window: Window) -> timedelta:
    """How far back WAL is kept: to the oldest base backup, which is up to a week older where others build on it."""
    return window.keep + _chained(window) * (len(base_sizes(window, 0)) > 1)


def _chained(window: Window) -> timedelta:
    """How far back a full base backup may be from the newest one that builds on it."""
    nights = (_WEEK - 1) * _DAY
    return min(nights, window.keep * (LONGEST_CHAIN - 1) / (window.kept - 1)) if window.kept > 1 else nights


def still_to_come(window: Window, now: datetime, cluster: int = 0) -> int:
    """Bytes that base backups and WAL will take beyond those that are here. `cluster`: the size of a first base."""
    wanted = sum(count * each for count, each in base_sizes(window, cluster))
    wanted += round(wal_a_day(window, now) * (wal_kept(window) / _DAY))
    here = sum(base.artifact.stored_size for base in window.bases) + window.segment_bytes
    return max(0, wanted - here)


@dataclass(frozen=True)
class OffsiteWindow(Window):
    """The moments that a place alone can bring back. `stream` is of what is sent there, `bases_stream` of its bases.

    `every`: after how long what has been received of a segment is sent; zero: whole segments alone are.
    """

    place: str = ""
    name: str = ""
    every: timedelta = timedelta()
    bases_stream: Stream | None = None


def offsite_words(window: OffsiteWindow, now: datetime, zone: tzinfo) -> str:
    """The same of what a place alone can bring back, in one line."""
    return f"{window_words(window, now, zone, proven=False)} ({window.name})"


def window_words(window: Window, now: datetime, zone: tzinfo, *, proven: bool = True) -> str:
    """The window in one line. Of a minute that is held in part it does not say that it can be had."""
    if window.start is None or window.end is None:
        return "no moment yet: there is no whole base backup with its WAL"
    lag = window.lag(now)
    # Of a window that is just a few minutes long, minutes would leave nothing.
    told = _second if window.end - window.start < _SHORT else _minute
    if lag is not None and window.follows(now):
        until = f"now, {duration(lag.total_seconds())} behind"
    else:
        until = f"{told(window.end, zone)}, and none since"
    closed = [each for each in window.breaks(now) if each.end]
    broken = f"; broken {breaks_words(closed, zone)}" if closed else ""
    proof = window.proof
    tried = f"; proven to {_second(proof.moment, zone)}" if proof and not proof.problem else "; not proven yet"
    return f"any moment from {told(window.start, zone, up=True)} to {until}{broken}{tried if proven else ''}"


def slot_words(slot: WalSlot, *, up: bool) -> str:
    """The slot in one line. `up`: WAL is received; else it is what was known when it last was."""
    more = f", {size(slot.safe)} more until the server gives it up" if slot.safe is not None else ""
    then = "" if up else ", when WAL was last received; by now it may be more"
    return slot.problem or f"{slot.name} keeps {size(slot.held)} of WAL{more}{then}"


def breaks_words(breaks: Sequence[Break], zone: tzinfo) -> str:
    """Breaks, the newest ones by their minutes: `2026-11-24 03:10 to 03:12`."""
    more = len(breaks) - _LISTED
    told = ", ".join(_words(each, zone) for each in breaks[-_LISTED:])
    return f"{told} and {more} before" if more > 0 else told


def _words(broken: Break, zone: tzinfo) -> str:
    start = _minute(broken.start, zone)
    end = _minute(broken.end, zone, up=True) if broken.end else "now"
    return f"{start} to {end.removeprefix(start[:11])}"


def _minute(moment: datetime, zone: tzinfo, *, up: bool = False) -> str:
    """A moment by the minute, down or up."""
    if up:
        moment += _MINUTE - timedelta.resolution
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M}"


def _second(moment: datetime, zone: tzinfo, *, up: bool = False) -> str:
    """A moment by the second, down or up."""
    return f"{(whole_second(moment) if up else moment).astimezone(zone):%Y-%m-%d %H:%M:%S}"
