"""One run of the product, as its record has it. Plain data."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from pydantic import AwareDatetime, Field

from backup.model.frozen import Frozen
from backup.model.manifest import Tier
from backup.model.tiers import NO_BACKUPS


class Outcome(StrEnum):
    """How a run ended."""

    RUNNING = "running"
    SUCCESS = "success"
    CHANGED = "complete with changes"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CRASHED = "crashed"


# The operations that make a set, and put one back.
CREATE: Final = "create"
RESTORE: Final = "restore"


class Run(Frozen):
    """One run. `seconds` maps each phase to its duration; `trigger` is manual, first, schedule or catch-up.

    `only` is `database` or `media` for a run that was asked for that half alone. `slot` is the scheduled moment that a
    run was for, `slots` how many it stands for: those that were missed before it are not made up one by one. `place` is
    that of the copies (`s3`, `copy`) of a run that works with them.
    """

    id: str
    operation: str
    tier: str = ""
    trigger: str = "manual"
    only: str = ""
    slot: AwareDatetime | None = None
    slots: int = 0
    started: AwareDatetime
    ended: AwareDatetime | None = None
    outcome: Outcome = Outcome.RUNNING
    set: str = ""
    place: str = ""
    message: str = ""
    hint: str = ""
    exit_code: int = 0
    seconds: dict[str, float] = Field(default_factory=dict)

    @property
    def duration(self) -> timedelta | None:
        """From begin to end."""
        return self.ended - self.started if self.ended else None

    @property
    def snapshot(self) -> bool:
        """Of a snapshot that was to be taken: not of one that was sent, or drilled."""
        return self.operation == "create" and self.tier == Tier.SNAPSHOT

    @property
    def backup(self) -> bool:
        """Not of a safety set or a snapshot: whether one of those succeeds says nothing of the backups."""
        return self.tier not in NO_BACKUPS


def new_run_id(now: datetime) -> str:
    """A name for one run: sortable, and unique enough to label containers with."""
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
