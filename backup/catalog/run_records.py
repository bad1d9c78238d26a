"""Run records: what every run did, in state/runs, one JSON file each.

A record is written when the run begins, so that a run that dies without a word is still known:
whoever next holds the lock marks it `crashed`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from backup import logging
from backup.errors import StoreError
from backup.formatting import printable, shortened
from backup.model.run import Outcome, Run
from backup.storage.directory import LocalStore
from backup.storage.filesystem import storing
from backup.storage.staged_file import bare_name, staged_name

# So many records in all are kept whatever they are of; above that, so many of each operation and tier.
_KEEP: Final = 500
_KEEP_EACH: Final = 100
_NEW: Final = ".new"
# Seconds after which a record that is being written was left by a kill.
_LEFT: Final = 3600.0
# These bytes are allocated at the start, so that the end of the run can be recorded on a full disk.
_RESERVED: Final = 8192


class Records:
    """The run records of one backup volume."""

    def __init__(self, directory: Path) -> None:
        self._store = LocalStore(directory)

    def begin(self, run: Run) -> None:
        """Record that `run` has begun. What is logged from now on is its own."""
        logging.of_run(run.id)
        self._store.put(self._path(run.id).name, _to_json(run).ljust(_RESERVED - 1) + b"\n")

    def begin_beside(self, run: Run) -> None:
        """The same for a run that does not hold the lock of the volume: nothing of it is swept by who does."""
        logging.of_run(run.id)
        self._write(run)

    def end(self, run: Run) -> None:
        """Record how `run` ended, in the bytes that `begin` reserved; of a run that could not begin, too."""
        logging.run_ended(run.id)
        self._write(run)
        self._trim()

    def _write(self, run: Run) -> None:
        path = self._path(run.id)
        with storing(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A new one appears whole: an empty record would be red at once, and for ever after a kill or a full disk.
            new = not path.exists()
            written = path.with_name(f".{path.name}{_NEW}") if new else path
            descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                _overwrite(descriptor, _to_json(run))
                if new:
                    written.rename(path)
            except OSError:
                if new:
                    written.unlink(missing_ok=True)
                raise

    def all(self, alive: Callable[[Run], bool] = lambda run: True) -> list[Run]:
        """Every record, newest first. StoreError when one cannot be read: silence must not look like health.

        One that never ended and is not `alive` is shown as crashed, at a time that nobody knows.
        """
        return _newest_first([self._look(name, alive) for name in self._names()])

    def readable(self, alive: Callable[[Run], bool] = lambda run: True) -> list[Run]:
        """Return the same as `all` without those that cannot be read. StoreError when the disk lists none."""
        return _newest_first(self._readable(alive))

    def unfinished(self, alive: Callable[[Run], bool] = lambda run: False) -> list[Run]:
        """Runs that never ended, but for those still `alive`. A record that cannot be read hides no other one."""
        return [run for run, dead in self._readable(alive) if dead]

    def _readable(self, alive: Callable[[Run], bool]) -> Iterator[tuple[Run, bool]]:
        for name in self._names():
            with contextlib.suppress(StoreError):
                yield self._look(name, alive)

    def mark_crashed(self, now: datetime, alive: Callable[[Run], bool] = lambda run: False) -> list[Run]:
        """Mark runs that never ended as crashed, but for those still `alive`. Only for the holder of the lock."""
        self._sweep()
        crashed = [_crashed(run, now) for run in self.unfinished(alive)]
        for run in crashed:
            self.end(run)
        return crashed

    def _path(self, run_id: str) -> Path:
        return self._store.directory / f"{run_id}.json"

    def _names(self) -> list[str]:
        return [name for name in self._store.names() if name.endswith(".json") and not name.startswith(".")]

    def _look(self, name: str, alive: Callable[[Run], bool]) -> tuple[Run, bool]:
        """A record, and whether its run died without a word: it never ended, and is not `alive`."""
        run = self._load(name)
        if run.outcome is not Outcome.RUNNING or alive(run):
            return run, False
        # A run notes its end before it lets go of its lock: it may have done both between the two looks.
        run = self._load(name)
        return run, run.outcome is Outcome.RUNNING

    def _load(self, name: str) -> Run:
        try:
            return Run.model_validate_json(self._store.read(name).rstrip(b" \n"))
        except ValidationError:
            raise StoreError(
                f"run record {printable(name)} is damaged", f"Move {self._path('…').parent / name} away to go on."
            ) from None

    def _sweep(self) -> None:
        for name in self._store.names():
            bare = bare_name(name)
            if name == staged_name(bare) and bare.endswith(".json"):
                self._store.remove(name)
            elif name.endswith(_NEW):
                # Who writes one does not hold the lock: only what is old was left by a kill.
                with contextlib.suppress(OSError):
                    written = self._store.directory / name
                    if time.time() - written.stat().st_mtime > _LEFT:
                        written.unlink()

    def _trim(self) -> None:
        """Each kind has a number of its own, so that frequent ones do not push out what the others did."""
        names = self._names()
        if len(names) <= _KEEP:
            return
        kept: Counter[tuple[str, str]] = Counter()
        for name in reversed(names):
            with contextlib.suppress(StoreError):
                run = self._load(name)
                kept[run.operation, run.tier] += 1
                if kept[run.operation, run.tier] > _KEEP_EACH:
                    self._store.remove(name)


def _newest_first(found: Iterable[tuple[Run, bool]]) -> list[Run]:
    runs = [_crashed(run, None) if dead else run for run, dead in found]
    return sorted(runs, key=lambda run: (run.started, run.id), reverse=True)


def _crashed(run: Run, ended: datetime | None) -> Run:
    return run.model_copy(
        update={
            "outcome": Outcome.CRASHED,
            "ended": ended,
            "exit_code": 137,
            "message": f"{run.operation} ended without a record: killed, or the machine went down",
            "hint": "What it had not published is gone. If memory was short, the kernel log says so.",
        }
    )


def _to_json(run: Run) -> bytes:
    """The record in fewer bytes than are reserved; a longer message or hint is cut, and ends with `…`."""
    keep = _RESERVED // 2
    while len(data := run.model_dump_json(indent=1).encode()) >= _RESERVED and keep:
        run = run.model_copy(update={"message": shortened(run.message, keep), "hint": shortened(run.hint, keep)})
        keep //= 2
    return data


def _overwrite(descriptor: int, data: bytes) -> None:
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], written)
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
