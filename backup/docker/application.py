"""The application's containers: which write to a volume, stopping and starting exactly those, commands inside."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Final

from backup.docker.container import HEALTHY, Container, mounts_overlap, needed_by, start_order
from backup.docker.engine import Engine
from backup.docker.translate_errors import Gone, engine_errors
from backup.errors import BackupError, ConfigError, EngineError
from backup.formatting import duration, printable
from backup.logging import logger

# For what others wait for, all together; Compose would wait for ever.
_UP: Final = 60.0
_LOOK: Final = 0.5
_AT_ONCE: Final = 32

# Of what a command says, the end is kept.
_TAIL: Final = 16_384
_GRACE: Final = 5.0
# The engine knows the host's number of a process; only its own, which the container knows, can be signalled there.
_NUMBERED: Final = 'echo "$$"; exec sh -c "$0"'
# What an engine starts leads a group of its own, so that what it has started itself is ended with it.
_KILL: Final = 'kill -s "$0" -- "-$1" 2>/dev/null || kill -s "$0" "$1"'


class Application:
    """The containers of one Compose project, but for our own. `database` are the names of the database's."""

    def __init__(self, engine: Engine, project: str, own: Container | None, database: Collection[str] = ()) -> None:
        self._engine, self._project, self._own, self._database = engine, project, own, set(database)

    def containers(self) -> list[Container]:
        """All of them, running or not; those of `docker compose run`, too, after the others."""
        listed = self._engine.containers(self._project) + self._engine.containers(self._project, oneoff=True)
        return [c for c in listed if not self._is_ours(c)]

    def running(self, services: Collection[str], sources: Collection[str]) -> list[Container]:
        """Running containers of these services; where none is named, those that may write to one of `sources`.

        The database is not stopped for a folder that holds its files and the media.
        """
        found = [c for c in self.containers() if c.running]
        if services:
            return [c for c in found if c.service in services or c.name in services]
        found = [c for c in found if self._database.isdisjoint(c.names)]
        return [c for c in found if any(m.get("RW") and mounts_overlap(m, each) for m in c.mounts for each in sources)]

    def require(self, services: Collection[str]) -> None:
        """ConfigError unless the project has a container, running or not, of each of them."""
        here = {name for c in self._engine.containers(self._project) for name in (c.service, c.name)}
        if unknown := set(services) - here:
            raise ConfigError(
                f"BACKUP_RESTORE_STOP names {printable(', '.join(sorted(unknown)))}, but the project"
                f" {printable(self._project)} has no such container",
                "Name services as `docker compose ps -a` shows them.",
            )

    def stop(self, containers: Sequence[Container]) -> None:
        """Stop them as `docker stop` does, all at once, each by its own signal and within its own time.

        They end even if a signal comes meanwhile: one that is still ending would be taken for one that runs.
        """
        if not containers:
            return
        logger.info("stopping {}", printable(", ".join(each.name for each in containers)))
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            asked = [pool.submit(self._stop, each) for each in containers]
            _wait(asked)
        finally:
            pool.shutdown(wait=False)
        for each in asked:
            each.result()

    def _stop(self, container: Container) -> None:
        # One that is gone is as stopped as can be.
        with contextlib.suppress(Gone), engine_errors(f"stopping {printable(container.name)}"):
            self._engine.api.stop(container.id, timeout=container.stop_seconds)

    def start(self, wanted: Sequence[tuple[str, str]]) -> list[str]:
        """Start stopped containers, by id and name, in the order in which they need each other; what went wrong.

        One that runs is left alone. Compose may have made it anew under its name meanwhile.
        """
        here = {key: c for c in self.containers() for key in (c.name, c.id)}
        there = [here.get(identifier) or here.get(name) for identifier, name in wanted]
        problems = [
            f"the container {printable(name)} is gone; `docker compose up -d` recreates that of a service"
            for (_, name), found in zip(wanted, there, strict=True)
            if found is None
        ]
        deadline = time.monotonic() + _UP
        for group in start_order([each for each in there if each and not each.running]):
            self._await(group, deadline)
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                problems += [problem for problem in pool.map(self._start, group) if problem]
        return problems

    def _start(self, container: Container) -> str:
        logger.info("starting {}", printable(container.name))
        try:
            with engine_errors(f"starting {printable(container.name)}"):
                self._engine.api.start(container.id)
        except BackupError as error:
            return f"{printable(container.name)} does not start: {error.message}"
        return ""

    def _await(self, group: Sequence[Container], deadline: float) -> None:
        """Wait until what these need to be healthy is."""
        healthy = {name for each in group for name, condition in each.depends_on.items() if condition == HEALTHY}
        while ill := [c for c in self.containers() if c.running and c.service in healthy and _is_ill(c)]:
            if time.monotonic() > deadline:
                names = printable(", ".join(c.name for c in ill))
                logger.warning("{} is not healthy after {}; what depends on it is started anyway", names, duration(_UP))
                return
            time.sleep(_LOOK)

    def needed(self, services: Collection[str]) -> list[Container]:
        """The containers of these services, and all that they need, directly or not."""
        return needed_by(self.containers(), services)

    def called(self, name: str) -> Container | None:
        """The running container that others reach by this name."""
        return next((c for c in self.containers() if c.running and name in c.names), None)

    def command(self, container: Container, command: str) -> Command:
        """A shell command to be run inside a running container."""
        return Command(self._engine.api, container.id, command, f"a command in {printable(container.name)}")

    def _is_ours(self, container: Container) -> bool:
        return self._own is not None and (container.id == self._own.id or container.image_id == self._own.image_id)


def _is_ill(container: Container) -> bool:
    return bool(container.health) and container.health != "healthy"


def _wait(asked: Sequence[Future[None]]) -> None:
    told: BaseException | None = None
    while True:
        try:
            wait(asked)
            break
        except BaseException as error:  # noqa: BLE001 - raised below
            logger.info("waiting for containers that are still stopping")
            told = told or error
    if told:
        raise told


class Command:
    """A shell command inside a running container, ended when its time is over or nobody waits for it any more.

    `ended` says afterwards whether it is known to be no longer there.
    """

    def __init__(self, api: Any, container: str, command: str, what: str) -> None:
        self._api, self._container, self._what = api, container, what
        with engine_errors(what):
            made = api.exec_create(container, ["sh", "-c", _NUMBERED, command])
        self._id: str = made["Id"]
        self._number, self._head, self._tail = "", b"", b""
        self._over, self._begun = threading.Event(), threading.Event()
        self._error: EngineError | None = None

    @property
    def ended(self) -> bool:
        """Whether it has ended, by itself or by us."""
        return self._over.is_set()

    def run(self, patience: float) -> tuple[int | None, str]:
        """Its exit code and the end of its output; no code when it took longer than `patience` seconds."""
        threading.Thread(target=self._read, name="command", daemon=True).start()
        try:
            in_time = self._over.wait(patience)
        except BaseException:
            self._end()
            raise
        if not in_time:
            self._end()
            return None, self._said()
        if self._error:
            raise self._error
        with engine_errors(self._what):
            code = self._api.exec_inspect(self._id)["ExitCode"]
        return 1 if code is None else int(code), self._said()

    def _read(self) -> None:
        try:
            with engine_errors(self._what):
                for piece in self._api.exec_start(self._id, stream=True):
                    self._take(piece)
        except EngineError as error:
            self._error = error
        finally:
            self._over.set()
            self._begun.set()

    def _take(self, piece: bytes) -> None:
        if not self._number:
            first, newline, piece = (self._head + piece).partition(b"\n")
            self._head = first
            if newline and first.isdigit():
                self._number = first.decode()
                self._begun.set()
        self._tail = (self._tail + piece)[-_TAIL:]

    def _end(self) -> None:
        """Ask it to end, then make it."""
        # It may be at work before its number has reached us.
        self._begun.wait(_GRACE)
        for signal in ("TERM", "KILL"):
            if self._number and not self._over.is_set():
                with contextlib.suppress(EngineError), engine_errors(self._what):
                    words = ["sh", "-c", _KILL, signal, self._number]
                    self._api.exec_start(self._api.exec_create(self._container, words)["Id"])
                self._over.wait(_GRACE)

    def _said(self) -> str:
        return self._tail.decode(errors="replace")
