"""How large the next set will be, from the last one and from what is there now. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from backup.errors import NoSpace
from backup.manifest import Manifest
from backup.text import size

# A first dump is rarely above a fifth of pg_database_size: indexes and bloat are not dumped, text packs well.
_FIRST_DUMP: Final = 0.25
_MARGIN: Final = 1.1
_SLACK: Final = 1 << 20


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


def require(needed: int, free: int) -> None:
    """NoSpace when what is needed does not fit into what is free (both in bytes)."""
    if needed > free:
        raise NoSpace(
            f"the next set needs about {size(needed)}, the backup volume has {size(free)} free;"
            " nothing was started, earlier sets are untouched",
            "Free space in the volume (`list` shows the sets and their sizes), or give it a larger disk.",
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
