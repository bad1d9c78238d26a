"""What a database of a moment was recovered from. Plain data."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, Field

from backup.formatting import duration, listed, local_time, plural, printable
from backup.model.frozen import Frozen
from backup.model.pack import Count

_CLOCK: Final = "%Y-%m-%d %H:%M:%S"


class Missing(Frozen):
    """Files that rows of a database name and a set's media do not hold; `listed` is cut at 1,000."""

    columns: tuple[str, ...] = ()
    referenced: int = 0
    missing: int = 0
    listed: tuple[str, ...] = ()


class MediaThen(Frozen):
    """The `set` whose media go with a moment: they were so when they were `taken`.

    `files` are those that rows name and it does not hold, None where that was not looked up. So many of those that are
    listed, `held_before`, are in the set `before`.
    """

    set: str
    taken: AwareDatetime
    files: Missing | None = None
    before: str = ""
    held_before: Count = 0

    def words(self, moment: datetime) -> str:
        """Say it, safe to print."""
        apart = (self.taken - moment).total_seconds()
        when = f"{duration(abs(apart))} {'after' if apart >= 0 else 'before'} it"
        said = f"{printable(self.set)} has them as they were {when}"
        if self.files is None or not self.files.columns:
            return said
        if not self.files.missing:
            return f"{said}, with all {plural(self.files.referenced, 'file')} that rows name"
        named = f"{self.files.missing:,} of {plural(self.files.referenced, 'file')} that rows name"
        older = f"; {self.held_before:,} of them in {printable(self.before)}" if self.held_before else ""
        return f"{said}, but {named} are not in it: {listed(self.files.listed)}{older}"


class Recovered(Frozen):
    """What a database was recovered from: the base backup `base` and the WAL behind it, up to `lsn`.

    `moment` is the one asked for, None for one that asked for a place in the WAL. `last_commit` is the newest that is
    in it, None when it is the base as it ended. `later` commits that were known then are not in it. `media`: the set
    whose media go with it; None: there is none, or an earlier release made this.
    """

    base: str
    moment: AwareDatetime | None = None
    lsn: str
    last_commit: AwareDatetime | None = None
    later: int = Field(0, ge=0)
    media: MediaThen | None = None

    def words(self, zone: ZoneInfo) -> str:
        """Say it by the clock of `zone`, safe to print."""
        asked = f"as of {local_time(self.moment, zone, _CLOCK)}" if self.moment else f"up to {printable(self.lsn)}"
        last = "nothing committed since its base backup"
        if self.last_commit:
            last = f"last commit {self.last_commit.astimezone(zone):%H:%M:%S.%f}"[:-3]
        later = f"; {plural(self.later, 'later commit')} not in it" if self.later else ""
        return f"{asked}, {last}, from base backup {printable(self.base)}{later}"
