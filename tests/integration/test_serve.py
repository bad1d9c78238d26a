"""The service as a real process with the real supercronic; a shell script stands in for the CLI that makes backups."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.catalog.scheduler_state import ScheduleFile, ScheduleState
from backup.config.loader import load_settings
from backup.model.backup_set import Verdict
from backup.model.manifest import DatabasePart, Manifest, Tier, set_id
from backup.operations.status import status
from backup.service.supervisor import Process, parse_stat, read_process, roots, scan
from tests.support.schemas import checked

ROOT = Path(__file__).parents[2]

# serve() as the CLI calls it. PR_SET_CHILD_SUBREAPER (36) makes orphans ours, as they are PID 1's.
RUNNER = """
import ctypes, json, os, sys, time
from datetime import UTC, datetime
from pathlib import Path
from backup.catalog.catalog import Catalog
from backup.config.loader import load_settings
from backup.errors import BackupError
from backup.storage.lock import hold
from backup.service.main import serve
from backup.catalog.run_records import Records

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
given = json.loads(sys.argv[1])
settings = load_settings(given["environ"])

def hanging(event, words):
    # A stand-in for a network disk that answers nobody: whatever opens or lists a name there waits.
    if event in ("open", "os.listdir", "os.scandir") and isinstance(words[0], (str, Path)):
        while str(words[0]).startswith(str(settings.root)) and os.access(given["frozen"], os.F_OK):
            time.sleep(0.1)

sys.addaudithook(hanging)
records = Records(settings.root / "state" / "runs")

def recover():
    with hold(settings.root / "state" / "lock", "recover", "x"):
        records.mark_crashed(datetime.now(UTC))

try:
    code = serve(
        settings, catalog=Catalog(settings.root, settings.zone), records=records, recover=recover, ready=lambda: None,
        command=given["command"], run_dir=Path(given["run_dir"]),
        way=(lambda: time.sleep(1000)) if given["hangs"] else (lambda: "helper containers"),
        supercronic=given["supercronic"], grace=given["grace"],
    )
except BackupError as error:
    print("ERROR", error.message, "HINT", error.hint, flush=True)
    code = error.exit_code
sys.exit(code)
"""

# Every second instead of every minute.
FAST = """#!/bin/sh
for file; do :; done
sed -i 's|^\\* \\* \\* \\* \\* kill|* * * * * * * kill|' "$file"
exec {real} "$@"
"""

JOBS = {
    "quick": "exit 0",
    "failing": "exit 20",
    "changing": "exit 3",
    "polite": "trap 'echo term >> {log}; exit 143' TERM; sleep 1000 & wait",
    "stubborn": "trap '' TERM; echo ready >> {log}; while :; do sleep 0.2; done",
    "orphaning": "(sleep 0.2 &) ; exit 0",
    "dying": "mkdir -p {root}/state/runs; cp {record} {root}/state/runs/r.json; kill -9 $$",
}


@pytest.fixture(scope="session")
def supercronic() -> str:
    beside = Path(sys.executable).parent / "supercronic"
    found = shutil.which(os.environ.get("SUPERCRONIC") or "supercronic") or shutil.which(beside)
    assert found, "supercronic is not installed: run tools/supercronic, or set SUPERCRONIC to its path"
    return found


def eventually(what: Callable[[], Any], seconds: float = 20) -> Any:
    """The first true answer of `what`."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.05)
    return answer


@dataclass
class Service:
    """One service process and its surroundings."""

    place: Path
    supercronic: str
    process: subprocess.Popen[bytes] | None = None
    port: int = 0

    @property
    def root(self) -> Path:
        return self.place / "backups"

    @property
    def log(self) -> Path:
        """What the job wrote: its arguments, and how it ended."""
        return self.place / "job.log"

    def start(
        self,
        job: str = "quick",
        *,
        grace: float = 10,
        prefix: tuple[str, ...] = (),
        hangs: bool = False,
        **environ: str,
    ) -> subprocess.Popen[bytes]:
        self.port = int(environ.get("BACKUP_HTTP_PORT") or free_port())
        script = self.place / "job"
        script.write_text(
            f'#!/bin/sh\necho "$*" TZ=$TZ >> {self.log}\n'
            + JOBS[job].format(log=self.log, root=self.root, record=self.place / "record")
            + "\n"
        )
        script.chmod(0o700)
        wrapper = self.place / "supercronic"
        wrapper.write_text(FAST.format(real=self.supercronic))
        wrapper.chmod(0o700)
        names = ("DAILY", "WEEKLY", "MONTHLY", "CLEANUP", "MONITOR", "REPORT")
        off = {f"BACKUP_{name}": "off" for name in names}
        given = {
            "environ": off
            | {"BACKUP_DIR": str(self.root), "BACKUP_HTTP_HOST": "127.0.0.1", "TZ": "Asia/Manila"}
            | {"BACKUP_HTTP_PORT": str(self.port)}
            | environ,
            "command": [str(script), "a b"],
            "run_dir": str(self.place / "run"),
            "supercronic": str(wrapper),
            "grace": grace,
            "hangs": hangs,
            "frozen": str(self.place / "frozen"),
        }
        runner = self.place / "runner.py"
        runner.write_text(RUNNER)
        with (self.place / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, str(runner), json.dumps(given)],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self.process

    def missed(self, *jobs: str) -> dict[str, str]:
        """Settings with these jobs every minute, as if the service had last been up an hour ago: they start at once."""
        (self.root / "state").mkdir(exist_ok=True)
        since = datetime.now(UTC) - timedelta(hours=1)
        state = ScheduleState().counted(dict.fromkeys(jobs, "* * * * *"), since, ZoneInfo("Asia/Manila"))
        ScheduleFile(self.root).write(state)
        return {f"BACKUP_{job.upper()}": "* * * * *" for job in jobs}

    def output(self) -> str:
        return (self.place / "output").read_text()

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        """(code, body); (0, {}) while nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, dict(checked(response.read()))
        except OSError:
            return 0, {}
        finally:
            connection.close()

    def up(self) -> None:
        eventually(lambda: self.ask("/livez")[0] == 200)

    def children(self) -> list[Process]:
        assert self.process
        return [process for process in scan() if process.parent == self.process.pid]

    def scheduler(self) -> int:
        """The pid of the scheduler that runs now, 0 if none does."""
        assert self.process
        return next((p.pid for p in self.children() if p.running and "-no-reap" in command_line(p.pid)), 0)

    def end(self, number: int = signal.SIGTERM, seconds: float = 20) -> int:
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def left(self) -> list[int]:
        """Processes that have to do with this test and still run."""
        marks = [(p.pid, command_line(p.pid)) for p in scan() if p.running and p.pid != os.getpid()]
        return [pid for pid, words in marks if any(str(self.place) in word for word in words)]


def command_line(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def service(tmp_path: Path, supercronic: str) -> Iterator[Service]:
    service = Service(tmp_path, supercronic)
    service.root.mkdir()
    yield service
    if service.process and service.process.poll() is None:
        service.process.kill()
        service.process.wait()
    for pid in service.left():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def publish(root: Path, *, hours: float = 1, database: bool = True, break_it: bool = False, defines: str = "") -> str:
    """A set as the product leaves it; returns its id. `defines` is the hash of its definitions."""
    started = datetime.now(UTC) - timedelta(hours=hours)
    identifier = set_id(Tier.DAILY, started, ZoneInfo("UTC"))
    part = DatabasePart(
        name="obcms", oid=1, system_identifier="7", server_version="17", client_version="17", command=(), rows={},
        definitions=defines, environment=defines,
    )  # fmt: skip
    manifest = Manifest(
        id=identifier,
        tier=Tier.DAILY,
        run="r",
        started=started,
        ended=started,
        started_local="",
        ended_local="",
        zone="UTC",
        product_version="0",
        artifacts=(),
        database=part if database else None,
    )
    Catalog(root, ZoneInfo("UTC")).publish(manifest, [])
    if break_it:
        (root / "daily" / f"obcms_set_{identifier}.json").write_text("{")
    return identifier


# --- the start -----------------------------------------------------------------------------------------------------


def test_the_start_says_what_it_does(service: Service) -> None:
    publish(service.root)
    everything = {"BACKUP_CLEANUP": "0 5 * * *", "BACKUP_MONITOR": "0 */6 * * *", "BACKUP_REPORT": "0 9 * * 1"}
    service.start(BACKUP_DAILY="0 2 * * *", BACKUP_WEEKLY="0 3 * * 0", AWS_S3_BACKUP_BUCKET="bucket", **everything)
    service.up()
    assert service.ask("/healthz")[1]["status"] == "pass"
    assert service.ask("/readyz")[0] == 200
    crontab = service.place / "run" / "crontab"
    assert crontab.stat().st_mode & 0o777 == 0o600
    assert service.process
    (line,) = crontab.read_text().splitlines()
    assert line.split()[-3:] == ["kill", "-USR1", str(service.process.pid)]
    environ = (Path("/proc") / str(service.scheduler()) / "environ").read_bytes().split(b"\0")
    assert b"TZ=UTC" in environ
    assert service.end() == 0
    output = service.output()
    assert "schedule: " in output and "daily next " in output and "02:00 Asia/Manila" in output
    assert f"health: http://127.0.0.1:{service.port}/healthz" in output
    assert "database: helper containers" in output
    assert "offsite: s3://bucket, uploads: monthly 30 4 1 * *" in output
    assert service.left() == []


@pytest.mark.parametrize("drills", [True, False])
def test_the_first_set_with_new_definitions_is_drilled_unless_drills_are_off(service: Service, drills: bool) -> None:
    identifier, catalog = publish(service.root, defines="a" * 64), Catalog(service.root, ZoneInfo("UTC"))
    catalog.record_verdict(catalog.find(identifier), Verdict(checked=datetime.now(UTC)))
    # Uploads are begun by the same look, after it: so one tells that it was looked.
    away = {"BACKUP_COPY_DIR": str(service.place / "copies"), "BACKUP_UPLOAD_DAILY": "after"}
    service.start(**away, **({} if drills else {"BACKUP_DRILL": "off"}))
    service.up()
    wanted = f"a b drill {identifier} --trigger new definitions TZ=Asia/Manila"
    if drills:
        eventually(lambda: wanted in service.lines())
        assert f"the drill of {identifier} starts" in service.output()
    else:
        eventually(lambda: any("upload daily" in line for line in service.lines()))
        assert wanted not in service.lines()
    assert service.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_service_ends_at_once(service: Service, number: int) -> None:
    publish(service.root)
    service.start(BACKUP_DRILL="off")
    service.up()
    begun = time.monotonic()
    assert service.end(number) == 0
    assert time.monotonic() - begun < 20
    assert "every job is off" in service.output()


def test_a_port_in_use_is_refused_before_anything_starts(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = service.start(BACKUP_HTTP_PORT=str(listener.getsockname()[1]))
        assert process.wait(20) == 1
    assert "the port is in use" in service.output()
    assert service.lines() == []


def test_jobs_run_also_where_the_scheduler_does_not(service: Service) -> None:
    publish(service.root)
    refusing = service.place / "refusing"
    refusing.write_text("#!/bin/sh\necho 'bad crontab line' >&2\nexit 1\n")
    refusing.chmod(0o755)
    service.supercronic = str(refusing)
    service.start(**service.missed("daily"))
    eventually(lambda: "supercronic ended with code 1" in service.output())
    assert "bad crontab line" in service.output()
    eventually(lambda: "a b create --scheduled daily TZ=Asia/Manila" in service.lines())
    (reason,) = eventually(lambda: service.ask("/livez")[1].get("reasons"))
    assert reason["text"].endswith("the service starts the backups alone")
    assert service.end() == 0 and service.left() == []


# --- the first backup ------------------------------------------------------------------------------------------------

FIRST = "a b create daily --scheduled --trigger first TZ=Asia/Manila"


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda root: None, True),
        (lambda root: publish(root, break_it=True), True),
        (lambda root: publish(root, database=False), True),
        (lambda root: publish(root), False),
        (lambda root: publish(root, hours=999), False),
        (lambda root: (root / "daily").write_text("not a directory"), False),
    ],
    ids=["nothing", "damaged", "media only", "good", "old", "unreadable"],
)
def test_the_first_backup_is_taken_exactly_when_no_good_set_exists(
    service: Service, prepare: Callable[[Path], object], expected: bool
) -> None:
    prepare(service.root)
    service.start()
    service.up()
    if expected:
        eventually(service.lines)
    assert service.end() == 0
    assert service.lines() == ([FIRST] if expected else [])
    assert ("the first backup starts now" in service.output()) == expected


def test_health_is_starting_until_the_first_backup_has_ended(service: Service) -> None:
    service.start("polite")
    eventually(service.lines)
    service.up()
    code, body = service.ask("/healthz")
    assert (code, body["status"]) == (503, "starting")
    job = next(p.pid for p in service.children() if p.pid != service.scheduler())
    os.kill(job, signal.SIGTERM)
    eventually(lambda: service.ask("/healthz")[1].get("status") == "fail")
    assert "the first backup ended with code 143" in service.output()
    assert service.end() == 0


def test_a_first_backup_that_dies_without_a_word_is_red(service: Service) -> None:
    started = datetime.now(UTC).isoformat()
    record = {"id": "r", "operation": "create", "tier": "daily", "started": started, "outcome": "running"}
    (service.place / "record").write_text(json.dumps(record))
    service.start("dying")
    eventually(lambda: any("crashed" in r["text"] for r in service.ask("/healthz")[1].get("reasons", [])))
    assert service.end() == 0


def test_the_command_and_the_service_answer_the_same(service: Service) -> None:
    """But for the moment: byte for byte."""
    publish(service.root)
    service.start()
    service.up()
    environ = {"BACKUP_DIR": str(service.root), "TZ": "Asia/Manila", "BACKUP_HTTP_PORT": str(service.port)}
    off = {f"BACKUP_{name}": "off" for name in ("DAILY", "WEEKLY", "MONTHLY", "CLEANUP", "MONITOR", "REPORT")}
    command = [sys.executable, str(ROOT / "entrypoint.py"), "status", "--json"]
    printed = subprocess.run(
        command, env=os.environ | off | environ | {"BACKUP_HTTP_HOST": "127.0.0.1"}, capture_output=True, check=True
    )
    code, answered = service.ask("/api/status")
    assert (code, answered["health"]["scheduler"], answered["sets"][0]["good"]) == (200, "alive", True)
    assert timeless(checked(printed.stdout)) == timeless(answered)
    assert service.end() == 0


def timeless(document: dict[str, Any]) -> str:
    """The document without what another moment changes, in its own order."""
    document["time"] = document["storage"]["free_bytes"] = document["storage"]["days_left"] = None
    for each in (*document["clocks"], *document["tiers"]):
        each["age_seconds"] = None
    return json.dumps(document)


def test_a_damaged_record_is_red_and_the_service_stays_up(service: Service) -> None:
    publish(service.root)
    runs = service.root / "state" / "runs"
    runs.mkdir(parents=True)
    (runs / "x.json").write_text("{")
    service.start()
    service.up()
    code, body = service.ask("/healthz")
    assert (code, body["status"]) == (503, "fail")
    assert "x.json is damaged" in body["reasons"][0]["text"]
    assert service.end() == 0


def test_a_damaged_record_does_not_hide_a_run_that_died(service: Service) -> None:
    runs = service.root / "state" / "runs"
    runs.mkdir(parents=True)
    (runs / "x.json").write_text("{")
    started = datetime.now(UTC).isoformat()
    record = {"id": "r", "operation": "create", "tier": "daily", "started": started, "outcome": "running"}
    (service.place / "record").write_text(json.dumps(record))
    service.start("dying")
    eventually(lambda: (runs / "r.json").exists() and '"crashed"' in (runs / "r.json").read_text())
    assert service.end() == 0


def test_a_first_backup_with_changes_is_done(service: Service) -> None:
    service.start("changing")
    eventually(lambda: "the first backup" in service.output() and "ended" in service.output())
    assert "changed while" in service.output() and "ended with code" not in service.output()
    assert "ERROR" not in service.output()
    assert service.end() == 0


def test_a_full_volume_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path)
    settings = load_settings({"BACKUP_DIR": str(tmp_path)})

    def asked() -> tuple[str, str]:
        health = status(settings, Catalog(tmp_path, settings.zone), Records(tmp_path / "state/runs"), datetime.now(UTC))
        return health.status, "".join(reason.text for reason in health.reasons)

    assert asked() == ("pass", "")
    real = os.statvfs(tmp_path)
    full = os.statvfs_result([*real[:4], 0, *real[5:]])
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    assert asked() == ("fail", "the backup volume is full: 0 B free")


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_service_shows_its_page_to_who_may_read_it(service: Service) -> None:
    """The surfaces are those of the volume; the image's own probe has the login from its environment.

    It is answered also while visitors hold all connections that the port takes, and some more.
    """
    identifier = publish(service.root, break_it=True)
    secrets = {"BACKUP_HTTP_TOKEN": "canary-token", "BACKUP_HTTP_USER": "ops", "BACKUP_HTTP_PASSWORD": "canary-word"}
    service.start("polite", **secrets)
    service.up()

    def get(path: str, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
        connection.request("GET", path, headers={"Connection": "close"} | headers)
        response = connection.getresponse()
        answer = response.status, response.read().decode()
        connection.close()
        return answer

    code, text = get("/healthz")
    told = {name: value for name, value in checked(text).items() if value}
    assert (code, told) == (503, {"format": 1, "kind": "health", "service": "obcms-backup", "status": "fail"})
    seen = ""
    for path in ("/", "/api/status", "/metrics"):
        assert get(path)[0] == 401
        code, text = get(path, Authorization="Bearer canary-token")
        assert (code, identifier in text or path == "/metrics") == (200, True)
        seen += text
    assert 'obcms_backup_health_status{status="fail"} 1.0' in seen and "unreadable" in seen
    assert get("/", Host="evil.example", Authorization="Bearer canary-token")[0] == 421

    def probe(**environ: str) -> str:
        found = subprocess.run(
            [sys.executable, "-m", "backup.service.probe", "--wait", "0"],
            env=os.environ | {"PYTHONPATH": str(ROOT), "BACKUP_HTTP_PORT": str(service.port)} | secrets | environ,
            capture_output=True,
            text=True,
        )
        assert found.returncode == 1
        return found.stdout

    shown = probe()
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=10))
        reserved = probe(XDG_RUNTIME_DIR=str(service.place / "run"))
    assert identifier in shown and identifier in reserved
    assert service.end() == 0
    assert list((service.place / "run").iterdir()) == [service.place / "run" / "crontab"]
    assert "canary" not in seen + service.output() + shown + reserved


# --- the scheduler ----------------------------------------------------------------------------------------------------


def test_a_scheduler_that_dies_is_red_and_starts_again(service: Service) -> None:
    publish(service.root)
    service.start()
    service.up()
    before = service.scheduler()
    os.kill(before, signal.SIGKILL)
    eventually(lambda: service.ask("/livez")[0] == 503)
    assert service.ask("/healthz")[1]["status"] in ("pass", "fail")  # the answer may be two seconds old
    service.up()
    assert service.scheduler() not in (0, before)
    assert service.end() == 0
    assert "supercronic ended with code -9" in service.output()
    assert "supercronic runs again" in service.output()


def test_a_frozen_scheduler_is_red_and_still_ends(service: Service) -> None:
    publish(service.root)
    service.start()
    service.up()
    os.kill(service.scheduler(), signal.SIGSTOP)
    eventually(lambda: service.ask("/livez")[0] == 503)
    body = eventually(lambda: (answer := service.ask("/healthz"))[0] == 503 and answer[1])
    assert (body["status"], body["checks"]["scheduler:state"]) == ("fail", [{"observedValue": "stopped"}])
    begun = time.monotonic()
    assert service.end() == 0
    assert time.monotonic() - begun < 20
    assert service.left() == []


# --- the end ---------------------------------------------------------------------------------------------------------


def test_a_running_job_is_told_to_end_and_waited_for(service: Service) -> None:
    publish(service.root)
    service.start("polite", **service.missed("daily"))
    eventually(service.lines)
    begun = time.monotonic()
    assert service.end() == 0
    assert time.monotonic() - begun < 20
    # One job, told once; its own child, left alone by it, is gone as well.
    assert service.lines() == ["a b create --scheduled daily TZ=Asia/Manila", "term"]
    assert service.left() == []


def test_the_first_backup_is_told_to_end_as_well(service: Service) -> None:
    service.start("polite")
    eventually(service.lines)
    assert service.end() == 0
    assert service.lines() == [FIRST, "term"]


def test_a_job_whose_scheduler_died_is_told_to_end(service: Service) -> None:
    publish(service.root)
    service.start("polite", **service.missed("daily"))
    eventually(service.lines)
    service.up()
    os.kill(service.scheduler(), signal.SIGKILL)
    eventually(lambda: service.ask("/livez")[0] == 503)
    assert service.end() == 0
    assert service.lines().count("term") >= 1
    assert service.left() == []


def test_a_job_that_does_not_listen_is_killed_after_the_grace(service: Service) -> None:
    service.start("stubborn", grace=1)
    eventually(lambda: "ready" in service.lines())
    begun = time.monotonic()
    assert service.process
    service.process.terminate()
    eventually(lambda: service.ask("/livez")[0] == 503)  # still there, while it waits
    assert service.process.wait(60) == 143
    assert time.monotonic() - begun >= 1
    assert "was killed" in service.output()
    assert service.left() == []


def test_a_frozen_job_still_ends(service: Service) -> None:
    service.start("polite")
    eventually(service.lines)
    service.up()
    for process in service.children():
        os.kill(process.pid, signal.SIGSTOP)
    assert service.end() == 0
    assert "term" in service.lines()


def test_it_ends_while_the_way_to_the_database_hangs(service: Service) -> None:
    publish(service.root)
    service.start(hangs=True)
    service.up()
    begun = time.monotonic()
    assert service.end() == 0
    assert time.monotonic() - begun < 20


def test_it_ends_while_the_backup_disk_hangs_from_the_start(service: Service) -> None:
    publish(service.root)
    (service.place / "frozen").touch()
    service.start()
    eventually(lambda: service.ask("/livez")[0] == 503)  # nothing is started blindly
    time.sleep(6)  # it has stopped waiting for the disk
    begun = time.monotonic()
    assert service.end() == 0
    assert time.monotonic() - begun < 20 and not service.lines()


def test_it_ends_while_the_backup_disk_hangs_later_on(service: Service) -> None:
    publish(service.root)
    service.start("polite", **service.missed("daily"))
    service.up()
    eventually(service.lines)
    (service.place / "frozen").touch()
    time.sleep(3)
    assert service.scheduler()
    begun = time.monotonic()
    assert service.end() == 0
    assert time.monotonic() - begun < 20 and "term" in service.lines()


def test_it_begins_when_the_disk_answers_at_last(service: Service) -> None:
    (service.place / "frozen").touch()
    service.start()
    eventually(lambda: service.ask("/livez")[0] == 503)
    time.sleep(6)
    assert not service.scheduler()
    (service.place / "frozen").unlink()
    eventually(service.scheduler)
    assert eventually(service.lines) == [FIRST]
    assert service.end() == 0


def test_it_ends_while_the_engine_hangs(tmp_path: Path, supercronic: str) -> None:
    """The real command as PID 1: what it has no handler for yet, the kernel would drop."""
    root, port = tmp_path / "backups", free_port()
    publish(root)
    environ = {
        "PATH": f"{Path(supercronic).parent}:{os.environ['PATH']}",
        "BACKUP_DIR": str(root),
        "BACKUP_SPOOL_DIR": str(tmp_path / "spool"),
        "BACKUP_HTTP_HOST": "127.0.0.1",
        "BACKUP_HTTP_PORT": str(port),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "DOCKER_HOST": f"unix://{tmp_path}/docker.sock",
    }
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, str(ROOT / "entrypoint.py"), "serve"]
    with socket.socket(socket.AF_UNIX) as engine, (tmp_path / "output").open("wb") as output:
        engine.bind(str(tmp_path / "docker.sock"))
        engine.listen()  # it takes what is asked, and never answers
        with subprocess.Popen(command, env=environ, stdout=output, stderr=output) as process:
            try:
                eventually(lambda: "health: http://" in (tmp_path / "output").read_text())
                begun = time.monotonic()
                os.kill(next(p.pid for p in scan() if p.parent == process.pid), signal.SIGTERM)
                assert process.wait(20) == 0
                assert time.monotonic() - begun < 20
            finally:
                for pid in [p.pid for p in scan() if p.parent == process.pid]:
                    os.kill(pid, signal.SIGKILL)
    assert "database: " not in (tmp_path / "output").read_text()


VISITOR = """echo visiting >> {log}
trap 'sleep 0.5; echo told >> {log}; exit 143' TERM
sleep 1000 & wait
"""


@pytest.mark.parametrize(
    "visit",
    [("sh", "{script}"), ("sh", "-c", "sh {script}; true"), ("bash", "--norc", "-i")],
    ids=["exec", "sh", "shell"],
)
def test_what_was_started_by_exec_is_told_to_end(service: Service, visit: tuple[str, ...]) -> None:
    """`docker compose exec backup backup create`: a process of the container that is no child of PID 1's."""
    publish(service.root)
    outer = service.start(prefix=("unshare", "--pid", "--fork", "--mount-proc"))
    service.up()
    inner = next(p.pid for p in scan() if p.parent == outer.pid)
    script = service.place / "visitor"
    script.write_text(VISITOR.format(log=service.log))
    # As the engine does it: into the name spaces of PID 1, with a parent outside, in a session of its own.
    enter = ("nsenter", "-t", str(inner), "-p", "-m", "setsid")
    with subprocess.Popen(
        [*enter, *(word.format(script=script) for word in visit)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as visitor:
        assert visitor.stdin
        visitor.stdin.write(f"sh {script}\n".encode())
        visitor.stdin.flush()
        eventually(lambda: "visiting" in service.lines())
        begun = time.monotonic()
        os.kill(inner, signal.SIGTERM)
        assert outer.wait(20) == 0
        assert 0.5 <= time.monotonic() - begun < 20
        assert service.lines().count("told") == 1
        visitor.stdin.close()
    assert service.left() == []


def test_a_visitor_that_does_not_listen_is_killed_after_the_grace(service: Service) -> None:
    publish(service.root)
    outer = service.start(prefix=("unshare", "--pid", "--fork", "--mount-proc"), grace=1)
    service.up()
    inner = next(p.pid for p in scan() if p.parent == outer.pid)
    script = service.place / "visitor"
    script.write_text(f"trap '' TERM INT; echo visiting >> {service.log}; while :; do sleep 0.2; done\n")
    with subprocess.Popen(["nsenter", "-t", str(inner), "-p", "-m", "setsid", "sh", str(script)]) as visitor:
        eventually(lambda: "visiting" in service.lines())
        os.kill(inner, signal.SIGTERM)
        assert outer.wait(20) == 143
        assert visitor.wait(5) != 0
    assert "was killed" in service.output()
    assert service.left() == []


def test_orphans_do_not_stay_as_zombies(service: Service) -> None:
    publish(service.root)
    service.start("orphaning", **service.missed("daily", "weekly", "monthly"))
    eventually(lambda: len(service.lines()) >= 3)
    eventually(lambda: [p.pid for p in service.children()] == [service.scheduler()])
    assert service.end() == 0


# --- the parts --------------------------------------------------------------------------------------------------------


def test_a_process_name_may_hold_anything() -> None:
    assert parse_stat("12 (a) S 1 ) (b) T 3 4 5 6 0\n") == Process(12, "T", 3, 5)


def test_the_process_table_holds_ourselves() -> None:
    me = read_process(os.getpid())
    assert me is not None and me.running and me.session == os.getsid(0) and me in scan()
    assert read_process(2**22 + 1) is None


def test_only_the_top_of_a_tree_is_signalled() -> None:
    tree = [Process(10, "S", 1, 9), Process(11, "S", 10, 9), Process(12, "S", 11, 9), Process(20, "S", 7, 9)]
    assert [process.pid for process in roots(tree)] == [10, 20]


def test_no_secret_is_on_any_surface(service: Service) -> None:
    """A canary in every setting that is secret, looked for in all that the service shows, writes and starts."""
    canary = "CaNaRy7d1f"
    publish(service.root)
    secrets = {
        "DB_PASSWORD": f"{canary}-1",
        "MAILTO": "one@example.com",
        "EMAIL_HOST": "127.0.0.1",
        "EMAIL_HOST_USER": "user@example.com",
        "EMAIL_HOST_PASSWORD": f"{canary}-2",
        "BACKUP_NOTIFY_URLS": f"json://user:{canary}-3@127.0.0.1:9/{canary}-4",
        "BACKUP_HEARTBEAT_URL": f"http://127.0.0.1:9/{canary}-5",
        "BACKUP_HTTP_TOKEN": f"{canary}-6-long-enough-for-a-token",
    }
    service.start(**secrets)
    service.up()
    for path in ("/", "/metrics", "/api/status", "/healthz", "/readyz", "/livez"):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
        login = {"Authorization": f"Bearer {secrets['BACKUP_HTTP_TOKEN']}"}
        connection.request("GET", path, headers={"Connection": "close"} | login)
        response = connection.getresponse()
        assert response.status != 401, path
        shown = response.read() + str(response.headers).encode()
        assert len(shown) > 50 and canary.encode() not in shown, path
        connection.close()
    for child in service.children():
        assert canary not in " ".join(command_line(child.pid))
    assert service.end() == 0
    assert canary not in service.output()
    assert [p for p in service.root.rglob("*") if p.is_file() and canary.encode() in p.read_bytes()] == []
