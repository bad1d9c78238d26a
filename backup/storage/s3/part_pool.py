"""Parts sent by several threads at once. They are daemons: a store that hangs cannot keep the process from ending."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from backup.errors import RemoteFailed
from backup.storage.s3.body import Flow, Stopped
from backup.storage.s3.parts import Data, Part

_LOOK: Final = 1.0


@dataclass(frozen=True)
class Job:
    """A part to be sent."""

    number: int
    data: Data


class Crew:
    """`send` for each part that is given, `count` at a time. Errors of the threads are raised in the caller's own."""

    def __init__(self, count: int, send: Callable[[Job], Part], flow: Flow, patience: float) -> None:
        self._send, self._flow, self._patience = send, flow, patience
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Part | Exception] = queue.SimpleQueue()
        self._parts: list[Part] = []
        self._given, self._count = 0, count
        self._threads = [threading.Thread(target=self._work, name="part", daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def give(self, job: Job) -> list[Part]:
        """Send a part, once there is room for it; the parts that were accepted meanwhile."""
        accepted: list[Part] = []
        while self._given - len(self._parts) >= self._count:
            accepted.append(self._wait())
        self._given += 1
        self._flow.moved = time.monotonic()
        self._jobs.put(job)
        return accepted

    def finish(self) -> list[Part]:
        """Wait for all; the parts that were accepted meanwhile."""
        accepted = []
        while self._given > len(self._parts):
            accepted.append(self._wait())
        return accepted

    @property
    def parts(self) -> list[Part]:
        """All accepted parts, in their order."""
        return sorted(self._parts, key=lambda part: part.number)

    def end(self, patience: float) -> None:
        """Give up what is on its way, and wait a little for the threads."""
        self._flow.stop()
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _wait(self) -> Part:
        """The next part that is accepted. RemoteFailed when no byte moved for too long, whatever the socket says."""
        while True:
            try:
                ended = self._ended.get(timeout=_LOOK)
            except queue.Empty:
                if time.monotonic() - self._flow.moved > self._patience:
                    raise RemoteFailed(
                        f"the store took no byte for {self._patience:.0f} seconds; the upload was given up",
                        "Look at the store and the network; the next upload sends it again.",
                    ) from None
                continue
            if isinstance(ended, Exception):
                raise ended
            self._parts.append(ended)
            return ended

    def _work(self) -> None:
        while job := self._jobs.get():
            try:
                self._flow.check()
                self._ended.put(self._send(job))
            except Stopped:
                return
            except Exception as error:  # noqa: BLE001 - raised again by the thread that waits
                self._ended.put(error)
            # Else it would hold the last part's bytes while it waits.
            del job
