"""Which base and which WAL bring a moment back; what there is instead, for one that none does. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from backup.errors import NotFound
from backup.formatting import local_time
from backup.model.moment import Wanted
from backup.model.wal import (
    Base,
    Received,
    SegmentId,
    base_for,
    lsn,
    lsn_text,
    offered,
    spans,
    supported,
)

_SECONDS: Final = "%Y-%m-%d %H:%M:%S"
_FRACTIONS: Final = f"{_SECONDS}.%f"
_NONE: Final = "With BACKUP_PITR=on the service takes a base backup and receives WAL; from then on moments can be had."


@dataclass(frozen=True)
class Cluster:
    """One cluster of which there is WAL."""

    bases: Sequence[Base]
    received: Received


def choose(clusters: Sequence[Cluster], wanted: Wanted, zone: ZoneInfo) -> Base:
    """The newest base that brings back what is `wanted`; NotFound with what there is instead."""
    found = [base for each in clusters if (base := _base(each, wanted))]
    if not found:
        raise _outside(clusters, wanted, zone)
    return max(found, key=lambda each: (each.ended, each.id))


def _base(cluster: Cluster, wanted: Wanted) -> Base | None:
    if wanted.moment:
        return base_for(cluster.bases, cluster.received, wanted.moment)
    if wanted.place is None:
        return next((span.bases[-1] for span in reversed(spans(cluster.bases, cluster.received))), None)
    able = [each for each in supported(cluster.bases) if _reaches(cluster.received, each, wanted.place)]
    return max(able, key=lambda each: (each.ended, each.id), default=None)


def _reaches(received: Received, base: Base, place: int) -> bool:
    """Whether the base had ended before that place, and the WAL behind it holds it."""
    last, _, _ = received.chain(base)
    stream = received.stream
    if last is None or last < base.last or place < lsn(base.end):
        return False
    if stream and stream.partial == last and place > lsn(stream.received):
        return False
    return SegmentId.at(base.timeline, place, base.size) <= last


def _outside(clusters: Sequence[Cluster], wanted: Wanted, zone: ZoneInfo) -> NotFound:
    held = (span for each in clusters for span in spans(each.bases, each.received))
    there = sorted(held, key=lambda span: span.end)
    if not there:
        return NotFound("there is no base backup with WAL behind it: no moment can be brought back", _NONE)
    told, form = list(offered(there)), _SECONDS
    if not told:
        # None of them holds a whole second.
        told, form = there, _FRACTIONS

    def shown(moment: datetime) -> str:
        return local_time(moment, zone, form)

    window = "; ".join(f"{shown(span.start)} to {shown(span.end)}" for span in told)
    if wanted.moment is None:
        reach = "; ".join(
            f"{each.end} (timeline {each.timeline}) and later" for span in there for each in span.bases[:1]
        )
        return NotFound(
            f"the place {lsn_text(wanted.place or 0)} is not in the WAL that is here; nothing was done",
            f"Places from {reach} are. `restore --at` takes a moment: any from {window}.",
        )
    before = max((span.end for span in there if span.end < wanted.moment), default=None)
    after = min((span.start for span in told if span.start > wanted.moment), default=None)
    why = f"the last possible moment is {shown(before or wanted.moment)}"
    if after:
        why = f"the window begins at {shown(after)}"
    if before and after:
        why = f"the window is broken from {shown(before)} to {shown(after)}"
    return NotFound(
        f"the database of {shown(wanted.moment)} cannot be brought back: {why}; nothing was done",
        f"Any moment can be had from {window}. `list` shows the sets, which are earlier or later.",
    )
