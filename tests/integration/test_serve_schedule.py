"""The service catches up what was missed: real processes, the real supercronic, the real command line."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.catalog.scheduler_state import ScheduleFile, ScheduleState
from backup.model.manifest import DatabasePart, Manifest, Tier, set_id
from backup.model.run import Outcome, Run
from backup.model.schedule import passed
from backup.service.supervisor import scan
from tests.support.schemas import checked

ROOT = Path(__file__).parents[2]
UTC_ZONE = ZoneInfo("UTC")
OFF = {f"BACKUP_{name}": "off" for name in ("WEEKLY", "MONTHLY", "DRILL", "CLEANUP", "MONITOR", "REPORT")}


def eventually(what: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true answer of `what`."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.05)
    return answer


@dataclass
class Served:
    """`serve` as a process; its backups fail fast, because there is no database, and that is recorded."""

    place: Path
    supercronic: str
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        return self.place / "backups"

    @property
    def file(self) -> ScheduleFile:
        return ScheduleFile(self.root)

    def state(self) -> ScheduleState:
        return self.file.read(datetime.now(UTC))

    def runs(self) -> list[Run]:
        return Records(self.root / "state" / "runs").all()

    def start(self, **environment: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self.environment = {
            "PATH": f"{self.place}:{os.environ['PATH']}",
            "BACKUP_DIR": str(self.root),
            "BACKUP_VOLUMES_DIR": str(self.place / "volumes"),
            "BACKUP_SPOOL_DIR": str(self.place / "spool"),
            "BACKUP_HTTP_HOST": "127.0.0.1",
            "BACKUP_HTTP_PORT": str(port),
            "BACKUP_ALLOW_EMPTY": "none",
            "XDG_RUNTIME_DIR": str(self.place / "run"),
            "DOCKER_HOST": f"unix://{self.place}/no-engine",
            "TZ": "UTC",
        }
        self.environment |= OFF | environment
        with (self.place / "output").open("ab") as output:
            command = [sys.executable, str(ROOT / "entrypoint.py"), "serve"]
            self.process = subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)
        eventually(lambda: "health: http" in self.output())

    def command(self, *words: str) -> str:
        command = [sys.executable, str(ROOT / "entrypoint.py"), *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60).stdout

    def output(self) -> str:
        return (self.place / "output").read_text()

    def scheduler(self) -> int:
        assert self.process
        for process in scan():
            with contextlib.suppress(OSError):
                line = (Path("/proc") / str(process.pid) / "cmdline").read_bytes()
                if process.parent == self.process.pid and b"-no-reap" in line:
                    return process.pid
        return 0

    def end(self) -> None:
        assert self.process
        self.process.terminate()
        assert self.process.wait(30) == 0


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    beside = Path(sys.executable).parent / "supercronic"
    found = shutil.which(os.environ.get("SUPERCRONIC") or "supercronic") or shutil.which(beside)
    assert found, "supercronic is not installed: run tools/supercronic, or set SUPERCRONIC to its path"
    (tmp_path / "supercronic").symlink_to(found)
    (tmp_path / "backups").mkdir()
    publish(tmp_path / "backups")
    served = Served(tmp_path, found)
    yield served
    if served.process and served.process.poll() is None:
        served.process.kill()
        served.process.wait()
    for process in scan():
        with contextlib.suppress(OSError):
            if str(tmp_path).encode() in (Path("/proc") / str(process.pid) / "environ").read_bytes():
                os.kill(process.pid, signal.SIGKILL)


def publish(root: Path) -> None:
    """A good set, so that no first backup is taken."""
    started = datetime.now(UTC) - timedelta(hours=1)
    part = DatabasePart(
        name="obcms", oid=1, system_identifier="7", server_version="17", client_version="17", command=(), rows={}
    )
    manifest = Manifest(
        id=set_id(Tier.MANUAL, started, UTC_ZONE),
        tier=Tier.MANUAL,
        run="r",
        started=started,
        ended=started,
        started_local="",
        ended_local="",
        zone="UTC",
        product_version="0",
        artifacts=(),
        database=part,
    )
    Catalog(root, UTC_ZONE).publish(manifest, [])


def was_down(served: Served, days: int, **jobs: str) -> None:
    """As if the service had last run some days ago."""
    (served.root / "state").mkdir(exist_ok=True)
    served.file.write(ScheduleState().counted(jobs, datetime.now(UTC) - timedelta(days=days), UTC_ZONE))


def test_slots_missed_while_it_was_down_are_caught_up_once(served: Served) -> None:
    lines = {"daily": "0 2 * * *", "weekly": "0 3 * * 0", "drill": "0 6 * * 0"}
    was_down(served, 10, **lines)
    expected = {
        job: passed(cron, datetime.now(UTC) - timedelta(days=10), datetime.now(UTC), UTC_ZONE)
        for job, cron in lines.items()
    }
    served.start(BACKUP_DAILY=lines["daily"], BACKUP_WEEKLY=lines["weekly"], BACKUP_DRILL=lines["drill"])
    eventually(lambda: len(runs := served.runs()) == 3 and all(run.ended for run in runs), 60)
    daily, weekly, drill = sorted(served.runs(), key=lambda run: run.started)
    assert (daily.tier, weekly.tier, drill.operation) == ("daily", "weekly", "drill")
    for job, run in zip(lines, (daily, weekly, drill), strict=True):
        assert (run.trigger, run.outcome, (run.slot, run.slots)) == ("catch-up", Outcome.FAILED, expected[job])
    assert "was missed: the service was not running; it is caught up now" in served.output()
    told = checked(served.command("schedule", "--json"))["jobs"]
    last = next(each["last"] for each in told if each["job"] == "daily")
    assert last["trigger"] == "catch-up" and last["exit_code"] == daily.exit_code and last["slots"] == daily.slots
    # Another container comes by: there is nothing left to do.
    assert "is not due" in served.command("create", "--scheduled", "daily")
    assert len(served.runs()) == 3
    served.end()


def test_a_frozen_scheduler_costs_no_slot_and_no_second_run(served: Served) -> None:
    """SIGSTOP over a slot, which the service keeps; SIGCONT, and nothing is left to do."""
    cron = f"0 {(datetime.now(UTC) - timedelta(hours=12)).hour} * * *"
    served.start(BACKUP_DAILY=cron)
    os.kill(eventually(served.scheduler), signal.SIGSTOP)
    # As if the slot of twelve hours ago were that of now.
    state = eventually(lambda: (now := served.state()).jobs and now)
    served.file.write(state.with_job("daily", until=datetime.now(UTC) - timedelta(days=1)))
    run = eventually(lambda: (runs := served.runs()) and runs[0].ended and runs[0])
    os.kill(served.scheduler(), signal.SIGCONT)
    assert (run.slots, run.trigger) == (1, "catch-up")
    eventually(lambda: served.state().jobs["daily"].until == run.slot)
    assert "is not due" in served.command("create", "--scheduled", "daily")
    served.end()
    assert served.runs() == [run]


def test_a_job_that_dies_at_import_is_recorded_and_red(served: Served) -> None:
    was_down(served, 2, daily="0 2 * * *")
    (served.place / "broken").mkdir()
    (served.place / "broken" / "sitecustomize.py").write_text(
        "import os\nif b'--scheduled' in open('/proc/self/cmdline', 'rb').read(): os._exit(9)\n"
    )
    served.start(BACKUP_DAILY="0 2 * * *", PYTHONPATH=str(served.place / "broken"))
    (crashed,) = eventually(served.runs)
    assert (crashed.operation, crashed.tier, crashed.exit_code, crashed.slots) == ("create", "daily", 9, 2)
    assert crashed.outcome is Outcome.CRASHED and "before it could record anything" in crashed.message
    eventually(lambda: "the last daily backup crashed" in served.command("healthcheck"))
    assert "crashed" in served.command("schedule")
    served.end()
    assert len(served.runs()) == 1
