"""Helpers that wait to be told a program: real shells, children of ours in the place of containers."""

from __future__ import annotations

import select
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest

from backup.docker.helper import Helper
from backup.errors import EngineError
from backup.postgres.waiting_helpers import waiting

ODD = ["%s|", "two words", "it's", "new\nline", "$(id)", "ü\udcff"]


class Shell:
    """A helper as far as it is used here."""

    def __init__(self, gate: Path) -> None:
        self.process = subprocess.Popen(["sh", str(gate)], stdout=subprocess.PIPE)
        self.program, self.closed = "sh", False

    def becomes(self, program: str) -> None:
        self.program = program

    def close(self) -> None:
        self.closed = True


class Starter:
    """Starts them, and knows which there are."""

    def __init__(self) -> None:
        self.made: list[Shell] = []

    def __call__(self, gate: Path) -> Helper:
        self.made.append(Shell(gate))
        return cast(Helper, self.made[-1])


@pytest.fixture
def start() -> Starter:
    return Starter()


def test_one_that_is_told_runs_just_that(tmp_path: Path, start: Starter) -> None:
    with waiting(start, [tmp_path / "0.gate"]) as helpers:
        told: Any = helpers.take("printf", ODD)
        said, _ = told.process.communicate(timeout=60)
        assert helpers.take("printf", ODD) is None
    assert said == "|".join([*ODD[1:], ""]).encode(errors="surrogateescape")
    assert told.program == "printf" and told.process.returncode == 0
    # It is that of whoever took it.
    assert not told.closed and list(tmp_path.iterdir()) == []


def test_those_that_are_told_nothing_end_and_are_removed(tmp_path: Path, start: Starter) -> None:
    with pytest.raises(KeyboardInterrupt), waiting(start, [tmp_path / "0.gate", tmp_path / "1.gate"]) as helpers:
        raise KeyboardInterrupt
    assert [each.closed for each in start.made] == [True, True]
    # Nobody has killed them: their pipe has ended.
    assert [each.process.communicate(timeout=60)[0] for each in start.made] == [b"", b""]
    assert all(each.process.returncode >= 0 for each in start.made)
    assert helpers.take("true", []) is None and list(tmp_path.iterdir()) == []


def test_one_is_told_no_more_than_its_pipe_takes_at_once(tmp_path: Path, start: Starter) -> None:
    with waiting(start, [tmp_path / "0.gate"]) as helpers:
        assert helpers.take("printf", ["x" * select.PIPE_BUF]) is None
    start.made[0].process.communicate(timeout=60)
    assert start.made[0].closed


def test_what_cannot_be_started_is_done_without(tmp_path: Path) -> None:
    def start(gate: Path) -> Helper:
        raise EngineError("there is no sh in that image")

    with waiting(start, [tmp_path / "0.gate"]) as helpers:
        assert helpers.take("psql", []) is None
