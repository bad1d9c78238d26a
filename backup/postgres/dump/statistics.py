"""The planner's statistics in a dump, as PostgreSQL 18 writes them: none of the database's content."""

from __future__ import annotations

from typing import Final

from backup.postgres.dump.dependency_queue import Entry
from backup.postgres.dump.load_attempt import planning
from backup.postgres.dump.statements import SETTINGS

# Those of ten thousand tables. What is beyond that is not loaded: whoever needs them makes them.
_MOST: Final = 64 << 20
# So much is given to a session at once.
_AT_ONCE: Final = 1 << 20


class Statistics:
    """Kept as they stream by, one object's after the other, to be loaded when all else is there.

    What the server refuses is left out, and noted: no data hang on it.
    """

    def __init__(self) -> None:
        self._text: list[bytes] = []
        self._size = 0
        self._batches: list[list[bytes]] = [[]]

    def data(self, data: bytes) -> None:
        """The next bytes of the present object's."""
        self._size += len(data)
        if self._size <= _MOST:
            self._text.append(data)

    def end(self, name: str) -> None:
        """They were those of the object of that name, all of them."""
        text, self._text = b"".join(self._text), []
        if self._size > _MOST:
            return
        if sum(map(len, self._batches[-1])) > _AT_ONCE:
            self._batches.append([])
        self._batches[-1].append(planning(name, SETTINGS.sub(b"", text)))

    @property
    def entries(self) -> list[Entry]:
        """What loads them: the first waits for all that is before it, the others come side by side."""
        scripts = [b"".join(batch) for batch in self._batches if batch]
        return [Entry(script, alone=number == 0) for number, script in enumerate(scripts)]
