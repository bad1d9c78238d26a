"""What is done to the files of a volume, as a fork: `backup.media.helper.in_child` without an interpreter."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import NoReturn

from backup.media import helper_main

_LAST_LINES = 5
_DESCRIPTORS = 1 << 16


def in_fork(_volume: str, words: Sequence[str]) -> Iterator[str | int]:
    """Yield what `in_child` does: what it is called with, what it says, and what it has open are the same."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile("w+") as errors, open(reading) as lines:
        child = os.fork()
        if not child:
            _become(words, writing, errors.fileno())
        os.close(writing)
        status = None
        try:
            yield from (line.rstrip("\n") for line in lines)
            status = os.waitpid(child, 0)[1]
        finally:
            if status is None:
                os.kill(child, signal.SIGTERM)
                os.waitpid(child, 0)
        errors.seek(0)
        yield from errors.read().splitlines()[-_LAST_LINES:]
        yield os.waitstatus_to_exitcode(status)


def _become(words: Sequence[str], output: int, errors: int) -> NoReturn:
    """Do it, and end. Locks are the parent's alone, and nothing that it has open is ended here."""
    code = 1
    try:
        gc.disable()
        with open(os.devnull, "rb") as nothing:
            for number, end in enumerate((nothing.fileno(), output, errors)):
                os.dup2(end, number)
        os.closerange(3, _DESCRIPTORS)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
        code = helper_main.main(words)
        sys.stdout.flush()
    finally:
        kind, error, trace = sys.exc_info()
        if kind and error:
            sys.excepthook(kind, error, trace)
            sys.stderr.flush()
        os._exit(code)
