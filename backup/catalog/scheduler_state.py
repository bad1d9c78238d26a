"""What is accounted for of the schedule, in state/schedule.json, shared by the service and its jobs.

A lock for the file is held for moments. A lock for each job is held as long as one runs, so that the same job never
runs twice at once and a run that vanished is known: its lock is free, and it has not said how it ended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from backup.errors import BackupError, LockHeld, StoreError
from backup.formatting import printable
from backup.model.schedule import Account, opened
from backup.storage import atomic_file as notes
from backup.storage import lock
from backup.storage.directory import LocalStore

FILE: Final = "schedule.json"
# Longer than any holder needs it; shorter than the service may stand still.
_WAIT: Final = 2.0
# How long something remarkable is told, and how much of it.
_TOLD: Final = timedelta(days=2)
_NOTES: Final = 5
_LIMIT: Final = 1 << 20


class Note(BaseModel):
    """Something about the accounts that a person should know."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: AwareDatetime
    text: str


class Book(BaseModel):
    """All accounts, by job, and what is to be said of them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Literal[1] = 1
    jobs: dict[str, Account] = {}
    notes: tuple[Note, ...] = ()

    def noted(self, now: datetime, text: str) -> Book:
        """With one more note."""
        return self.model_copy(update={"notes": (*self.notes, Note(at=now, text=text))[-_NOTES:]})

    def with_account(self, job: str, account: Account) -> Book:
        """With this account of `job`."""
        return self.model_copy(update={"jobs": {**self.jobs, job: account}})

    def opened(self, jobs: Mapping[str, str], now: datetime, zone: ZoneInfo) -> Book:
        """With an account for each of `jobs` (cron lines by name) and its present line; none for those that are off."""
        book = self.model_copy(update={"jobs": {job: each for job, each in self.jobs.items() if jobs.get(job)}})
        for job, cron in jobs.items():
            if cron:
                account, note = opened(book.jobs.get(job), cron, now, zone)
                book = book.with_account(job, account)
                if note:
                    book = book.noted(now, f"{job}: {note}; it counts from now on")
        return book

    def recent(self, now: datetime) -> list[Note]:
        """The notes that are still told."""
        return [note for note in self.notes if abs(now - note.at) < _TOLD]


class Ledger:
    """The accounts of one backup volume."""

    def __init__(self, root: Path) -> None:
        self._store = LocalStore(root / "state")
        self.path = self._store.directory / FILE

    def read(self, now: datetime) -> Book:
        """The accounts; none, and a note, where they cannot be understood. StoreError when the disk fails."""
        if FILE not in self._store.names(foreign=True):
            return Book()
        try:
            return Book.model_validate_json(self._store.read(FILE, _LIMIT))
        except ValidationError:
            why = "damaged, or a newer release wrote it"
        except StoreError as error:
            if self.path.is_file() and not self.path.is_symlink() and self.path.stat().st_size <= _LIMIT:
                raise
            why = error.message
        text = f"what the schedule had accounted for in {self.path} could not be read ({why}); it counts from now on"
        return Book().noted(now, printable(text))

    def seen(self, now: datetime) -> Book:
        """The accounts for people: a run that has begun, not ended, and that nobody is at, is shown as crashed."""
        gone = [job for job, account in self.read(now).jobs.items() if account.open and not self.runs(job)]
        # A run notes its end before it lets go of its lock: it may have done both between the two looks.
        book = self.read(now)
        for job in gone:
            if (account := book.jobs.get(job)) and account.open:
                dead = {"crashed": True, "reason": "the run ended without a word: killed?"}
                book = book.with_account(job, account.model_copy(update=dead))
        return book

    @contextlib.contextmanager
    def changing(self, now: datetime) -> Iterator[Draft]:
        """The accounts to change: what `draft.book` is at the end is written, if new. StoreError if that fails."""
        try:
            with lock.hold(self.path.with_suffix(".lock"), "schedule", "-", wait=_WAIT):
                draft = Draft(self.read(now))
                before = None if draft.book.notes and not draft.book.jobs else draft.book
                yield draft
                if draft.book != before and draft.book != Book():
                    self._write(draft.book)
        except LockHeld as held:
            raise StoreError(f"{self.path} is being written all the time: {held.message}") from held

    def open(self, jobs: Mapping[str, str], now: datetime, zone: ZoneInfo) -> Book:
        """The accounts as they are to be now (see Book.opened), written if that is new."""
        book = self.read(now)
        if book.opened(jobs, now, zone) == book:
            return book
        with self.changing(now) as draft:
            draft.book = draft.book.opened(jobs, now, zone)
            return draft.book

    @contextlib.contextmanager
    def running(self, job: str) -> Iterator[bool]:
        """Be the one that runs `job`, for the body; False when it runs already."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock.hold(self._job(job), job, "-"))
            except LockHeld:
                yield False
            else:
                yield True

    def runs(self, job: str) -> bool:
        """Whether `job` runs now."""
        with contextlib.suppress(OSError, BackupError):
            return lock.holder(self._job(job)) is not None
        return False

    def _job(self, job: str) -> Path:
        return self.path.with_name(f"schedule-{job}.lock")

    def _write(self, book: Book) -> None:
        with contextlib.suppress(OSError):
            # A directory or a link of that name is not ours and could not be replaced; it is kept for a look.
            if self.path.is_dir() or self.path.is_symlink():
                self.path.rename(self.path.with_suffix(".foreign"))
        notes.replace(self._store, FILE, book.model_dump_json(indent=1).encode(), locked=True)


class Draft:
    """Accounts that are being changed."""

    def __init__(self, book: Book) -> None:
        self.book = book
