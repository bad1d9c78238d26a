"""What the backup volume itself shows: room, and how many sets lie in each tier. Pure."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from backup.errors import NoSpace
from backup.formatting import age, plural, printable, size
from backup.model.backup_set import StoredSet, empty_volumes, is_ahead, left_volumes
from backup.model.finding import Finding, failure, warning
from backup.model.manifest import Tier
from backup.monitoring.health.model import Limits, newest, newest_of_server, parts_of, server_of

# Less room than this takes not even the record of a run.
_ROOM: Final = 1 << 20
# Fewer slots than this say nothing: one that was missed is told elsewhere.
_FEW: Final = 4
# A cleanup comes once a day, and may have been down or queued for one.
_GRACE: Final = timedelta(days=3)


def space_findings(free: int | None, limits: Limits) -> Iterator[Finding]:
    """Reasons about free space, in bytes. A run that cannot even write its record leaves no other trace."""
    if free is None:
        return
    hint = NoSpace.remedy
    if free < _ROOM:
        yield failure(f"the backup volume is full: {size(free)} free", hint)
    elif limits.next_set is not None and free < limits.next_set:
        needs = f"the next set will take about {size(limits.next_set)}, and the backup volume has {size(free)} free"
        yield failure(f"the next backup will not fit: {needs}", hint)
    elif free < limits.min_free:
        text = f"the backup volume has {size(free)} free; the limit is {size(limits.min_free)} (BACKUP_MIN_FREE_GB)"
        yield warning(text, hint)


def counts(sets: Sequence[StoredSet], now: datetime, limits: Limits, *, cleaned: bool) -> Iterator[Finding]:
    """Tiers with far fewer sets than their schedule makes, or more than retention leaves (told only if `cleaned`)."""
    ours = server_of(newest_of_server(sets))
    for tier in Tier:
        good = [stored for stored in sets if stored.tier is tier and stored.good]
        due = limits.due.get(tier, 0)
        if due >= _FEW and 2 * len(good) < due:
            yield warning(
                f"{tier} holds {plural(len(good), 'good set')}; its schedule makes {due:,}",
                "`logs --kind backup` says how its runs ended. After a change of the schedule this passes by itself.",
            )
        keep = limits.keep.get(tier)
        if keep is not None and cleaned:
            for server in sorted({server_of(stored) or ours for stored in good}):
                mine = [stored for stored in good if (server_of(stored) or ours) == server]
                yield from _too_many(tier, keep, mine, now, limits, "" if server == ours else server)


def empty(sets: Sequence[StoredSet], limits: Limits) -> Iterator[Finding]:
    """Volumes without a file in the newest set that has volumes: it may be the wrong one that is mounted."""
    stored = newest(s for s in sets if s.good and not s.safety and s.summary.volumes)
    for name in empty_volumes(stored) if stored else ():
        if stored and name not in limits.allow_empty:
            yield warning(
                f"the volume {name} is empty in {stored.id}: no set holds a file of it yet",
                "Is it the volume that the application writes to? This passes with its first file; if it may stay"
                f" empty, set BACKUP_ALLOW_EMPTY={name}.",
            )


def dated_ahead(sets: Sequence[StoredSet], now: datetime) -> Iterator[Finding]:
    """Sets dated ahead of the clock, once: nothing else is told of them, and they are in the way of nothing."""
    found = sorted((stored for stored in sets if is_ahead(stored, now)), key=lambda s: (s.time, s.id))
    if found:
        last = found[-1]
        which = last.id if len(found) == 1 else f"{plural(len(found), 'set')} up to {last.id}"
        yield warning(
            f"{which}: dated {age(now - last.time)} of the clock, so never `latest`, counted or drilled",
            "If the clock of this machine is wrong, correct it. If it was wrong when a set was made,"
            f" `prune --ahead {last.id}` removes that; `create daily` takes one with the right time.",
        )


def left(sets: Sequence[StoredSet], limits: Limits) -> Iterator[Finding]:
    """Volumes that have left the stack, as long as a set holds one: retention keeps the last of those for ever."""
    ours = server_of(newest_of_server(sets))
    mine = [stored for stored in sets if (server_of(stored) or ours) == ours]
    for name, holding in sorted(left_volumes(mine).items()):
        kept = [stored for stored in holding if f"volume {name}" in parts_of(stored, limits)]
        if kept:
            yield warning(
                f"the newest set does not hold volume {printable(name)}, but {plural(len(kept), 'older one')} up to"
                f" {kept[0].id} did: the last of them stay until they are released",
                "If it is still in use, mount it below /volumes in the backup service again; if not, `prune"
                f" --forget-volume {shlex.quote(name)} --dry-run` shows what would go.",
            )


def _too_many(
    tier: Tier, keep: timedelta, good: list[StoredSet], now: datetime, limits: Limits, other: str
) -> Iterator[Finding]:
    """`other` is the system identifier of the server that these are of, if it is not the one of today."""
    late: list[StoredSet] = []
    newer: Counter[str] = Counter()
    for stored in sorted(good, key=lambda each: (each.time, each.id), reverse=True):
        parts = parts_of(stored, limits)
        # Of each part the minimum stays, as that of a volume that left.
        if now - stored.time > keep + _GRACE and all(newer[part] >= limits.minimum for part in parts):
            late += [stored] if stored.id not in limits.pinned else []
        newer.update(parts if stored.verified else ())
    if len(late) <= 1:  # the newest proven one stays besides
        return
    told = f"{tier} holds {plural(len(late), 'set')} older than the {keep.days} days that it keeps"
    if other:
        yield warning(
            f"{told}, of another database server (system identifier {other}): no scheduled cleanup removes those",
            f"If that server is gone for good, `prune --server {other} --dry-run` shows which of its sets would go.",
        )
        return
    yield warning(
        f"{told}: the cleanup does not run, or is held back",
        "`prune --dry-run` says why each of them stays; `logs --kind backup` shows what the cleanup did.",
    )
