"""The settings of encryption: to whom, what, and where the key to open it is, if it is here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from backup.pipeline import age


def _recipients(value: object) -> object:
    if not isinstance(value, str):
        return value
    texts = age.split(value)
    if wrong := [f"recipient {n} {why}" for n, text in enumerate(texts, 1) if (why := age.problem(text))]:
        raise ValueError("; ".join(wrong))
    return texts


Recipients = Annotated[tuple[str, ...], BeforeValidator(_recipients)]


class AgeSettings(BaseModel):
    """The part of Settings that is about encryption."""

    encrypt: Literal["off", "offsite", "all"] = Field(
        "off", alias="BACKUP_ENCRYPT", description="what is encrypted: `off`, `offsite` copies alone, or `all` sets"
    )
    age_recipients: Recipients = Field(
        (),
        alias="BACKUP_AGE_RECIPIENTS",
        description="public keys (age1…, ssh-…) to encrypt to, by commas or newlines, or BACKUP_AGE_RECIPIENTS_FILE",
    )
    age_identity: Path | None = Field(
        None,
        alias="BACKUP_AGE_IDENTITY_FILE",
        description="file with the private key, if it may be here: then encrypted sets are verified and drilled",
    )

    @model_validator(mode="after")
    def _encryption(self) -> Self:
        if self.encrypt != "off" and not self.age_recipients:
            raise ValueError(
                f"BACKUP_ENCRYPT={self.encrypt} needs BACKUP_AGE_RECIPIENTS, the public keys to encrypt to"
            )
        return self
