"""What the README states is what the product has."""

from __future__ import annotations

import re
from pathlib import Path

from backup import errors
from backup.cli import COMMANDS, offsite

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def test_every_command_is_documented() -> None:
    assert set(re.findall(r"^\| `([a-z]+)[` ]", README, re.MULTILINE)) == set(COMMANDS)


def test_every_offsite_command_is_documented() -> None:
    commands = {c.name or c.callback.__name__ for c in offsite.app.registered_commands if c.callback}
    assert set(re.findall(r"^\| `offsite ([a-z]+)[` ]", README, re.MULTILINE)) == commands


def test_the_exit_codes_are_those_of_the_errors() -> None:
    codes = {e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.BackupError)}
    text = README[README.index("Exit codes:") : README.index("## What lies")]
    assert {int(code) for code in re.findall(r"[:·]\s+(\d+)\s", text)} >= codes
