"""Which sets may be removed. Pure; `now` is an argument."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from backup.manifest import Tier
from backup.sets import StoredSet

_SAFETY_COUNT: Final = 10
_SAFETY_AGE: Final = timedelta(days=7)


def old_safety_sets(sets: Iterable[StoredSet], now: datetime) -> list[StoredSet]:
    """Safety sets beyond the newest ten good ones and older than a week.

    One that is not good, or has no manifest, stays: a person should look at it.
    """
    safety = [stored for stored in sets if stored.tier is Tier.PRE_RESTORE and stored.good and stored.manifest]
    newest_first = sorted(safety, key=lambda stored: (stored.time, stored.id), reverse=True)
    return [stored for stored in newest_first[_SAFETY_COUNT:] if now - stored.time > _SAFETY_AGE]
