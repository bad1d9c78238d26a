"""The settings of copies and of encryption: fields as those of `settings.py`, which come behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from backup.config.types import (
    BucketName,
    Cron,
    Days,
    Endpoint,
    FolderPath,
    Hours,
    Owner,
    Prefix,
    Recipients,
    Region,
    StorageClass,
    UploadTimes,
)


class OffsiteSettings(BaseModel):
    """What goes offsite, where to, and what is encrypted."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, defer_build=True)

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

    bucket: BucketName | None = Field(
        None, alias="AWS_S3_BACKUP_BUCKET", description="bucket that copies of sets go to; unset: none"
    )
    bucket_prefix: Prefix = Field(
        "", alias="AWS_S3_BACKUP_PREFIX", description="folder in the bucket, such as `obcms/`; unset: its root"
    )
    region: Region | None = Field(None, alias="AWS_REGION", description="region of the bucket")
    endpoint: Endpoint | None = Field(
        None, alias="AWS_ENDPOINT_URL_S3", description="URL of an S3 service that is not Amazon's"
    )
    access_key: SecretStr | None = Field(
        None,
        alias="AWS_ACCESS_KEY_ID",
        description="key of the bucket, or AWS_ACCESS_KEY_ID_FILE; unset: as boto3 finds one (role, profile)",
    )
    secret_key: SecretStr | None = Field(
        None, alias="AWS_SECRET_ACCESS_KEY", description="its secret, or AWS_SECRET_ACCESS_KEY_FILE"
    )
    session_token: SecretStr | None = Field(
        None, alias="AWS_SESSION_TOKEN", description="token of a temporary key, or AWS_SESSION_TOKEN_FILE"
    )
    addressing: Literal["auto", "path", "virtual"] = Field(
        "auto",
        alias="BACKUP_OFFSITE_ADDRESSING",
        description="how the bucket is named in requests: auto, path, virtual",
    )
    sse: Literal["AES256", "aws:kms", "none"] = Field(
        "AES256", alias="BACKUP_OFFSITE_SSE", description="encryption by the S3 service: AES256, aws:kms or none"
    )
    kms_key: str = Field("", alias="BACKUP_OFFSITE_KMS_KEY", description="key for aws:kms; unset: the account's own")
    storage_class: StorageClass = Field(
        "STANDARD_IA", alias="BACKUP_OFFSITE_STORAGE_CLASS", description="storage class of uploaded files"
    )
    bucket_owner: Owner = Field(
        "", alias="BACKUP_OFFSITE_OWNER", description="account number that must own the bucket; unset: not checked"
    )
    copy_dir: FolderPath | None = Field(
        None, alias="BACKUP_COPY_DIR", description="a mounted folder on another disk that gets copies, too"
    )
    upload_daily: UploadTimes = Field(
        "",
        alias="BACKUP_UPLOAD_DAILY",
        description="cron line of their upload, `after` each backup, or `off`; unset: off",
    )
    upload_weekly: UploadTimes = Field(
        "", alias="BACKUP_UPLOAD_WEEKLY", description="the same for weekly sets; unset: off"
    )
    upload_monthly: UploadTimes = Field(
        "30 4 1 * *", alias="BACKUP_UPLOAD_MONTHLY", description="the same for monthly sets"
    )
    upload_manual: UploadTimes = Field(
        "", alias="BACKUP_UPLOAD_MANUAL", description="the same for manual sets; unset: off"
    )
    upload_limit_mb: float = Field(
        0, alias="BACKUP_UPLOAD_LIMIT_MB", ge=0, description="limit of an upload in MB per second; 0: none"
    )
    upload_parts: int = Field(
        4, alias="BACKUP_UPLOAD_PARTS", ge=1, le=16, description="parts of a file that are sent at once"
    )
    offsite_daily: Days = Field(
        30, alias="BACKUP_OFFSITE_RETENTION_DAILY", description="days that daily copies are kept; 0: for ever"
    )
    offsite_weekly: Days = Field(
        90, alias="BACKUP_OFFSITE_RETENTION_WEEKLY", description="days that weekly copies are kept; 0: for ever"
    )
    offsite_monthly: Days = Field(
        365, alias="BACKUP_OFFSITE_RETENTION_MONTHLY", description="days that monthly copies are kept; 0: for ever"
    )
    offsite_manual: Days = Field(
        0, alias="BACKUP_OFFSITE_RETENTION_MANUAL", description="days that manual copies are kept; 0: for ever"
    )
    offsite_cleanup: Cron = Field(
        "", alias="BACKUP_OFFSITE_CLEANUP", description="cron line of `offsite prune`, or `off`; unset: off"
    )
    offsite_verify: Cron = Field(
        "30 6 * * *",
        alias="BACKUP_OFFSITE_VERIFY",
        description="cron line of the check of all copies, which also reads a share of them, or `off`",
    )
    offsite_drill: Cron = Field(
        "0 7 2 * *", alias="BACKUP_OFFSITE_DRILL", description="cron line of the drill of the newest copy, or `off`"
    )
    offsite_max_age_hours: Hours = Field(
        840, alias="BACKUP_OFFSITE_MAX_AGE_HOURS", description="age of the newest copy that is a warning"
    )

    @property
    def has_offsite(self) -> bool:
        """Whether there is a place for copies."""
        return self.bucket is not None or self.copy_dir is not None

    @model_validator(mode="after")
    def _encryption(self) -> Self:
        if self.encrypt != "off" and not self.age_recipients:
            raise ValueError(
                f"BACKUP_ENCRYPT={self.encrypt} needs BACKUP_AGE_RECIPIENTS, the public keys to encrypt to"
            )
        return self

    @model_validator(mode="after")
    def _keys(self) -> Self:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together; one of them is not set")
        if self.session_token is not None and self.access_key is None:
            raise ValueError("AWS_SESSION_TOKEN goes with AWS_ACCESS_KEY_ID, which is not set")
        if self.kms_key and self.sse != "aws:kms":
            raise ValueError("BACKUP_OFFSITE_KMS_KEY needs BACKUP_OFFSITE_SSE=aws:kms")
        return self
