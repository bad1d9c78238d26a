"""What a database of a moment was recovered from. Plain data."""

from __future__ import annotations

from typing import Final
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from backup.formatting import local_time, plural, printable

_CLOCK: Final = "%Y-%m-%d %H:%M:%S"


class Recovered(BaseModel):
    """What a database was recovered from: the base backup `base` and the WAL behind it, up to `lsn`.

    `moment` is the one asked for, None for one that asked for a place in the WAL. `last_commit` is the newest that is
    in it, None when it is the base as it ended. `later` commits that were known then are not in it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    base: str
    moment: AwareDatetime | None = None
    lsn: str
    last_commit: AwareDatetime | None = None
    later: int = Field(0, ge=0)

    def words(self, zone: ZoneInfo) -> str:
        """Say it by the clock of `zone`, safe to print."""
        asked = f"as of {local_time(self.moment, zone, _CLOCK)}" if self.moment else f"up to {printable(self.lsn)}"
        last = "nothing committed since its base backup"
        if self.last_commit:
            last = f"last commit {self.last_commit.astimezone(zone):%H:%M:%S.%f}"[:-3]
        later = f"; {plural(self.later, 'later commit')} not in it" if self.later else ""
        return f"{asked}, {last}, from base backup {printable(self.base)}{later}"
