"""What must be known of a bucket."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

# What a request carries that can be done without, and what is done then.
CHECKSUMS: Final = "checksums"
CONDITIONS: Final = "conditions"
UPLOADS: Final = "uploads"
NICETIES: Final = {
    CHECKSUMS: "x-amz-checksum-* headers are refused and left out: the MD5 in the ETag proves what arrives",
    CONDITIONS: "If-None-Match is refused and left out: an object is looked for before and after it is put",
    UPLOADS: "the list of unfinished uploads is refused: let a lifecycle rule of the bucket end them",
}


@dataclass(frozen=True)
class Options:
    """Plain values. Without `access_key`, boto3 looks for credentials in its own way (environment, profile, role).

    `parallel`: parts sent at once, each of 12 MiB in memory. `bandwidth`: bytes a second, 0 for no limit. `timeout`:
    seconds without a byte after which a request has failed; `attempts`: how often one is tried. `without`: the niceties
    that the store is known to refuse.
    """

    bucket: str
    prefix: str = ""
    region: str | None = None
    endpoint: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    encryption: Literal["none", "AES256", "aws:kms"] = "AES256"
    kms_key: str = ""
    storage_class: str = "STANDARD_IA"
    owner: str = ""
    parallel: int = 4
    bandwidth: float = 0.0
    timeout: float = 60.0
    attempts: int = 5
    without: frozenset[str] = frozenset()

    @property
    def folder(self) -> str:
        """The prefix as keys begin with it: nothing, or `a/b/`."""
        stripped = self.prefix.strip("/")
        return f"{stripped}/" if stripped else ""

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"s3://{self.bucket}/{self.folder}".rstrip("/")
