"""What is known of the copies at each place, in state/offsite-<place>.json of the backup volume.

It is what the place itself said when it was last asked: written by uploads and looks, read by health without any
request. A book that is lost costs one look at everything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from backup.errors import LockHeld, StoreError
from backup.operations.offsite.model import Book, PlaceName
from backup.storage import atomic_file, lock
from backup.storage.directory import LocalStore
from backup.storage.staged_file import staged_name

# Longer than any holder needs it.
_WAIT: Final = 10.0


class BookFile:
    """The book of one place."""

    def __init__(self, root: Path, place: PlaceName) -> None:
        self._store = LocalStore(root / "state")
        self._name = f"offsite-{place}.json"
        self.path = self._store.directory / self._name

    def read(self) -> Book:
        """What is known; nothing where there is no book, or one that cannot be understood."""
        if self._name not in self._store.names():
            return Book()
        with contextlib.suppress(ValidationError):
            return Book.model_validate_json(self._store.read(self._name))
        return Book()

    def change(self, changed: Callable[[Book], Book]) -> Book:
        """Write what `changed` makes of it. Others that write at the same time come before or after."""
        try:
            with lock.hold(self.path.with_suffix(".book.lock"), "note", "-", wait=_WAIT):
                before = self.read()
                book = changed(before)
                if book != before:
                    self._store.remove(staged_name(self._name))  # of a writer that was killed
                    atomic_file.replace(self._store, self._name, book.model_dump_json(indent=1).encode(), locked=True)
                return book
        except LockHeld as held:
            raise StoreError(f"{self.path} is being written all the time: {held.message}") from held
