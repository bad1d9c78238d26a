"""The scheduled jobs and their lines."""

from __future__ import annotations

from backup.config import Settings
from backup.manifest import Tier


def jobs(settings: Settings) -> dict[str, str]:
    """The scheduled jobs and their cron lines; empty for those that are off."""
    return {
        Tier.DAILY: settings.daily,
        Tier.WEEKLY: settings.weekly,
        Tier.MONTHLY: settings.monthly,
        "drill": settings.drill,
    }
