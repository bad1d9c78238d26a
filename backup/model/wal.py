"""WAL that was received, base backups, and the moments that they can bring back together. Pure.

A moment can be had from a base that ended before it and every segment from the base's start to that moment, all of one
timeline. `spans` says which moments those are; what is missing breaks a window and is never guessed at.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import AwareDatetime

from backup.model.frozen import Frozen
from backup.model.manifest import Artifact
from backup.model.pack import Count

LOG: Final = 1 << 32
PARTIAL: Final = ".partial"
DEFAULT_SIZE: Final = 16 << 20
# A recovery unpacks and combines all of a chain, so no base makes a longer one: a week of four a day.
LONGEST_CHAIN: Final = 28
# The moment of WAL of which nothing is known.
UNKNOWN: Final = datetime.fromtimestamp(0, UTC)
STREAMING: Final = "streaming"
DOWN: Final = "down"
STARTING: Final = "starting"
_FRESH: Final = timedelta(seconds=60)
_STALE: Final = "whether WAL is received is unknown: nothing was written down of it for a minute or more"
_STALE_HINT: Final = "Is the backup volume full, or the clock wrong, or has the service been stopped?"
_SEGMENT: Final = re.compile(r"[0-9A-F]{24}")
_HISTORY: Final = re.compile(r"[0-9A-F]{8}\.history")
_LSN: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
# The first page of a segment: magic, info, timeline, address, remaining bytes, padding; then, where `info` says so, the
# system identifier, the segment's size and the block's (XLogLongPageHeaderData in access/xlog_internal.h).
_HEADER: Final = struct.Struct("<HHIQIIQII")
_LONG_HEADER: Final = 2


@dataclass(frozen=True, order=True)
class SegmentId:
    """One WAL file: its timeline, and its number since the beginning of all WAL."""

    timeline: int
    number: int

    def name(self, size: int) -> str:
        """What the server calls it; `size` of a segment in bytes."""
        log, low = divmod(self.number, LOG // size)
        return f"{self.timeline:08X}{log:08X}{low:08X}"

    @classmethod
    def of(cls, name: str, size: int) -> SegmentId:
        """The file that is called so; ValueError for any other name."""
        if not is_segment(name):
            raise ValueError(f"{name!r} is not the name of a WAL segment")
        return cls(int(name[:8], 16), int(name[8:16], 16) * (LOG // size) + int(name[16:], 16))

    @classmethod
    def at(cls, timeline: int, lsn: int, size: int) -> SegmentId:
        """The file that holds the byte at `lsn`."""
        return cls(timeline, lsn // size)


def is_segment(name: str) -> bool:
    """Whether a file is a whole segment, by its name."""
    return bool(_SEGMENT.fullmatch(name))


def is_history(name: str) -> bool:
    """Whether a file tells where a timeline began, by its name."""
    return bool(_HISTORY.fullmatch(name))


def lsn(text: str) -> int:
    """The place in the WAL that is written so, as in 0/16B3748; ValueError."""
    if not (match := _LSN.fullmatch(text)):
        raise ValueError(f"{text!r} is not a place in the WAL, such as 0/16B3748")
    return int(match[1], 16) << 32 | int(match[2], 16)


def lsn_text(place: int) -> str:
    """A place in the WAL as PostgreSQL writes it."""
    return f"{place >> 32:X}/{place & (LOG - 1):X}"


@dataclass(frozen=True)
class SegmentHeader:
    """What the first page of a segment says of it; `size` of the segment in bytes."""

    timeline: int
    start: int
    system_identifier: str
    size: int

    @classmethod
    def parse(cls, page: bytes) -> SegmentHeader:
        """Read the first bytes of a segment; ValueError for anything else."""
        if len(page) < _HEADER.size:
            raise ValueError("it ends within its first page")
        _, info, timeline, start, _, _, system, size, _ = _HEADER.unpack_from(page)
        if not info & _LONG_HEADER or size < 1 << 20 or size & (size - 1) or start % size:
            raise ValueError("its first page is not that of a WAL segment")
        return cls(timeline, start, str(system), size)


class Segment(Frozen):
    """A segment, or a history file, that was packed, read back and recorded.

    `received` is the newest moment of which all that was committed is in it or before it, as far as that is known: old
    WAL may come late.

    `partial`: it was broken off by a gap. What it holds of WAL is followed by zeros, and nothing comes behind it.
    """

    name: str
    artifact: Artifact
    received: AwareDatetime
    partial: bool = False


class Base(Frozen):
    """A base backup. It is consistent from `ended` (at `end`) on, with the segments from `start`.

    `end`, `start` are places in the WAL as PostgreSQL writes them, `size` is of a segment, `bytes` of the files in it.
    `user` is the login that it was taken by, `databases` are the names that can be recovered from it.

    `parent` is the base that an incremental one builds on: it holds what has changed since; empty for a full one.
    `summarized`: the server kept summaries of its WAL, so that another one may build on this. `checksums`: its pages
    have them. `shortened`: (database, file, segment, blocks) of each file that was cut since the full one that this
    builds on, and is not in it as a whole: it has so many, and older ones may have more.
    """

    id: str
    run: str
    started: AwareDatetime
    ended: AwareDatetime
    timeline: int
    start: str
    end: str
    system_identifier: str
    server_version: str
    image: str = ""
    image_id: str = ""
    user: str
    databases: tuple[str, ...] = ()
    size: Count
    bytes: Count = 0
    parent: str = ""
    summarized: bool = False
    checksums: bool = False
    shortened: tuple[tuple[int, int, int, int], ...] = ()
    artifact: Artifact

    @property
    def first(self) -> SegmentId:
        """The segment that recovery begins with."""
        return SegmentId.at(self.timeline, lsn(self.start), self.size)

    @property
    def last(self) -> SegmentId:
        """The segment without which it is not consistent."""
        return SegmentId.at(self.timeline, max(lsn(self.end) - 1, 0), self.size)


class WalSlot(Frozen):
    """The slot by which the server keeps WAL for us: `held` bytes now. `safe`: so many more until it gives the slot up.

    `problem`: why there is none, or why it is not used; `hint` is what to do.
    """

    name: str
    held: Count = 0
    safe: Count | None = None
    problem: str = ""
    hint: str = ""


class Stream(Frozen):
    """What was last known of the WAL that is being received.

    `looked` is when; `state` is `streaming`, `starting`, `down` or `stale`, `message` and `hint` say why. `received`
    and `current` are places in the WAL: what is safe here, and where the server was. `level` is the newest moment of
    which all that was committed is safe here. `wants_base`: why a base is to be taken at once; empty when none is.
    `slot`: None where none is wanted.
    """

    looked: AwareDatetime
    state: str
    message: str = ""
    hint: str = ""
    system_identifier: str = ""
    timeline: int = 0
    size: Count = DEFAULT_SIZE
    received: str = "0/0"
    current: str = "0/0"
    level: AwareDatetime | None = None
    wants_base: str = ""
    slot: WalSlot | None = None

    @property
    def up(self) -> bool:
        """Whether it is being received."""
        return self.state == STREAMING

    def as_of(self, now: datetime) -> Stream:
        """What is known of it at this time: each look at one that is received is written down, each few seconds."""
        if not self.up or abs(now - self.looked) < _FRESH:
            return self
        return self.model_copy(update={"state": "stale", "message": _STALE, "hint": _STALE_HINT})

    @property
    def behind(self) -> int:
        """Bytes that the server has and that are not safe here."""
        return max(0, lsn(self.current) - lsn(self.received))

    @property
    def partial(self) -> SegmentId:
        """The segment that is being received."""
        return SegmentId.at(self.timeline, lsn(self.received), self.size)


class WindowProof(Frozen):
    """What the newest drill of a window found: WAL up to `moment` was replayed on a base, and what came out was read.

    `problem`: why it could not be; empty when it was. `rows` that were read, `bytes` of base and WAL, and the
    `seconds` that it took. `equals` is the set that the database was equal to, object by object, recovered to what its
    dump saw; `uncompared`: why there was none.
    """

    tried: AwareDatetime
    base: str
    moment: AwareDatetime
    rows: Count = 0
    bytes: Count = 0
    seconds: float = 0.0
    problem: str = ""
    equals: str = ""
    uncompared: str = ""


@dataclass(frozen=True)
class Span:
    """Moments without a gap: any from `start` to `end` can be brought back. `live`: it grows while the stream runs.

    `bases` are those within it, oldest first.
    """

    start: datetime
    end: datetime
    bases: tuple[Base, ...]
    live: bool

    def holds(self, moment: datetime) -> bool:
        """Whether the state of this moment can be had."""
        return self.start <= moment <= self.end

    def may_hold(self, second: datetime) -> bool:
        """Whether it may hold what was begun within this whole second, as times of sets are."""
        return whole_second(self.start) <= second + timedelta(seconds=1) and second <= self.end


@dataclass(frozen=True)
class Received:
    """What is here of one cluster's WAL: `whole` segments and the live stream. Each has the newest moment of which all
    that was committed is in it or before it.

    `broken` are segments that a gap broke off, `partial` is the one that was being received last.
    """

    whole: dict[SegmentId, datetime]
    stream: Stream | None = None
    broken: dict[SegmentId, datetime] = field(default_factory=dict)
    partial: SegmentId | None = None

    @property
    def live(self) -> SegmentId | None:
        """The segment that is being received, where it is known up to which moment."""
        return self.stream.partial if self.stream and self.stream.level else None

    def chain(self, base: Base) -> tuple[SegmentId | None, datetime | None, bool]:
        """(last segment in a row from the base's first, the newest moment in it, whether the stream carries on)."""
        timeline, number = base.first.timeline, base.first.number
        last, moment = None, None
        while (each := SegmentId(timeline, number)) in self.whole:
            last, moment, number = each, max(moment or UNKNOWN, self.whole[each]), number + 1
        stream, following = self.stream, SegmentId(timeline, number)
        if stream and stream.level and stream.system_identifier == base.system_identifier:
            # What is said of the stream may be older than what lies there.
            if base.first <= stream.partial <= following:
                reached = [each for each in (last, stream.partial) if each]
                reached += [following] if self.partial == following else []
                return max(reached), max(moment or stream.level, stream.level), stream.up
        if following in self.broken:
            return following, max(moment or UNKNOWN, self.broken[following]), False
        return last, moment, False


def chain(base: Base, bases: Iterable[Base]) -> list[Base]:
    """What it takes to bring a base back: the full one first, itself last; empty when one of them is missing."""
    return _chain(base, {each.id: each for each in bases})


def _chain(base: Base, known: Mapping[str, Base]) -> list[Base]:
    found = [base]
    while (last := found[-1]).parent:
        parent = known.get(last.parent)
        # Records may be damaged, or from elsewhere: none leads in a circle.
        if parent is None or parent.ended >= last.ended or _history(parent) != _history(last):
            return []
        found.append(parent)
    return found[::-1]


def _history(base: Base) -> tuple[str, int]:
    return base.system_identifier, base.timeline


def supported(bases: Sequence[Base]) -> list[Base]:
    """Those of which all is there that they build on."""
    known = {each.id: each for each in bases}
    return [each for each in bases if _chain(each, known)]


def unneeded(gone: Sequence[Base], bases: Sequence[Base]) -> list[Base]:
    """Those of `gone` that no other of the `bases` builds on, as they are to go: the oldest full one first, but none
    before what builds on it."""
    known = {each.id: each for each in bases}
    needed = {link.id for each in bases if each not in gone for link in _chain(each, known)}
    able = sorted(
        (each for each in gone if each.id not in needed), key=lambda each: (each.ended, each.id), reverse=True
    )
    return sorted(able, key=lambda each: (_chain(each, known) or [each])[0].ended)


def spans(bases: Sequence[Base], received: Received) -> list[Span]:
    """The moments that can be brought back, oldest first. A base without its own segments gives none, nor does one
    that builds on what is not there."""
    found: list[Span] = []
    reached: SegmentId | None = None
    for base in sorted(supported(bases), key=lambda each: (each.ended, each.id)):
        last, moment, live = received.chain(base)
        if last is None or moment is None or last < base.last:
            continue
        end = max(base.ended, moment)
        if found and reached == last:
            before = found[-1]
            found[-1] = Span(before.start, max(before.end, end), (*before.bases, base), live)
            continue
        found.append(Span(base.ended, end, (base,), live))
        reached = last
    return found


def whole_second(moment: datetime) -> datetime:
    """The first second from this moment on that is held whole."""
    return moment if not moment.microsecond else moment.replace(microsecond=0) + timedelta(seconds=1)


def offered(found: Iterable[Span]) -> Iterator[Span]:
    """The spans as they are told, by whole seconds: a second that is held in part may not be had, and one that is
    shorter holds none, unless it grows: whoever asks for its first one waits for that."""
    for span in found:
        start = whole_second(span.start)
        if span.live or start <= span.end:
            yield replace(span, start=start, end=max(start, span.end))


def base_for(bases: Sequence[Base], received: Received, moment: datetime) -> Base | None:
    """The newest base from which the state of `moment` can be had; None outside of every span."""
    held = [each for span in spans(bases, received) if span.holds(moment) for each in span.bases]
    return max((each for each in held if each.ended <= moment), key=lambda each: each.ended, default=None)


def expired(bases: Sequence[Base], keep: timedelta, now: datetime) -> list[Base]:
    """Bases that no moment of the last `keep` needs: all that are older than the newest one from before that."""
    ordered = sorted(bases, key=lambda each: (each.ended, each.id))
    older = [each for each in ordered if each.ended <= now - keep]
    return older[:-1]


def needless(segments: Iterable[SegmentId], bases: Sequence[Base]) -> list[SegmentId]:
    """Segments from before what any base begins with; none while there is no base."""
    if not bases:
        return []
    first: dict[int, int] = {}
    for base in bases:
        first[base.first.timeline] = min(first.get(base.first.timeline, base.first.number), base.first.number)
    oldest = min(first)
    return [each for each in segments if each.timeline < oldest or each.number < first.get(each.timeline, -1)]
