"""Bytes made in a thread of their own, a few pieces ahead of who takes them."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator

Put = Callable[[bytes], None]


def aside(make: Callable[[Put, threading.Event], None], name: str, room: int) -> Generator[bytes, None, None]:
    """What `make` puts; its error is raised here. The event is set once nobody takes more: `make` shall end then.

    `room` pieces wait at most. The thread, called `name`, ends with this generator.
    """
    waiting: queue.Queue[bytes | BaseException | None] = queue.Queue(room)
    stopped = threading.Event()

    def work() -> None:
        try:
            make(waiting.put, stopped)
            waiting.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            waiting.put(error)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                waiting.get_nowait()
            thread.join(0.001)
