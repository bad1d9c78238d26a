"""What is run in the application's containers once the new state is live.

The journal says of each command that it was not run, or did not end, until it is known to have gone well: so whatever
ends a restore meanwhile, what is missing is told.
"""

from __future__ import annotations

from collections.abc import Iterator

from backup.engine.application import Application
from backup.errors import BackupError
from backup.journal import Step, Stopped
from backup.log import logger
from backup.operations.restore.shop import Work
from backup.text import duration, printable


def run_commands(work: Work) -> None:
    """Run all of them, each within its time; what fails is noted in the journal. An undo has none."""
    commands = work.shop.commands if work.journal.kind == "restore" else ()
    ahead = [f"{_name(service, command)} was not run" for service, command in commands]
    work.advance(Step.SWAPPED, failed=tuple(ahead))
    application = work.shop.application() if commands else None
    failed: list[str] = []
    for number, (service, command) in enumerate(commands):
        cut = f"{_name(service, command)} was begun, and how it ended is not known"
        work.advance(Step.SWAPPED, failed=(*failed, cut, *ahead[number + 1 :]))
        for line in _run(work, application, service, command):
            logger.error("{}", line)
            failed.append(line)
    work.advance(Step.SWAPPED, failed=tuple(failed))


def started(application: Application, stopped: tuple[Stopped, ...]) -> Iterator[str]:
    """Start what was stopped; what could not be started, in words."""
    for entry in stopped:
        logger.info("starting {}", printable(entry.name))
        try:
            if not application.start(entry.id, entry.name):
                yield f"the container {printable(entry.name)} is gone; `docker compose up -d` makes a service's again"
        except BackupError as error:
            yield f"{printable(entry.name)} does not start: {error.message}"


def _run(work: Work, application: Application | None, service: str, command: str) -> Iterator[str]:
    name = _name(service, command)
    if application is None:
        yield f"{name} was not run: the Docker engine is not there"
        return
    yield from started(
        application, tuple(each for each in work.journal.stopped if service in (each.service, each.name))
    )
    try:
        yield from _run_one(application, service, command, work.shop.command_seconds)
    except BackupError as error:
        yield f"{name} failed: {error.message}"


def _run_one(application: Application, service: str, command: str, seconds: float) -> Iterator[str]:
    there = application.running([service], [])
    name = _name(service, command)
    if not there:
        yield f"{name} was not run: no container of {printable(service)} is running"
        return
    logger.info("running in {}: {}", printable(there[0].name), printable(command))
    running = application.command(there[0], command)
    code, said = running.run(seconds)
    for line in said.strip().splitlines()[-20:]:
        logger.info("  {}", printable(line))
    if code is None:
        left = "" if running.ended else ", but it may still be at work there"
        yield f"{name} was ended after {duration(seconds)} (BACKUP_POST_RESTORE_TIMEOUT){left}"
    elif code:
        yield f"{name} ended with exit code {code}"


def _name(service: str, command: str) -> str:
    return f"`{printable(command)}` in {printable(service)}"
