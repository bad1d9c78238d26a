"""What is noted of a restore or an undo under way, and of what it replaced. Plain data."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Direction = Literal["back", "forward"]
Lost = Literal["", "half removed", "gone"]


class Step(StrEnum):
    """What is being done, in this order. `SWAPPED` is the time of the post-restore commands."""

    LOADING = "loading"
    EXTRACTING = "extracting"
    READY = "ready"
    STOPPING = "stopping"
    SWAPPING_DATABASE = "swapping database"
    SWAPPING_MEDIA = "swapping media"
    SWAPPED = "swapped"
    STARTING = "starting"
    DONE = "done"

    @property
    def number(self) -> int:
        """Its place in the order, from 0."""
        return list(Step).index(self)


class _Model(BaseModel):
    # Unlike a manifest: what a later release noted and this one would drop, could be what the data hangs on.
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatabaseSwap(_Model):
    """The database part. `live` gets the name `kept`, `new` gets the name `live`; an oid says which one is which.

    `live_oid` is None when there was no database, `new_oid` until there is one. `marker` is the comment that shows
    the new one to be ours. `settings` are statements that the new one is given when it becomes live.
    """

    live: str
    live_oid: int | None = None
    new: str
    new_oid: int | None = None
    kept: str
    marker: str = ""
    settings: tuple[str, ...] = ()


class VolumeSwap(_Model):
    """A volume whose trees are exchanged. `stamp` names the restore that unpacked one of them beside the other.

    `onward`: that one is to be live; an undo may want it either way.
    """

    name: str
    stamp: str
    onward: bool = True


class Stopped(_Model):
    """A container that was running and is to run again."""

    id: str
    name: str
    service: str = ""


class Journal(_Model):
    """One restore or undo under way. `set` is a set's id or a file, `safety` the set taken just before.

    `back`: a person has asked to roll it back, however far it had come. `source` describes what is restored.
    `failed`: what belongs after the exchange and has failed or has not been done so far, in words. `since` is when the
    first of `stopped` was told to stop. `nearest`: what the files' new place did not take as it was, in words.
    """

    format: Literal[1] = 1
    id: str
    run: str
    kind: Literal["restore", "undo"] = "restore"
    set: str
    source: str = ""
    only: Literal["", "database", "media"] = ""
    started: AwareDatetime
    step: Step = Step.LOADING
    back: bool = False
    database: DatabaseSwap | None = None
    volumes: tuple[VolumeSwap, ...] = ()
    stopped: tuple[Stopped, ...] = ()
    since: AwareDatetime | None = None
    roles: tuple[str, ...] = ()
    safety: str = ""
    failed: tuple[str, ...] = ()
    nearest: tuple[str, ...] = ()


class KeptDatabase(_Model):
    """The database that was live before, now called `kept`; `size` in bytes.

    `lost`: why it cannot come back, as it was seen last; empty while it can.
    """

    live: str
    current_oid: int
    kept: str
    kept_oid: int
    size: int = Field(default=0, ge=0)
    lost: Lost = ""


class KeptVolume(_Model):
    """The tree that was live before, kept in the volume under `stamp`; `bytes` of its files."""

    name: str
    stamp: str
    bytes: int = Field(default=0, ge=0)


class Kept(_Model):
    """What the last restore (or undo) replaced. `days` is how long it is kept; None for ever."""

    format: Literal[1] = 1
    id: str
    set: str
    replaced: AwareDatetime
    safety: str = ""
    database: KeptDatabase | None = None
    volumes: tuple[KeptVolume, ...] = ()
    days: float | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes, in the database server and in the volumes."""
        return (self.database.size if self.database else 0) + sum(volume.bytes for volume in self.volumes)

    def with_lost(self, lost: Lost) -> Kept:
        """The same, with why its database cannot come back, if it has one."""
        return self.model_copy(update={"database": self.database and self.database.model_copy(update={"lost": lost})})

    def expired(self, now: datetime) -> bool:
        """Whether it has been kept long enough."""
        return self.days is not None and now - self.replaced > timedelta(days=self.days)


def direction(journal: Journal) -> Direction:
    """Where it ends: as before, or as restored. From the first exchange on it goes forward, unless told otherwise."""
    forward = journal.step.number >= Step.SWAPPING_DATABASE.number and not journal.back
    return "forward" if forward else "back"
