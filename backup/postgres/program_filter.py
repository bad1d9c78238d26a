"""A program between two pipes: a thread gives it what it reads, the caller takes what it writes."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Generator, Iterable
from typing import Final

from backup.errors import BackupError
from backup.postgres.process_input import ProcessInput
from backup.postgres.process_io import Pipe

_GLANCE: Final = 200
_CHUNK: Final = 1 << 20


def converted(program: ProcessInput, said: Pipe, head: bytes, pieces: Iterable[bytes]) -> Generator[bytes, None, None]:
    """What `program` makes of `pieces`; it opens its input twice, and sees `head` the first time.

    LoadFailed, or what `pieces` raise, at the end, if it did not go well.
    """
    failures: list[BackupError] = []

    def give() -> None:
        try:
            program.show(head)
            for piece in pieces:
                program.write(piece)
            program.finish(b"")
        except BackupError as error:
            failures.append(error)
        finally:
            said.close_writer()

    thread = threading.Thread(target=give, name="convert", daemon=True)
    thread.start()
    poll = select.poll()
    poll.register(said.reader, select.POLLIN)
    ended = False
    try:
        while not ended:
            if poll.poll(_GLANCE):
                data = os.read(said.reader, _CHUNK)
                ended = not data
                yield data
    finally:
        if not ended:
            program.kill()
        thread.join()
    if failures:
        raise failures[0]
