"""The journal in state/restore.json, and the record of what is kept in state/undo.json."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from backup.errors import NoSpace, RestoreUnfinished, StoreError
from backup.formatting import printable
from backup.operations.restore.journal.messages import unfinished
from backup.operations.restore.journal.model import Journal, Kept, Step, direction
from backup.storage import atomic_file
from backup.storage.directory import LocalStore

JOURNAL: Final = "restore.json"
KEPT: Final = "undo.json"
_RESERVE: Final = "restore.reserve"
# More than a journal will ever need, so that each step can be noted on a disk that has filled up since the first.
_RESERVED: Final = 256 << 10
_Read = TypeVar("_Read", Journal, Kept)


class JournalFile:
    """The journal of one backup volume. Only the holder of the lock writes."""

    def __init__(self, root: Path) -> None:
        self._store = LocalStore(root / "state")
        self.path = self._store.directory / JOURNAL

    def read(self) -> Journal | None:
        """The journal of a restore that has not ended; RestoreUnfinished when there is one that cannot be read."""
        try:
            return _read(self._store, JOURNAL, Journal)
        except ValidationError as error:
            raise RestoreUnfinished(
                f"the journal of a restore, {self.path}, cannot be read ({_first(error)}): a restore began and did not"
                " end, and how far it came cannot be told; nothing was touched now",
                "If a newer release wrote it, use that release. Else look: `docker compose ps -a` for stopped services,"
                " `psql -l` for databases named …__restore_… or …__before_…, the volumes for .obcms-restore-…;"
                " `list pre-restore` shows the safety sets. With all in order, move the file away.",
            ) from None

    def begin(self, journal: Journal) -> Journal:
        """Note that a restore begins; RestoreUnfinished when an earlier one has not ended."""
        if earlier := self.read():
            raise unfinished(earlier, journal.started)
        _sweep(self._store)
        atomic_file.replace(self._store, _RESERVE, os.urandom(_RESERVED))
        return self._write(journal)

    def advance(self, journal: Journal, step: Step, **changes: Any) -> Journal:
        """Note the next step, before it is taken, with what is known by then.

        ValueError for a step back behind the swap: the journal would say that nothing has been changed yet.
        """
        if direction(journal) == "forward" and step.number < Step.SWAPPING_DATABASE.number:
            raise ValueError(f"{journal.step} cannot become {step}")
        # Validated again, which model_copy does not do.
        return self._write(Journal.model_validate({**dict(journal), **changes, "step": step}))

    def turn_back(self, journal: Journal) -> Journal:
        """Note that it is being rolled back, however far it had come."""
        return self._write(journal.model_copy(update={"back": True}))

    def finish(self) -> None:
        """It has ended. Needs no room on the disk."""
        self._store.remove_all([JOURNAL, _RESERVE])
        _sweep(self._store)

    def _write(self, journal: Journal) -> Journal:
        data = _bytes(journal)
        try:
            atomic_file.replace(self._store, JOURNAL, data)
        except NoSpace:
            self._store.remove(_RESERVE)
            atomic_file.replace(self._store, JOURNAL, data)
        return journal


class KeptFile:
    """The record of what the last restore replaced."""

    def __init__(self, root: Path) -> None:
        self._store = LocalStore(root / "state")
        self.path = self._store.directory / KEPT

    def read(self) -> Kept | None:
        """What is kept; None when nothing is. StoreError when the record cannot be read."""
        try:
            return _read(self._store, KEPT, Kept)
        except ValidationError as error:
            raise StoreError(
                f"the record of what the last restore replaced, {self.path}, cannot be read ({_first(error)});"
                " what is kept was not touched",
                "Databases named …__before_… and .obcms-restore-… in the volumes hold it; if neither is there,"
                " move the file away.",
            ) from None

    def write(self, kept: Kept) -> None:
        """Record what is kept, in place of what was."""
        atomic_file.replace(self._store, KEPT, _bytes(kept))

    def remove(self) -> None:
        """Nothing is kept any more."""
        self._store.remove(KEPT)


def _read(store: LocalStore, name: str, model: type[_Read]) -> _Read | None:
    try:
        data = store.read(name)
    except StoreError:
        if os.path.lexists(store.directory / name):
            raise
        return None
    return model.model_validate_json(data)


def _bytes(record: Journal | Kept) -> bytes:
    return record.model_dump_json(indent=1).encode() + b"\n"


def _first(error: ValidationError) -> str:
    """The first thing wrong, without the input: it may be anything."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return printable(f"{where}: {first['msg']}" if where else str(first["msg"]))


def _sweep(store: LocalStore) -> None:
    """Remove what writers that were killed had staged."""
    store.remove_all(name for name in store.names() if atomic_file.forgotten(store, name) in (JOURNAL, KEPT, _RESERVE))
