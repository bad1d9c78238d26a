"""docs/configuration.env from the settings: `python -m tests.support.reference` writes it, a test compares."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from backup.config.loader import KNOWN
from backup.config.settings import Settings

FILE: Final = Path(__file__).resolve().parents[2] / "docs" / "configuration.env"
_HEAD: Final = """\
# Every setting of the backup service, with its default: copy a line, take the `#` away, change it. As environment
# variables of the service `backup`, or as `env_file:`. Written by `make docs` from backup/config/settings.py.
#
# An empty value is an unset one. Unknown BACKUP_* variables are refused at the start, and so is every wrong value, all
# of them in one message. Where "or NAME_FILE" stands, the value may lie in a file: its final newline is dropped.
"""


def render() -> str:
    """The whole file."""
    return _HEAD + "".join(_entry(alias, name) for name, alias in _aliases())


def _aliases() -> list[tuple[str, str]]:
    return [(name, field.alias or name) for name, field in Settings.model_fields.items()]


def _entry(alias: str, name: str) -> str:
    field = Settings.model_fields[name]
    file = f"; or {alias}_FILE" if f"{alias}_FILE" in KNOWN and "_FILE" not in (field.description or "") else ""
    text = textwrap.fill(
        f"{field.description}{file}", 118, initial_indent="# ", subsequent_indent="#   ", break_long_words=False
    )
    return f"\n{text}\n# {alias}={shown(field.default)}\n"


def shown(default: object) -> str:
    """A default as it would be written into the environment; an unset one is empty."""
    if default is None:
        return ""
    if isinstance(default, tuple):
        return ",".join(str(each) for each in default)
    return default.key if isinstance(default, ZoneInfo) else f"{default}"


if __name__ == "__main__":
    FILE.write_text(render())
