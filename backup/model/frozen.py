"""What records and manifests are made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A part of something that is kept as JSON."""

    # Unknown keys are kept out but tolerated: a later minor release may add facts to the same format. A command uses
    # few of all forms: each is built when it is first used.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)
