"""What README, the page of commands and the overview of the architecture state is what the product has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backup import errors
from backup.cli import COMMANDS, app, offsite
from backup.operations.restore.journal import RestoreStep

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "commands.md").read_text()
OVERVIEW = (ROOT / "docs" / "architecture.md").read_text()
FRONT = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")]
PAGES = [*FRONT, *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
# Codes that belong to no error: done, wrong usage, with a reservation, what waits, and the two of a look.
OTHERS = {0, 2, 3, 4, 60, 61}


def section(heading: str) -> str:
    """A section of the README."""
    return README.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_every_command_is_documented() -> None:
    assert set(re.findall(r"^\| `([a-z]+)[` ]", REFERENCE, re.MULTILINE)) == set(COMMANDS)


def test_every_offsite_command_is_documented() -> None:
    commands = {c.name or c.callback.__name__ for c in offsite.app.registered_commands if c.callback}
    assert set(re.findall(r"^\| `offsite ([a-z]+)[` ]", REFERENCE, re.MULTILINE)) == commands


def test_the_exit_codes_are_those_of_the_errors() -> None:
    codes = {e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.BackupError)}
    stated = [int(code) for code in re.findall(r"^\| (\d+) \|", section("Exit codes"), re.MULTILINE)]
    assert stated == sorted(codes | OTHERS)


def test_the_help_names_the_exit_codes_of_the_errors() -> None:
    codes = {e.exit_code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.BackupError)}
    assert codes - {1} <= {int(code) for code in re.findall(r"\b\d+\b", app.info.epilog or "")}


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1800


def test_the_states_that_are_drawn_are_those_of_the_journal() -> None:
    drawn = re.findall(r'^ +state "([a-z ]+)" as \w+$', OVERVIEW, re.MULTILINE)
    assert drawn == [*(step for step in RestoreStep if step is not RestoreStep.DONE), "rolling back"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_are_named_exist(page: Path) -> None:
    """Paths in backticks are of the package or of the repository, if their first folder is one of theirs."""
    named = set(re.findall(r"`((?:[a-z_]+/)+(?:\w+\.(?:py|sql|md|env))?)`", page.read_text()))
    homes = [home for home in (ROOT / "backup", ROOT) if home.is_dir()]
    ours = [name for name in named if any((home / name.split("/")[0]).is_dir() for home in homes)]
    assert [name for name in sorted(ours) if not any((home / name).exists() for home in homes)] == []
