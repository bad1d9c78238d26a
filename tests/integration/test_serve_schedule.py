"""The service catches up what was missed: real processes, the real supercronic, the real command line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
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
from backup.catalog.scheduler_state import Ledger
from backup.model.manifest import DatabasePart, Manifest, Tier, set_id
from backup.model.run import Outcome, Run
from backup.model.schedule import Account, _started, crontab, misled, moments, passed, plain
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
    def ledger(self) -> Ledger:
        return Ledger(self.root)

    def account(self, job: str = "daily") -> Account:
        return self.ledger.read(datetime.now(UTC)).jobs[job]

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
    served.ledger.open(jobs, datetime.now(UTC) - timedelta(days=days), UTC_ZONE)


def test_slots_missed_while_it_was_down_are_caught_up_once(served: Served) -> None:
    lines = {"daily": "0 2 * * *", "weekly": "0 3 * * 0", "drill": "0 6 * * 0"}
    was_down(served, 10, **lines)
    expected = {
        job: passed(cron, datetime.now(UTC) - timedelta(days=10), datetime.now(UTC), UTC_ZONE)
        for job, cron in lines.items()
    }
    served.start(BACKUP_DAILY=lines["daily"], BACKUP_WEEKLY=lines["weekly"], BACKUP_DRILL=lines["drill"])
    eventually(lambda: all(served.account(job).ended for job in lines), 60)
    daily, weekly, drill = sorted(served.runs(), key=lambda run: run.started)
    assert (daily.tier, weekly.tier, drill.operation) == ("daily", "weekly", "drill")
    for job, run in zip(lines, (daily, weekly, drill), strict=True):
        assert (run.trigger, run.outcome, (run.slot, run.slots)) == ("catch-up", Outcome.FAILED, expected[job])
    assert "was missed: the service was not running; it is caught up now" in served.output()
    told = checked(served.command("schedule", "--json"))["jobs"]
    last = next(each["last"] for each in told if each["job"] == "daily")
    assert last["trigger"] == "catch-up" and last["exit_code"] == daily.exit_code and last["slots"] == daily.slots
    # The scheduler comes by as well, or another container: there is nothing left to do.
    assert "is not due" in served.command("create", "--scheduled", "daily")
    assert len(served.runs()) == 3
    served.end()


# supercronic alone knows seconds: its start comes soon instead of in half a day. The accounts know the line as it is.
SOON = """#!/bin/sh
for file; do :; done
sed -i 's|^0 [0-9]* \\* \\* \\* /|{line} /|' "$file"
exec {real} "$@"
"""


def test_a_frozen_scheduler_costs_no_slot_and_no_second_run(served: Served) -> None:
    """SIGSTOP over a slot, caught up by the service; SIGCONT, and the late start finds nothing due."""
    cron = f"0 {(datetime.now(UTC) - timedelta(hours=12)).hour} * * *"
    started = datetime.now(UTC) + timedelta(seconds=10)
    (served.place / "supercronic").unlink()
    wrapper = served.place / "supercronic"
    line = f"{started.second} {started.minute} {started.hour} * * * *"
    wrapper.write_text(SOON.format(real=served.supercronic, line=line))
    wrapper.chmod(0o700)
    served.start(BACKUP_DAILY=cron)
    eventually(lambda: "read crontab" in served.output())
    os.kill(eventually(served.scheduler), signal.SIGSTOP)
    assert datetime.now(UTC) < started
    # As if the slot of twelve hours ago were that of now.
    with served.ledger.changing(datetime.now(UTC)) as draft:
        account = served.account().model_copy(update={"until": datetime.now(UTC) - timedelta(days=1)})
        draft.book = draft.book.with_account("daily", account)
    slot = eventually(lambda: served.account().ended and served.account().slot)
    eventually(lambda: datetime.now(UTC) > started)
    os.kill(served.scheduler(), signal.SIGCONT)
    eventually(lambda: "daily is not due" in served.output())
    (run,) = served.runs()
    assert (run.slot, run.slots, run.trigger) == (slot, 1, "catch-up")
    served.end()


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


# --- what supercronic does on such nights, measured ------------------------------------------------------------------


def zone_file(path: Path, change: datetime, before: int, after: int) -> ZoneInfo:
    """A time zone whose clock changes once, at `change`: seconds east of UTC before and after."""
    names = b"AAA\0BBB\0"
    header = b"TZif" + b"\0" * 16 + struct.pack(">6l", 0, 0, 0, 1, 2, len(names))
    types = struct.pack(">lbB", before, 0, 0) + struct.pack(">lbB", after, 1, 4)
    path.write_bytes(header + struct.pack(">l", int(change.timestamp())) + bytes([1]) + types + names)
    with path.open("rb") as file:
        return ZoneInfo.from_file(file, key=str(path))


def next_starts(supercronic: str, place: Path, crontab: str, zone: str) -> dict[str, datetime]:
    """When supercronic says that it starts each line next."""
    (place / "crontab").write_text(crontab)
    count = sum(not line.startswith("#") for line in crontab.splitlines())
    command = [supercronic, "-debug", "-json", "-no-reap", str(place / "crontab")]
    with (place / "said").open("wb") as said:
        process = subprocess.Popen(command, env={"TZ": zone}, stdout=said, stderr=said)

    def starts() -> dict[str, datetime]:
        whole = (place / "said").read_text().rpartition("\n")[0]
        said = [json.loads(line) for line in whole.splitlines()]
        marked = [each for each in said if each["msg"].startswith("job will run next at ")]
        return {each["job.schedule"]: datetime.strptime(each["msg"][21:46], "%Y-%m-%d %H:%M:%S %z") for each in marked}

    try:
        return eventually(lambda: (now := starts()) and len(now) == count and now)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("step", [3600, -3600, 1800, -1800], ids=["gap", "twice", "half gap", "half twice"])
@pytest.mark.parametrize("base", [-18000, 7200], ids=["west", "east"])
def test_the_scheduler_starts_lines_where_our_model_of_it_says(
    served: Served, tmp_path: Path, base: int, step: int
) -> None:
    """`misled` rests on this. Where supercronic changes, the model is to be changed, or can go."""
    change = (datetime.now(UTC) + timedelta(hours=6)).replace(minute=0, second=0, microsecond=0)
    zone = zone_file(tmp_path / "zone", change, base, base + step)
    walls = [change + timedelta(seconds=base, minutes=minutes) for minutes in range(-120, 121, 15)]
    lines = [f"{wall.minute} {wall.hour} * * *" for wall in walls]
    crontab = "".join(f"{line} true\n" for line in lines)
    found = next_starts(served.supercronic, tmp_path, crontab, str(tmp_path / "zone"))
    now = datetime.now(UTC)
    assert found == {line: _started(line, now, zone) for line in lines}
    wrong = {line for line in lines if found[line] != next(moments(line, now, zone))}
    assert wrong == {line for line in lines if misled(line, now, zone)}
    assert wrong or (base, step < 0) == (-18000, True)


# Read in its own way each by supercronic 0.2.45, or refused.
UNLIKE = ("1 2 * * 01", "2 2 * * 5-7", "3 2 * * 1/2", "4 2 1-31 * 1", "5 2 */1 * 1-5", "6 2 1,15 * 6/2", "7 2 30 2 1")


def test_the_scheduler_starts_a_plain_line_when_we_would(served: Served, tmp_path: Path) -> None:
    zone = ZoneInfo("UTC")
    lines = {str(plain(cron)): cron for cron in UNLIKE}
    before = datetime.now(UTC)
    text = crontab({cron: cron for cron in UNLIKE}, dict.fromkeys(UNLIKE, "true"))
    found = next_starts(served.supercronic, tmp_path, text, zone.key)
    after = datetime.now(UTC)
    assert set(found) == set(lines)
    for line, cron in lines.items():
        assert found[line] in (next(moments(cron, before, zone)), next(moments(cron, after, zone))), cron
