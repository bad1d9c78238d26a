"""What must be known of a bucket."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Options:
    """Plain values. Without `access_key`, boto3 looks for credentials in its own way (environment, profile, role).

    `parallel`: parts sent at once, each of 12 MiB in memory. `bandwidth`: bytes a second, 0 for no limit. `timeout`:
    seconds without a byte after which a request has failed; `attempts`: how often one is tried.
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

    @property
    def folder(self) -> str:
        """The prefix as keys begin with it: nothing, or `a/b/`."""
        stripped = self.prefix.strip("/")
        return f"{stripped}/" if stripped else ""

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"s3://{self.bucket}/{self.folder}".rstrip("/")
