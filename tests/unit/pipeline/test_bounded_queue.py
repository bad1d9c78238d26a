"""A signal may end whoever writes at any line; then nobody waits for ever."""

from __future__ import annotations

import io
import itertools
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pyrage
import pytest

from backup.errors import Interrupted
from backup.pipeline.age import AgeWriter, recipients
from backup.pipeline.chunks import aside
from backup.pipeline.gzip import GzipWriter
from tests.support.faults import eventually

KEY = str(pyrage.x25519.Identity.generate().to_public())
BLOCK = bytes(1 << 20)
# More lines than a write has.
LINES = 200


def interrupted(line: int, call: Callable[[], object]) -> bool:
    """Whether `call` was ended by a signal's exception before its line of that number, in whatever function that is."""
    left = itertools.count(-line)

    def trace(_frame: FrameType, event: str, _arg: Any) -> Any:
        if event == "line" and next(left) == 0:
            raise Interrupted(15)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
    return False


def waits(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name in ("get", "wait", "put")


@pytest.mark.parametrize(
    "make",
    [lambda: GzipWriter(io.BytesIO(), 1), lambda: AgeWriter(io.BytesIO(), recipients([KEY]))],
    ids=["gzip", "age"],
)
def test_a_writer_that_is_interrupted_at_any_line_can_be_ended(make: Callable[[], GzipWriter | AgeWriter]) -> None:
    for line in range(LINES):
        writer = make()
        # A wake-up can only be lost by one who waits for it.
        eventually(lambda writer=writer: waits(writer._thread), pause=0)
        ended = interrupted(line, lambda writer=writer: writer.write(BLOCK))
        ender = threading.Thread(target=writer.abandon, daemon=True)
        ender.start()
        ender.join(5)
        assert not ender.is_alive(), f"interrupted before line {line} of a write, it is waited for"
        if not ended:
            assert line
            return
    raise AssertionError("not one write went through")


def test_a_reader_that_is_interrupted_at_any_line_can_be_ended() -> None:
    def make(put: Callable[[bytes], None], stopped: threading.Event) -> None:
        while not stopped.is_set():
            put(b"x")

    for line in range(LINES):
        pieces = aside(make, "made", 2)
        assert next(pieces) == b"x"
        thread = next(each for each in threading.enumerate() if each.name == "made")
        # Where it is full: the place that is made then must not be lost.
        eventually(lambda thread=thread: waits(thread), pause=0)
        ended = interrupted(line, lambda pieces=pieces: next(pieces))
        ender = threading.Thread(target=pieces.close, daemon=True)
        ender.start()
        ender.join(5)
        thread.join(5)
        assert not ender.is_alive() and not thread.is_alive(), f"interrupted before line {line}, it is waited for"
        if not ended:
            assert line
            return
    raise AssertionError("not one piece came")
