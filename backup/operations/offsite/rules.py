"""What is to be sent where, read again, and tried again. Pure; `now` is an argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from backup.config.loader import Settings
from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run
from backup.operations.offsite.remote_state import Book, Copy, PlaceName
from backup.storage.remote import RemoteObject

# What uploads, looks, drills and cleanups of a place are called in run records.
OPERATIONS: Final[dict[PlaceName, str]] = {"s3": "upload", "copy": "copy"}
VERIFY, DRILL, PRUNE, PULL = "offsite-verify", "offsite-drill", "offsite-prune", "pull"
# All bytes are read within a month; a share of this many days leaves a few to spare.
ROUND: Final = timedelta(days=28)
_FIRST_PAUSE: Final = timedelta(minutes=15)
_LONGEST_PAUSE: Final = timedelta(hours=4)
_DOUBLINGS: Final = 4


def uploads(settings: Settings) -> dict[Tier, str]:
    """The tiers that are uploaded by themselves: `after` each backup, or by a cron line."""
    set_ = {
        Tier.DAILY: settings.upload_daily,
        Tier.WEEKLY: settings.upload_weekly,
        Tier.MONTHLY: settings.upload_monthly,
        Tier.MANUAL: settings.upload_manual,
    }
    return {tier: when for tier, when in set_.items() if when} if settings.has_offsite else {}


def places(settings: Settings) -> list[tuple[PlaceName, str]]:
    """The places that are set and how they are shown, the bucket first."""
    found: list[tuple[PlaceName, str]] = []
    if settings.bucket:
        found.append(("s3", f"s3://{settings.bucket}/{settings.bucket_prefix}".rstrip("/")))
    if settings.copy_dir:
        found.append(("copy", str(settings.copy_dir)))
    return found


def ages(settings: Settings) -> dict[Tier, timedelta]:
    """How long copies of a tier are kept; others for ever."""
    days = {
        Tier.DAILY: settings.offsite_daily,
        Tier.WEEKLY: settings.offsite_weekly,
        Tier.MONTHLY: settings.offsite_monthly,
        Tier.MANUAL: settings.offsite_manual,
    }
    return {tier: timedelta(days=count) for tier, count in days.items() if count}


def candidates(
    sets: Iterable[StoredSet], tiers: Iterable[Tier], ages: Mapping[Tier, timedelta], now: datetime
) -> list[StoredSet]:
    """The sets of these tiers that belong offsite, newest first: good, verified, not older than copies are kept.

    Damaged and unverified ones are never sent. One that is over its time offsite would be removed there at once.
    """
    wanted = set(tiers)
    found = [
        stored
        for stored in sets
        if stored.tier in wanted
        and stored.verified
        and (stored.tier not in ages or now - stored.time <= ages[stored.tier])
    ]
    return sorted(found, key=lambda stored: (stored.time, stored.id), reverse=True)


def there(stored: StoredSet, copy: Copy | None) -> bool:
    """Whether this copy is one of this very set, and as it should be."""
    return copy is not None and copy.held and copy.run == stored.summary.run


def sets_to_upload(found: Iterable[StoredSet], book: Book) -> list[StoredSet]:
    """Those of the candidates that are not known to be offsite, in their order."""
    return [stored for stored in found if not there(stored, book.copies.get(stored.id))]


def unchanged(copy: Copy, entries: Mapping[str, RemoteObject]) -> bool:
    """Whether a listing shows every object of a copy as it was when it was read back: then nobody has to ask again."""
    return bool(copy.items) and all(
        (entry := entries.get(key)) is not None and entry.size == item.size and entry.modified == item.modified
        for key, item in copy.items.items()
    )


def share(copies: Iterable[Copy], now: datetime, since: datetime | None) -> list[Copy]:
    """The copies whose bytes are to be read now, so that all are within a month; those read longest ago first.

    `since` is when the last share was read: after a pause of days, more is read at once.
    """
    held = [copy for copy in copies if copy.state == "offsite"]
    order = sorted(held, key=lambda copy: (copy.read or copy.confirmed - ROUND, copy.id))
    days = min(ROUND, max(timedelta(days=1), now - since if since else timedelta(days=1)))
    budget = sum(copy.size for copy in held) * (days / ROUND)
    chosen, size = list[Copy](), 0
    for copy in order:
        late = copy.read is not None and now - copy.read > ROUND
        if chosen and not late and size >= budget:
            break
        chosen.append(copy)
        size += copy.size
    return chosen


def pause(runs: Sequence[Run], operation: str, tier: Tier) -> tuple[int, datetime | None]:
    """How many uploads of a tier in a row have failed, and until when to wait with the next try."""
    mine = sorted((r for r in runs if r.operation == operation and r.tier in ("", tier)), key=lambda r: r.started)
    failures = 0
    for run in reversed(mine):
        if run.outcome is Outcome.SUCCESS:
            break
        failures += run.outcome in (Outcome.FAILED, Outcome.CRASHED)
    if not failures:
        return 0, None
    last = next(r for r in reversed(mine) if r.outcome in (Outcome.FAILED, Outcome.CRASHED))
    wait = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(failures - 1, _DOUBLINGS))
    return failures, (last.ended or last.started) + wait


def tiers_due(
    follows: Iterable[Tier],
    scheduled: Iterable[Tier],
    unsent: Iterable[StoredSet],
    runs: Sequence[Run],
    operation: str,
    now: datetime,
) -> list[Tier]:
    """The tiers to upload now besides the schedule: those that follow each backup, and those that failed last time.

    A failure is tried again after a quarter of an hour, then less and less often, up to every four hours.
    """
    following = set(follows)
    tiers = {stored.tier for stored in unsent}
    found = []
    for tier in (tier for tier in Tier if tier in tiers):
        failures, until = pause(runs, operation, tier)
        if until is not None and timedelta(0) < until - now <= _LONGEST_PAUSE:
            continue
        if tier in following or (failures and tier in set(scheduled)):
            found.append(tier)
    return found
