"""What every run leaves behind: how it ended, and nothing of what it did not finish."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from backup.catalog import staging
from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.errors import BackupError, Interrupted, MediaFailed, StoreError
from backup.logging import logger, redacted
from backup.model.run import Outcome, Run
from backup.operations import preemption
from backup.operations.context import Context
from backup.storage import lock

# Runs that do not hold the lock of the volume hold one whose name begins so.
BESIDE: Final = "beside-"


def recover(catalog: Catalog, records: Records, now: datetime) -> None:
    """Remove what dead runs left in the volume and record them as crashed. Only under the lock."""
    for name in catalog.sweep():
        logger.warning("removed {}: a run that died had not published it", name)
    for identifier in catalog.settle():
        logger.warning("put the damaged files of {} back: a pull that died had not replaced them", identifier)
    for name in staging.clear(catalog.root):
        logger.warning("removed {}: an import that died had not judged it", name)
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
    """Nothing is left of the files of a run that a signal ends: it may come before one that was made is known."""
    try:
        yield
    except Interrupted:
        with contextlib.suppress(BackupError):
            catalog.sweep()
        raise


def beside(root: Path) -> Callable[[Run], bool]:
    """Whether a run is at work without the lock of the volume: it holds one of its own, as uploads do.

    The locks are looked at when that is asked: one that was looked at before the record would be too old.
    """
    state = root / "state"
    return lambda run: any(lock.names(lock.holder(path) or "", run.id) for path in state.glob(f"{BESIDE}*.lock"))


def at_work(root: Path) -> Callable[[Run], bool]:
    """Whether a run is at work: it holds the lock of the volume, or one of its own."""
    others = beside(root)
    return lambda run: lock.names(lock.holder(root / "state" / "lock") or "", run.id) or others(run)


@contextlib.contextmanager
def recorded_beside(context: Context, run: Run, name: str, wait: float) -> Iterator[Recording]:
    """Record a run that works beside those which hold the lock of the volume: neither waits for the other.

    It holds the lock `name`, of which there is one for each place and kind of work; LockHeld after `wait` seconds.
    """
    what, path = (
        f"{run.operation} {run.set or run.tier}".strip(),
        context.catalog.root / "state" / f"{BESIDE}{name}.lock",
    )
    with lock.hold(path, what, run.id, wait=wait, waiting=_told):
        run = run.model_copy(update={"started": context.clock()})
        recording = Recording(run)
        try:
            context.records.begin_beside(run)
            yield recording
        except BaseException as error:
            record(context.records, failed(recording.run, error, context.clock(), recording.seconds))
            raise
        ended = {"outcome": Outcome.SUCCESS, "ended": context.clock(), "seconds": recording.seconds}
        recording.run = recording.run.model_copy(update={**ended, **recording.success})
        record(context.records, recording.run)


def failed(run: Run, error: BaseException, now: datetime, seconds: Mapping[str, float]) -> Run:
    """`run` as it ended by `error`; anything but a BackupError is a bug and says so."""
    known = error if isinstance(error, (BackupError, Interrupted)) else None
    if isinstance(error, KeyboardInterrupt):
        known = Interrupted(signal.SIGINT)
    return run.model_copy(
        update={
            "outcome": Outcome.INTERRUPTED if isinstance(known, Interrupted) else Outcome.FAILED,
            "ended": now,
            "seconds": dict(seconds),
            "message": redacted(known.message if known else f"{type(error).__name__}: {error}"),
            "hint": redacted(known.hint) if known else "This is a bug: the log has its traceback.",
            "exit_code": known.exit_code if known else 1,
        }
    )


def stuck(idle: float, published: str = "") -> MediaFailed:
    """The error of a run whose volume or backup disk stands still: it can only be told, then the run is killed.

    `published` is the set that is there by then, and was being verified.
    """
    left = f"{published} is published, but was not verified" if published else "nothing of it was published"
    error = MediaFailed(
        f"no byte came from the volume or the backup disk, or went there, for {idle:.0f} s; the run was killed, {left}",
        "Does one of them lie on a network mount that hangs? Twice BACKUP_STALL_TIMEOUT is the patience.",
    )
    error.exit_code = 128 + signal.SIGKILL
    logger.error("{} {}", error.message, error.hint)
    return error


_unheard: list[int] = []


def deaf(number: int, _frame: object) -> None:
    """A handler that only remembers. Unlike SIG_IGN it is not inherited by programs that are started meanwhile."""
    _unheard.append(number)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """No signal ends the body, which takes moments and must not be half told. `told_to_end` says whether one came."""
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
    """Interrupted when a signal came while none could be heard."""
    if _unheard:
        raise Interrupted(_unheard[0])


def told_to_end() -> bool:
    """Whether a signal came while none could be heard."""
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
def locked(
    context: Context, run: Run, wait: float, waiting: Callable[[str], None] | None = None, *, yielding: bool = False
) -> Iterator[None]:
    """Hold the lock for the body, in the name of `run`; LockHeld after `wait` seconds.

    `waiting` is told who is waited for, one after the other, and may raise instead; without it, whoever gives way to
    all others is asked to, as this run does when it is `yielding`.
    """
    what = f"{run.operation} {run.set or run.tier}".strip()
    name = f"{what} {preemption.TO_ALL}" if yielding else what
    told = waiting or preemption.asking(context.catalog.root, what, _told)
    with lock.hold(context.lock, name, run.id, wait=preemption.patience(context.lock, wait), waiting=told):
        yield


def _told(who: str) -> None:
    logger.info("waiting for another run to end: {}", who)


@contextlib.contextmanager
def recorded(context: Context, run: Run) -> Iterator[Recording]:
    """Sweep what dead runs left, then record the run's begin, and its end by how the body ends. Only under the lock."""
    recording = Recording(run)
    try:
        recover(context.catalog, context.records, run.started)
        context.records.begin(run)
        yield recording
    except BaseException as error:
        record(context.records, failed(run, error, context.clock(), recording.seconds))
        raise
    ended = {"outcome": Outcome.SUCCESS, "ended": context.clock(), "seconds": recording.seconds}
    recording.run = run.model_copy(update={**ended, **recording.success})
    record(context.records, recording.run)


def record(records: Records, run: Run) -> None:
    """Record the end of a run. A record that cannot be written must not hide the run's own error."""
    try:
        records.end(run)
    except BackupError as error:
        logger.warning("the end of run {} could not be recorded: {}", run.id, error.message)
        if run.exit_code == 0:
            raise
