"""The settings as they are in force, each with its source and without secrets. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from zoneinfo import ZoneInfo

from pydantic import SecretStr

from backup.config import notify_url
from backup.config.settings import Settings
from backup.formatting import printable

DEFAULT: Final = "default"
_MASK: Final = "***"


@dataclass(frozen=True)
class Setting:
    """One setting: its value as text, a secret as `***`, and where that comes from."""

    name: str
    value: str
    source: str


def settings(found: Settings, origin: Callable[[str], str], container: Mapping[str, tuple[str, str]]) -> list[Setting]:
    """All of them. `origin` says whence a value of the environment comes, `container` has (value, source) of others."""
    told = []
    for name, field in Settings.model_fields.items():
        alias = field.alias or name
        value, source = _shown(getattr(found, name)), origin(alias)
        if not source and alias in container:
            value, source = container[alias]
        told.append(Setting(alias, printable(" ".join(value.split())), source or DEFAULT))
    return told


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        return notify_url.masked(secret) if "://" in secret else _MASK
    if isinstance(value, ZoneInfo):
        return value.key
    return "" if value is None else str(value)
