"""A program that stands still is asked about; who asks in vain asks again, but not for ever."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backup.docker.throwaway_server import ThrowawayServer
from backup.errors import BackupError, DatabaseUnavailable, DumpFailed, EngineError, LoadFailed
from backup.postgres.process_io import Pipe, ProcessInput, ProcessOutput

STALL = 0.02
LOST = DatabaseUnavailable("too many clients already", "Wait.")


class Still:
    """A program that reads nothing until it is killed."""

    def __init__(self) -> None:
        self._killed = threading.Event()

    def wait(self) -> int:
        self._killed.wait()
        return 137

    def errors(self) -> str:
        return ""

    def kill(self) -> None:
        self._killed.set()

    def close(self) -> None:
        self.kill()


class Answers:
    """What is said of it, one after the other, the last one again and again; and when it was asked for."""

    def __init__(self, *answers: bool | BackupError) -> None:
        self._answers, self.times = list(answers), list[float]()

    def __call__(self) -> bool:
        self.times.append(time.monotonic())
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, BackupError):
            raise answer
        return answer


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    with Pipe(tmp_path / "fifo") as made:
        yield made


def stands_still(pipe: Pipe, busy: Callable[[], bool]) -> LoadFailed:
    """How a load ends that is never read."""
    with ProcessInput(Still(), pipe, "psql", STALL, busy) as load, pytest.raises(LoadFailed) as caught:
        load.write(bytes(4 << 20))
    return caught.value


def says_nothing(pipe: Pipe, busy: Callable[[], bool]) -> DumpFailed:
    """How a dump ends that never comes."""
    with ProcessOutput(Still(), pipe, "pg_dump", STALL, busy) as output, pytest.raises(DumpFailed) as caught:
        list(output.chunks())
    return caught.value


def test_one_question_without_an_answer_ends_nothing(pipe: Pipe) -> None:
    answers = Answers(LOST, True, LOST, LOST, True, False)
    assert "made no progress" in stands_still(pipe, answers).message
    assert len(answers.times) == 6
    assert all(later - earlier >= STALL for earlier, later in zip(answers.times, answers.times[1:], strict=False))


def test_three_questions_without_an_answer_end_it(pipe: Pipe) -> None:
    answers = Answers(True, LOST)
    failed = stands_still(pipe, answers)
    assert "too many clients" in failed.message and failed.hint == "Wait."
    assert len(answers.times) == 4


def test_who_does_not_work_is_ended_at_once(pipe: Pipe) -> None:
    answers = Answers(False)
    assert "made no progress" in stands_still(pipe, answers).message
    assert len(answers.times) == 1


def test_a_throw_away_server_that_takes_no_connection_once_ends_no_load(pipe: Pipe) -> None:
    class Busy(ThrowawayServer):
        def __init__(self, *codes: int) -> None:
            self._user, self.codes = "u", list(codes)

        def ask(self, *command: str) -> tuple[int, str]:
            return (self.codes.pop(0) if self.codes else 2), ""

    server = Busy(0, 1, 0)
    failed = stands_still(pipe, server.answers)
    assert "takes no connections" in failed.message and server.codes == []
    with pytest.raises(EngineError):
        server.answers()


def test_a_dump_that_says_nothing_is_asked_about_too(pipe: Pipe) -> None:
    answers = Answers(True, LOST, LOST, True, True, False)
    failed = says_nothing(pipe, answers)
    assert "made no progress for" in failed.message and "nothing was published" in failed.message
    assert len(answers.times) == 6


def test_a_dump_that_nobody_can_be_asked_about_is_ended(pipe: Pipe) -> None:
    answers = Answers(LOST)
    failed = says_nothing(pipe, answers)
    assert "made no progress for" in failed.message and "too many clients" in failed.message
    assert len(answers.times) == 3


def test_a_dump_goes_on_behind_a_long_silence(pipe: Pipe) -> None:
    asked, waited = list[int](), list[float]()

    def busy() -> bool:
        asked.append(os.write(pipe.writer, b"row") if len(asked) == 2 else 0)
        return True

    with ProcessOutput(Still(), pipe, "pg_dump", STALL, busy) as output:
        chunks = output.chunks(lambda: waited.append(time.monotonic()))
        assert next(chunks) == b"row"
    assert len(asked) == 3 and len(waited) >= 3, "somebody is told that it waits"
