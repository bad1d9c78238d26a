"""What the README states is what the product has."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic_core import PydanticUndefined

from backup import errors
from backup.cli import app
from backup.config import Settings

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def documented_settings() -> dict[str, str]:
    return dict(re.findall(r"^\| `([A-Z0-9_]+)` \| (?:`([^`]*)`)? ?\|", README, re.MULTILINE))


def test_every_setting_is_documented_with_its_default() -> None:
    defaults = {}
    for field in Settings.model_fields.values():
        assert field.default is not PydanticUndefined
        value = field.default
        defaults[field.alias] = "" if value is None or value == () else str(value)
    assert documented_settings() == defaults


def test_every_command_is_documented() -> None:
    commands = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback and not c.hidden}
    documented = set(re.findall(r"^\| `([a-z]+)[` ]", README, re.MULTILINE))
    assert documented == commands


def test_the_exit_codes_are_those_of_the_errors() -> None:
    codes = {e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.BackupError)}
    text = README[README.index("Exit codes:") : README.index("## What lies")]
    assert {int(code) for code in re.findall(r"[:·]\s+(\d+)\s", text)} >= codes
