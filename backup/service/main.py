"""The service: schedule, health endpoint and first backup, from start to SIGTERM. Runs as PID 1."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from backup.background import BackgroundTask
from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.catalog.scheduler_state import ScheduleFile
from backup.config.loader import Settings
from backup.errors import BackupError, LockHeld
from backup.formatting import local_time
from backup.logging import logger
from backup.model.manifest import Tier
from backup.model.run import CREATE, Outcome, Run, new_run_id
from backup.model.schedule import BUSY, upcoming
from backup.monitoring.alerts.notifier import Notifier
from backup.monitoring.health import Health, newest_database
from backup.monitoring.health.model import FIRST_BACKUP
from backup.monitoring.overview import Overview
from backup.operations.jobs import JOB_COMMANDS, jobs
from backup.operations.offsite.rules import ages, places, uploads
from backup.operations.restore.journal import JOURNAL
from backup.operations.runs import at_work
from backup.operations.status import overview
from backup.service.followup_jobs import BaseQueue, DrillQueue, UploadQueue
from backup.service.probe import SOCKET
from backup.service.scheduler import Scheduler
from backup.service.supervisor import WAKE, Family, LastingProcess, Signals, Supercronic, scan, stop_all
from backup.service.web.app import create_app
from backup.service.web.guard import access_for
from backup.service.web.server import HttpServer, address, bind, reserved
from backup.storage.filesystem import storing

_ENDING: Final = {signal.SIGTERM, signal.SIGINT}
_TICK: Final = 1.0
# The exit code of a whole set in which files changed while they were read, or that lies in memory.
_CHANGED: Final = 3
# What a disk that is well takes to say what is there.
_PROMPT: Final = 5.0
# What a sweep usually takes, and what it is given when the service ends.
_MOMENT: Final = 1.0
_LAST_WORD: Final = 5.0
# How often runs that died without a word are looked for.
_SETTLE: Final = 15.0
_PATIENT: Final = 900.0
# How often it is looked whether somebody must be told something.
_ALERTS: Final = 30.0


def serve(
    settings: Settings,
    *,
    catalog: Catalog,
    records: Records,
    recover: Callable[[], None],
    ready: Callable[[], None],
    command: Sequence[str],
    run_dir: Path,
    way: Callable[[], str] = lambda: "",
    notifier: Callable[[Callable[[], Health]], Notifier] | None = None,
    supercronic: str = "supercronic",
    grace: float = 25.0,
) -> int:
    """Serve until SIGTERM or SIGINT; 0, or 143 when a job had to be killed after `grace` seconds.

    `command` is the argv prefix that runs our CLI, `way` says how the database is reached, for the log. `notifier`
    makes what sends alerts, from health without the alerts' own. `recover`, `ready`, `way` and the notifier may hang.
    """
    with ExitStack() as stack:
        signals = stack.enter_context(Signals(*_ENDING, signal.SIGCHLD, WAKE))
        # What the sweep finds dead died with an earlier service.
        since, sweep = datetime.now(UTC), BackgroundTask(lambda: _recover(recover))
        sweep.go(wait=_MOMENT)
        listener = stack.enter_context(bind(settings.http_host, settings.http_port))
        family = Family()
        clock = Supercronic(family, run_dir, supercronic, os.environ, as_json=settings.log_format == "json")
        service = _Service(settings, catalog, records, sweep, command, family, clock, signals, since)
        app = create_app(
            scheduler=clock.state,
            overview=service.overview,
            ready=lambda: check_ready(catalog, ready),
            access=access_for(settings),
        )
        if notifier:
            made = notifier(lambda: service.overview(alerting=False).health)
            stack.callback(made.stop)
            service.alarm = BackgroundTask(made.round)
        # The endpoint is the last to go: whoever asks while jobs end is told that the scheduler has stopped.
        with HttpServer(app, listener), reserved(app, run_dir / SOCKET):
            try:
                _announce(settings)
                BackgroundTask(lambda: _log_way(way)).go()
                service.run()
            finally:
                killed = stop_all(family, clock, signals, grace)
        if killed:
            logger.error("a job did not end within {:.0f} s and was killed", grace)
            sweep.go(wait=_LAST_WORD)
        logger.info("stopped")
        return 128 + signal.SIGTERM if killed else 0


class _Service:
    """What the main loop looks after: supercronic, the jobs, the first backup, and runs that died."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        records: Records,
        sweep: BackgroundTask,
        command: Sequence[str],
        family: Family,
        clock: Supercronic,
        signals: Signals,
        since: datetime,
    ) -> None:
        self._settings, self._catalog, self._records = settings, catalog, records
        self._sweep, self._command, self._signals = sweep, command, signals
        # Jobs go by the operator's clock, also where TZ is unset and the zone a default.
        self._env = os.environ | {"TZ": settings.zone.key}
        self._since, self._family, self._clock = since, family, clock
        self._first: subprocess.Popen[bytes] | None = None
        self._settled = time.monotonic()
        self._looked = self._again = 0.0
        self._pause = _SETTLE
        self._opened, self._wanted, self._begun, self._idle = threading.Event(), False, False, False
        self._opening, self._disk = BackgroundTask(self._open), BackgroundTask(self._look)
        self.alarm: BackgroundTask | None = None

        def start(words: tuple[str, ...]) -> subprocess.Popen[bytes]:
            return family.spawn([*command, *words], self._env)

        self._scheduler = Scheduler(
            ScheduleFile(catalog.root),
            records,
            jobs(settings),
            settings.zone,
            lambda job: start(JOB_COMMANDS[job]),
            since,
        )

        self._uploads = UploadQueue(
            catalog,
            records,
            start,
            places=[place for place, _ in places(settings)],
            uploads=uploads(settings),
            ages=ages(settings),
        )

        on = settings.pitr == "on"
        self._bases = BaseQueue(catalog, records, start) if on else None
        self._lasting = [LastingProcess(partial(start, (name,)), what) for name, what in _lasting(settings)]
        # Whoever drills nothing by schedule has reasons for it.
        self._drills = DrillQueue(catalog, records, start, catalog.root / "state" / "lock") if settings.drill else None

    def run(self) -> None:
        """The main loop: every second, and at once when a child ends, until a signal says stop."""
        self._opening.go(wait=_PROMPT)
        while not (ending := (came := self._signals.wait(_TICK)) & _ENDING):
            now = time.monotonic()
            if WAKE in came:
                self._clock.heard(now)
                self._scheduler.wake()
            self._tick(now)
            if self.alarm and now - self._looked > _ALERTS:
                self._looked = now
                self.alarm.go()
        logger.info("stopping: {}", ", ".join(signal.Signals(number).name for number in sorted(ending)))

    def _open(self) -> None:
        """What must be known before anything is started. From here on all that reads the backup disk may hang."""
        self._scheduler.open()
        self._wanted = self._first_wanted()
        self._opened.set()

    def _begin(self, now: float) -> None:
        """Start supercronic, and the first backup where there is none, once the disk has answered."""
        self._begun = True
        self._clock.start(now)
        if self._wanted:
            logger.info("there is no good set of the database yet: the first backup starts now")
            argv = [*self._command, CREATE, Tier.DAILY, "--scheduled", "--trigger", "first"]
            self._first = self._family.spawn(argv, self._env)

    def overview(self, *, alerting: bool = True) -> Overview:
        """Asked by the web thread and the alerts, so it only reads."""
        child, first = self._first, None
        if child and child.returncode is None:
            first = Run(id="", operation=CREATE, tier=Tier.DAILY, trigger="first", started=self._since)
        return overview(
            self._settings,
            self._catalog,
            self._records,
            datetime.now(UTC),
            scheduler=self._clock.state(),
            first=first,
            lost=self._scheduler.lost(),
            alerting=alerting,
        )

    def _first_wanted(self) -> bool:
        try:
            # Also where all are dated ahead: the clock may be behind.
            return newest_database(self._catalog.sets()) is None
        except BackupError as error:
            # Red by /healthz; the service stays up to say so, and a person may look inside.
            logger.error("the sets cannot be read: {}", error.message)
            return False

    def _tick(self, now: float) -> None:
        processes = scan()
        self._family.reap(processes, now)
        if not self._begun:
            if not self._opened.is_set():
                return
            self._begin(now)
        if event := self._clock.tend(now):
            logger.warning("{}", event)
        if self._first and (code := self._first.poll()) is not None:
            self._first = None
            self._first_ended(code)
            self._settled = 0.0
        for each in self._lasting:
            each.tend(now)
        # These are always there, and leave no record.
        always = {self._clock.pid, *(each.pid for each in self._lasting)}
        self._idle = all(process.session in always for process in self._family.members(processes))
        self._disk.go()

    def _look(self) -> None:
        """All that reads the backup disk again and again: one that hangs must not keep signals from being heard."""
        now = time.monotonic()
        if now - self._settled > _SETTLE:
            # A run that ended between two looks at the processes is among them once more: it is looked for again.
            self._settled = now if self._idle else self._settled
            self._settle(now, idle=self._idle)
        self._scheduler.tick(datetime.now(UTC), time.monotonic(), busy=self._first is not None)
        busy = self._first is not None
        if self._bases:
            self._bases.tick(now, busy=busy)
            busy = busy or self._bases.active
        if self._drills:
            self._drills.tick(now, busy=busy)
        self._uploads.tick(datetime.now(UTC), now)

    def _first_ended(self, code: int) -> None:
        if code == _CHANGED:
            logger.warning(
                "the first backup has ended, but files changed while they were read, or it is in memory (see `status`)"
            )
        elif code:
            logger.error("the first backup ended with code {}; the next one is the schedule's", code)
            if code != BUSY:  # another run held the volume, and says itself how it ended
                self._scheduler.leave_later(self._unrecorded(code))
        else:
            logger.info("the first backup has succeeded")

    def _unrecorded(self, code: int) -> Run:
        """The first backup as its exit code tells it, for where it left no record of its own."""
        return Run(
            id=new_run_id(self._since),
            operation=CREATE,
            tier=Tier.DAILY,
            trigger=FIRST_BACKUP,
            started=self._since,
            ended=datetime.now(UTC),
            outcome=Outcome.CRASHED,
            message=f"the first backup ended with code {code} and left no record",
            hint="`docker compose logs backup` shows its output; `create daily` tries again.",
            exit_code=abs(code),
        )

    def _settle(self, now: float, *, idle: bool) -> None:
        """A record says `running`, but none of our jobs is: died without a word, unless somebody holds the lock.

        A restore half way is ended whatever else runs; each attempt that did not help makes the next one wait longer.
        """
        if not (self._catalog.root / "state" / JOURNAL).exists():
            self._again, self._pause = now, _SETTLE
        elif now >= self._again:
            self._again, self._pause = now + self._pause, min(2 * self._pause, _PATIENT)
            self._sweep.go()
            return
        with contextlib.suppress(BackupError):  # said by /healthz
            if idle and self._records.unfinished(at_work(self._catalog.root)):
                self._sweep.go()


def _announce(settings: Settings) -> None:
    """Log what runs when, where it can be looked at, and where copies go."""
    slots = upcoming(jobs(settings), datetime.now(UTC), settings.zone)
    told = "; ".join(f"{slot.job} next {local_time(slot.times[0], settings.zone)}" for slot in slots)
    if told:
        logger.info("schedule: {}", told)
    else:
        logger.warning("schedule: every job is off; no backup starts by itself")
    logger.info("health: http://{0}/healthz, page: http://{0}/", address(settings.http_host, settings.http_port))
    for _, name in places(settings):
        follows = ", ".join(f"{tier} {when}" for tier, when in uploads(settings).items()) or "by hand only"
        logger.info("offsite: {}, uploads: {}", name, follows)


def _log_way(way: Callable[[], str]) -> None:
    """Log how the database is reached, if that is known."""
    if said := way():
        logger.info("database: {}", said)


def _recover(recover: Callable[[], None]) -> None:
    try:
        recover()
    except LockHeld as held:
        logger.debug("leftovers were not removed: {}", held.message)
    except BackupError as error:
        # Not the end: a service that stays up can say what is wrong.
        logger.error("leftovers could not be removed: {} {}", error.message, error.hint)


def check_ready(catalog: Catalog, ready: Callable[[], None]) -> None:
    """BackupError unless a backup could be taken now: the volume takes a file, the sets can be read, all answer."""
    with storing(catalog.root), TemporaryFile(dir=catalog.root) as file:
        file.write(b"ready")
        file.flush()
    catalog.sets()
    ready()


def _lasting(settings: Settings) -> list[tuple[str, str]]:
    """The commands that run as long as the service does, and what each does."""
    shipping = [("ship", "sends the WAL offsite")] if settings.has_offsite else []
    return [("receive", "receives the WAL"), *shipping] if settings.pitr == "on" else []
