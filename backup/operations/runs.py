"""What every run leaves behind: how it ended, and nothing of what it did not finish."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from backup.catalog import import_staging
from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.errors import BackupError, Interrupted, StoreError
from backup.logging import logger, redacted
from backup.model.run import Outcome, Run, new_run_id
from backup.operations import preemption
from backup.operations.context import Context
from backup.operations.restore.journal import JournalFile
from backup.storage import lock

# Runs that do not hold the lock of the volume hold one whose name begins so.
BESIDE: Final = "beside-"


@dataclass(frozen=True, kw_only=True)
class Request:
    """Why a run is to be: `trigger`, `slot` and `slots` as in Run. `wait` are the seconds to queue for."""

    wait: float = 0.0
    trigger: str = "manual"
    slot: datetime | None = None
    slots: int = 0

    def run(self, operation: str, now: datetime, **of: str) -> Run:
        """Make the run that this asks for now; `of` are its tier, set, half or place."""
        why = {"trigger": self.trigger, "slot": self.slot, "slots": self.slots}
        return Run.model_validate({"id": new_run_id(now), "operation": operation, "started": now, **why, **of})


def recover(catalog: Catalog, records: Records, now: datetime) -> None:
    """Remove what dead runs left in the volume and record them as crashed. Only under the lock."""
    for name in catalog.sweep():
        logger.warning("removed {}: a killed run had not published it", name)
    for identifier in catalog.settle():
        logger.warning("put the damaged files of {} back: a killed pull had not replaced them", identifier)
    JournalFile(catalog.root).sweep()
    for name in import_staging.clear(catalog.root):
        logger.warning("removed {}: a killed import had not verified it", name)
    try:
        crashed = records.mark_crashed(now, beside(catalog.root))
    except StoreError as error:
        # Health is red for it; a damaged record must not also cost the next backup.
        logger.error("{} {}", error.message, error.hint)
        return
    for run in crashed:
        logger.warning("run {} ({} {}) was recorded as crashed", run.id, run.operation, run.tier)


@contextlib.contextmanager
def tidied(catalog: Catalog) -> Iterator[None]:
    """Leave nothing of the files of a run that a signal ends: it may come before one that was made is known."""
    try:
        yield
    except Interrupted:
        with contextlib.suppress(BackupError):
            catalog.sweep()
        raise


def beside(root: Path) -> Callable[[Run], bool]:
    """Tell whether a run is at work without the lock of the volume: it holds one of its own, as uploads do.

    The locks are looked at when that is asked: one that was looked at before the record would be too old.
    """
    state = root / "state"
    return lambda run: any(lock.names(lock.holder(path) or "", run.id) for path in state.glob(f"{BESIDE}*.lock"))


def at_work(root: Path) -> Callable[[Run], bool]:
    """Tell whether a run is at work: it holds the lock of the volume, or one of its own."""
    others = beside(root)
    return lambda run: lock.names(lock.holder(root / "state" / "lock") or "", run.id) or others(run)


_unheard: list[int] = []


def deaf(number: int, _frame: object) -> None:
    """Only remember the signal. Unlike SIG_IGN this is not inherited by programs that are started meanwhile."""
    _unheard.append(number)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let no signal end the body, which takes moments and must not be half told; `told_to_end` says if one came."""
    _unheard.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, deaf) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def end_if_told() -> None:
    """Raise Interrupted when a signal came while none could be heard."""
    if _unheard:
        raise Interrupted(_unheard[0])


def told_to_end() -> bool:
    """Tell whether a signal came while none could be heard."""
    return bool(_unheard)


@dataclass
class Recording:
    """A run while it is recorded. The body notes its phases in `seconds`, and in `success` what else is to be told.

    After the body `run` is as it was recorded.
    """

    run: Run
    seconds: dict[str, float] = field(default_factory=dict)
    success: Mapping[str, object] = field(default_factory=dict)


@contextlib.contextmanager
def timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Add the body's duration to `phase`."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[phase] = round(seconds.get(phase, 0) + time.monotonic() - start, 3)


@contextlib.contextmanager
def locked(
    context: Context, run: Run, wait: float, waiting: Callable[[str], None] | None = None, *, yielding: bool = False
) -> Iterator[Run]:
    """Hold the lock for the body, in the name of `run`; LockHeld after `wait` seconds. Gives the run as begun by then.

    `waiting` is told who is waited for, one after the other, and may raise instead; without it, whoever gives way to
    all others is asked to, as this run does when it is `yielding`: it asks nobody.
    """
    what = _name(run)
    name = f"{what} {preemption.TO_ALL}" if yielding else what
    told = waiting or (_told if yielding else preemption.ask_holder(context.catalog.root, what, _told))
    patience = wait if yielding else preemption.patience(context.lock, wait)
    with lock.hold(context.lock, name, run.id, wait=patience, waiting=told):
        yield run.model_copy(update={"started": context.clock()})


def _name(run: Run) -> str:
    """Say who holds a lock."""
    return f"{run.operation} {run.set or run.tier}".strip()


def _told(who: str) -> None:
    logger.info("waiting for another run to end: {}", who)


def _begin(context: Context, run: Run) -> None:
    """Sweep what dead runs left, then record that this one has begun. Only under the lock."""
    recover(context.catalog, context.records, run.started)
    context.records.begin(run)


@contextlib.contextmanager
def recorded(context: Context, run: Run, begin: Callable[[Context, Run], None] = _begin) -> Iterator[Recording]:
    """Record the run's begin, and its end by how the body ends. Under the lock of the volume, or one of its own."""
    recording = Recording(run)
    try:
        begin(context, run)
        yield recording
    except BaseException as error:
        record_failure(context, run, error, recording.seconds)
        raise
    ended = {"outcome": Outcome.SUCCESS, "ended": context.clock(), "seconds": recording.seconds}
    recording.run = run.model_copy(update={**ended, **recording.success})
    record(context, recording.run)


@contextlib.contextmanager
def recorded_beside(context: Context, run: Run, name: str, wait: float) -> Iterator[Recording]:
    """Record a run that works beside those which hold the lock of the volume: neither waits for the other.

    It holds the lock `name`, of which there is one for each place and kind of work; LockHeld after `wait` seconds.
    """
    path = context.catalog.root / "state" / f"{BESIDE}{name}.lock"
    with lock.hold(path, _name(run), run.id, wait=wait, waiting=_told):
        run = run.model_copy(update={"started": context.clock()})
        with recorded(context, run, lambda context, run: context.records.begin_beside(run)) as recording:
            yield recording


def record(context: Context, run: Run) -> None:
    """Record the end of a run. A record that cannot be written must not hide the run's own error."""
    try:
        context.records.end(run)
    except BackupError as error:
        logger.warning("the end of run {} could not be recorded: {}", run.id, error.message)
        if run.exit_code == 0:
            raise


def record_failure(context: Context, run: Run, error: BaseException, seconds: Mapping[str, float]) -> None:
    """Record that the run ended by `error`; anything but a BackupError is a bug and says so."""
    known = error if isinstance(error, (BackupError, Interrupted)) else None
    if isinstance(error, KeyboardInterrupt):
        known = Interrupted(signal.SIGINT)
    ended = {
        "outcome": Outcome.INTERRUPTED if isinstance(known, Interrupted) else Outcome.FAILED,
        "ended": context.clock(),
        "seconds": dict(seconds),
        "message": redacted(known.message if known else f"{type(error).__name__}: {error}"),
        "hint": redacted(known.hint) if known else "This is a bug: the log has its traceback.",
        "exit_code": known.exit_code if known else 1,
    }
    record(context, run.model_copy(update=ended))
