"""The settings: each field of Settings is one.

Its alias is the variable, its description the documentation, its default what an unset variable means.
"""

from __future__ import annotations

from email.utils import parseaddr
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, model_validator

from backup.config.notify_url import url_secrets
from backup.config.offsite_settings import OffsiteSettings
from backup.config.types import (
    Addresses,
    Cron,
    Days,
    Host,
    Hours,
    Interval,
    NameList,
    People,
    Port,
    Token,
    Web,
    Zone,
    is_person,
    overlap,
)


class Settings(OffsiteSettings):
    """Everything that can be set, with its default."""

    db_service: str = Field("db", alias="DB_SERVICE", description="Compose service of the database")
    db_host: Host | None = Field(
        None,
        alias="DB_HOST",
        description="a database container, or a server to reach over the network; unset: DB_SERVICE's container",
    )
    db_port: Port = Field(5432, alias="DB_PORT", description="PostgreSQL's own port, never a pooler's")
    db_name: str | None = Field(None, alias="DB_NAME", description="database; unset: POSTGRES_DB, then the container's")
    db_user: str | None = Field(None, alias="DB_USER", description="login; unset: POSTGRES_USER, then the container's")
    db_password: SecretStr | None = Field(
        None,
        alias="DB_PASSWORD",
        description="password, or DB_PASSWORD_FILE; unset: POSTGRES_PASSWORD, then the container's",
    )
    zone: Zone = Field(ZoneInfo("UTC"), alias="TZ", description="time zone of schedules, file names and logs")

    daily: Cron = Field("0 2 * * *", alias="BACKUP_DAILY", description="cron line of the daily set, or `off`")
    weekly: Cron = Field("0 3 * * 0", alias="BACKUP_WEEKLY", description="cron line of the weekly set, or `off`")
    monthly: Cron = Field("0 4 1 * *", alias="BACKUP_MONTHLY", description="cron line of the monthly set, or `off`")
    drill: Cron = Field(
        "0 6 * * 0",
        alias="BACKUP_DRILL",
        description="cron line of the drill: the newest set of each tier is restored to prove it, or `off`",
    )
    pitr: Literal["off", "on"] = Field(
        "off",
        alias="BACKUP_PITR",
        description="`on`: the WAL is received as it is written, so that any moment can be restored",
    )
    pitr_base: Cron = Field("0 1 * * *", alias="BACKUP_PITR_BASE", description="cron line of the base backup, or `off`")
    pitr_days: int = Field(7, alias="BACKUP_PITR_DAYS", ge=1, description="days back to which any moment can be had")
    pitr_max_lag: int = Field(
        300,
        alias="BACKUP_PITR_MAX_LAG",
        ge=10,
        description="seconds that the received WAL may be behind before health turns red",
    )
    pitr_slot: Literal["off", "on"] = Field(
        "off",
        alias="BACKUP_PITR_SLOT",
        description="`on`: the server keeps WAL while nobody receives it, up to its max_slot_wal_keep_size",
    )
    pitr_offsite_every: int = Field(
        60,
        alias="BACKUP_PITR_OFFSITE_EVERY",
        ge=0,
        le=86_400,
        description="seconds after which what has been received of a segment goes offsite; 0: whole segments alone",
    )
    cleanup: Cron = Field("0 5 * * *", alias="BACKUP_CLEANUP", description="cron line of the cleanup, or `off`")
    monitor: Cron = Field(
        "0 */6 * * *",
        alias="BACKUP_MONITOR",
        description="cron line of the check that is logged and recorded, or `off`",
    )
    report: Cron = Field("0 9 * * 1", alias="BACKUP_REPORT", description="cron line of the report, or `off`")
    retention_daily: Days = Field(
        30, alias="BACKUP_RETENTION_DAILY", description="days that daily sets are kept; 0: for ever"
    )
    retention_weekly: Days = Field(
        90, alias="BACKUP_RETENTION_WEEKLY", description="days that weekly sets are kept; 0: for ever"
    )
    retention_monthly: Days = Field(
        365, alias="BACKUP_RETENTION_MONTHLY", description="days that monthly sets are kept; 0: for ever"
    )
    retention_manual: Days = Field(
        0, alias="BACKUP_RETENTION_MANUAL", description="days that manual sets are kept; 0: for ever"
    )
    retention_minimum: int = Field(
        3,
        alias="BACKUP_RETENTION_MINIMUM",
        ge=1,
        le=10_000,
        description="verified sets of each tier that are kept whatever their age",
    )
    prune_share: int = Field(
        30,
        alias="BACKUP_PRUNE_SHARE",
        ge=1,
        le=100,
        description="per cent of a tier's sets that one cleanup may remove; the next ones remove the rest",
    )
    file_columns: NameList = Field(
        (),
        alias="BACKUP_FILE_COLUMNS",
        description="`table.column` of file names, looked up among the media in a drill; unset: found by their values",
    )
    restore_stop: NameList = Field(
        (),
        alias="BACKUP_RESTORE_STOP",
        description="services stopped while a restore swaps; unset: those that mount a restored volume writable",
    )
    post_restore: str = Field(
        "",
        alias="BACKUP_POST_RESTORE",
        description="`service: command`, run there after a restore; one per line",
    )
    post_restore_timeout: int = Field(
        1800,
        alias="BACKUP_POST_RESTORE_TIMEOUT",
        ge=1,
        description="seconds after which a command of BACKUP_POST_RESTORE is ended",
    )
    undo_days: int = Field(
        7, alias="BACKUP_UNDO_DAYS", ge=0, description="days that what a restore replaced is kept for `undo`"
    )
    media: Literal["full", "incremental"] = Field(
        "full", alias="BACKUP_MEDIA", description="sets hold all files (`full`), or the new ones alone (`incremental`)"
    )
    media_every: Interval = Field(
        "",
        alias="BACKUP_MEDIA_EVERY",
        description="how often a snapshot of the media alone is taken between the sets, such as `15m`, or `off`",
    )
    excludes: NameList = Field(
        (), alias="BACKUP_MEDIA_EXCLUDE", description="patterns left out in addition to *.pyc, __pycache__, .DS_Store"
    )
    allow_empty: NameList = Field(
        (), alias="BACKUP_ALLOW_EMPTY", description="volumes that may be empty; `none`: there is no volume at all"
    )
    max_age_hours: Hours = Field(
        48, alias="BACKUP_MAX_AGE_HOURS", description="age of the newest good set that turns health red"
    )
    min_size_kb: float = Field(
        100, alias="BACKUP_MIN_SIZE_KB", ge=0, description="a dump smaller than this many kB is a warning"
    )
    min_free_gb: float = Field(
        5, alias="BACKUP_MIN_FREE_GB", ge=0, description="less free space than this many GB is a warning"
    )
    lock_timeout: int = Field(60, alias="BACKUP_LOCK_TIMEOUT", ge=1, description="seconds to wait for a locked table")
    stall_timeout: int = Field(
        300, alias="BACKUP_STALL_TIMEOUT", ge=5, description="seconds without progress after which a run is ended"
    )
    load_jobs: int | None = Field(
        None,
        alias="BACKUP_LOAD_JOBS",
        ge=1,
        le=8,
        description="sessions that load a dump side by side; unset: one for each core, at most 8",
    )
    compression: int = Field(
        1, alias="BACKUP_COMPRESSION", ge=0, le=3, description="gzip level, 0 fastest to 3 smallest"
    )
    project: str | None = Field(
        None, alias="BACKUP_PROJECT", description="Compose project of the database; unset: the sidecar's own"
    )
    root: Path = Field(Path("/backups"), alias="BACKUP_DIR", description="where the sets lie, in the container")
    volumes: Path = Field(
        Path("/volumes"), alias="BACKUP_VOLUMES_DIR", description="each directory below it is archived"
    )
    spool: Path = Field(
        Path("/spool"), alias="BACKUP_SPOOL_DIR", description="shared with helper containers: pipes, never data"
    )
    log_format: Literal["text", "json"] = Field(
        "text", alias="BACKUP_LOG_FORMAT", description="log lines on stdout: `text`, or `json` for a log collector"
    )
    log_max_mb: float = Field(
        10, alias="BACKUP_LOG_MAX_MB", gt=0, description="size of a log file in MB at which it is rotated, once a month"
    )
    http_host: Host = Field("0.0.0.0", alias="BACKUP_HTTP_HOST", description="address of the health endpoint")  # noqa: S104
    http_port: Port = Field(8080, alias="BACKUP_HTTP_PORT", description="port of the health endpoint")
    http_allowed_hosts: NameList = Field(
        (),
        alias="BACKUP_HTTP_ALLOWED_HOSTS",
        description="further host names of the page; addresses, localhost, `backup` always work; `*`: any",
    )
    http_token: Token | None = Field(
        None, alias="BACKUP_HTTP_TOKEN", description="bearer token for page, API and metrics, or BACKUP_HTTP_TOKEN_FILE"
    )
    http_user: str | None = Field(
        None, alias="BACKUP_HTTP_USER", description="login for page, API and metrics; goes with BACKUP_HTTP_PASSWORD"
    )
    http_password: SecretStr | None = Field(
        None, alias="BACKUP_HTTP_PASSWORD", description="its password, or BACKUP_HTTP_PASSWORD_FILE"
    )
    healthcheck: Literal["healthz", "livez", "readyz"] = Field(
        "healthz", alias="BACKUP_HEALTHCHECK", description="what the image's HEALTHCHECK asks; Swarm wants livez"
    )

    notify_urls: Addresses = Field(
        (),
        alias="BACKUP_NOTIFY_URLS",
        description="apprise URLs that messages go to, by spaces, commas or newlines; or BACKUP_NOTIFY_URLS_FILE",
    )
    notify_level: Literal["fail", "warn"] = Field(
        "warn", alias="BACKUP_NOTIFY_LEVEL", description="`warn`: warnings too, each once a week; `fail`: failures only"
    )
    notify_name: str = Field(
        "", alias="BACKUP_NOTIFY_NAME", description="name in every subject; unset: the Compose project"
    )
    remind_hours: float = Field(
        24, alias="BACKUP_REMIND_HOURS", ge=1, le=168, description="hours between reminders while health is `fail`"
    )
    heartbeat_url: Web | None = Field(
        None,
        alias="BACKUP_HEARTBEAT_URL",
        description="called after each verified backup, so that silence raises an alarm; or BACKUP_HEARTBEAT_URL_FILE",
    )
    mail_to: People = Field((), alias="MAILTO", description="mail addresses that messages go to, separated by commas")
    mail_host: Host | None = Field(None, alias="EMAIL_HOST", description="mail server; needed with MAILTO")
    mail_port: Port = Field(25, alias="EMAIL_PORT", description="its port")
    mail_user: str | None = Field(None, alias="EMAIL_HOST_USER", description="login there, if it needs one")
    mail_password: SecretStr | None = Field(
        None, alias="EMAIL_HOST_PASSWORD", description="its password, or EMAIL_HOST_PASSWORD_FILE"
    )
    mail_tls: bool = Field(False, alias="EMAIL_USE_TLS", description="encrypt with STARTTLS, as on port 587")
    mail_ssl: bool = Field(False, alias="EMAIL_USE_SSL", description="encrypt from the start, as on port 465")
    mail_from: str | None = Field(
        None, alias="DEFAULT_FROM_EMAIL", description="sender; unset: the login, or the recipient"
    )

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log may hold: every secret that was set, the parts of addresses that are some, and a mail password as
        a URL has it."""
        alone = [value.get_secret_value() for _, value in self if isinstance(value, SecretStr)]
        urls = [*self.notify_urls, *([self.heartbeat_url] if self.heartbeat_url else [])]
        parts = [part for url in urls for part in url_secrets(url.get_secret_value())]
        mail = [quote(self.mail_password.get_secret_value(), safe="")] if self.mail_password else []
        return (*alone, *parts, *mail)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if why := overlap(self.copy_dir, self.root, self.volumes):
            raise ValueError(why)
        return self

    @model_validator(mode="after")
    def _incremental(self) -> Self:
        if self.media_every and self.media != "incremental":
            raise ValueError(
                "BACKUP_MEDIA_EVERY needs BACKUP_MEDIA=incremental: a full set would hold all files each time"
            )
        if self.media == "incremental" and self.encrypt == "all":
            raise ValueError(
                "BACKUP_MEDIA=incremental does not go with BACKUP_ENCRYPT=all: which files are new is told by the last"
                " set, which cannot be read here without the private key"
            )
        if self.media == "incremental" and self.encrypt == "offsite":
            raise ValueError(
                "BACKUP_MEDIA=incremental does not go with BACKUP_ENCRYPT=offsite yet: packs are not encrypted on"
                " their way"
            )
        return self

    @model_validator(mode="after")
    def _login(self) -> Self:
        if (self.http_user is None) != (self.http_password is None):
            raise ValueError("BACKUP_HTTP_USER and BACKUP_HTTP_PASSWORD go together; one of them is not set")
        if self.http_user is not None and ":" in self.http_user:
            raise ValueError("BACKUP_HTTP_USER may not hold a colon: HTTP ends the name there")
        return self

    @model_validator(mode="after")
    def _mail(self) -> Self:
        if self.mail_to and not self.mail_host:
            raise ValueError("MAILTO needs EMAIL_HOST, the mail server to send by")
        if self.mail_tls and self.mail_ssl:
            raise ValueError("EMAIL_USE_TLS and EMAIL_USE_SSL are both set; keep one")
        if self.mail_from and not is_person(parseaddr(self.mail_from)[1]):
            raise ValueError("DEFAULT_FROM_EMAIL is not a mail address such as OBCMS <noreply@example.com>")
        return self

    @model_validator(mode="after")
    def _local_names(self) -> Self:
        for name in (self.db_name, self.db_user):
            if name is not None and "\0" in name:
                raise ValueError("a name holds a NUL byte")
        return self
