"""What the schedule must know beyond the run records, in state/schedule.json; and the locks of running jobs.

The service alone writes the file. A lock for each job is held as long as one runs, so that the same job never runs
twice at once, whoever starts it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, ValidationError

from backup.errors import BackupError, LockHeld, StoreError
from backup.formatting import printable
from backup.model.frozen import Frozen
from backup.model.schedule import JobState, counted
from backup.storage import atomic_file, lock
from backup.storage.directory import LocalStore

FILE: Final = "schedule.json"
# How long something remarkable is told, and how much of it.
_TOLD: Final = timedelta(days=2)
_NOTES: Final = 5
_LIMIT: Final = 1 << 20


class Note(Frozen):
    """Something about the schedule that a person should know."""

    at: AwareDatetime
    text: str


class ScheduleState(Frozen):
    """All jobs by name, when the service began, and what is to be said of the schedule."""

    version: Literal[1] = 1
    since: AwareDatetime | None = None
    jobs: dict[str, JobState] = {}
    notes: tuple[Note, ...] = ()

    def noted(self, now: datetime, text: str) -> ScheduleState:
        """With one more note."""
        return self.model_copy(update={"notes": (*self.notes, Note(at=now, text=text))[-_NOTES:]})

    def with_job(self, job: str, **update: object) -> ScheduleState:
        """With these values of `job`."""
        return self.model_copy(update={"jobs": {**self.jobs, job: self.jobs[job].model_copy(update=update)}})

    def counted(self, jobs: Mapping[str, str], now: datetime, zone: ZoneInfo) -> ScheduleState:
        """With each of `jobs` (cron lines by name) by its present line; without those that are off."""
        found = {job: counted(self.jobs.get(job), cron, now, zone) for job, cron in jobs.items() if cron}
        state = self.model_copy(update={"jobs": {job: each for job, (each, _) in found.items()}})
        for job, (_, note) in found.items():
            if note:
                state = state.noted(now, f"{job}: {note}; it counts from now on")
        return state

    def recent(self, now: datetime) -> list[Note]:
        """The notes that are still told."""
        return [note for note in self.notes if abs(now - note.at) < _TOLD]


class ScheduleFile:
    """The state of the schedule of one backup volume."""

    def __init__(self, root: Path) -> None:
        self._store = LocalStore(root / "state")
        self.path = self._store.directory / FILE

    def read(self, now: datetime) -> ScheduleState:
        """Read the state; none, and a note, where it cannot be understood. StoreError when the disk fails."""
        if FILE not in self._store.names(foreign=True):
            return ScheduleState()
        try:
            return ScheduleState.model_validate_json(self._store.read(FILE, _LIMIT))
        except ValidationError:
            why = "damaged, or a newer release wrote it"
        except StoreError as error:
            if self.path.is_file() and not self.path.is_symlink() and self.path.stat().st_size <= _LIMIT:
                raise
            why = error.message
        text = f"up to when {self.path} had jobs settled could not be read ({why}); they count from now on"
        return ScheduleState().noted(now, printable(text))

    def write(self, state: ScheduleState) -> None:
        """Replace the file. StoreError if that fails."""
        with contextlib.suppress(OSError):
            # A directory or a link of that name is not ours and could not be replaced; it is kept for a look.
            if self.path.is_dir() or self.path.is_symlink():
                self.path.rename(self.path.with_suffix(".foreign"))
        atomic_file.replace(self._store, FILE, state.model_dump_json(indent=1).encode())

    @contextlib.contextmanager
    def running(self, job: str) -> Iterator[bool]:
        """Be the one that runs `job`, for the body; False when it runs already."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock.hold(self._lock(job), job, "-"))
            except LockHeld:
                yield False
            else:
                yield True

    def is_running(self, job: str) -> bool:
        """Tell whether `job` runs now."""
        with contextlib.suppress(OSError, BackupError):
            return lock.holder(self._lock(job)) is not None
        return False

    def _lock(self, job: str) -> Path:
        return self.path.with_name(f"schedule-{job}.lock")
