"""What the backup volume itself shows: room, and how many sets lie in each tier. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from backup.health.model import Limits, Reason, newest_of_server, reason, server_of
from backup.manifest import Tier
from backup.sets import StoredSet
from backup.text import plural, size

# Less room than this takes not even the record of a run.
_ROOM: Final = 1 << 20
# Fewer slots than this say nothing: one that was missed is told elsewhere.
_FEW: Final = 4
# A cleanup comes once a day, and may have been down or queued for one.
_GRACE: Final = timedelta(days=3)


def room(free: int | None, limits: Limits) -> Iterator[Reason]:
    """Reasons about free space, in bytes. A run that cannot even write its record leaves no other trace."""
    if free is None:
        return
    hint = "Free space in the volume (see `list`), or give it a larger disk."
    if free < _ROOM:
        yield reason("fail", f"the backup volume is full: {size(free)} free", hint)
    elif limits.next_set is not None and free < limits.next_set:
        needs = f"the next set will take about {size(limits.next_set)}, and the backup volume has {size(free)} free"
        yield reason("fail", f"the next backup will not fit: {needs}", hint)
    elif free < limits.min_free:
        text = f"the backup volume has {size(free)} free; the limit is {size(limits.min_free)} (BACKUP_MIN_FREE_GB)"
        yield reason("warn", text, hint)


def counts(sets: Sequence[StoredSet], now: datetime, limits: Limits, *, cleaned: bool) -> Iterator[Reason]:
    """Tiers with far fewer sets than their schedule makes, or more than retention leaves (told only if `cleaned`)."""
    for tier in Tier:
        good = [stored for stored in sets if stored.tier is tier and stored.good]
        due = limits.due.get(tier, 0)
        if due >= _FEW and 2 * len(good) < due:
            yield reason(
                "warn",
                f"{tier} holds {plural(len(good), 'good set')}; by its schedule there should be {due:,}",
                "`logs --kind backup` says how its runs ended. After a change of the schedule this passes by itself.",
            )
        keep = limits.keep.get(tier)
        if keep is not None and cleaned:
            ours = server_of(newest_of_server(sets))
            for server in sorted({server_of(stored) or ours for stored in good}):
                mine = [stored for stored in good if (server_of(stored) or ours) == server]
                yield from _too_many(tier, keep, mine, now, limits, "" if server == ours else server)


def _too_many(
    tier: Tier, keep: timedelta, good: list[StoredSet], now: datetime, limits: Limits, other: str
) -> Iterator[Reason]:
    """`other` is the system identifier of the server that these are of, if it is not the one of today."""
    kept = [stored for stored in good if stored.id not in limits.pinned]
    late = [stored for stored in kept if now - stored.time > keep + _GRACE]
    # So many may stay: the minimum of the tier, and besides it the newest proven one.
    allowed = max(0, limits.minimum - (len(kept) - len(late))) + 1
    if len(late) <= allowed:
        return
    told = f"{tier} holds {plural(len(late), 'set')} older than the {keep.days} days that it keeps"
    if other:
        yield reason(
            "warn",
            f"{told}, of another database server (system identifier {other}): no cleanup by itself removes those",
            f"If that server is gone for good, `prune --server {other} --dry-run` shows what may go of its sets.",
        )
        return
    yield reason(
        "warn",
        f"{told}: the cleanup does not run, or is held back",
        "`prune --dry-run` says why each of them is there; `logs --kind backup` shows what the cleanup did.",
    )
