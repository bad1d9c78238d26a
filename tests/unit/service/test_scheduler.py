"""What is due runs once: at its slot, or after the service, the machine or the clock stood still."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backup.catalog.run_records import Records
from backup.catalog.scheduler_state import ScheduleFile, ScheduleState
from backup.cli.schedule import last_words, reason_of
from backup.errors import BackupError, DumpFailed, Interrupted, LockHeld
from backup.model.run import Outcome, Run
from backup.model.schedule import moments
from backup.operations.jobs import operation_of, tier_of
from backup.operations.missed_runs import find_missed, last_run, reasons
from backup.operations.scheduled_run import Claim, claim_slot
from backup.service.scheduler import Scheduler
from backup.storage.lock import hold

ZONE = ZoneInfo("Europe/Berlin")
NOW = datetime(2025, 10, 2, 12, 0, tzinfo=UTC)
JOBS = {"daily": "0 2 * * *", "weekly": "0 3 * * 0", "monitor": "0 */6 * * *"}
DAILY = {"daily": JOBS["daily"]}
SLOT = datetime(2025, 10, 2, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)


class Service:
    """A Scheduler and its jobs, by a clock of the test's own. `ends` says how runs end: by None well, by an error, or

    `silent` without a record, `dies` while it runs; or a shell script takes its place."""

    def __init__(self, root: Path, jobs: dict[str, str] = JOBS, *, now: datetime = NOW, zone: ZoneInfo = ZONE) -> None:
        (root / "state").mkdir(exist_ok=True)
        self.root, self.jobs, self.zone = root, jobs, zone
        self.file, self.records = ScheduleFile(root), Records(root / "state" / "runs")
        self.started: list[str] = []
        self.slots: list[tuple[str, datetime | None, int]] = []
        self.ends: Callable[[str], BaseException | str | None] = lambda job: None
        self.now, self.steady = now, 0.0
        self.children: list[subprocess.Popen[bytes]] = []
        self.begin()

    def begin(self) -> None:
        """Begin a life of the service."""
        self.scheduler = Scheduler(self.file, self.records, self.jobs, self.zone, self.spawn, self.now)

    def was_up(self, days: float) -> None:
        """As if the service had last been up so many days ago."""
        began = self.now - days * DAY
        self.file.write(ScheduleState(since=began).counted(self.jobs, began, self.zone))

    def state(self) -> ScheduleState:
        return self.file.read(self.now)

    def runs(self) -> list[Run]:
        return self.records.all()

    @contextmanager
    def claimed(self, job: str, force: bool = False) -> Iterator[Claim]:
        cron = self.jobs[job]
        with claim_slot(self.file, self.records, job, cron, self.zone, lambda: self.now, force=force) as claim:
            yield claim

    def run(self, job: str, end: BaseException | str | None = None) -> bool:
        """One scheduled run as the command line does it; whether it was wanted."""
        with self.claimed(job) as claim:
            if claim.wanted and end != "silent":
                outcome = Outcome.RUNNING if end == "dies" else None
                self.record(job, claim, end if isinstance(end, BaseException) else None, outcome)
            return claim.wanted

    def record(self, job: str, claim: Claim, error: BaseException | None = None, outcome: Outcome | None = None) -> Run:
        code = error.exit_code if isinstance(error, BackupError | Interrupted) else 0
        how = Outcome.INTERRUPTED if isinstance(error, Interrupted) else Outcome.FAILED if error else Outcome.SUCCESS
        run = Run(
            id=f"{self.now:%Y%m%dT%H%M%SZ}-{job}",
            operation=operation_of(job),
            tier=tier_of(job),
            trigger=claim.trigger,
            slot=claim.slot,
            slots=claim.slots,
            started=self.now,
            ended=None if outcome else self.now,
            outcome=outcome or how,
            exit_code=code,
        )
        if not isinstance(error, LockHeld):  # it has none before it has the lock
            self.records.end(run)
        self.slots.append((job, claim.slot, claim.slots))
        return run

    def spawn(self, job: str) -> subprocess.Popen[bytes]:
        self.started.append(job)
        end = self.ends(job)
        script = end if isinstance(end, str) and " " in end else "exit 0"
        if script == "exit 0":
            self.run(job, end)
        if isinstance(end, BackupError | Interrupted):
            script = f"exit {end.exit_code}"
        self.children.append(subprocess.Popen(["sh", "-c", script]))
        return self.children[-1]

    def ticks(self, seconds: float = 60, jump: timedelta = timedelta(), busy: bool = False, step: int = 1) -> list[str]:
        """Let time pass, the clock jump before; what was started in it."""
        self.now += jump
        before = len(self.started)
        for _ in range(int(seconds / step)):
            self.scheduler.tick(self.now, self.steady, busy=busy)
            while self.children:
                self.children.pop().wait()
            self.now += timedelta(seconds=step)
            self.steady += step
        return self.started[before:]

    def said(self) -> list[str]:
        state = self.state()
        return [each.text for each in reasons(self.file, state, self.runs(), self.jobs, self.now, self.zone)]

    def last(self, job: str) -> str:
        run = last_run(job, self.runs(), self.now)
        return last_words(run, reason_of(run, self.state().jobs.get(job)), self.zone) if run else "none yet"


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


# --- missed runs ------------------------------------------------------------------------------------------------------


def test_what_was_missed_while_it_was_down_is_caught_up_once(service: Service) -> None:
    service.was_up(20)
    service.scheduler.open()
    assert service.ticks(20) == ["daily", "weekly", "monitor"]
    assert [(job, slots) for job, _, slots in service.slots] == [("daily", 20), ("weekly", 3), ("monitor", 80)]
    assert {run.trigger for run in service.runs()} == {"catch-up"}
    assert service.last("daily").endswith("done; caught up, once for 20; the service was not running")
    assert service.ticks(600) == []
    # Nor in the next life, nor when the records are removed, nor for who comes by.
    service.begin()
    assert service.ticks(60) == []
    for record in (service.root / "state" / "runs").iterdir():
        record.unlink()
    service.begin()
    assert service.ticks(60) == [] and not service.run("daily")


def test_a_new_service_has_missed_nothing(service: Service) -> None:
    service.scheduler.open()
    assert service.ticks(120) == [] and service.said() == []


@pytest.mark.parametrize("woken", [True, False])
def test_a_job_starts_at_its_slot_whether_the_scheduler_wakes_the_service_or_not(service: Service, woken: bool) -> None:
    service.scheduler.open()
    service.now = NOW.replace(hour=15, minute=59, second=52)  # monitor: 18:00 in Berlin
    assert service.ticks(8) == []
    if woken:
        service.scheduler.wake()
    assert service.ticks(1 if woken else 12) == ["monitor"]
    (run,) = service.runs()
    assert (run.trigger, run.slot) == ("schedule", NOW.replace(hour=16)) and service.last("monitor").endswith(" done")


def test_a_machine_that_slept_catches_up_when_it_wakes(service: Service) -> None:
    service.scheduler.open()
    service.ticks(5)
    assert service.ticks(5, jump=2 * DAY) == ["daily", "monitor"]
    assert "asleep" in service.last("daily")


def test_a_clock_ten_years_ahead_for_one_run_then_back(service: Service) -> None:
    service.scheduler.open()
    service.ticks(5)
    years = timedelta(days=3653)
    assert service.ticks(30, jump=years) == ["daily", "weekly", "monitor"]
    assert service.ticks(600, jump=-years) == []
    said = service.said()
    assert len(said) == 3 and all("the clock jumped" in text for text in said)
    assert service.ticks(5, jump=DAY) == ["daily", "monitor"]


@pytest.mark.parametrize(
    ("zone", "begin"),
    [
        ("Europe/Berlin", (2025, 3, 28)),
        ("Europe/Berlin", (2025, 10, 24)),
        ("America/New_York", (2025, 3, 7)),
        ("America/New_York", (2025, 10, 31)),
        ("Australia/Lord_Howe", (2025, 4, 3)),
        ("America/Sao_Paulo", (2018, 11, 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("cron", ["0 2 * * *", "30 2 * * *", "30 1 * * *", "0 0 * * *", "0 2 */1 * 1-7"])
@pytest.mark.long
def test_each_night_has_one_run_when_the_clock_changes(
    tmp_path: Path, zone: str, begin: tuple[int, int, int], cron: str
) -> None:
    where = ZoneInfo(zone)
    service = Service(tmp_path, {"daily": cron}, now=datetime(*begin, 12, tzinfo=where).astimezone(UTC), zone=where)
    service.scheduler.open()
    began, nights = service.now, 3
    for _ in range(nights):
        # The service looks for a day, and is started anew in between.
        service.ticks(86400 / 2, step=900)
        service.begin()
        service.ticks(86400 / 2, step=900)
    expected = [slot for slot in moments_until(cron, began, service.now, where)]
    assert [slot for _, slot, _ in service.slots] == expected and {slots for *_, slots in service.slots} == {1}
    assert len({slot.astimezone(where).date() for slot in expected}) == len(expected) == nights
    assert {run.trigger for run in service.runs()} == {"schedule"}


def moments_until(cron: str, begin: datetime, end: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    for moment in moments(cron, begin, zone):
        if moment > end:
            return
        yield moment


def test_an_update_from_an_earlier_release_runs_no_slot_again_and_loses_none(tmp_path: Path) -> None:
    """Daily was served; weekly had begun when the machine went down; the monitor was due."""
    weekly = datetime(2025, 9, 28, 1, tzinfo=UTC)
    served = {
        "cron": JOBS["daily"],
        "zone": ZONE.key,
        "until": str(SLOT),
        "slot": str(SLOT),
        "before": str(SLOT - DAY),
        "begun": str(SLOT),
        "ended": str(SLOT),
        "exit_code": 20,
    }
    began = served | {"cron": JOBS["weekly"], "until": str(weekly), "before": str(weekly - 7 * DAY), "ended": None}
    due = {"cron": JOBS["monitor"], "zone": ZONE.key, "until": str(NOW - DAY)}
    service = Service(tmp_path)
    service.file.path.write_text(
        json.dumps({"version": 1, "jobs": {"daily": served, "weekly": began, "monitor": due}, "notes": []})
    )
    service.record("weekly", Claim(trigger="schedule", slot=weekly, slots=1), outcome=Outcome.RUNNING)
    service.now += timedelta(minutes=5)
    service.begin()
    service.scheduler.open()
    assert service.ticks(60) == ["weekly", "monitor"]
    assert service.slots[1:] == [("weekly", weekly, 1), ("monitor", NOW - timedelta(hours=2), 4)]


# --- other runs -------------------------------------------------------------------------------------------------------


def test_nothing_is_caught_up_beside_another_run(service: Service) -> None:
    service.was_up(3)
    service.scheduler.open()
    assert service.ticks(30, busy=True) == []
    with hold(service.root / "state" / "lock", "create manual", "x"):
        assert service.ticks(30) == ["monitor"]  # it takes no lock
    assert service.ticks(30) == ["daily"]


def test_what_is_late_waits_while_the_lock_cannot_be_read(service: Service) -> None:
    lock = service.root / "state" / "lock"
    service.was_up(3)
    service.scheduler.open()
    lock.symlink_to("elsewhere")
    assert service.ticks(30) == ["monitor"]
    lock.unlink()
    assert service.ticks(30) == ["daily"]


def test_a_run_at_its_slot_queues_itself_behind_another_one(tmp_path: Path) -> None:
    service = Service(tmp_path, DAILY | {"weekly": DAILY["daily"]}, now=SLOT - timedelta(seconds=5))
    service.scheduler.open()
    with hold(tmp_path / "state" / "lock", "drill", "x"):
        assert service.ticks(30, busy=True) == ["weekly"]  # the first backup is a daily one
        assert service.ticks(30) == ["daily"]
    assert {run.trigger for run in service.runs()} == {"schedule"}


def test_two_jobs_of_one_moment_start_at_once(tmp_path: Path) -> None:
    service = Service(tmp_path, {"daily": "0 2 * * *", "weekly": "0 2 * * *"}, now=SLOT - timedelta(seconds=1))
    service.ends = lambda job: "sleep 100"
    service.scheduler.open()
    for seconds in range(3):
        service.scheduler.wake()
        service.scheduler.tick(service.now + timedelta(seconds=seconds), seconds, busy=False)
    assert service.started == ["daily", "weekly"]
    for child in service.children:
        child.kill()
        child.wait()


def test_the_same_job_does_not_run_twice_at_once(service: Service) -> None:
    service.was_up(3)
    service.scheduler.open()
    with service.claimed("daily") as claim:
        assert claim.wanted and (claim.slot, claim.slots, claim.trigger) == (SLOT, 3, "catch-up")
        assert not service.run("daily") and service.run("monitor")
        # Another container runs it: it is neither started nor missed.
        assert service.ticks(120) == [] and service.said() == []
        service.now += DAY
        with service.claimed("daily") as second:
            assert not second.wanted and "running already" in second.said
    assert not service.file.is_running("daily")


def test_the_second_run_for_a_slot_does_nothing(service: Service) -> None:
    service.was_up(3)
    assert service.run("daily") and not service.run("daily")
    with service.claimed("daily") as claim:
        assert "is not due: its slots until 2025-10-02 02:00:00" in claim.said
    with service.claimed("daily", force=True) as claim:  # the first backup
        assert claim.wanted and claim.slot is None


def test_a_clock_that_was_put_right_by_seconds_costs_no_slot(service: Service) -> None:
    service.was_up(1)
    service.now = SLOT - timedelta(seconds=3)
    with service.claimed("daily") as claim:
        assert claim.wanted and claim.slot == SLOT
    service.now -= timedelta(seconds=3)
    with service.claimed("daily") as claim:
        assert not claim.wanted


def test_two_services_of_one_volume_run_a_slot_once(service: Service) -> None:
    service.was_up(3)
    other = Service(service.root)
    for each in (service, other):
        each.scheduler.open()
    assert [service.ticks(30), other.ticks(30)] == [["daily", "monitor"], []]
    assert [service.ticks(30), other.ticks(30)] == [[], []]


def test_two_services_with_other_lines_lose_no_slot(tmp_path: Path) -> None:
    one = Service(tmp_path, DAILY, now=SLOT - timedelta(minutes=5))
    others = [
        Service(tmp_path, DAILY, now=one.now, zone=ZoneInfo("Europe/Paris")),
        Service(tmp_path, {"monitor": JOBS["monitor"]}, now=one.now),
    ]
    for each in (one, *others):
        each.scheduler.open()
    for _ in range(90):
        for each in (one, *others):
            each.ticks(10)
    assert one.started == ["daily"] and len(others[0].started) <= 1


def test_a_line_that_could_not_be_noted_keeps_no_run_from_its_work(service: Service) -> None:
    service.was_up(1)
    service.jobs = DAILY | {"daily": "30 13 * * *"}
    service.now = NOW - timedelta(minutes=30)
    with service.claimed("daily") as claim:
        assert claim.wanted and claim.slot is None


def test_a_run_that_was_marked_before_it_began_is_due_again(service: Service) -> None:
    """The machine went down, and came up with a clock that was not set yet."""
    service.was_up(1)
    run = service.record("daily", Claim(trigger="schedule", slot=SLOT), outcome=Outcome.RUNNING)
    old = run.started - 2000 * DAY
    service.records.end(run.model_copy(update={"ended": old, "outcome": Outcome.CRASHED, "exit_code": 137}))
    service.scheduler.since = old
    service.scheduler.open()
    assert "daily" in service.ticks(30)


def test_what_was_stopped_by_hand_is_not_said_to_be_caught_up(service: Service) -> None:
    service.now = SLOT - timedelta(seconds=5)
    service.begin()
    service.scheduler.open()
    service.ends = lambda job: Interrupted(signal.SIGTERM)
    assert service.ticks(30) == ["daily"]
    service.ticks(900, step=10)
    (found,) = reasons(service.file, service.state(), service.runs(), service.jobs, service.now, service.zone)
    assert found.hint.startswith("It was stopped by hand")


def test_commands_of_somebody_elses_schedule_need_no_service(service: Service) -> None:
    assert service.run("daily") and not service.run("daily")
    assert service.runs()[0].trigger == "schedule"
    service.now += DAY
    assert service.run("daily") and not service.run("daily")
    assert service.runs()[0].slot == SLOT + DAY


def test_a_state_that_cannot_be_read_keeps_no_run_from_its_work(tmp_path: Path) -> None:
    service = Service(tmp_path)
    (tmp_path / "state").rmdir()
    (tmp_path / "state").write_text("a file")
    with service.claimed("daily") as claim:
        assert claim == Claim()


# --- how runs end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "starts"),
    [
        (DumpFailed("no"), 1),
        (LockHeld("busy"), 3),
        (Interrupted(signal.SIGTERM), 1),
        (Interrupted(signal.SIGINT), 1),
    ],
    ids=["failed", "busy", "SIGTERM", "SIGINT"],
)
def test_what_was_broken_off_is_tried_again_three_times(tmp_path: Path, error: BaseException, starts: int) -> None:
    service = Service(tmp_path, DAILY)
    service.was_up(3)
    service.ends = lambda job: error
    service.scheduler.open()
    # What somebody stopped rests until the next start or slot.
    assert service.ticks(600) == ["daily"] * starts
    broken_off = not isinstance(error, DumpFailed)
    for life in range(3):
        service.begin()
        assert service.ticks(60) == (["daily"] if broken_off and starts + life < 3 else [])
    if isinstance(error, LockHeld):
        assert [run.outcome for run in service.runs()] == [Outcome.CRASHED, Outcome.INTERRUPTED, Outcome.INTERRUPTED]
        assert service.runs()[0].message == "another run held the backup volume all the time"
    assert {(run.slot, run.slots) for run in service.runs()} == {(SLOT, 3)}
    service.ends = lambda job: None
    assert service.ticks(5, jump=DAY) == ["daily"] and service.slots[-1] == ("daily", SLOT + DAY, 1)


def test_a_stopped_run_is_due_again_at_the_next_start(tmp_path: Path) -> None:
    service = Service(tmp_path, DAILY)
    service.was_up(3)
    service.ends = lambda job: Interrupted(signal.SIGTERM)
    assert service.ticks(60) == ["daily"]
    (said,) = service.said()
    assert said.startswith("daily should have run at 2025-10-02 02:00 Europe/Berlin and 2 times before and has not")
    service.begin()
    service.ends = lambda job: None
    assert service.ticks(60) == ["daily"] and "the run was interrupted" in service.last("daily")
    assert service.said() == []


def test_a_job_that_dies_before_it_can_record_anything_is_recorded_once(service: Service) -> None:
    service.was_up(3)
    service.ends = lambda job: "exit 7"
    service.scheduler.open()
    assert service.ticks(300) == ["daily", "monitor"]
    daily, monitor = sorted(service.runs(), key=lambda each: each.operation)
    assert (daily.operation, daily.tier, daily.outcome, daily.exit_code) == ("create", "daily", Outcome.CRASHED, 7)
    assert (daily.slot, daily.slots, daily.trigger) == (SLOT, 3, "catch-up")
    assert "code 7 before it could record anything" in daily.message
    assert monitor.operation == "monitor"
    (said,) = service.said()
    assert said.startswith("monitor: the run ended with code 7")  # the backup's own record is told by health


def test_a_run_by_hand_meanwhile_is_not_taken_for_that_of_the_slot(tmp_path: Path) -> None:
    service = Service(tmp_path, DAILY)
    service.was_up(3)

    def die(job: str) -> str:
        service.record("daily", Claim(trigger="manual"))
        return "exit 7"

    service.ends = die
    assert service.ticks(300) == ["daily"] and "has not" not in "".join(service.said())
    service.ends = lambda job: None
    assert service.ticks(5, jump=DAY) == ["daily"]


def test_a_job_with_nothing_to_do_is_settled_without_a_record(service: Service) -> None:
    service.was_up(3)
    service.ends = lambda job: "silent"
    assert service.ticks(300) == ["daily", "monitor"]
    assert service.runs() == [] and service.said() == []
    service.begin()
    assert service.ticks(60) == []


def killed(service: Service, begun: datetime) -> None:
    """A run that has begun, and that nobody is at."""
    now, service.now = service.now, begun
    service.record("daily", Claim(trigger="schedule", slot=SLOT, slots=1), outcome=Outcome.RUNNING)
    service.now = now


@pytest.mark.parametrize("marked", [False, True], ids=["running", "marked"])
def test_a_run_that_was_killed_is_not_repeated(tmp_path: Path, marked: bool) -> None:
    service = Service(tmp_path, DAILY)
    service.was_up(1)
    service.scheduler.open()
    killed(service, NOW + timedelta(seconds=1))
    service.now += timedelta(minutes=1)
    if marked:
        service.records.mark_crashed(service.now)
    assert service.ticks(120) == []
    assert "crashed; create ended without a record" in service.last("daily") or not marked
    service.begin()
    assert service.ticks(120) == []


@pytest.mark.parametrize("code", [137, 20, 130])
def test_a_clock_that_is_set_back_while_a_run_is_at_work_repeats_nothing_and_invents_no_second_end(
    tmp_path: Path, code: int
) -> None:
    """What was killed looks as if it had gone down with the machine; what began again by an earlier clock, as if it
    had left no record."""
    service = Service(tmp_path, DAILY)
    service.was_up(1)
    service.scheduler.since -= DAY
    outcome = {137: Outcome.RUNNING, 20: Outcome.FAILED, 130: Outcome.INTERRUPTED}[code]

    def end(job: str) -> str:
        service.now -= timedelta(hours=1)  # while it waits for the lock
        with service.claimed(job) as claim:
            run = service.record(job, claim, outcome=outcome)
            service.records.end(run.model_copy(update={"exit_code": 0 if code == 137 else code, "ended": None}))
        service.now -= timedelta(hours=1)
        service.records.mark_crashed(service.now)
        return f"exit {code}"

    service.ends = end
    assert service.ticks(120) == ["daily"]
    (run,) = service.runs()
    assert run.exit_code == code and "could record" not in run.message
    service.ends = lambda job: None
    # What was interrupted by hand waits for the next slot.
    assert service.ticks(120) == [] and service.ticks(120, jump=timedelta(hours=3)) == []


@pytest.mark.parametrize("marked", [False, True], ids=["running", "marked"])
def test_a_run_that_went_down_with_the_machine_is_caught_up(tmp_path: Path, marked: bool) -> None:
    service = Service(tmp_path, DAILY)
    service.was_up(1)
    killed(service, SLOT)
    service.begin()
    if marked:
        service.records.mark_crashed(service.now)
    service.scheduler.open()
    assert service.ticks(30) == ["daily"]
    assert service.last("daily").endswith("the run was killed together with the service")
    assert service.slots[-1] == ("daily", SLOT, 1)


def test_a_run_that_takes_the_machine_down_each_time_is_tried_three_times(tmp_path: Path) -> None:
    service = Service(tmp_path, DAILY)
    service.was_up(1)
    killed(service, SLOT)
    service.ends = lambda job: "dies"
    starts = []
    for _ in range(4):
        service.now += timedelta(minutes=10)
        service.begin()
        service.records.mark_crashed(service.now)
        starts += [service.ticks(1)]  # and the machine is down
    assert starts == [["daily"], ["daily"], [], []]


# --- a volume that fails ----------------------------------------------------------------------------------------------


def test_a_failing_disk_is_no_storm(tmp_path: Path) -> None:
    service = Service(tmp_path)
    (tmp_path / "state").rmdir()
    (tmp_path / "state").write_text("a file")
    service.scheduler.open()
    begun = time.monotonic()
    assert service.ticks(120) == []
    assert time.monotonic() - begun < 30


class Full(Service):
    """A service whose volume takes nothing."""

    def begin(self) -> None:
        class Unwritable(ScheduleFile):
            def write(self, state: ScheduleState) -> None:
                raise BackupError("no space")

        class Lossy(Records):
            def end(self, run: Run) -> None:
                raise BackupError("no space")

        self.file, self.records = Unwritable(self.root), Lossy(self.root / "state" / "runs")
        super().begin()


@pytest.mark.parametrize("end", ["exit 30", "silent"])
def test_a_volume_that_takes_nothing_is_no_storm_and_what_ended_is_recorded_later(tmp_path: Path, end: str) -> None:
    Service(tmp_path).was_up(3)
    service = Full(tmp_path)
    service.ends = lambda job: end
    service.scheduler.open()
    assert service.ticks(600) == ["daily", "monitor"]
    assert len(service.scheduler.lost()) == (2 if end == "exit 30" else 0)
    assert service.ticks(6 * 3600, step=30)[0] == "monitor"  # its next slot
    service.file, service.records = ScheduleFile(tmp_path), Records(tmp_path / "state" / "runs")
    service.scheduler.file, service.scheduler.records = service.file, service.records
    service.ticks(30)
    # Of the monitor, the next run has left its record by then: one is enough.
    assert service.scheduler.lost() == () and len(service.runs()) == (3 if end == "exit 30" else 0)
    service.begin()
    assert service.ticks(30) == []


def test_what_is_kept_out_is_tried_three_times_also_where_that_cannot_be_recorded(tmp_path: Path) -> None:
    Service(tmp_path, DAILY).was_up(3)
    service = Full(tmp_path, DAILY)
    service.ends = lambda job: LockHeld("busy")
    assert service.ticks(600) == ["daily"] * 3


def test_an_end_that_cannot_be_recorded_stays_in_mind_until_it_can(service: Service) -> None:
    service.scheduler.open()
    runs = service.root / "state" / "runs"
    runs.write_text("in the way")
    ended = Run(id="first", operation="create", tier="daily", started=NOW, ended=NOW, outcome=Outcome.CRASHED)
    service.scheduler.leave(ended)
    service.ticks(30)
    assert service.scheduler.lost() == (ended,)
    runs.unlink()
    service.ticks(30)
    assert service.scheduler.lost() == () and service.runs() == [ended]
    service.scheduler.leave(ended.model_copy(update={"id": "again"}))
    assert service.runs() == [ended]


def test_a_damaged_record_stops_no_job(service: Service) -> None:
    service.was_up(3)
    (service.root / "state" / "runs").mkdir()
    (service.root / "state" / "runs" / "x.json").write_text("{")
    assert service.ticks(60) == ["daily", "monitor"]
    assert service.ticks(600) == []


# --- what is said -----------------------------------------------------------------------------------------------------


def test_a_run_that_nobody_is_at_is_not_shown_as_running(service: Service) -> None:
    service.was_up(1)
    killed(service, SLOT)
    (dead,) = service.records.all(lambda run: False)
    words = last_words(dead, reason_of(dead, None), ZONE)
    assert words.endswith("crashed; create ended without a record: killed, or the machine went down")
    assert service.last("daily").endswith("running")


def test_what_stays_missed_is_told(service: Service) -> None:
    service.was_up(3)
    daily, monitor = service.said()
    assert daily == "daily should have run at 2025-10-02 02:00 Europe/Berlin and 2 times before and has not"
    assert monitor.startswith("monitor should")
    service.now -= 3 * DAY
    assert service.said() == []
    # One that is due just now is none yet.
    service.now = SLOT - 2 * DAY + timedelta(seconds=5)
    jobs = service.jobs
    assert not find_missed(service.file, service.state(), [], {"daily": jobs["daily"]}, service.now, ZONE)


def test_of_several_sets_that_were_drilled_the_worst_is_shown(tmp_path: Path) -> None:
    service = Service(tmp_path, {"drill": "0 6 * * 0"})
    for code in (41, 0):
        run = service.record("drill", Claim(trigger="schedule", slot=SLOT, slots=1))
        outcome = Outcome.FAILED if code else Outcome.SUCCESS
        service.records.end(run.model_copy(update={"id": str(code), "exit_code": code, "outcome": outcome}))
        service.now += timedelta(minutes=1)
    assert service.last("drill").endswith("ended with code 41")
