"""A client that has ended well is removed while others work; of any other it is asked first what it said."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.errors import EngineError, LoadFailed
from backup.postgres.process_io import Pipe, ProcessInput, ProcessOutput


class Program:
    """Ends with this code when it is told to, or killed."""

    def __init__(self, code: int, removing: Exception | None = None) -> None:
        self._code, self._removing = code, removing
        self.told, self.closed = threading.Event(), threading.Event()
        self.done: list[str] = []

    def wait(self) -> int:
        self.told.wait(30)
        return self._code

    def errors(self) -> str:
        self.done.append("errors")
        return "ERROR:  it said why"

    def kill(self) -> None:
        self.done.append("kill")
        self.told.set()

    def close(self) -> None:
        self.done.append("close")
        self.closed.set()
        if self._removing:
            raise self._removing


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    with Pipe(tmp_path / "fifo") as made:
        yield made


@pytest.mark.parametrize("removing", [None, EngineError("the engine is busy")])
def test_one_that_ended_well_is_removed_at_once_and_left_alone(pipe: Pipe, removing: Exception | None) -> None:
    """One that cannot be removed fails nothing: the next sweep does it."""
    program = Program(0, removing)
    with ProcessInput(program, pipe, "psql", 30) as load:
        program.told.set()
        load.judge()
        assert program.closed.wait(30)
        load.kill()
    assert program.done == ["close"]


def test_a_dump_that_ended_well_too(pipe: Pipe) -> None:
    program = Program(0)
    with ProcessOutput(program, pipe, "pg_dump", 30) as output:
        program.told.set()
        assert list(output.chunks()) == []
        assert program.closed.wait(30)
    assert program.done == ["close"]


def test_one_that_failed_stays_until_it_was_asked_why(pipe: Pipe) -> None:
    program = Program(3)
    with ProcessInput(program, pipe, "psql", 30) as load:
        program.told.set()
        with pytest.raises(LoadFailed, match="it said why"):
            load.judge()
    assert program.done == ["errors", "close"]


def test_one_that_is_at_work_is_killed(pipe: Pipe) -> None:
    program = Program(137)
    with pytest.raises(KeyError), ProcessInput(program, pipe, "psql", 30):
        raise KeyError
    assert program.done == ["kill", "close"]


def test_one_that_ended_before_its_script_is_a_failure_without_words(pipe: Pipe) -> None:
    program = Program(0)
    with ProcessInput(program, pipe, "psql", 30) as load:
        program.told.set()
        assert program.closed.wait(30)
        with pytest.raises(LoadFailed, match="exit code 0"):
            load.write(b"SELECT 1;")
    assert program.done == ["close"]


def test_one_that_tells_something_stays_until_it_was_asked(pipe: Pipe) -> None:
    """As pg_waldump: where the reading ended."""
    program = Program(0)
    with ProcessOutput(program, pipe, "pg_waldump", 30, tells=True) as output:
        program.told.set()
        assert list(output.chunks()) == []
        assert not program.closed.wait(0.1)
        assert program.errors()
    assert program.done == ["errors", "close"]
