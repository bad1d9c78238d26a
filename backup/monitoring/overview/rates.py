"""How often a cron line's slots come. Pure."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from backup.model.schedule import upcoming

# From so many slots the rate of a line is told, and at most so many are counted one by one.
_SAMPLE: Final = 40
_MOST: Final = 1000


def period(cron: str, now: datetime, zone: ZoneInfo) -> timedelta | None:
    """The mean time between the next slots; None for a line without any, or that is off."""
    moments = _next(cron, now, zone, _SAMPLE)
    return (moments[-1] - moments[0]) / (len(moments) - 1) if len(moments) > 1 else None


def slots_between(cron: str, start: datetime, end: datetime, zone: ZoneInfo) -> int:
    """How many slots lie after `start`, up to and with `end`; a thousand at most are counted."""
    each = period(cron, start, zone)
    if each is None or end <= start:
        return 0
    guess = min(_MOST, math.ceil((end - start) / each) + _SAMPLE)
    return sum(moment.timestamp() <= end.timestamp() for moment in _next(cron, start, zone, guess))


def _next(cron: str, now: datetime, zone: ZoneInfo, count: int) -> tuple[datetime, ...]:
    return next((slot.times for slot in upcoming({"": cron}, now, zone, count)), ())
