"""Settings: environment variables and `*_FILE` secrets, typed, every problem in one message.

Each field of Settings is one setting: its alias is the variable, its description the documentation, its default
what an unset variable means. An empty variable counts as unset, because Compose passes `${X:-}` so.
A `BACKUP_*` variable that is not here is refused: a misspelt setting must not be silently ignored.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from email.utils import parseaddr
from pathlib import Path
from typing import Any, Final, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from backup.config_types import Addresses, Cron, Host, Names, People, Web, Zone, is_person
from backup.errors import ConfigError
from backup.text import printable

_SECRET_LIMIT: Final = 4096


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
    http_host: Host = Field("0.0.0.0", alias="BACKUP_HTTP_HOST", description="address of the health endpoint")  # noqa: S104
    http_port: int = Field(8080, alias="BACKUP_HTTP_PORT", ge=1, le=65535, description="port of the health endpoint")

    notify_urls: Addresses = Field(
        (),
        alias="BACKUP_NOTIFY_URLS",
        description="apprise URLs that messages go to, by blanks, commas or newlines; or BACKUP_NOTIFY_URLS_FILE",
    )
    notify_level: Literal["fail", "warn"] = Field(
        "warn", alias="BACKUP_NOTIFY_LEVEL", description="`warn`: warnings too, each once a week; `fail`: failures only"
    )
    notify_name: str = Field(
        "", alias="BACKUP_NOTIFY_NAME", description="name in every subject; unset: the Compose project"
    )
    remind_hours: float = Field(
        24, alias="BACKUP_REMIND_HOURS", ge=1, le=168, description="hours between messages that it still fails"
    )
    heartbeat_url: Web | None = Field(
        None,
        alias="BACKUP_HEARTBEAT_URL",
        description="asked for after each verified backup, so that its silence alarms; or BACKUP_HEARTBEAT_URL_FILE",
    )
    mail_to: People = Field((), alias="MAILTO", description="mail addresses that messages go to, by commas")
    mail_host: Host | None = Field(None, alias="EMAIL_HOST", description="mail server; needed with MAILTO")
    mail_port: int = Field(25, alias="EMAIL_PORT", ge=1, le=65535, description="its port")
    mail_user: str | None = Field(None, alias="EMAIL_HOST_USER", description="login there, if it wants one")
    mail_password: SecretStr | None = Field(
        None, alias="EMAIL_HOST_PASSWORD", description="its password, or EMAIL_HOST_PASSWORD_FILE"
    )
    mail_tls: bool = Field(False, alias="EMAIL_USE_TLS", description="encrypt by STARTTLS, as on port 587")
    mail_ssl: bool = Field(False, alias="EMAIL_USE_SSL", description="encrypt from the start, as on port 465")
    mail_from: str | None = Field(
        None, alias="DEFAULT_FROM_EMAIL", description="sender; unset: the login, or the recipient"
    )

    @model_validator(mode="after")
    def _mail(self) -> Self:
        if self.mail_to and not self.mail_host:
            raise ValueError("MAILTO needs EMAIL_HOST, the mail server to send by")
        if self.mail_tls and self.mail_ssl:
            raise ValueError("EMAIL_USE_TLS and EMAIL_USE_SSL are both set; keep one")
        if self.mail_from and not is_person(parseaddr(self.mail_from)[1]):
            raise ValueError("DEFAULT_FROM_EMAIL is no mail address such as OBCMS <noreply@example.com>")
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
    *("BACKUP_NOTIFY_URLS", "BACKUP_HEARTBEAT_URL", "EMAIL_HOST_PASSWORD"),
)
_MANY_LINES: Final = ("BACKUP_NOTIFY_URLS",)
ALIASES: Final[Mapping[str, str]] = {field.alias or name: name for name, field in Settings.model_fields.items()}


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the environment; ConfigError lists every problem found."""
    known = {*ALIASES, *(f"{name}_FILE" for name in _FILES)}
    problems = [_unknown(name) for name in sorted(environ) if name.startswith("BACKUP_") and name not in known]
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
    return _secret(name, file)


def _secret(name: str, file: str) -> str:
    """A secret from a file: its whole content less one final newline."""
    shown = f"{name}_FILE={printable(file)}"
    try:
        with Path(file).open("rb") as handle:
            data = handle.read(_SECRET_LIMIT + 1)
    except OSError as error:
        raise ValueError(f"{shown}: {error.strerror}") from None
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError(f"{shown}: the file is not UTF-8 text") from None
    if not text:
        raise ValueError(f"{shown}: the file is empty")
    if name in _MANY_LINES and len(data) <= _SECRET_LIMIT and "\0" not in text:
        return text
    if len(data) > _SECRET_LIMIT or "\n" in text or "\0" in text:
        raise ValueError(f"{shown}: the file must hold one line of at most {_SECRET_LIMIT} bytes")
    return text


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, ALIASES, n=1, cutoff=0.8)
    return f"{printable(name)} is not a setting" + (f"; did you mean {near[0]}?" if near else "")
