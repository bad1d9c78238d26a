"""Where the marks of the status page's drawings lie. Pure; positions are percent, from the top left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run
from backup.monitoring.health import CREATE
from backup.monitoring.overview import Overview, Storage, TierSummary

Kind = Literal["proven", "verified", "changed", "old", "damaged", "failed"]

# What a reader must find first is drawn last.
KINDS: Final[tuple[Kind, ...]] = ("old", "verified", "changed", "proven", "failed", "damaged")
_MARKS: Final = 50
_SPAN: Final = timedelta(days=7)
_POINTS: Final = 150
_HEADROOM: Final = 1.15
_BROKEN: Final = (Outcome.FAILED, Outcome.CRASHED, Outcome.INTERRUPTED)


@dataclass(frozen=True)
class Mark:
    """One set, or one run that made none, on a timeline."""

    x: float
    kind: Kind
    time: datetime
    stored: StoredSet | None = None
    run: Run | None = None


@dataclass(frozen=True)
class Row:
    """The timeline of one tier, from `since` to now. `older` marks are not drawn."""

    tier: str
    since: datetime
    marks: tuple[Mark, ...]
    older: int


@dataclass(frozen=True)
class Point:
    """One set in the drawing of sizes: bytes on disk of the whole, and of the database alone."""

    x: float
    y: float
    stored: StoredSet


@dataclass(frozen=True)
class Sizes:
    """Sizes over time. `total` and `database` are outlines for an SVG polygon, `top` the drawing's height in bytes."""

    points: tuple[Point, ...]
    total: str
    database: str
    top: float


@dataclass(frozen=True)
class Bar:
    """The disk of the backup volume, as shares of the whole in percent."""

    used: float
    undo: float
    other: float
    free: float
    other_bytes: int


def kind_of(stored: StoredSet) -> Kind:
    """What is known of a set, as one mark. Every set was read back and compared before it was published."""
    if stored.state == "old script":
        return "old"
    if not stored.good:
        return "damaged"
    if stored.proven:
        return "proven"
    return "changed" if stored.state == "complete with changes" else "verified"


def timelines(overview: Overview) -> list[Row]:
    """One row for each tier that has sets, failed runs or a schedule."""
    known = {tier.tier: tier for tier in overview.tiers}
    rows = [_row(overview, tier, known.get(tier)) for tier in Tier]
    return [row for row in rows if row.marks or (row.tier in known and known[Tier(row.tier)].next)]


def _row(overview: Overview, tier: Tier, summary: TierSummary | None) -> Row:
    found = [Mark(0, kind_of(each), each.time, stored=each) for each in overview.sets if each.tier is tier]
    found += [Mark(0, "failed", run.started, run=run) for run in overview.runs if _made_nothing(run, tier)]
    found.sort(key=lambda mark: mark.time, reverse=True)
    shown, older = found[:_MARKS], max(0, len(found) - _MARKS)
    keep = summary.keep if summary and summary.keep else _SPAN
    since = min([overview.now - keep, *(mark.time for mark in shown)])
    placed = [
        Mark(_share(mark.time, since, overview.now), mark.kind, mark.time, mark.stored, mark.run) for mark in shown
    ]
    return Row(tier, since, tuple(sorted(placed, key=lambda mark: KINDS.index(mark.kind))), older)


def _made_nothing(run: Run, tier: Tier) -> bool:
    return run.operation == CREATE and run.tier == tier and run.outcome in _BROKEN


def _share(moment: datetime, since: datetime, until: datetime) -> float:
    """Where a moment lies between two others; a set from the future lies at the right end."""
    return round(100 * min(1.0, (moment - since) / (until - since)), 2)


def sizes(sets: Sequence[StoredSet]) -> Sizes | None:
    """The sizes of whole, good sets; None if there are not two to compare."""
    whole = sorted((each for each in sets if _whole(each)), key=lambda each: each.time)[-_POINTS:]
    if len(whole) < 2 or whole[0].time == whole[-1].time:
        return None
    high = max(each.size for each in whole)
    top = max(1.0, high * _HEADROOM)
    since, until = whole[0].time, whole[-1].time
    points = tuple(Point(_share(each.time, since, until), _height(each.size, top), each) for each in whole)
    below = [(point.x, _height(_database(point.stored), top)) for point in points]
    return Sizes(points, _area([(point.x, point.y) for point in points]), _area(below), top)


def _whole(stored: StoredSet) -> bool:
    """A set of media or of the database alone would look like a collapse."""
    manifest = stored.summary
    return stored.good and manifest is not None and manifest.database is not None and bool(manifest.volumes)


def _database(stored: StoredSet) -> int:
    artifacts = stored.summary.artifacts if stored.summary else ()
    return sum(artifact.stored_size for artifact in artifacts if artifact.kind in ("database", "roles"))


def _height(count: float, top: float) -> float:
    return round(100 - 100 * count / top, 2)


def _area(line: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in [(line[0][0], 100), *line, (line[-1][0], 100)])


def bar(storage: Storage) -> Bar | None:
    """Shares of the disk; None if its size is not known."""
    if not storage.total or storage.free is None:
        return None
    undo = storage.undo or 0
    other = max(0, storage.total - storage.free - storage.used - undo)
    used, kept, rest, free = (
        round(100 * min(1.0, count / storage.total), 2) for count in (storage.used, undo, other, storage.free)
    )
    return Bar(used, kept, rest, free, other)
