"""The verdict, its reasons, and the limits that sets and runs are held to. Plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from backup.model.backup_set import StoredSet, holds_database, volumes_of
from backup.model.finding import Finding, Level
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run

SchedulerState = Literal["alive", "stopped", "dead"]

# What has the service's own first backup begun.
FIRST_BACKUP: Final = "first"
# The words of the monitor, as those know them who used the old scripts.
WORDS: Final[Mapping[Level, str]] = {"pass": "HEALTHY", "warn": "WARNING", "starting": "STARTING", "fail": "CRITICAL"}


@dataclass(frozen=True)
class Health:
    """The verdict. `newest_good` is the newest good set that holds the database, `age` its age."""

    status: Level
    reasons: tuple[Finding, ...]
    now: datetime
    newest_good: StoredSet | None = None
    scheduler: SchedulerState | None = None

    @property
    def age(self) -> timedelta | None:
        """Time since the newest good set began."""
        return self.now - self.newest_good.time if self.newest_good else None


@dataclass(frozen=True)
class Limits:
    """What is judged besides age and runs; a default of nothing means: not judged.

    `min_size` and `min_free` are bytes, `next_set` the bytes that the next set is expected to take. `proof`
    says whether proofs and verifications are asked for, `proof_age` the age at which the newest proven set is too old;
    None: no drill is scheduled. `keep` is how long a tier's sets are
    kept, `due` how many its schedule should have made that ought to be there now, `minimum` how many stay whatever
    their age. `pinned` are ids of sets that stay for ever, `allow_empty` volumes that need not hold a file,
    `forgotten` those that left the stack, and until when their sets were made that need no word.
    """

    min_size: float = 0
    min_free: float = 0
    next_set: int | None = None
    proof: bool = False
    proof_age: timedelta | None = None
    keep: Mapping[Tier, timedelta] = field(default_factory=dict)
    due: Mapping[Tier, int] = field(default_factory=dict)
    minimum: int = 0
    pinned: frozenset[str] = frozenset()
    allow_empty: frozenset[str] = frozenset()
    forgotten: Mapping[str, datetime] = field(default_factory=dict)


def newest(sets: Iterable[StoredSet]) -> StoredSet | None:
    """The newest of sets in any order."""
    return max(sets, key=lambda stored: (stored.time, stored.id), default=None)


def newest_database(sets: Iterable[StoredSet]) -> StoredSet | None:
    """The newest good backup with a database in it: media alone does not bring the application back.

    A safety set is none: it holds what a restore replaced.
    """
    backups = (s for s in sets if s.good and not s.safety)
    return newest(s for s in backups if s.summary.database)


def parts_of(stored: StoredSet, limits: Limits) -> list[str]:
    """What a set is kept for: `the database`, and its volumes by name, without those that a person has forgotten."""
    held = ["the database"] if holds_database(stored) else []
    until = limits.forgotten
    return held + [f"volume {name}" for name in volumes_of(stored) if name not in until or stored.time > until[name]]


def newest_of_server(sets: Iterable[StoredSet]) -> StoredSet | None:
    """The newest good set of any tier that says of which server it is: that one is ours."""
    return newest(s for s in sets if s.good and server_of(s))


def server_of(stored: StoredSet | None) -> str:
    """The system identifier of the database server that a set is of; empty where none is known."""
    database = stored.summary.database if stored else None
    return database.system_identifier if database else ""


def failed(run: Run) -> bool:
    """Whether it ended badly."""
    return run.outcome in (Outcome.FAILED, Outcome.CRASHED)
