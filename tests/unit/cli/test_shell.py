"""Comfort at a shell: examples, suggestions, completion, colours, no traces of expected errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from backup.cli import app
from tests.support.forked_cli import apart

ROOT = Path(__file__).parents[3]
COMMANDS = sorted(getattr(get_command(app), "commands"))  # noqa: B009 - a group's, which the type does not say


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, without the second that each takes to import what all import."""
    command = [str(ROOT / "entrypoint.py"), *words]
    around = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": str(ROOT)}
    code, output, errors = apart(command, around | environment, b"", 60)
    return subprocess.CompletedProcess(command, code, output.decode(), errors.decode())


def run_from_nothing(*words: str) -> subprocess.CompletedProcess[str]:
    """As it is started where nothing has been imported."""
    command = [sys.executable, str(ROOT / "entrypoint.py"), *words]
    around = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run(command, env=around, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_is_one(name: str) -> None:
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    text = command.help or ""
    examples = re.findall(r"Examples?: (.*)", text, re.DOTALL)
    assert examples, f"{name} has no example"
    found = re.findall(r"`([^`]+)`", examples[0])
    assert any(re.search(rf"(?:^|\s){name}(?:\s|$)", example) for example in found) or name == "serve"
    options = {option for parameter in command.params for option in parameter.opts}
    for example in found:
        own = example.partition(f"{name} ")[2] if not example.startswith("docker") else ""
        assert set(re.findall(r"--[a-z-]+", own)) <= options, f"{example} uses an option that {name} has not"


@pytest.mark.long
def test_the_help_of_every_command_names_its_examples() -> None:
    done = run_from_nothing("verify", "--help")
    assert done.returncode == 0
    assert "Examples" in done.stdout


@pytest.mark.parametrize(("typed", "meant"), [("creat", "create"), ("verfy", "verify"), ("docter", "doctor")])
def test_a_mistyped_command_is_suggested(typed: str, meant: str) -> None:
    done = run(typed)
    assert done.returncode == 2
    assert f"Did you mean '{meant}'" in done.stderr


def test_an_empty_list_says_how_to_fill_it(tmp_path: Path) -> None:
    done = run("list", "weekly", BACKUP_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "")
    assert "No weekly set is in" in done.stderr and "`create` makes one" in done.stderr


def test_a_mistyped_option_is_suggested() -> None:
    assert "--dry-run" in run("prune", "--dryrun").stderr


def completed(*words: str, **environment: str) -> list[str]:
    asked = {"_BACKUP_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    return run("--help", **asked, **environment).stdout.split()


def test_commands_options_and_sets_are_completed(tmp_path: Path) -> None:
    (tmp_path / "daily").mkdir()
    (tmp_path / "daily" / "obcms_backup_20251020_020000.sql.gz").write_bytes(b"x")
    assert completed("backup", "ver") == ["verify"]
    assert "--dry-run" in completed("backup", "prune", "--d")
    for command in ("verify", "show", "pin", "unpin", "drill", "restore"):
        assert "latest" in completed("backup", command, "la", BACKUP_DIR=str(tmp_path)), command


def test_completion_says_nothing_when_the_settings_are_wrong() -> None:
    asked = {"_BACKUP_COMPLETE": "complete_bash", "COMP_WORDS": "backup verify x", "COMP_CWORD": "2"}
    done = run("--help", **asked, BACKUP_NONSENSE="1")
    assert (done.stdout.strip(), done.stderr.strip()) == ("", "")


@pytest.mark.parametrize("command", [["list"], ["status"], ["show", "latest"], ["verify", "latest"], ["doctor"]])
def test_expected_errors_have_no_trace(command: list[str], tmp_path: Path) -> None:
    places = {"BACKUP_DIR": str(tmp_path / "gone"), "BACKUP_VOLUMES_DIR": str(tmp_path / "none")}
    done = run(*command, DOCKER_HOST="unix:///nonexistent.sock", **places)
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
@pytest.mark.long
def test_no_color_is_honoured_on_a_terminal(environment: dict[str, str], coloured: bool, tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "entrypoint.py"), "doctor"]
    settings = {
        "PATH": os.environ["PATH"],
        "TERM": "xterm-256color",
        "BACKUP_DIR": str(tmp_path / "backups"),
        "BACKUP_VOLUMES_DIR": str(tmp_path / "none"),
        "DOCKER_HOST": "unix:///nonexistent.sock",
    }
    done = subprocess.run(
        ["script", "--quiet", "--return", "--command", " ".join(words), "/dev/null"],
        env=settings | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "failed" in done.stdout
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-7]m", done.stdout)) is coloured


def test_without_a_terminal_lines_are_plain(tmp_path: Path) -> None:
    done = run("doctor", BACKUP_DIR=str(tmp_path), DOCKER_HOST="unix:///nonexistent.sock")
    assert done.returncode == 61
    assert "\x1b" not in done.stdout
    assert "failed\tengine\t" in done.stdout


# Each in a child of one process, which has what they have in common.
LOOKING = """
import os, sys, backup.cli
for name in ("create", "list_sets", "inspect", "monitoring", "retention", "transfer", "alerts", "ship"):
    if not os.fork():
        __import__(f"backup.cli.{name}")
        print(name, *sys.modules.keys() & {"psycopg", "docker", "boto3", "apprise", "starlette"}, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.long
def test_what_only_looks_loads_no_client() -> None:
    """Each takes as long to import as all the rest of such a command, and of what runs all the time as much memory."""
    loaded = subprocess.run([sys.executable, "-c", LOOKING], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.splitlines() == [
        "create",
        "list_sets",
        "inspect",
        "monitoring",
        "retention",
        "transfer",
        "alerts",
        "ship",
    ]
