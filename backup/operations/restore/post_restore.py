"""What is run in the application's containers once the new state is live.

The journal says of each command that it was not run, or did not end, until it is known to have gone well: so whatever
ends a restore meanwhile, what is missing is told.
"""

from __future__ import annotations

from typing import Final

from backup.docker.application import Application
from backup.errors import BackupError
from backup.formatting import duration, essence, printable, shortened
from backup.logging import logger
from backup.operations.restore.context import Work
from backup.operations.restore.journal import Step
from backup.postgres.availability import wait

_LOGIN: Final = 60.0
_TRIES: Final = 3
_PAUSE: Final = 2.0
_NO_ENGINE: Final = "the Docker engine is not there"


def run_commands(work: Work) -> None:
    """Run all of them, each within its time; what fails is noted in the journal. An undo has none."""
    commands = work.context.commands if work.journal.kind == "restore" else ()
    ahead = [f"{_name(service, command)} was not run" for service, command in commands]
    work.advance(Step.SWAPPED, failed=tuple(ahead))
    application = work.context.application() if commands else None
    failed: list[str] = []
    for number, (service, command) in enumerate(commands):
        cut = f"{_name(service, command)} was begun, and how it ended is not known"
        work.advance(Step.SWAPPED, failed=(*failed, cut, *ahead[number + 1 :]))
        for line in _run(work, application, service, command):
            logger.error("{}", line)
            failed.append(line)
    work.advance(Step.SWAPPED, failed=tuple(failed))


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
        logger.warning("after {} {} does not let us in: {}", duration(_LOGIN), printable(work.way.place), said)
    return problems


def _run_one(application: Application, service: str, command: str, seconds: float) -> tuple[str, bool]:
    """What went wrong, if anything did, and whether there is no use in trying again."""
    there = application.running([service], [])
    if not there:
        return f"was not run: no container of {printable(service)} is running", False
    logger.info("running in {}: {}", printable(there[0].name), printable(command))
    running = application.command(there[0], command)
    code, said = running.run(seconds)
    _tell(said)
    if code is None:
        left = "" if running.ended else ", but it may still be at work there"
        return f"was ended after {duration(seconds)} (BACKUP_POST_RESTORE_TIMEOUT){left}", True
    return (f"ended with exit code {code}", False) if code else ("", True)


def _tell(said: str) -> None:
    """The line that matters; all of it goes to the log file alone."""
    lines = said.strip().splitlines()
    if lines:
        logger.info("  {}", shortened(printable(essence(lines))))
    if len(lines) > 1:
        logger.debug("all that it wrote:\n{}", "\n".join(printable(line) for line in lines))


def _name(service: str, command: str) -> str:
    return f"`{printable(command)}` in {printable(service)}"
