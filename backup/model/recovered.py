"""What a database of a moment was recovered from. Plain data."""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


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
