"""How large the next set will be, how sets grow, and how long the disk lasts. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import combinations
from statistics import median
from typing import Final

from backup.errors import NoSpace
from backup.formatting import size
from backup.model.backup_set import StoredSet
from backup.model.manifest import Manifest, Tier

# A first dump is rarely above a fifth of pg_database_size: indexes and bloat are not dumped, text packs well.
_FIRST_DUMP: Final = 0.25
_MARGIN: Final = 1.1
_SLACK: Final = 1 << 20
_DAY: Final = timedelta(days=1)
# Growth is told from the sets of these days: at least so many of them, over at least that time.
_WINDOW: Final = timedelta(days=28)
_POINTS: Final = 3
_SPAN: Final = timedelta(days=2)
_SAMPLE: Final = 60
# Nobody can tell more; a disk that lasts longer is not a question.
HORIZON: Final = 3650


def next_set(previous: Manifest | None, database_size: int | None, volumes: Mapping[str, int]) -> int:
    """Bytes the next set needs on disk. `volumes` maps each volume to the bytes in it."""
    total = float(_SLACK)
    if database_size is not None:
        known = previous.database.size if previous and previous.database else 0
        total += _grown(database_size, known, _database_ratio(previous), _FIRST_DUMP)
    for name, count in volumes.items():
        artifact = previous.artifact("volume", name) if previous else None
        total += _grown(count, artifact.plain_size if artifact else 0, _volume_ratio(previous, name), 1.0)
    return round(total)


def _grown(now: int, known: int, ratio: float, unknown: float) -> float:
    """What was there last time packs as it did; of what has come since, nothing is known."""
    before = min(now, known)
    return before * ratio + (now - before) * max(ratio, unknown)


def plain_dump(previous: Manifest | None, database_size: int) -> int | None:
    """Bytes of SQL the next dump will have, if the last one tells."""
    artifact = previous.artifact("database") if previous else None
    if artifact is None or previous is None or previous.database is None or not previous.database.size:
        return None
    return round(artifact.plain_size * database_size / previous.database.size)


def require_space(needed: int, free: int) -> None:
    """NoSpace when what is needed does not fit into what is free (both in bytes)."""
    if needed > free:
        raise NoSpace(
            f"the next set needs about {size(needed)}, the backup volume has {size(free)} free;"
            " nothing was started, earlier sets are untouched",
            NoSpace.remedy,
        )


def _database_ratio(previous: Manifest | None) -> float:
    artifact = previous.artifact("database") if previous else None
    if artifact is None or previous is None or previous.database is None or not previous.database.size:
        return _FIRST_DUMP
    return _MARGIN * artifact.stored_size / previous.database.size


def _volume_ratio(previous: Manifest | None, name: str) -> float:
    artifact = previous.artifact("volume", name) if previous else None
    if artifact is None or not artifact.plain_size:
        return 1.0
    return min(1.0, _MARGIN * artifact.stored_size / artifact.plain_size)


def typical(sets: Iterable[StoredSet]) -> list[StoredSet]:
    """Good backups that hold the same parts as the newest one with a database does, newest first."""
    good = sorted((s for s in sets if s.good and not s.safety), key=lambda s: (s.time, s.id), reverse=True)
    last = next((s for s in good if s.summary.database), None)
    parts = _parts(last) if last else None
    return [stored for stored in good if _parts(stored) == parts]


def growth(sets: Iterable[StoredSet]) -> float | None:
    """By how many bytes a day the sets grow: the median of the slopes between any two sets of the last four weeks.

    None where there are too few to tell. One odd set changes it little.
    """
    same = typical(sets)
    recent = [stored for stored in same if same[0].time - stored.time <= _WINDOW]
    points = recent[:: math.ceil(len(recent) / _SAMPLE) or 1]
    if len(points) < _POINTS or points[0].time - points[-1].time < _SPAN:
        return None
    pairs = [(b, a) for b, a in combinations(points, 2) if b.time - a.time >= _DAY / 2]
    return median((b.size - a.size) / ((b.time - a.time) / _DAY) for b, a in pairs)


def days_left(
    free: int,
    sets: Sequence[StoredSet],
    now: datetime,
    *,
    grows: float,
    per_day: Mapping[Tier, float],
    keep: Mapping[Tier, timedelta],
    pinned: frozenset[str] = frozenset(),
) -> float | None:
    """Days until a set no longer fits into `free` bytes; HORIZON for at least that many, None: cannot be told.

    Assumes that sets go on growing by `grows` bytes a day, that each tier gets `per_day` sets, and that the cleanup
    removes each when it is older than `keep`. What is pinned, of another tier, or of the old scripts stays.
    """
    same = typical(sets)
    if not same or not any(per_day.values()):
        return None
    ends = _ends(sets, now, keep, pinned)
    made = {tier: [0.0] for tier in per_day}
    used = 0.0
    for day in range(1, HORIZON + 1):
        each = max(0.0, same[0].size + grows * day)
        used -= ends.get(day, 0)
        for tier, rate in per_day.items():
            made[tier].append(rate * each)
            kept = math.ceil(keep[tier] / _DAY) if tier in keep else HORIZON
            used += made[tier][day] - (made[tier][day - kept] if day > kept else 0)
        if used + each > free:
            return float(day)
    return float(HORIZON)


def _ends(
    sets: Iterable[StoredSet], now: datetime, keep: Mapping[Tier, timedelta], pinned: frozenset[str]
) -> Mapping[int, int]:
    """Bytes that become free on each day from now, when the sets that are there are removed."""
    ends: dict[int, int] = defaultdict(int)
    for stored in sets:
        if stored.good and stored.tier in keep and stored.id not in pinned:
            ends[max(1, math.ceil((stored.time + keep[stored.tier] - now) / _DAY))] += stored.size
    return ends


def _parts(stored: StoredSet) -> tuple[bool, tuple[str, ...]]:
    return stored.summary.holds_database, tuple(sorted(stored.summary.volume_names))
