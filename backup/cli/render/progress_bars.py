"""Progress bars."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from backup.formatting import printable

_PAUSE: Final = 0.05


class Drawn:
    """Progress bars on a terminal; satisfies `progress.Progress`."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        # What is shown next, and when: a call for each small file would take as long as the file.
        self._waiting, self._next = 0, 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._bars.stop()

    def phase(self, name: str, total: int | None = None) -> None:
        """See Progress."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(printable(name), total=total)
        self._waiting, self._next = 0, 0.0

    def advance(self, count: int) -> None:
        """See Progress."""
        self._waiting += count
        now = time.monotonic()
        if self._task is not None and now >= self._next:
            self._bars.advance(self._task, self._waiting)
            self._waiting, self._next = 0, now + _PAUSE
