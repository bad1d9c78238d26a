"""From settings to when and what is uploaded, looked at and removed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from backup.config.loader import Settings
from backup.config.types import AFTER
from backup.model.manifest import Tier
from backup.operations.offsite.model import PlaceName

_UPLOADED: Final = (Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY, Tier.MANUAL)


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


def upload_job(tier: Tier) -> str:
    """What the scheduled upload of a tier is called."""
    return f"upload-{tier}"


COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    **{upload_job(tier): ("upload", "--scheduled", str(tier)) for tier in _UPLOADED},
    "offsite-verify": ("offsite", "verify", "--scheduled"),
    "offsite-prune": ("offsite", "prune", "--scheduled"),
    "offsite-drill": ("drill", "--scheduled", "offsite:latest"),
}
# Uploads and looks go on beside backups; a drill waits for the lock when it has fetched its set.
BESIDE: Final = frozenset(
    {*(upload_job(tier) for tier in _UPLOADED), "offsite-verify", "offsite-prune", "offsite-drill"}
)


def jobs(settings: Settings) -> dict[str, str]:
    """The jobs of offsite copies and their cron lines; empty for those that are off, and where there is no place."""
    when = uploads(settings)
    lines = {upload_job(tier): "" if when.get(tier, "") == AFTER else when.get(tier, "") for tier in _UPLOADED}
    looks = {
        "offsite-verify": settings.offsite_verify,
        "offsite-prune": settings.offsite_cleanup,
        "offsite-drill": settings.offsite_drill,
    }
    return lines | {job: cron if settings.has_offsite else "" for job, cron in looks.items()}
