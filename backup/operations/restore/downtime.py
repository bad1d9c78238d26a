"""What is stopped while databases and files change places, and how long that is felt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from backup.errors import BackupError, RestoreUnfinished
from backup.formatting import duration, plural, printable
from backup.logging import logger
from backup.operations.restore.context import Work
from backup.operations.restore.journal import Step, Stopped
from backup.postgres.availability import Watch, wait

# For a pooler that keeps an answer for a while.
_PATIENCE: Final = 30.0


def stop_application(work: Work) -> None:
    """Stop the application's containers; each is noted before."""
    application = work.context.application()
    if application is None:
        work.advance(Step.STOPPING)
        return
    find_way(work)
    if work.way and (said := wait(work.way, 0)):
        # Then it says nothing of the database later.
        logger.info("{} is not asked how the application has it: {}", printable(work.way.place), said)
        work.way = None
    found = application.running(work.context.stops, work.context.mounts())
    stopped = tuple(Stopped(id=c.id, name=c.name, service=c.service) for c in found)
    work.advance(Step.STOPPING, stopped=stopped, since=work.context.clock() if found else None)
    application.stop(found)


def find_way(work: Work) -> None:
    """Find out how the application reaches its database."""
    with contextlib.suppress(BackupError):
        work.way = work.context.way() if work.journal.database else None


def stop_again(work: Work) -> None:
    """Before files are moved once more: a person or the engine may have started what was stopped."""
    if not work.journal.stopped:
        return
    application = work.context.application()
    if application is None:
        raise _no_engine(f"{plural(len(work.journal.stopped), 'container')} cannot be kept stopped meanwhile")
    application.stop(application.running([entry.name for entry in work.journal.stopped], ()))


def start_application(work: Work) -> list[str]:
    """Start exactly what was stopped; what could not be started, in words."""
    journal = work.journal
    if not journal.stopped:
        return []
    application = work.context.application()
    if application is None:
        raise _no_engine(f"{plural(len(journal.stopped), 'container')} cannot be started; all else is done")
    problems = application.start([(each.id, each.name) for each in journal.stopped])
    if journal.since:
        work.down = (work.context.clock() - journal.since).total_seconds()
    return problems


def _no_engine(what: str) -> RestoreUnfinished:
    hint = "With the engine in reach `restore --resume` goes on, or the running service does."
    return RestoreUnfinished(f"the Docker engine is not there: {what}", hint)


def measure(work: Work, watch: Watch) -> None:
    """How long the database could not be reached, as the application has it."""
    work.window, work.through = max(work.window, watch.outage(_PATIENCE)), watch.place
    if watch.problem:
        logger.warning("{} does not let clients in again so far: {}", watch.place, watch.problem)


def told(work: Work) -> Iterator[str]:
    """How long the database could not be reached, and the application was stopped."""
    if work.window:
        took = f"{work.window * 1000:.0f} ms" if work.window < 1 else duration(work.window)
        yield f"the database could not be reached for {took}{f' through {work.through}' if work.through else ''}"
    if work.down:
        yield f"the application was stopped for {duration(work.down)}"
