"""What the journal, and the record of what was replaced, say of a whole cluster that is exchanged."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from backup.docker.container import DataPlace


class Record(BaseModel):
    """A part of the journal or of what is kept."""

    # Unlike a manifest: what a later release noted and this one would drop, could be what the data hangs on.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class ClusterSwap(Record):
    """The whole cluster. `place` is where its data lie, `stamp` names the trees beside the live ones.

    `timeline` is that of the recovered one, by which it is told from the other; 0 until it is known. `onward`: the
    recovered one is to be live; an undo may want it either way.
    """

    place: DataPlace
    stamp: str
    system_identifier: str
    timeline: int = 0
    onward: bool = True


class KeptCluster(Record):
    """The cluster that was live before, kept in the data folder under `stamp`; `bytes` that it takes.

    `timeline` is that of the recovered one. Which of both is live the data folder tells.
    """

    place: DataPlace
    stamp: str
    system_identifier: str
    timeline: int
    bytes: int = Field(default=0, ge=0)
