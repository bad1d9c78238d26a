"""The children of PID 1: supercronic and the jobs, found, signalled, restarted and reaped.

Each child is started in a session of its own, so a scan of /proc for the session finds all that descends from it.
So are those of visitors: what the engine started in our container by `exec`, which has no parent here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from backup.errors import BackupError
from backup.logging import logger
from backup.monitoring.health import SchedulerState
from backup.operations.jobs import find_supercronic

_PROC: Final = Path("/proc")
_DEAD: Final = frozenset("ZX")
_FROZEN: Final = frozenset("Tt")
_BACKOFF: Final = (1.0, 60.0)
# The scheduler wakes us every minute; one that is silent for longer hangs.
_SILENT: Final = 150.0
# Whoever waits for a child of ours does so within seconds; a zombie older than this has nobody.
_FORGOTTEN: Final = 60.0
# What the scheduler wakes us with.
WAKE: Final = signal.SIGUSR1
_STOP_TICK: Final = 0.2
_KILL_WAIT: Final = 3.0


@dataclass(frozen=True)
class Process:
    """One line of /proc/<pid>/stat, as far as it matters here."""

    pid: int
    state: str
    parent: int
    session: int

    @property
    def running(self) -> bool:
        """Not yet ended (a zombie has)."""
        return self.state not in _DEAD


def parse_stat(line: str) -> Process:
    """A stat line; the name in the middle may hold blanks and brackets, so it is cut at the last one."""
    head, _, tail = line.rpartition(")")
    state, parent, _, session = tail.split()[:4]
    return Process(int(head.split()[0]), state, int(parent), int(session))


def read_process(pid: int) -> Process | None:
    """The process as it is now; None when there is none."""
    try:
        return parse_stat((_PROC / str(pid) / "stat").read_text(errors="replace"))
    except (OSError, ValueError):  # ended between two looks
        return None


def scan() -> list[Process]:
    """Every process that can be seen, zombies too, oldest number first."""
    pids = sorted(int(name) for name in os.listdir(_PROC) if name.isdigit())
    return [process for pid in pids if (process := read_process(pid))]


def roots(processes: Iterable[Process]) -> list[Process]:
    """Those whose parent is not among them: a job is told to end, and ends its own children itself."""
    listed = list(processes)
    pids = {process.pid for process in listed}
    return [process for process in listed if process.parent not in pids]


def is_shell(pid: int) -> bool:
    """A shell that somebody types in: it handles ctrl-C and is deaf to SIGTERM, so it would only be waited for."""
    try:
        lines = (_PROC / str(pid) / "status").read_text(errors="replace").splitlines()
        ignored, caught = (
            next(int(line.split()[1], 16) for line in lines if line.startswith(name)) for name in ("SigIgn:", "SigCgt:")
        )
    except (OSError, ValueError, StopIteration):
        return False
    return bool(ignored >> (signal.SIGTERM - 1) & 1 and caught >> (signal.SIGINT - 1) & 1)


class Signals:
    """Signals as something to wait for. Installed before anything slow: PID 1 ignores what it does not handle."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers

    def __enter__(self) -> Signals:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, lambda *_: None) for number in self._numbers}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self._read)
        os.close(self._write)

    def wait(self, seconds: float) -> set[int]:
        """The signals that came, at the latest after `seconds`."""
        if not select.select([self._read], [], [], max(0.0, seconds))[0]:
            return set()
        return set(os.read(self._read, 4096))


class Family:
    """Children that were started in sessions of their own, and all that descends from them."""

    def __init__(self) -> None:
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._sessions: set[int] = set()
        self._visits: set[int] = set()
        self._zombies: dict[int, float] = {}
        # Children are started by more than one thread: none may be lost between two looks.
        self._changing = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """Start nobody from now on."""
        with self._changing:
            self._closed = True

    def spawn(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a child that leads its own session and reads nothing; BackupError when it cannot be started."""
        with self._changing:
            if self._closed:
                raise BackupError(f"{argv[0]} is not started: the service ends")
            try:
                child = subprocess.Popen(list(argv), env=env, stdin=subprocess.DEVNULL, start_new_session=True)
            except OSError as error:
                raise BackupError(f"{argv[0]} cannot be started: {error.strerror}") from error
            self._children[child.pid] = child
            self._sessions.add(child.pid)
        return child

    def members(self, processes: Iterable[Process]) -> list[Process]:
        """Of `processes`, those running in our sessions."""
        return [process for process in processes if process.session in self._sessions and process.running]

    def visitors(self, processes: Iterable[Process]) -> list[Process]:
        """Of `processes`, those running that `exec` brought into our container, and what descends from them.

        PID 1 alone is answerable for them: when it ends, the kernel kills them without a word. An open shell is left
        to that, what runs in it is not.
        """
        return [p for p in processes if p.session in self._visits and p.pid != 1 and p.running and not is_shell(p.pid)]

    def reap(self, processes: Iterable[Process], now: float) -> None:
        """Collect ended children: our own through their Popen, orphans that became ours with waitpid.

        Not waitid(P_ALL): it would show the same first zombie for ever, or take the status of a child that
        another thread of this process is waiting for.
        """
        with self._changing:
            self._reap(list(processes), now)

    def _reap(self, seen: list[Process], now: float) -> None:
        self._meet(seen)
        zombies = [p for p in seen if p.parent == os.getpid() and p.state == "Z"]
        self._zombies = {p.pid: self._zombies.get(p.pid, now) for p in zombies}
        for zombie in zombies:
            if child := self._children.get(zombie.pid):
                child.poll()
            elif zombie.session in self._sessions or now - self._zombies[zombie.pid] > _FORGOTTEN:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(zombie.pid, os.WNOHANG)
        self._forget(seen)

    def _meet(self, seen: Iterable[Process]) -> None:
        """Note the sessions of visitors while they are there: what they leave behind has us as its parent."""
        if os.getpid() == 1:
            self._visits &= {process.session for process in seen}
            self._visits |= {process.session for process in seen if process.parent == 0 and process.pid != 1}

    def _forget(self, seen: Iterable[Process]) -> None:
        """Drop sessions that nobody is in any more: their number may come back as somebody else's."""
        self._children = {pid: child for pid, child in self._children.items() if child.returncode is None}
        self._sessions &= {process.session for process in seen} | set(self._children)


class LastingProcess:
    """A process that is always there, such as what receives the WAL: started by `start`, and again after every end."""

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]], what: str) -> None:
        self._start, self._what = start, what
        self._process: subprocess.Popen[bytes] | None = None
        self._due = self._begun = 0.0
        self._delay = _BACKOFF[0]

    @property
    def pid(self) -> int:
        """Its process id; 0 while it does not run."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    def tend(self, now: float) -> None:
        """Start it when it does not run and its pause is over."""
        if self._process and self._process.poll() is None:
            return
        if self._process:
            code, self._process = self._process.returncode, None
            self._delay = _BACKOFF[0] if now - self._begun > _BACKOFF[1] else min(self._delay * 2, _BACKOFF[1])
            self._due = now + self._delay
            logger.error("what {} ended with code {}; it starts again in {:.0f} s", self._what, code, self._delay)
        if now >= self._due:
            self._process, self._begun = self._start(), now


class Supercronic:
    """The scheduler as a process: it wakes us once a minute, and is started again after every end and silence.

    Its one line counts in UTC, where no hour is missing and none comes twice.
    """

    def __init__(self, family: Family, run_dir: Path, binary: str, env: Mapping[str, str], *, as_json: bool) -> None:
        """Find the binary and write its crontab into `run_dir`; BackupError when that is not possible."""
        path = run_dir / "crontab"
        self._argv = [find_supercronic(binary), *(["-json"] if as_json else []), "-quiet", "-no-reap", str(path)]
        self._family, self._env = family, {**env, "TZ": "UTC"}
        _write_crontab(path)
        self._process: subprocess.Popen[bytes] | None = None
        self._delay = _BACKOFF[0] / 2
        self._begun = self._heard = 0.0
        self._silent = False
        self._due: float | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 while it does not run, because the number may belong to another process by then."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    def start(self, now: float) -> None:
        """Start it; BackupError when that is not possible at all."""
        self._process = self._family.spawn(self._argv, self._env)
        self._begun, self._heard, self._due = now, self._heard or now, None

    def heard(self, now: float) -> None:
        """Note that it has woken us."""
        self._heard = now

    def state(self) -> SchedulerState:
        """Alive, stopped (by a signal, or it wakes us no more), or dead. Any thread may ask."""
        process = self._process
        seen = read_process(process.pid) if process and process.returncode is None else None
        if seen is None or not seen.running:
            return "dead"
        return "stopped" if self._silent or seen.state in _FROZEN else "alive"

    def tend(self, now: float) -> str:
        """Start it again when it has ended and its pause is over; end it when it hangs.

        Returns what happened, in words, or nothing.
        """
        if self._process is None:
            return ""
        self._silent = now - self._heard > _SILENT
        if self._process.poll() is None:
            if now - max(self._heard, self._begun) <= _SILENT:
                return ""
            self._begun = now
            _send(self.pid, signal.SIGKILL)
            return f"supercronic has been silent for {now - self._heard:.0f} s and is ended"
        if self._due is None:
            self._delay = _BACKOFF[0] if now - self._begun > _BACKOFF[1] else min(self._delay * 2, _BACKOFF[1])
            self._due = now + self._delay
            return f"supercronic ended with code {self._process.returncode}; it starts again in {self._delay:.0f} s"
        if now < self._due:
            return ""
        try:
            self.start(now)
        except BackupError as error:
            self._due = now + _BACKOFF[1]
            return error.message
        return "supercronic runs again"


def _write_crontab(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o600)
            file.write(f"* * * * * kill -{WAKE.name.removeprefix('SIG')} {os.getpid()}\n")
    except OSError as error:
        hint = f"Mount a tmpfs at {path.parent}."
        raise BackupError(f"{path} cannot be written: {error.strerror}", hint) from error


def stop_all(family: Family, scheduler: Supercronic, signals: Signals, grace: float) -> bool:
    """End the scheduler, every job and every visitor; True when one had to be killed after `grace` seconds.

    Each job gets SIGTERM, also one that started in the same moment.
    """
    family.close()
    _send(scheduler.pid, signal.SIGTERM, signal.SIGCONT)
    told: set[int] = set()
    for members in _until_gone(family, signals, grace):
        for job in roots(process for process in members if process.pid != scheduler.pid):
            if job.pid not in told:
                told.add(job.pid)
                _send(job.pid, signal.SIGTERM, signal.SIGCONT)
    killed = False
    for members in _until_gone(family, signals, _KILL_WAIT):
        for process in members:
            killed |= process.pid != scheduler.pid
            _send(process.pid, signal.SIGKILL)
    return killed


def _until_gone(family: Family, signals: Signals, limit: float) -> Iterator[list[Process]]:
    """Who is left, again and again, until nobody is or the time is over."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        processes = scan()
        family.reap(processes, time.monotonic())
        members = family.members(processes) + family.visitors(processes)
        if not members:
            return
        yield members
        signals.wait(_STOP_TICK)


def _send(pid: int, *numbers: signal.Signals) -> None:
    """Signals to a process of ours; one that has just ended needs none, and number 0 would mean ourselves."""
    for number in numbers:
        if pid > 1:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
