"""The roles, read beside the dump: a client takes longer to start and to end than to read them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from backup.errors import BackupError, DumpFailed


class RolesReader:
    """Reads them by `reading` from `begin` on, until `read` asks for them. As a context manager it leaves nothing.

    `begin` once the dump has its connection, so that it is never the one that gets none. What fails beside the dump is
    read once more when that has ended. `reading` is to call what it is given several times a second while it waits.
    """

    def __init__(self, reading: Callable[[Callable[[], None]], str]) -> None:
        self._reading = reading
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="roles")
        self._there: Future[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._over.set()
        self._pool.shutdown(wait=True)

    def begin(self) -> None:
        """Begin, unless that was done before."""
        self._there = self._there or self._pool.submit(self._reading, self._wanted)

    def read(self) -> str:
        """Wait for them; BackupError when they cannot be read."""
        if self._there:
            try:
                return self._there.result()
            except BackupError:
                pass
        return self._reading(self._wanted)

    def _wanted(self) -> None:
        if self._over.is_set():
            raise DumpFailed("the roles are not wanted any more")
