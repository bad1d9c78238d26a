"""Decides what runs when: what is due is started, what was missed is caught up, what died in silence is recorded."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from backup.catalog.run_records import Records
from backup.catalog.scheduler_state import ScheduleFile, ScheduleState
from backup.errors import BackupError
from backup.formatting import local_time
from backup.logging import logger
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run, new_run_id
from backup.model.schedule import (
    BROKEN_OFF,
    BUSY,
    GRACE,
    TRIES,
    Due,
    JobState,
    Standing,
    find_due,
    is_resting,
    is_unfinished,
    passed,
    standing,
)
from backup.operations.jobs import LOCKLESS, OFFSITE, operation_of, runs_of, tier_of
from backup.operations.missed_runs import hint_of, more_before
from backup.operations.runs import at_work
from backup.storage import lock

_LOOK: Final = timedelta(seconds=10)
# The clock went on by this much more, or less, than time did.
_JUMP: Final = timedelta(seconds=30)
_DOWN: Final = "the service was not running"
_ASLEEP: Final = "the machine was asleep, or its clock was set forward"
_BUSY: Final = "another run held the backup volume"
_HELD_UP: Final = "the service was held up"


@dataclass(frozen=True)
class _Child:
    """A job that was started, for what, and when. `known`: the records that were there before, by id."""

    process: subprocess.Popen[bytes]
    due: Due
    begun: datetime
    late: bool
    known: frozenset[str]


@dataclass
class Scheduler:
    """Looks every ten seconds, and at once when it is woken or the clock jumps.

    A job starts at its slot, whatever else runs: it queues itself. What is late waits until nothing else runs: one job
    after the other, in the order of `jobs`, and one of those that work beside backups. `spawn` starts a job, `since`
    is when the service began.
    """

    file: ScheduleFile
    records: Records
    jobs: Mapping[str, str]
    zone: ZoneInfo
    spawn: Callable[[str], subprocess.Popen[bytes]]
    since: datetime
    _children: dict[str, _Child] = field(default_factory=dict)
    _clocks: tuple[datetime, float] | None = None
    _looked: datetime | None = None
    _unwritten: ScheduleState | None = None
    _said: str = ""
    _lost: dict[str, Run] = field(default_factory=dict)
    _mine: dict[str, JobState] = field(default_factory=dict)
    _alone: bool = True

    def __post_init__(self) -> None:
        root = self.file.path.parent.parent
        self._lock, self._at_work = root / "state" / "lock", at_work(root)
        self._missed_until, self._why = self.since, _DOWN

    def open(self) -> None:
        """Note which jobs there are from now on, before anything is started."""
        self._state(self.since)

    def wake(self) -> None:
        """Have the next tick look. Any thread may ask."""
        self._looked = None

    def tick(self, now: datetime, steady: float, *, busy: bool) -> None:
        """To be called every second; `steady` is a clock that nobody sets. `busy`: the first backup runs."""
        jumped, ended = self._jumped(now, steady), self._ended()
        if not jumped and not ended and self._looked and now - self._looked < _LOOK:
            return
        self._looked = now
        for run in self.lost():
            self.leave(run)
        state = self._state(now)
        if state is None:
            return
        found = state
        for child in ended:
            state = self._settled(child, state, now)
        self._write(found, self._started(state, now, busy=busy))

    def _jumped(self, now: datetime, steady: float) -> bool:
        before, self._clocks = self._clocks, (now, steady)
        if before is None:
            return True
        jump = (now - before[0]) - timedelta(seconds=steady - before[1])
        if jump > _JUMP:
            self._missed_until, self._why = now, _ASLEEP
        elif jump < -_JUMP:
            self._missed_until = min(self._missed_until, now)
        return abs(jump) > _JUMP

    def _ended(self) -> list[_Child]:
        ended = [job for job, child in self._children.items() if child.process.poll() is not None]
        return [self._children.pop(job) for job in ended]

    def _state(self, now: datetime) -> ScheduleState | None:
        """The state by the present lines; None, said once, while the file cannot be read."""
        try:
            found = self._unwritten or self.file.read(now)
        except BackupError as error:
            self._say("which jobs are due is not known: {} {}", error)
            return None
        state = self._ours(found).counted(self.jobs, now, self.zone).model_copy(update={"since": self.since})
        for note in state.notes if state != found else ():
            if note.at == now:
                logger.warning("{}", note.text)
        self._write(found, state)
        return state

    def _ours(self, found: ScheduleState) -> ScheduleState:
        """What the file says, but for jobs that another service with other lines has written over."""
        ours = {job: each for job, each in self._mine.items() if not each.counts_as(found.jobs.get(job))}
        if ours and self._alone:
            self._alone = False
            logger.warning("another service with other lines or another zone uses this backup volume; give it its own")
        return found.model_copy(update={"jobs": {**found.jobs, **ours}}) if ours else found

    def _write(self, before: ScheduleState, state: ScheduleState) -> None:
        """Write the state if it is new; until the volume takes it, it stays in mind."""
        self._mine = state.jobs
        if state == before and not self._unwritten:
            return
        try:
            self.file.write(state)
            self._unwritten = None
        except BackupError as error:
            self._unwritten = state
            self._say("up to when jobs are settled cannot be written: {} {}", error)

    def _say(self, text: str, error: BackupError) -> None:
        if error.message != self._said:
            logger.error(text, error.message, error.hint)
        self._said = error.message

    def _runs(self) -> list[Run]:
        """The records that can be read, and what could not be recorded yet."""
        return [*self.records.readable(self._at_work), *self.lost()]

    def _started(self, state: ScheduleState, now: datetime, *, busy: bool) -> ScheduleState:
        """Start what is due; the state with what is settled by now."""
        jobs = [job for job, each in state.jobs.items() if passed(each.cron, each.until, now, self.zone)[0]]
        jobs = [job for job in jobs if not self._is_running(job, busy=busy)]
        try:
            runs = self._runs() if jobs else []
        except BackupError as error:
            self._say("which jobs are due is not known: {} {}", error)
            return state
        self._said = self._said if self._unwritten else ""
        for job in jobs:
            at = standing(state.jobs[job], runs_of(job, runs), now, self.since)
            state = state.with_job(job, until=at.until)
            due = find_due(job, state.jobs[job], at, now, self.zone)
            if due is None or is_resting(due, at, self.since):
                continue
            late = due.is_late(now) or due.tries > 0
            if not late or (not busy and self._may_catch_up(job)):
                reason = self._reason(due, at, runs) if late else ""
                state = state.with_job(job, reason=reason)
                self._start(due, reason, now, late, frozenset(run.id for run in runs))
        return state

    def _is_running(self, job: str, *, busy: bool) -> bool:
        # The first backup is a daily one.
        return job in self._children or (busy and job == Tier.DAILY) or self.file.is_running(job)

    def _may_catch_up(self, job: str) -> bool:
        if any(child.late and (each in OFFSITE) == (job in OFFSITE) for each, child in self._children.items()):
            return False
        try:
            return job in LOCKLESS or lock.holder(self._lock) is None
        except BackupError as error:
            self._say("who holds the backup volume is not known: {} {}", error)
            return False

    def _start(self, due: Due, reason: str, now: datetime, late: bool, known: frozenset[str]) -> None:
        told = f"{due.job}, due at {local_time(due.slot, self.zone)}"
        if due.is_late(now):
            logger.warning("{}{}, was missed: {}; it is caught up now", told, more_before(due), reason)
        else:
            logger.info("{}, starts{}", told, f" again: {reason}" if reason else "")
        try:
            self._children[due.job] = _Child(self.spawn(due.job), due, now, late, known)
        except BackupError as error:
            logger.error("{} could not be started: {} {}", due.job, error.message, error.hint)

    def _reason(self, due: Due, at: Standing, runs: Sequence[Run]) -> str:
        if due.tries and at.last:
            return _broken_off(at.last)
        if due.slot <= self._missed_until:
            return self._why
        # It may have been free since a moment ago only; the records know.
        late = due.slot + GRACE
        covered = any(run.started <= late and (run.ended is None or run.ended >= late) for run in runs)
        return _BUSY if covered else _HELD_UP

    def _settled(self, child: _Child, state: ScheduleState, now: datetime) -> ScheduleState:
        """The state when a run has ended; one that left no record, or none of its being broken off, gets one."""
        job, due, code = child.due.job, child.due, child.process.returncode
        if self.file.is_running(job) or job not in state.jobs:
            return state
        try:
            runs = [run for run in self._runs() if run.id not in child.known]
        except BackupError:
            runs = []
        last = next(iter(runs_of(job, runs)), None)
        again = code in BROKEN_OFF and due.tries + 1 < TRIES
        if code and (last is None or (again and not is_unfinished(last))):
            begun = now if last else child.begun
            self.leave(_record(child, code, begun, now, Outcome.INTERRUPTED if again else Outcome.CRASHED))
        # Seen to its end: that counts whatever the clock made of its record. Without one it may have found by a clock
        # that was set back that it is not due: then its slot comes again.
        settled = not again and (last is not None or now >= due.slot)
        return state.with_job(job, until=max(due.slot, state.jobs[job].until)) if settled else state

    def leave(self, run: Run) -> None:
        """Record a run that could not do so itself; it stays in mind, and is tried again, until the volume takes it."""
        try:
            later = (each for each in self.records.readable() if each.started >= run.started)
            if not any(each.operation == run.operation and run.tier in ("", each.tier) for each in later):
                self.records.end(run)
            self._lost.pop(run.id, None)
        except BackupError as error:
            if run.id not in self._lost:
                what = f"{run.operation} {run.tier}".strip()
                logger.error("the end of {} could not be recorded: {} {}", what, error.message, error.hint)
            self._lost[run.id] = run

    def leave_later(self, run: Run) -> None:
        """Have a run recorded that could not do so itself, at the next look: this waits for no disk."""
        self._lost[run.id] = run

    def lost(self) -> tuple[Run, ...]:
        """Runs whose end the volume has not taken yet. Any thread may ask."""
        return tuple(self._lost.copy().values())


def _broken_off(run: Run) -> str:
    if run.exit_code == BUSY:
        return "another run held the backup volume all the time"
    if run.outcome is Outcome.INTERRUPTED:
        return "the run was interrupted"
    return "the run was killed together with the service"


def _record(child: _Child, code: int, begun: datetime, now: datetime, outcome: Outcome) -> Run:
    """The record of a run by its exit code."""
    due, operation = child.due, operation_of(child.due.job)
    message = f"the run ended with code {code} before it could record anything"
    if code in BROKEN_OFF:
        message = "another run held the backup volume all the time" if code == BUSY else "the run was interrupted"
    if outcome is Outcome.CRASHED:
        logger.error("{}: {}", due.job, message)
    return Run(
        id=new_run_id(begun),
        operation=operation,
        tier=tier_of(due.job),
        trigger="catch-up" if due.is_late(child.begun) else "schedule",
        slot=due.slot,
        slots=due.count,
        started=begun,
        ended=now,
        outcome=outcome,
        message=message,
        hint=hint_of(due.job),
        exit_code=code,
    )
