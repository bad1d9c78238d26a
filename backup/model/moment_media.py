"""Which sets have the media of a moment. Pure.

An application writes a file first, and then the row that names it. So the first set that was taken at the moment or
later has every file that rows of that moment name, but for those that were deleted in between; the last one before it
has those, and lacks what was uploaded in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import datetime

from backup.errors import BackupError
from backup.model.backup_set import SKEW, StoredSet, by_time, filled_volumes, present, volumes_of
from backup.model.manifest import Tier
from backup.model.recovered import MediaThen
from backup.model.run import Outcome, Run


def neighbours(
    sets: Iterable[StoredSet], runs: Iterable[Run], moment: datetime, now: datetime
) -> list[tuple[StoredSet, datetime]]:
    """The good sets that have the media nearest to a moment, each with the last time at which they are known to have
    been so: the first one that is not older, then the last one that is.

    A snapshot that found nothing changed tells by its run that the set before it still holds all. What is dated ahead
    of the clock, which says `now`, tells of no moment. A set without any file of a volume that had some before is
    passed over: it may be a safety set, of when somebody had removed all of them, or of a mount that was gone.
    """
    looked: dict[str, datetime] = {}
    for run in runs:
        if run.snapshot and run.outcome is Outcome.SUCCESS and run.started <= now + SKEW:
            looked[run.set] = max(run.started, looked.get(run.set, run.started))
    able = sorted((each for each in present(sets, now) if each.good and volumes_of(each)), key=by_time)
    known = [(each, max(each.time, looked.get(each.id, each.time))) for each in able]
    before = _first((each, time) for each, time in reversed(known) if time < moment and has_own_media(each))
    filled = {name for each, _ in before for name in filled_volumes([each])}
    after = ((each, time) for each, time in known if time >= moment and filled_volumes([each]) >= filled)
    return [*_first((each, time) for each, time in after if has_own_media(each)), *before]


def media_then(sets: Iterable[StoredSet], runs: Iterable[Run], moment: datetime, now: datetime) -> MediaThen | None:
    """The set whose media go with a moment; None where no set has any."""
    found = neighbours(sets, runs, moment, now)
    return MediaThen(set=found[0][0].id, taken=found[0][1]) if found else None


def has_own_media(stored: StoredSet) -> bool:
    """Whether its media are as old as it is: a set of a moment, which is manual, may have those of another set."""
    if stored.tier is not Tier.MANUAL or not stored.summary.holds_database:
        return True
    with contextlib.suppress(BackupError):  # it may have been removed since it was listed
        part = stored.manifest.database
        return part is None or part.recovered is None
    return False


def _first(found: Iterable[tuple[StoredSet, datetime]]) -> list[tuple[StoredSet, datetime]]:
    return [each for each, _ in zip(found, range(1), strict=False)]
