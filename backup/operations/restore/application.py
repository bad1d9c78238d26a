"""The application during a restore: stopped while databases and files change places, started again, its commands run.

The journal says of each command that it was not run, or did not end, until it is known to have gone well: so whatever
ends a restore meanwhile, what is missing is told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from backup.docker.application import Application
from backup.errors import BackupError, RestoreUnfinished
from backup.formatting import duration, essence, plural, printable, shortened
from backup.logging import logger
from backup.operations.restore.context import Work
from backup.operations.restore.journal import RestoreStep, StoppedContainer
from backup.postgres.availability import Watch, wait

_LOGIN: Final = 60.0
_TRIES: Final = 3
_PAUSE: Final = 2.0
_NO_ENGINE: Final = "the Docker engine is not there"
# For a pooler that keeps an answer for a while.
_PATIENCE: Final = 30.0


def stop_application(work: Work) -> None:
    """Stop the application's containers; each is noted before."""
    application = work.context.application()
    if application is None:
        work.advance(RestoreStep.STOPPING)
        return
    find_way(work)
    if work.way and (said := wait(work.way, 0)):
        # Then it says nothing of the database later.
        logger.info("downtime is not measured through {}: {}", printable(work.way.place), said)
        work.way = None
    found = application.running(work.context.stops, work.context.mounts())
    stopped = tuple(StoppedContainer(id=c.id, name=c.name, service=c.service) for c in found)
    work.advance(RestoreStep.STOPPING, stopped=stopped, since=work.context.clock() if found else None)
    application.stop(found)


def find_way(work: Work) -> None:
    """Find out how the application reaches its database."""
    with contextlib.suppress(BackupError):
        work.way = work.context.way() if work.journal.database else None


def stop_again(work: Work) -> None:
    """Stop once more, before files are moved again: a person or the engine may have started what was stopped."""
    if not work.journal.stopped:
        return
    application = work.context.application()
    if application is None:
        raise _no_engine(f"{plural(len(work.journal.stopped), 'container')} cannot be kept stopped meanwhile")
    application.stop(application.running([entry.name for entry in work.journal.stopped], ()))


def start(work: Work) -> list[str]:
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
    hint = "Once the engine answers, `restore --resume` or the running service goes on."
    return RestoreUnfinished(f"{_NO_ENGINE}: {what}", hint)


def measure_outage(work: Work, watch: Watch) -> None:
    """Measure how long the database could not be reached, as the application has it."""
    work.window, work.through = max(work.window, watch.outage(_PATIENCE)), watch.place
    if watch.problem:
        logger.warning("{} does not accept clients yet: {}", watch.place, watch.problem)


def downtime(work: Work) -> Iterator[str]:
    """Say how long the database could not be reached, and the application was stopped."""
    if work.window:
        took = f"{work.window * 1000:.0f} ms" if work.window < 1 else duration(work.window)
        yield f"the database could not be reached for {took}{f' through {work.through}' if work.through else ''}"
    if work.down:
        yield f"the application was stopped for {duration(work.down)}"


def run_commands(work: Work) -> None:
    """Run all of them, each within its time; what fails is noted in the journal. An undo has none."""
    commands = work.context.commands if work.journal.kind == "restore" else ()
    ahead = [f"{_name(service, command)} was not run" for service, command in commands]
    work.advance(RestoreStep.SWAPPED, failed=tuple(ahead))
    application = work.context.application() if commands else None
    failed: list[str] = []
    for number, (service, command) in enumerate(commands):
        cut = f"{_name(service, command)} was started; how it ended is unknown"
        work.advance(RestoreStep.SWAPPED, failed=(*failed, cut, *ahead[number + 1 :]))
        for line in _run(work, application, service, command):
            logger.error("{}", line)
            failed.append(line)
    work.advance(RestoreStep.SWAPPED, failed=tuple(failed))


def _run(work: Work, application: Application | None, service: str, command: str) -> list[str]:
    """Run a command once what it needs is there, three times if need be; what went wrong, in words."""
    name = _name(service, command)
    if application is None:
        return [f"{name} was not run: {_NO_ENGINE}"]
    try:
        problems = _provide(work, application, service)
        for number in range(1, _TRIES + 1):
            problem, for_good = _run_one(application, service, command, work.context.command_seconds)
            if for_good or number == _TRIES:
                break
            logger.warning("{} {}; it is tried again in {}", name, problem, duration(_PAUSE))
            work.context.sleep(_PAUSE)
    except BackupError as error:
        return [f"{name} failed: {error.message}"]
    return [*problems, *([f"{name} {problem}"] if problem else [])]


def _provide(work: Work, application: Application, service: str) -> list[str]:
    """Start what the service needs, and itself, if it was stopped; wait until its way to the database is open."""
    stopped = {each.id: each for each in work.journal.stopped} | {each.name: each for each in work.journal.stopped}
    found = (stopped.get(each.id) or stopped.get(each.name) for each in application.needed([service]))
    problems = application.start([(each.id, each.name) for each in found if each])
    if work.way and (said := wait(work.way, _LOGIN)):
        logger.warning("after {} {} does not accept connections: {}", duration(_LOGIN), printable(work.way.place), said)
    return problems


def _run_one(application: Application, service: str, command: str, seconds: float) -> tuple[str, bool]:
    """Run it once; what went wrong, if anything did, and whether there is no use in trying again."""
    there = application.running([service], [])
    if not there:
        return f"was not run: no container of {printable(service)} is running", False
    logger.info("running in {}: {}", printable(there[0].name), printable(command))
    running = application.command(there[0], command)
    code, said = running.run(seconds)
    _tell(said)
    if code is None:
        left = "" if running.ended else ", but it may still be running there"
        return f"was ended after {duration(seconds)} (BACKUP_POST_RESTORE_TIMEOUT){left}", True
    return (f"ended with exit code {code}", False) if code else ("", True)


def _tell(said: str) -> None:
    """Log the line that matters; all of it goes to the log file alone."""
    lines = said.strip().splitlines()
    if lines:
        logger.info("  {}", shortened(printable(essence(lines))))
    if len(lines) > 1:
        logger.debug("all that it wrote:\n{}", "\n".join(printable(line) for line in lines))


def _name(service: str, command: str) -> str:
    return f"`{printable(command)}` in {printable(service)}"
