"""All that a person or a program is told about the backups, as one value. Pure; `now` is an argument.

The terminal (`status`, `monitor`), /metrics, /api/status and the status page all show this and nothing else, so
that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from backup.model.backup_set import StoredSet
from backup.model.finding import Level
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run
from backup.model.schedule import Slot
from backup.monitoring.health import Health
from backup.monitoring.window import Window


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
    read: not known is not zero. `window` is None while BACKUP_PITR is off.
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
    window: Window | None = None


def telling(runs: Iterable[Run]) -> list[Run]:
    """The runs that a list is to show: looks that went well would push all others out of it."""
    well = (Outcome.SUCCESS, Outcome.CHANGED)
    return [run for run in runs if run.outcome not in well or not _is_look(run)]


def _is_look(run: Run) -> bool:
    return run.operation in ("monitor", "report") or run.snapshot
