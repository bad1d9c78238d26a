"""The accounts of the schedule on disk: shared, kept through kills, and never a storm when they are damaged."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from backup.catalog.run_records import Records
from backup.catalog.scheduler_state import FILE, Ledger
from backup.cli.service import last_run
from backup.errors import DumpFailed, Interrupted, LockHeld
from backup.model.run import Outcome, Run
from backup.model.schedule import Account
from backup.operations.catch_up import Accounting, reasons
from backup.operations.jobs import COMMANDS, job_of
from backup.operations.scheduled_run import fulfil
from backup.storage.lock import hold
from backup.storage.staged_file import staged_name

ZONE = ZoneInfo("Europe/Berlin")
NOW = datetime(2025, 10, 2, 12, 0, tzinfo=UTC)
JOBS = {"daily": "0 2 * * *", "weekly": "0 3 * * 0", "monitor": "0 */6 * * *"}
SLOT = datetime(2025, 10, 2, 0, 0, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def opened_before(ledger: Ledger, days: int = 3, jobs: dict[str, str] = JOBS) -> None:
    ledger.open(jobs, NOW - timedelta(days=days), ZONE)


def one(ledger: Ledger, job: str = "daily") -> Account:
    return ledger.read(NOW).jobs[job]


# --- the file --------------------------------------------------------------------------------------------------------


def test_what_was_opened_is_read_again(ledger: Ledger) -> None:
    book = ledger.open(JOBS, NOW, ZONE)
    assert set(book.jobs) == set(JOBS) and ledger.read(NOW) == book
    before = ledger.path.stat().st_ino
    assert ledger.open(JOBS, NOW + timedelta(hours=1), ZONE) == book
    assert ledger.path.stat().st_ino == before  # nothing new, nothing written
    assert ledger.path.stat().st_mode & 0o777 == 0o600


def test_a_job_that_was_off_counts_from_when_it_is_on_again(ledger: Ledger) -> None:
    opened_before(ledger)
    assert "daily" not in ledger.open(JOBS | {"daily": ""}, NOW - timedelta(days=2), ZONE).jobs
    assert ledger.open(JOBS, NOW, ZONE).jobs["daily"].until == NOW


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\0" * 4096,
        b"[]",
        b'{"version": 2, "jobs": {}}',
        b'{"version": 1, "jobs": {"daily": 7}}',
        b"9" * 5000,
    ],
    ids=["empty", "cut", "zeros", "list", "newer", "wrong", "number"],
)
def test_accounts_that_cannot_be_read_start_anew_and_say_so(ledger: Ledger, damage: bytes) -> None:
    opened_before(ledger)
    ledger.path.write_bytes(damage)
    assert ledger.read(NOW).jobs == {} and len(ledger.read(NOW).notes) == 1
    book = ledger.open(JOBS, NOW, ZONE)
    assert {account.until for account in book.jobs.values()} == {NOW}
    (reason,) = reasons(ledger.read(NOW), JOBS, NOW, ZONE)
    assert reason.level == "warn" and "could not be read" in reason.text
    assert reasons(ledger.read(NOW), JOBS, NOW + timedelta(minutes=1), ZONE)
    later = NOW + timedelta(days=3)
    assert not any("could not" in reason.text for reason in reasons(ledger.read(later), JOBS, later, ZONE))


@pytest.mark.parametrize("kind", ["link", "directory", "huge"])
def test_something_else_of_that_name_is_not_followed(ledger: Ledger, tmp_path: Path, kind: str) -> None:
    ledger.path.parent.mkdir()
    if kind == "link":
        (tmp_path / "other").write_text("mine")
        ledger.path.symlink_to(tmp_path / "other")
    elif kind == "directory":
        ledger.path.mkdir()
    else:
        with ledger.path.open("wb") as file:
            file.truncate(2 << 20)
    assert set(ledger.open(JOBS, NOW, ZONE).jobs) == set(JOBS)
    assert set(ledger.read(NOW).jobs) == set(JOBS)
    assert kind != "link" or (tmp_path / "other").read_text() == "mine"


def test_what_a_killed_writer_left_is_no_obstacle(ledger: Ledger) -> None:
    opened_before(ledger)
    (ledger.path.parent / staged_name(FILE)).write_text("half")
    assert ledger.open(JOBS | {"daily": "0 4 * * *"}, NOW, ZONE).jobs["daily"].cron == "0 4 * * *"


def test_accounts_from_the_future_are_told(ledger: Ledger) -> None:
    ledger.open(JOBS, NOW.replace(year=2035), ZONE)
    book = ledger.open(JOBS, NOW, ZONE)
    assert {account.until for account in book.jobs.values()} == {NOW}
    assert any("the clock jumped" in reason.text for reason in reasons(book, JOBS, NOW, ZONE))


# --- the run's side --------------------------------------------------------------------------------------------------


def run(ledger: Ledger, job: str = "daily", error: BaseException | None = None, force: bool = False) -> bool:
    """One scheduled run that ends with `error`; whether it was wanted."""
    with fulfil(ledger, job, JOBS[job], ZONE, lambda: NOW, force=force) as claim:
        if claim.wanted and error:
            raise error
        return claim.wanted


def test_the_second_run_for_a_slot_does_nothing(ledger: Ledger) -> None:
    opened_before(ledger)
    assert run(ledger)
    account = one(ledger)
    assert (account.slot, account.slots, account.trigger, account.exit_code) == (SLOT, 3, "catch-up", 0)
    assert not run(ledger)
    assert one(ledger) == account
    assert run(ledger, force=True)  # the first backup
    assert one(ledger) == account


def test_a_command_run_by_itself_needs_no_service(ledger: Ledger) -> None:
    assert run(ledger)
    assert one(ledger).exit_code == 0


@pytest.mark.parametrize(
    ("error", "code", "again"),
    [
        (DumpFailed("no"), 20, False),
        (LockHeld("busy"), 11, True),
        (Interrupted(signal.SIGTERM), 143, True),
        (KeyboardInterrupt(), 130, True),
        (SystemExit(3), 3, False),
        (ValueError("a bug"), 1, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_how_it_ended_is_noted(ledger: Ledger, error: BaseException, code: int, again: bool) -> None:
    opened_before(ledger)
    with pytest.raises(type(error)):
        run(ledger, error=error)
    assert one(ledger).exit_code == code
    assert run(ledger) == again


def test_the_same_job_does_not_run_twice_at_once(ledger: Ledger) -> None:
    opened_before(ledger)
    with fulfil(ledger, "daily", JOBS["daily"], ZONE, lambda: NOW) as claim:
        assert claim.wanted and ledger.runs("daily")
        assert not run(ledger)
        assert run(ledger, "weekly") is False and not ledger.runs("weekly")
        # Its next slot comes while it still runs: left owed, for when it has ended.
        with fulfil(ledger, "daily", JOBS["daily"], ZONE, lambda: NOW + timedelta(days=1)) as second:
            assert not second.wanted and "running already" in second.said
    assert not ledger.runs("daily")


def test_accounts_that_cannot_be_written_keep_no_run_from_its_work(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    assert run(Ledger(tmp_path))


def test_the_commands_are_known_by_what_they_are() -> None:
    assert {job: job_of(command) for job, command in COMMANDS.items()} == {job: job for job in COMMANDS}
    for argv in (["create", "daily"], ["create"], [], ["monitor", "--scheduled"], ["create", "manual", "--scheduled"]):
        assert job_of(argv) == ""


# --- the service's side ----------------------------------------------------------------------------------------------


class Service:
    """An Accounting whose clock is the test's; `script` is what every job runs."""

    def __init__(self, root: Path, ledger: Ledger, script: Callable[[str], str] = lambda job: "exit 0") -> None:
        self.ledger, self.records = ledger, Records(root / "state" / "runs")
        self.started: list[str] = []
        self.held: frozenset[str] = frozenset()
        self.now, self.steady = NOW, 0.0
        self.script = script
        self.accounting = Accounting(
            ledger=ledger,
            records=self.records,
            lock=root / "state" / "lock",
            jobs=JOBS,
            zone=ZONE,
            spawn=self.spawn,
            held=lambda: self.held,
            since=NOW,
        )
        self.child: subprocess.Popen[bytes] | None = None

    def spawn(self, job: str) -> subprocess.Popen[bytes]:
        self.started.append(job)
        if self.script(job) == "claim":
            with fulfil(self.ledger, job, JOBS[job], ZONE, lambda: self.now):
                pass
        self.child = subprocess.Popen(["sh", "-c", self.script(job) if self.script(job) != "claim" else "exit 0"])
        return self.child

    def ticks(self, seconds: float = 60, jump: timedelta = timedelta(), busy: bool = False) -> list[str]:
        """Let time pass, the clock jump before; what was started in it."""
        self.now += jump
        before = len(self.started)
        for _ in range(int(seconds)):
            self.accounting.tick(self.now, self.steady, busy=busy)
            if self.child:
                self.child.wait()
            self.now += timedelta(seconds=1)
            self.steady += 1
        return self.started[before:]


@pytest.fixture
def service(tmp_path: Path, ledger: Ledger) -> Service:
    return Service(tmp_path, ledger, lambda job: "claim")


def test_what_was_missed_while_it_was_down_is_caught_up_once(service: Service, ledger: Ledger) -> None:
    opened_before(ledger, days=20)
    service.accounting.open()
    assert service.ticks(20) == ["daily", "weekly", "monitor"]
    assert {job: one(ledger, job).slots for job in JOBS} == {"daily": 20, "weekly": 3, "monitor": 80}
    assert {account.reason for account in ledger.read(NOW).jobs.values()} == {"the service was not running"}
    assert service.ticks(600) == []


def test_an_end_that_cannot_be_recorded_stays_in_mind_until_it_can(service: Service, tmp_path: Path) -> None:
    service.accounting.open()
    runs = tmp_path / "state" / "runs"
    runs.write_text("in the way")
    ended = Run(id="first", operation="create", tier="daily", started=NOW, ended=NOW, outcome=Outcome.CRASHED)
    service.accounting.leave(ended)
    service.ticks(30)
    assert service.accounting.lost() == (ended,)
    runs.unlink()
    service.ticks(30)
    assert service.accounting.lost() == () and service.records.all() == [ended]
    service.accounting.leave(ended.model_copy(update={"id": "again"}))
    assert service.records.all() == [ended]


def test_a_new_service_owes_nothing(service: Service) -> None:
    service.accounting.open()
    assert service.ticks(120) == []


def test_a_slot_that_the_scheduler_misses_is_caught_up_after_the_grace(service: Service, ledger: Ledger) -> None:
    service.accounting.open()
    service.ticks(2)
    service.now = NOW.replace(hour=15, minute=59, second=50)  # monitor: 18:00 in Berlin
    service.accounting._clocks = (service.now, service.steady)
    assert service.ticks(90) == []
    assert service.ticks(30) == ["monitor"]
    assert one(ledger, "monitor").reason == "the scheduler did not start it"
    assert one(ledger, "monitor").trigger == "catch-up"


def test_a_line_held_back_from_the_scheduler_is_started_at_its_slot(service: Service, ledger: Ledger) -> None:
    service.accounting.open()
    service.ticks(2)
    service.held = frozenset({"monitor"})
    service.now = NOW.replace(hour=15, minute=59, second=50)
    service.accounting._clocks = (service.now, service.steady)
    assert service.ticks(25) == ["monitor"]
    assert one(ledger, "monitor").trigger == "schedule"


def test_a_machine_that_slept_catches_up_when_it_wakes(service: Service, ledger: Ledger) -> None:
    service.accounting.open()
    service.ticks(5)
    assert service.ticks(5, jump=timedelta(days=2)) == ["daily", "monitor"]
    assert "asleep" in one(ledger).reason


def test_a_clock_ten_years_ahead_for_one_run_then_back(service: Service, ledger: Ledger) -> None:
    service.accounting.open()
    service.ticks(5)
    years = timedelta(days=3653)
    assert service.ticks(30, jump=years) == ["daily", "weekly", "monitor"]
    assert service.ticks(600, jump=-years) == []
    said = reasons(ledger.read(service.now), JOBS, service.now, ZONE)
    assert len(said) == 3 and all("the clock jumped" in reason.text for reason in said)
    assert service.ticks(5, jump=timedelta(days=1)) == ["daily", "monitor"]


def test_nothing_is_started_beside_another_run(service: Service, ledger: Ledger, tmp_path: Path) -> None:
    opened_before(ledger)
    service.accounting.open()
    assert service.ticks(30, busy=True) == []
    with hold(tmp_path / "state" / "lock", "create manual", "x"):
        assert service.ticks(30) == ["monitor"]  # it takes no lock
    assert service.ticks(30) == ["daily"]


def test_a_job_that_dies_before_it_can_record_anything_is_recorded_once(tmp_path: Path, ledger: Ledger) -> None:
    service = Service(tmp_path, ledger, lambda job: "exit 7")
    opened_before(ledger)
    service.accounting.open()
    assert service.ticks(300) == ["daily", "monitor"]
    daily, monitor = sorted(service.records.all(), key=lambda each: each.operation)
    assert (daily.operation, daily.tier, daily.outcome, daily.exit_code) == ("create", "daily", Outcome.CRASHED, 7)
    assert (daily.slot, daily.slots, daily.trigger) == (SLOT, 3, "catch-up")
    assert "code 7 before it could record anything" in daily.message
    assert monitor.operation == "monitor"
    (said,) = reasons(ledger.read(service.now), JOBS, service.now, ZONE)
    assert said.text.startswith("monitor: the run ended with code 7")  # the backup's own record is told by health


def killed_run(ledger: Ledger, begun: datetime) -> None:
    with ledger.changing(begun) as draft:
        account = draft.book.jobs["daily"]
        account = account.model_copy(
            update={"until": SLOT, "slot": SLOT, "slots": 1, "begun": begun, "before": account.until, "tries": 1}
        )
        draft.book = draft.book.with_account("daily", account)


def test_a_run_that_was_killed_is_recorded_and_not_repeated(service: Service, ledger: Ledger) -> None:
    opened_before(ledger, jobs={"daily": JOBS["daily"]})
    service.accounting.open()
    killed_run(ledger, NOW + timedelta(seconds=1))
    assert service.ticks(120) == []
    (record,) = service.records.all()
    assert record.outcome is Outcome.CRASHED and "without a word" in record.message and record.slot == SLOT


def test_a_run_that_went_down_with_the_machine_is_caught_up(service: Service, ledger: Ledger) -> None:
    opened_before(ledger, jobs={"daily": JOBS["daily"]})
    killed_run(ledger, SLOT)
    service.accounting.open()
    assert service.ticks(30) == ["daily"]
    assert service.records.all() == [] and one(ledger).reason == "the run was killed together with the service"


def test_a_run_that_nobody_is_at_is_not_shown_as_running(ledger: Ledger) -> None:
    opened_before(ledger)
    killed_run(ledger, SLOT)
    assert last_run(ledger.seen(NOW).jobs["daily"], ZONE).endswith("crashed; the run ended without a word: killed?")
    with ledger.running("daily"):
        assert last_run(ledger.seen(NOW).jobs["daily"], ZONE).endswith("running")
    assert one(ledger).open and not one(ledger).crashed  # looking changes nothing


def test_a_run_that_still_goes_on_is_left_alone(service: Service, ledger: Ledger) -> None:
    opened_before(ledger, jobs={"daily": JOBS["daily"]})
    killed_run(ledger, SLOT)
    service.accounting.open()
    with ledger.running("daily"):
        assert service.ticks(120) == []
    assert one(ledger).exit_code == 0 or service.ticks(30) == ["daily"]


def test_accounts_on_a_failing_disk_are_no_storm(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    service = Service(tmp_path, Ledger(tmp_path))
    service.accounting.open()
    begun = time.monotonic()
    assert service.ticks(120) == []
    assert time.monotonic() - begun < 30


def test_what_stays_owed_is_told(ledger: Ledger) -> None:
    opened_before(ledger)
    book = ledger.read(NOW)
    daily, monitor = reasons(book, JOBS, NOW, ZONE)
    assert daily.text == "daily should have run at 2025-10-02 02:00 Europe/Berlin and 2 times before and has not"
    assert daily.level == "warn" and monitor.text.startswith("monitor should")
    assert reasons(book, JOBS, NOW - timedelta(days=3), ZONE) == []
