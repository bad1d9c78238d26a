"""All that a person or a program is told about the backups, as one value. Pure; `now` is an argument.

The terminal (`status`, `monitor`), /metrics, /api/status and the status page all show this and nothing else, so
that they cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from backup.formatting import printable
from backup.model.backup_set import StoredSet
from backup.model.finding import Level
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run
from backup.model.schedule import Slot
from backup.monitoring.health import WORDS, Health


@dataclass(frozen=True)
class Clock:
    """How old the newest set of a kind is. `name` is good, proven or offsite.

    `stored` and `age` are None where there is no such set; `limit` is None where no age is too old. `starting` means:
    there is none yet, and nothing has gone wrong.
    """

    name: str
    stored: StoredSet | None
    age: timedelta | None
    limit: timedelta | None
    status: Level
    note: str = ""


@dataclass(frozen=True)
class TierSummary:
    """One tier: how many sets, in what state, how large (bytes on disk), how old the newest good one is.

    `keep` is the retention, `expected` the count of sets a full tier has by its schedule; None: unknown or for ever.
    """

    tier: Tier
    good: int
    proven: int
    bad: int
    pinned: int
    size: int
    newest: StoredSet | None
    age: timedelta | None
    next: datetime | None
    keep: timedelta | None = None
    expected: int | None = None


@dataclass(frozen=True)
class Storage:
    """The disk of the backup volume, in bytes; `used` is what the sets take of it.

    `growth` is by how many bytes a day the sets grow, `days_left` until the disk is full (3650 for that many or more),
    `assumes` in words what it takes for granted, `next_set` what the next set will take.
    None: not known. `undo` is what the last restore replaced and is still kept until `undo_until` (None: for ever).
    """

    used: int
    free: int | None
    total: int | None
    growth: float | None = None
    days_left: float | None = None
    undo: int | None = None
    undo_until: datetime | None = None
    next_set: int | None = None
    assumes: str = ""


@dataclass(frozen=True)
class Alerting:
    """The alerts: `targets` are names without secrets, `undelivered` messages that still wait to be delivered."""

    targets: tuple[str, ...] = ()
    undelivered: int = 0
    last_delivered: datetime | None = None
    last_error: str = ""
    heartbeat: bool = False
    last_heartbeat: datetime | None = None


@dataclass(frozen=True)
class Offsite:
    """A place of copies. `waiting` sets belong there and are not there yet, `bad` are not as they should be; bytes.

    `looked` is when the place was last listed whole.
    """

    place: str
    name: str
    sets: int
    size: int
    waiting: int
    waiting_size: int
    bad: int
    newest: str = ""
    newest_time: datetime | None = None
    looked: datetime | None = None


@dataclass(frozen=True)
class Overview:
    """Everything. `sets` and `runs` are newest first; `restore_seconds` is what the newest restore or drill took, as
    `restore_measured` says.

    `logged` are the last log lines of runs of late, by run. `tiers` is empty when the sets could not be
    read: not known is not zero.
    """

    health: Health
    now: datetime
    zone: ZoneInfo
    clocks: tuple[Clock, ...]
    tiers: tuple[TierSummary, ...]
    sets: tuple[StoredSet, ...]
    runs: tuple[Run, ...]
    storage: Storage
    slots: tuple[Slot, ...]
    alerting: Alerting = Alerting()
    restore_seconds: float | None = None
    restore_measured: str = ""
    logged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    offsite: tuple[Offsite, ...] = ()


def telling(runs: Iterable[Run]) -> list[Run]:
    """The runs that a list is to show: looks that went well would push all others out of it."""
    return [run for run in runs if run.operation not in ("monitor", "report") or run.outcome is not Outcome.SUCCESS]


def overview_json(overview: Overview) -> dict[str, Any]:
    """The overview as `status --json` and `monitor --json` print it.

    Times are ISO 8601, spans seconds, sizes bytes; what is not known is null, never 0.
    """
    health = overview.health
    return {
        "status": health.status,
        "word": WORDS[health.status],
        "reasons": [{"severity": each.level, "text": each.text, "hint": each.hint} for each in health.reasons],
        "time": overview.now.isoformat(),
        "zone": overview.zone.key,
        "scheduler": health.scheduler,
        "clocks": {clock.name: _clock(clock) for clock in overview.clocks},
        "tiers": {str(tier.tier): _tier(tier) for tier in overview.tiers},
        "sets": [_set(stored) for stored in overview.sets],
        "runs": [run.model_dump(mode="json") for run in overview.runs],
        "storage": {name: _value(value) for name, value in vars(overview.storage).items()},
        "schedule": [{"job": s.job, "cron": s.cron, "next": [_value(t) for t in s.times]} for s in overview.slots],
        "alerting": {name: _value(value) for name, value in vars(overview.alerting).items()},
        "restore_seconds": _value(overview.restore_seconds),
        "restore_measured": overview.restore_measured,
        "offsite": [{name: _value(value) for name, value in vars(place).items()} for place in overview.offsite],
    }


def _set(stored: StoredSet) -> dict[str, Any]:
    """One set in a list; `show --json` has all of it."""
    verdict = stored.verdict
    return {
        "id": stored.id,
        "tier": str(stored.tier),
        "time": _value(stored.time),
        "state": stored.state,
        "good": stored.good,
        "loads": stored.loads,
        "proven": stored.shown == "proven",
        "encrypted": stored.encrypted,
        "unopened": stored.unopened,
        "size": stored.size,
        "problem": printable(stored.problem),
        "verified": _value(verdict.checked) if verdict else None,
        "drilled": _value(verdict.proof.tried) if verdict and verdict.proof else None,
    }


def _clock(clock: Clock) -> dict[str, Any]:
    named = {name: _value(value) for name, value in vars(clock).items() if name not in ("name", "stored")}
    return {"set": clock.stored.id if clock.stored else None, **named}


def _tier(tier: TierSummary) -> dict[str, Any]:
    named = {name: _value(value) for name, value in vars(tier).items() if name not in ("tier", "newest")}
    return {"newest": tier.newest.id if tier.newest else None, **named}


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else printable(value) if isinstance(value, str) else value
