"""What must be known of a bucket, and the policy that gives a key what backups need there. Without boto3."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

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


def iam_policy(options: Options, *, prune: bool = False) -> dict[str, Any]:
    """Give a key, by IAM, what backups need, and no more.

    Without `prune` it can neither delete nor, where the store knows conditions, overwrite.
    """
    bucket = f"arn:aws:s3:::{options.bucket}"
    objects = f"{bucket}/{options.folder}*"
    below = {"Condition": {"StringLike": {"s3:prefix": [f"{options.folder}*"]}}} if options.folder else {}
    statements: list[dict[str, Any]] = [
        _allow("List", ["s3:ListBucket"], bucket, **below),
        _allow("Look", ["s3:ListBucketMultipartUploads"], bucket),
        _allow("Read", ["s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention"], objects),
        _allow("Send", ["s3:PutObject", "s3:AbortMultipartUpload"], objects),
        {
            "Sid": "NeverOver",
            "Effect": "Deny",
            "Action": ["s3:PutObject"],
            "Resource": [objects],
            # The request that makes an object must say "only if there is none"; those that send parts make none.
            "Condition": {"Null": {"s3:if-none-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}},
        },
    ]
    if prune:
        statements[-1] = _allow("Prune", ["s3:DeleteObject", "s3:DeleteObjectVersion"], objects)
    else:
        never = ["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutObjectRetention", "s3:BypassGovernanceRetention"]
        statements.append({"Sid": "NeverAway", "Effect": "Deny", "Action": never, "Resource": [objects]})
    if options.encryption == "aws:kms" and options.kms_key.startswith("arn:"):
        statements.append(_allow("Key", ["kms:GenerateDataKey", "kms:Decrypt"], options.kms_key))
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(name: str, actions: list[str], resource: str, **more: Any) -> dict[str, Any]:
    return {"Sid": name, "Effect": "Allow", "Action": actions, "Resource": [resource], **more}
