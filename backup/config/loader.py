"""The environment and `*_FILE` secrets → settings, typed, every problem in one message.

An empty variable counts as unset, because Compose passes `${X:-}` so.
A `BACKUP_*` variable that is not here is refused: a misspelt setting must not be silently ignored.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from backup.config import secret_file
from backup.config.settings import Settings
from backup.errors import ConfigError
from backup.formatting import printable

__all__ = ["ALIASES", "KNOWN", "Settings", "load_settings", "origin"]

# The seed's name first, then the one that the official image and OBCMS's .env use.
_FALLBACKS: Final[Mapping[str, str]] = {
    "DB_NAME": "POSTGRES_DB",
    "DB_USER": "POSTGRES_USER",
    "DB_PASSWORD": "POSTGRES_PASSWORD",
}
_FILES: Final = (
    *("DB_NAME", "DB_USER", "DB_PASSWORD", "POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"),
    *("BACKUP_HTTP_TOKEN", "BACKUP_HTTP_PASSWORD"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("BACKUP_NOTIFY_URLS", "BACKUP_HEARTBEAT_URL", "EMAIL_HOST_PASSWORD"),
    "BACKUP_AGE_RECIPIENTS",
)
_MANY_LINES: Final = ("BACKUP_NOTIFY_URLS", "BACKUP_AGE_RECIPIENTS")
ALIASES: Final[Mapping[str, str]] = {field.alias or name: name for name, field in Settings.model_fields.items()}
# Every variable that is read.
KNOWN: Final = frozenset(ALIASES) | {f"{name}_FILE" for name in _FILES}


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the environment; ConfigError lists every problem found."""
    problems = [_unknown(name) for name in sorted(environ) if name.startswith("BACKUP_") and name not in KNOWN]
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


def origin(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """Where the value of a setting comes from; empty for its default."""
    for each in (name, *([_FALLBACKS[name]] if name in _FALLBACKS else [])):
        if file := environ.get(f"{each}_FILE") if each in _FILES else None:
            return f"file {printable(file)} ({each}_FILE)"
        if environ.get(each):
            return "environment" + (f" ({each})" if each != name else "")
    return ""


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
    return secret_file.read_secret(name, file, many=name in _MANY_LINES)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.8)
    return f"{printable(name)} is not a setting" + (f"; did you mean {near[0]}?" if near else "")
