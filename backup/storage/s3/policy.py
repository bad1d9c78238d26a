"""The policy that gives a key what backups need, and no more."""

from __future__ import annotations

from typing import Any

from backup.storage.s3.options import Options


def policy(options: Options, *, prune: bool = False) -> dict[str, Any]:
    """For IAM. Without `prune` the key can neither delete nor, where the store knows conditions, overwrite."""
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
