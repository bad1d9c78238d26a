"""The service's side of the accounts: what is owed is started, what vanished is recorded."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from backup.catalog.run_records import Records
from backup.catalog.scheduler_state import Book, Ledger
from backup.errors import BackupError
from backup.formatting import local_time, plural
from backup.logging import logger
from backup.model.finding import Finding, warning
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run, new_run_id
from backup.model.schedule import BUSY, GRACE, VANISHED, WELL, Account, Owed, owed, resting, settle, stillborn
from backup.operations.jobs import COMMANDS, LOCKLESS, OFFSITE, operation_of, tier_of
from backup.storage import lock

_LOOK: Final = timedelta(seconds=10)
# The clock went on by this much more, or less, than time did.
_JUMP: Final = timedelta(seconds=30)
_OVERDUE: Final = timedelta(minutes=10)
_DOWN: Final = "the service was not running"
_ASLEEP: Final = "the machine was asleep, or its clock was set forward"
_BUSY: Final = "another run held the backup volume"
_HELD: Final = "the scheduler would get its time wrong"
_IDLE: Final = "the scheduler did not start it"


@dataclass
class Accounting:
    """Looks every ten seconds, and at once when the clock jumps. One catch-up at a time, in the order of `jobs`,
    and one of those that work beside backups.

    `spawn` starts a job, `held` are the jobs that the scheduler is kept from starting, `since` is when the service
    began.
    """

    ledger: Ledger
    records: Records
    lock: Path
    jobs: Mapping[str, str]
    zone: ZoneInfo
    spawn: Callable[[str], subprocess.Popen[bytes]]
    held: Callable[[], frozenset[str]]
    since: datetime
    _children: dict[bool, tuple[subprocess.Popen[bytes], Owed, datetime]] = field(default_factory=dict)
    _clocks: tuple[datetime, float] | None = None
    _looked: datetime | None = None
    _given_up: dict[str, datetime] = field(default_factory=dict)
    _said: str = ""
    _judged: dict[str, datetime] = field(default_factory=dict)
    _lost: dict[str, Run] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What was due before this moment needs no grace: nobody is about to start it.
        self._prompt, self._why = self.since, _DOWN

    def open(self) -> None:
        """Open the accounts before the scheduler can start anything."""
        self._book(self.since)

    def tick(self, now: datetime, steady: float, *, busy: bool) -> None:
        """To be called every second; `steady` are seconds of a clock that nobody sets. `busy`: start nothing."""
        jumped = self._jumped(now, steady)
        ended = self._reaped(now)
        if False in self._children:
            return
        if not ended and not jumped and self._looked and now - self._looked < _LOOK:
            return
        self._looked = now
        for run in self.lost():
            self.leave(run)
        book = self._book(now)
        if book is None:
            return
        for job, account in book.jobs.items():
            if account.open and not self.ledger.runs(job):
                self._vanished(job, now)
            else:
                self._unrecorded(job, account, now)
        if not busy:
            self._catch_up(book, now)

    def _reaped(self, now: datetime) -> bool:
        """Whether runs that we started have ended. What works beside backups (True) keeps nothing else waiting."""
        ended = [beside for beside, (process, _, _) in self._children.items() if process.poll() is not None]
        for beside in ended:
            process, slot, begun = self._children.pop(beside)
            self._ended(process.returncode, slot, begun, now)
        return bool(ended)

    def _jumped(self, now: datetime, steady: float) -> bool:
        before, self._clocks = self._clocks, (now, steady)
        if before is None:
            return True
        jump = (now - before[0]) - timedelta(seconds=steady - before[1])
        if jump > _JUMP:
            self._prompt, self._why = now, _ASLEEP
        elif jump < -_JUMP:
            self._prompt = min(self._prompt, now)
        return abs(jump) > _JUMP

    def _book(self, now: datetime) -> Book | None:
        """The accounts, opened for the present lines; None, said once, while they cannot be read or written."""
        try:
            book = self.ledger.open(self.jobs, now, self.zone)
        except BackupError as error:
            if error.message != self._said:
                logger.error("what is owed of the schedule cannot be told: {} {}", error.message, error.hint)
            self._said = error.message
            return None
        self._said = ""
        for note in book.notes:
            if note.at == now:
                logger.warning("{}", note.text)
        return book

    def _catch_up(self, book: Book, now: datetime) -> None:
        for slot in owed(self.jobs, book.jobs, now, self.zone):
            account = book.jobs[slot.job]
            if (slot.job in OFFSITE) not in self._children and self._ready(slot, account, now):
                self._start(slot, account, now)
                return

    def _ready(self, slot: Owed, account: Account, now: datetime) -> bool:
        if self._given_up.get(slot.job) == slot.slot or resting(account, slot.slot, self.since):
            return False
        prompt = slot.slot <= self._prompt or slot.job in self.held() or account.tries > 0
        if (not prompt and now - slot.slot < GRACE) or self.ledger.runs(slot.job):
            return False
        return slot.job in LOCKLESS or lock.holder(self.lock) is None

    def _start(self, slot: Owed, account: Account, now: datetime) -> None:
        reason = self._reason(slot, account)
        told = f"{slot.job}, due at {local_time(slot.slot, self.zone)}"
        if now - slot.slot >= GRACE:
            logger.warning("{}{}, was missed: {}; it is caught up now", told, _before(slot), reason)
        else:
            logger.info("{}, is started by the service: {}", told, reason)
        try:
            with self.ledger.changing(now) as draft:
                if found := draft.book.jobs.get(slot.job):
                    draft.book = draft.book.with_account(slot.job, found.model_copy(update={"reason": reason}))
            self._children[slot.job in OFFSITE] = (self.spawn(slot.job), slot, now)
        except BackupError as error:
            logger.error("{} could not be started: {} {}", slot.job, error.message, error.hint)

    def _reason(self, slot: Owed, account: Account) -> str:
        if account.tries:
            return account.reason
        if slot.slot <= self._prompt:
            return self._why
        if slot.job in self.held():
            return _HELD
        # It may have been free since a moment ago only; the records know.
        return _BUSY if self._covered(slot.slot) else _IDLE

    def _covered(self, moment: datetime) -> bool:
        try:
            runs = self.records.all()
        except BackupError:
            return False
        late = moment + GRACE
        return any(run.started <= late and (run.ended is None or run.ended >= late) for run in runs)

    def _ended(self, code: int, slot: Owed, begun: datetime, now: datetime) -> None:
        """A run that we started has ended: did it claim its slot at all?"""
        try:
            with self.ledger.changing(now) as draft:
                account = draft.book.jobs.get(slot.job)
                if account is None or account.until >= slot.slot or (account.begun and account.begun >= begun):
                    return
                if self.ledger.runs(slot.job):
                    return
                self._given_up[slot.job] = slot.slot
                account = stillborn(account, slot, begun, now, code)
                draft.book = draft.book.with_account(slot.job, account)
        except BackupError as error:
            self._given_up[slot.job] = slot.slot
            logger.warning("what became of {} could not be noted: {}", slot.job, error.message)
            return
        if account.crashed:
            self._record(slot.job, account, now)

    def _vanished(self, job: str, now: datetime) -> None:
        """A run says that it has begun, and nobody runs it."""
        try:
            with self.ledger.running(job) as mine, self.ledger.changing(now) as draft:
                account = draft.book.jobs.get(job)
                if not mine or account is None or not account.open:
                    return
                account = settle(account, now, VANISHED, self.since)
                draft.book = draft.book.with_account(job, account)
        except BackupError as error:
            logger.warning("what became of {} could not be noted: {}", job, error.message)
            return
        if account.crashed:
            self._record(job, account, now)
        else:
            logger.warning("{} is owed again: {}", job, account.reason)

    def _unrecorded(self, job: str, account: Account, now: datetime) -> None:
        """A run that failed before it could record anything, as without the lock: leave a record."""
        code, ended = account.exit_code, account.ended
        final = account.slot is None or account.until >= account.slot
        if ended is None or account.crashed or not code or code in WELL or not final or self._judged.get(job) == ended:
            return
        self._judged[job] = ended
        why = account.reason if code == BUSY else f"it ended with code {code} and left no record"
        self._record(job, account.model_copy(update={"reason": why}), now)

    def _record(self, job: str, account: Account, now: datetime) -> None:
        """Leave a run record where the run could not, so that health, alerts and people see it."""
        operation, begun = operation_of(job), account.begun or now
        tier = tier_of(job)
        logger.error("{}: {}", job, account.reason)
        run = Run(
            id=new_run_id(begun),
            operation=operation,
            tier=tier,
            trigger=account.trigger,
            slot=account.slot,
            slots=account.slots,
            started=begun,
            ended=now,
            outcome=Outcome.CRASHED,
            message=account.reason,
            hint=_hint(job),
            exit_code=account.exit_code or 0,
        )
        self.leave(run)

    def leave(self, run: Run) -> None:
        """Record a run that could not do so itself; it stays in mind, and is tried again, until the volume takes it."""
        try:
            later = (each for each in self.records.all() if each.started >= run.started)
            if not any(each.operation == run.operation and run.tier in ("", each.tier) for each in later):
                self.records.end(run)
            self._lost.pop(run.id, None)
        except BackupError as error:
            if run.id not in self._lost:
                what = f"{run.operation} {run.tier}".strip()
                logger.error("the end of {} could not be recorded: {} {}", what, error.message, error.hint)
            self._lost[run.id] = run

    def owe(self, run: Run) -> None:
        """Have a run recorded that could not do so itself, at the next look: this waits for no disk."""
        self._lost[run.id] = run

    def lost(self) -> tuple[Run, ...]:
        """Runs whose end the volume has not taken yet. Any thread may ask."""
        return tuple(self._lost.copy().values())


def _hint(job: str) -> str:
    """What shows why a run of the job died, and what begins one by hand."""
    command = " ".join(word for word in COMMANDS[job] if word != "--scheduled")
    return f"`docker compose logs backup` shows what it said; `{command}` tries it now."


def _before(slot: Owed) -> str:
    """How many more slots were missed."""
    return f" and {plural(slot.missed - 1, 'time')} before" if slot.missed > 1 else ""


def reasons(book: Book, jobs: Mapping[str, str], now: datetime, zone: ZoneInfo) -> list[Finding]:
    """What the accounts say that is not as it should be. Pure. Failed backups are told by their records."""
    found = [warning(note.text, "`schedule` shows what each job did last.") for note in book.recent(now)]
    for slot in owed(jobs, book.jobs, now, zone):
        account = book.jobs[slot.job]
        if now - slot.slot > _OVERDUE and not account.open:
            why = f": {account.reason}" if account.reason else ""
            due = local_time(slot.slot, zone)
            text = f"{slot.job} should have run at {due}{_before(slot)} and has not{why}"
            found.append(warning(text, "It is caught up when nothing else runs; `schedule` shows what is owed."))
    for job, account in book.jobs.items():
        if account.crashed and jobs.get(job) and job not in set(Tier):
            found.append(warning(f"{job}: {account.reason}", _hint(job)))
    return found
