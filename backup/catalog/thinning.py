"""Which snapshots of the media are thinned out. Pure.

All are kept for a day, then the first verified one of each hour, for a week. So what is kept once is wanted by every
later cleanup, until its week is over: no two of them remove more together than one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

from backup.formatting import plural
from backup.model.backup_set import StoredSet, by_time

ALL: Final = timedelta(days=1)
HOURLY: Final = timedelta(days=7)


def thinned(sets: Iterable[StoredSet], lived: Callable[[StoredSet], timedelta]) -> dict[str, str]:
    """The ids of the snapshots whose time is over, each with why. `lived`: how old a set counts as."""
    found: dict[str, str] = {}
    hours: set[datetime] = set()
    for stored in sorted((each for each in sets if each.snapshot), key=by_time):
        hour = stored.time.replace(minute=0, second=0, microsecond=0)
        first = stored.verified and hour not in hours
        hours |= {hour} if first else set()
        if (old := lived(stored)) > HOURLY:
            found[stored.id] = f"snapshots are kept for {plural(HOURLY.days, 'day')}"
        elif old > ALL and not first:
            found[stored.id] = "of snapshots older than a day, the first of each hour is kept"
    return found
