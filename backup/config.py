"""Settings: environment variables and `*_FILE` secrets, typed, every problem in one message.

Each field of Settings is one setting: its alias is the variable, its description the documentation, its default
what an unset variable means. An empty variable counts as unset, because Compose passes `${X:-}` so.
A `BACKUP_*` variable that is not here is refused: a misspelt setting must not be silently ignored.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from backup import secretfile
from backup.errors import ConfigError
from backup.schedule import check as check_cron
from backup.text import printable

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")
_HOST: Final = re.compile(r"[A-Za-z0-9:][A-Za-z0-9_.:-]{0,252}")


def _zone(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"unknown time zone {printable(value)!r}; use a name such as Asia/Manila") from None


def _listed(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _cron(value: str) -> str:
    return "" if value.lower() == "off" else check_cron(value)


def _host(value: str) -> str:
    if not _HOST.fullmatch(value):
        raise ValueError(f"{printable(value)!r} is not a host name or an address")
    return value


Zone = Annotated[ZoneInfo, BeforeValidator(_zone)]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Cron = Annotated[str, AfterValidator(_cron)]
Host = Annotated[str, AfterValidator(_host)]


class Settings(BaseModel):
    """Everything that can be set, with its default."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    db_service: str = Field("db", alias="DB_SERVICE", description="Compose service of the database")
    db_host: Host | None = Field(
        None,
        alias="DB_HOST",
        description="a database container, or a server to reach over the network; unset: DB_SERVICE's container",
    )
    db_port: int = Field(5432, alias="DB_PORT", ge=1, le=65535, description="PostgreSQL's own port, never a pooler's")
    db_name: str | None = Field(None, alias="DB_NAME", description="database; unset: POSTGRES_DB, then the container's")
    db_user: str | None = Field(None, alias="DB_USER", description="login; unset: POSTGRES_USER, then the container's")
    db_password: SecretStr | None = Field(
        None,
        alias="DB_PASSWORD",
        description="password, or DB_PASSWORD_FILE; unset: POSTGRES_PASSWORD, then the container's",
    )
    bucket: str | None = Field(
        None, alias="AWS_S3_BACKUP_BUCKET", description="read, and reported as not yet used: no offsite copies so far"
    )
    region: str | None = Field(None, alias="AWS_REGION", description="goes with AWS_S3_BACKUP_BUCKET")
    zone: Zone = Field(ZoneInfo("UTC"), alias="TZ", description="time zone of schedules, file names and logs")

    daily: Cron = Field("0 2 * * *", alias="BACKUP_DAILY", description="cron line of the daily set, or `off`")
    weekly: Cron = Field("0 3 * * 0", alias="BACKUP_WEEKLY", description="cron line of the weekly set, or `off`")
    monthly: Cron = Field("0 4 1 * *", alias="BACKUP_MONTHLY", description="cron line of the monthly set, or `off`")
    drill: Cron = Field(
        "0 6 * * 0",
        alias="BACKUP_DRILL",
        description="cron line of the drill: the newest set of each tier is restored to prove it, or `off`",
    )
    cleanup: Cron = Field("0 5 * * *", alias="BACKUP_CLEANUP", description="cron line of the retention run, or `off`")
    monitor: Cron = Field(
        "0 */6 * * *", alias="BACKUP_MONITOR", description="cron line of the check that raises alerts, or `off`"
    )
    report: Cron = Field("0 9 * * 1", alias="BACKUP_REPORT", description="cron line of the report, or `off`")
    retention_daily: int = Field(
        30, alias="BACKUP_RETENTION_DAILY", ge=0, le=36_500, description="days that daily sets are kept; 0: for ever"
    )
    retention_weekly: int = Field(
        90, alias="BACKUP_RETENTION_WEEKLY", ge=0, le=36_500, description="days that weekly sets are kept; 0: for ever"
    )
    retention_monthly: int = Field(
        365,
        alias="BACKUP_RETENTION_MONTHLY",
        ge=0,
        le=36_500,
        description="days that monthly sets are kept; 0: for ever",
    )
    retention_manual: int = Field(
        0, alias="BACKUP_RETENTION_MANUAL", ge=0, le=36_500, description="days that manual sets are kept; 0: for ever"
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
        description="per cent of a tier's sets that one cleanup may remove; more needs `prune --force`",
    )
    file_columns: Names = Field(
        (),
        alias="BACKUP_FILE_COLUMNS",
        description="`table.column` of file names, looked up among the media in a drill; unset: found by their values",
    )
    restore_stop: Names = Field(
        (),
        alias="BACKUP_RESTORE_STOP",
        description="services stopped while a restore swaps; unset: those that mount a restored volume writable",
    )
    post_restore: str = Field(
        "",
        alias="BACKUP_POST_RESTORE",
        description="`service: command`, run there after a restore; several by newlines",
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
    excludes: Names = Field(
        (), alias="BACKUP_MEDIA_EXCLUDE", description="patterns left out besides *.pyc, __pycache__, .DS_Store"
    )
    allow_empty: Names = Field(
        (), alias="BACKUP_ALLOW_EMPTY", description="volumes that may be empty; `none` if there is no volume at all"
    )
    max_age_hours: float = Field(
        48,
        alias="BACKUP_MAX_AGE_HOURS",
        gt=0,
        le=87_600,
        description="age of the newest good set that turns health red",
    )
    min_size_kb: float = Field(
        100, alias="BACKUP_MIN_SIZE_KB", ge=0, description="a dump smaller than this many kB is a warning"
    )
    min_free_gb: float = Field(
        5, alias="BACKUP_MIN_FREE_GB", ge=0, description="less free space than this many GB is a warning"
    )
    lock_timeout: int = Field(
        60, alias="BACKUP_LOCK_TIMEOUT", ge=1, description="seconds to wait for a table that somebody has locked"
    )
    stall_timeout: int = Field(
        300, alias="BACKUP_STALL_TIMEOUT", ge=5, description="seconds without progress after which a run is ended"
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
    http_port: int = Field(8080, alias="BACKUP_HTTP_PORT", ge=1, le=65535, description="port of the health endpoint")
    http_allowed_hosts: Names = Field(
        (),
        alias="BACKUP_HTTP_ALLOWED_HOSTS",
        description="further names the page is asked by; addresses, localhost, `backup` always are; `*`: any",
    )
    http_token: SecretStr | None = Field(
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

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every secret that was set, to be kept out of logs."""
        return tuple(value.get_secret_value() for _, value in self if isinstance(value, SecretStr))

    @model_validator(mode="after")
    def _login(self) -> Self:
        if (self.http_user is None) != (self.http_password is None):
            raise ValueError("BACKUP_HTTP_USER and BACKUP_HTTP_PASSWORD go together; one of them is not set")
        if self.http_user is not None and ":" in self.http_user:
            raise ValueError("BACKUP_HTTP_USER may not hold a colon: HTTP ends the name there")
        if self.http_token is not None and not _TOKEN.fullmatch(self.http_token.get_secret_value()):
            raise ValueError("BACKUP_HTTP_TOKEN may hold letters, digits and -._~+/= only: it travels in a header")
        return self

    @model_validator(mode="after")
    def _local_names(self) -> Self:
        for name in (self.db_name, self.db_user):
            if name is not None and "\0" in name:
                raise ValueError("a name holds a NUL byte")
        return self


# The seed's name first, then the one that the official image and OBCMS's .env use.
_FALLBACKS: Final[Mapping[str, str]] = {
    "DB_NAME": "POSTGRES_DB",
    "DB_USER": "POSTGRES_USER",
    "DB_PASSWORD": "POSTGRES_PASSWORD",
}
_FILES: Final = (
    *("DB_NAME", "DB_USER", "DB_PASSWORD", "POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"),
    *("BACKUP_HTTP_TOKEN", "BACKUP_HTTP_PASSWORD"),
)
ALIASES: Final[Mapping[str, str]] = {field.alias or name: name for name, field in Settings.model_fields.items()}
_KNOWN: Final = frozenset(ALIASES) | {f"{name}_FILE" for name in _FILES}


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the environment; ConfigError lists every problem found."""
    problems = [_unknown(name) for name in sorted(environ) if name.startswith("BACKUP_") and name not in _KNOWN]
    values: dict[str, Any] = {}
    for name in dict.fromkeys([*ALIASES, *_FALLBACKS.values()]):
        try:
            value = _value(name, environ)
        except ValueError as error:
            problems.append(str(error))
            continue
        if value is not None:
            values[name] = value
    for name, fallback in _FALLBACKS.items():
        other = values.pop(fallback, None)
        if other is not None:
            values.setdefault(name, other)
    settings = _validated(values, problems)
    if problems or settings is None:
        listing = "".join(f"\n  - {problem}" for problem in problems)
        raise ConfigError(
            f"the settings cannot be used ({len(problems)} problem{'s' * (len(problems) > 1)}):{listing}",
            "Correct them in the environment of the backup service; docker-compose.backup.yml names every setting.",
        )
    return settings


def _validated(values: dict[str, Any], problems: list[str]) -> Settings | None:
    try:
        return Settings.model_validate(values)
    except ValidationError as errors:
        # include_input=False: a wrong value may be a secret in the wrong variable
        for error in errors.errors(include_url=False, include_input=False, include_context=False):
            name = str(error["loc"][0]) if error["loc"] else "settings"
            problems.append(f"{name}: {error['msg'].removeprefix('Value error, ')}")
        return None


def _value(name: str, environ: Mapping[str, str]) -> str | None:
    value, file = environ.get(name) or None, environ.get(f"{name}_FILE") or None
    if name not in _FILES or file is None:
        return value
    if value is not None:
        raise ValueError(f"{name} and {name}_FILE are both set; keep one")
    return secretfile.read(name, file)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.8)
    return f"{printable(name)} is not a setting" + (f"; did you mean {near[0]}?" if near else "")
