"""When jobs run: cron lines checked, next slots told, the crontab written. Pure; `now` is an argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from backup.text import printable


@dataclass(frozen=True)
class Slot:
    """A job and the moments it runs next, in the operator's zone."""

    job: str
    cron: str
    times: tuple[datetime, ...]


def check(cron: str) -> str:
    """`cron` with its blanks tidied; ValueError unless it has five fields and matches some day to come."""
    tidy = " ".join(cron.split())
    if len(tidy.split(" ")) != 5:
        raise ValueError(f"{printable(cron)!r} is not a cron line of five fields (minute hour day month weekday)")
    try:
        next(CronSim(tidy, datetime(2024, 1, 1)))  # noqa: DTZ001  # only whether any slot exists matters
    except CronSimError as error:
        raise ValueError(f"{printable(cron)!r} is not a cron line: {error}") from None
    except StopIteration:
        raise ValueError(f"{printable(cron)!r} never matches any day") from None
    return tidy


def upcoming(jobs: Mapping[str, str], now: datetime, zone: ZoneInfo, count: int = 1) -> list[Slot]:
    """The next `count` slots of each job that is not off, soonest first. `jobs` maps names to cron lines."""
    slots = [
        Slot(job, cron, tuple(islice(CronSim(cron, now.astimezone(zone)), count))) for job, cron in jobs.items() if cron
    ]
    # Aware times of one zone compare by the wall clock, which runs twice through one hour a year.
    return sorted(slots, key=lambda slot: [moment.timestamp() for moment in slot.times])


def crontab(jobs: Mapping[str, str], commands: Mapping[str, str]) -> str:
    """The text supercronic runs: `<cron> <command>` for each job that is not off."""
    return "".join(f"{cron} {commands[job]}\n" for job, cron in jobs.items() if cron)
