"""The commands status, monitor and logs, as they are called."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from backup import logging
from backup.catalog.run_records import Records
from backup.cli import base, main
from backup.model.run import Outcome
from backup.operations.restore.journal import Kept, KeptDatabase, KeptFile
from backup.storage import lock
from tests.support.facts import a_run, on_disk
from tests.support.schemas import checked


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty backup volume that the commands look at, with no service behind the port."""
    monkeypatch.setenv("BACKUP_DIR", str(tmp_path))
    monkeypatch.setenv("BACKUP_HTTP_PORT", "1")
    monkeypatch.delenv("container", raising=False)
    umask = os.umask(0o077)
    yield tmp_path
    # The commands set it for the whole process, and this one has other tests to run.
    os.umask(umask)
    logging._runs.clear()
    logging._ended.clear()
    logging.setup_logging(UTC)


def recorded(root: Path, *runs: object) -> None:
    records = Records(root / "state" / "runs")
    for run in runs:
        records.end(run)  # type: ignore[arg-type]


def failed(root: Path) -> None:
    recorded(root, a_run(0.5, Outcome.FAILED, "the disk\x1b[31m is full", hint="Free space.", now=datetime.now(UTC)))


def test_alert_says_nothing_when_there_is_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_disk(root, 1, proven=True)
    assert main(["monitor", "--alert"]) == 0
    assert capsys.readouterr().out == ""


def test_alert_says_only_what_is_wrong(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_disk(root, 1, proven=True)
    now = datetime.now(UTC)
    recorded(root, a_run(0.6, Outcome.FAILED, "no image", operation="drill", now=now))
    assert main(["monitor", "--alert"]) == 60
    assert capsys.readouterr().out.startswith("Health Status: WARNING\n  WARNING: the last drill of daily failed")
    failed(root)
    assert main(["monitor", "--alert"]) == 61
    out = capsys.readouterr().out
    assert "CRITICAL: the last daily backup failed: the disk\\x1b[31m is full\n    Free space.\n" in out
    assert main(["monitor", "--alert", "--json"]) == 61
    assert checked(capsys.readouterr().out)["health"]["status"] == "fail"


@pytest.mark.parametrize(
    ("holder", "outcome"),
    [("", "crashed"), ("20251020T020000Z-abc", "running"), ("another", "crashed"), ("beside", "running")],
)
def test_a_run_is_running_as_long_as_it_holds_a_lock(
    root: Path, capsys: pytest.CaptureFixture[str], holder: str, outcome: str
) -> None:
    """A killed one leaves its record and its name in the lock; another run that holds it is no life of this one."""
    on_disk(root, 1, proven=True)
    now, name = datetime.now(UTC), "20251020T020000Z-abc"
    run = a_run(0.1, Outcome.RUNNING, now=now).model_copy(update={"id": name, "ended": None})
    Records(root / "state" / "runs").begin(run)
    path = root / "state" / ("beside-s3-write.lock" if holder == "beside" else "lock")
    (root / "state" / "lock").write_text(json.dumps({"operation": "x", "run": name, "host": "h", "since": "s"}))
    with (
        lock.hold(path, "create daily", name if holder == "beside" else holder) if holder else contextlib.nullcontext()
    ):
        assert main(["status", "--json"]) == 0
    seen = checked(capsys.readouterr().out)
    assert [each["outcome"] for each in seen["runs"]] == [outcome]
    assert (seen["health"]["status"] == "fail") == (outcome == "crashed"), seen["health"]


@pytest.mark.parametrize("command", [["status"], ["monitor"], ["monitor", "--status"], ["monitor", "--report"]])
@pytest.mark.long
def test_each_report_has_the_verdict_and_exits_0(
    root: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    (identifier,) = on_disk(root, 1, proven=True)
    failed(root)
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "Health Status: CRITICAL" in out and identifier in out and "Free space." in out and "\x1b" not in out
    assert main([*command, "--json"]) == 0
    told = checked(capsys.readouterr().out)
    clocks = {each["name"]: each["set"] for each in told["clocks"]}
    assert clocks["good"] == identifier and told["health"]["scheduler"] is None
    assert not (root / "logs").exists(), "looking leaves nothing behind"


def test_what_cannot_be_undone_any_more_is_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_disk(root, 1, proven=True)
    database = KeptDatabase(live="o", current_oid=6, kept="o__before_x", kept_oid=5, size=70)
    kept = Kept(id="x", set="s", replaced=datetime.now(UTC), safety="pre-restore_x", database=database)
    KeptFile(root).write(kept)
    assert main(["monitor", "--alert"]) == 0
    KeptFile(root).write(kept.model_copy(update={"database": database.model_copy(update={"lost": "half removed"})}))
    capsys.readouterr()
    assert main(["monitor"]) == 0
    out = capsys.readouterr().out
    assert "WARNING: what the last restore replaced is half removed and cannot come back" in out
    assert "`undo --discard` removes the rest. `restore pre-restore_x`" in out and "brings it back" not in out


@pytest.mark.parametrize("width", [30, 50, 120])
@pytest.mark.parametrize("command", [["status"], ["monitor", "--report"], ["monitor", "--alert"]])
@pytest.mark.long
def test_a_terminal_of_any_width_gets_a_page(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int, command: list[str]
) -> None:
    on_disk(root, 1, proven=True)
    failed(root)
    console = Console(highlight=False, soft_wrap=True, force_terminal=True, width=width, color_system="standard")
    monkeypatch.setattr(base, "out", console)
    main(command)
    plain = "".join(part.partition("m")[2] for part in f"m{capsys.readouterr().out}".split("\x1b["))
    assert "CRITICAL" in plain and all(len(line) <= width for line in plain.splitlines())


def test_one_kind_of_report_at_a_time(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["monitor", "--alert", "--report"]) == 2


@pytest.mark.parametrize(("option", "operation"), [("--alert", "monitor"), ("--report", "report")])
def test_a_scheduled_one_logs_and_leaves_a_record(
    root: Path, capsys: pytest.CaptureFixture[str], option: str, operation: str
) -> None:
    failed(root)
    assert main(["monitor", option, "--scheduled"]) == 0
    out = capsys.readouterr().out
    run = Records(root / "state" / "runs").all()[0]
    assert (run.operation, run.outcome, run.trigger, run.message) == (
        operation,
        Outcome.SUCCESS,
        "schedule",
        "CRITICAL",
    )
    assert "[ERROR]" in out and "no good set of the database" in out
    (path,) = (root / "logs").iterdir()
    assert path.name.startswith("monitor-") and "no good set of the database" in path.read_text()
    assert main(["logs", "--run", run.id]) == 0
    shown = capsys.readouterr().out
    assert "no good set" in shown and "#" not in shown


def test_logs_are_shown(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs"]) == 0 and capsys.readouterr().out == ""
    (root / "logs").mkdir()
    stamp = f"{datetime.now(UTC):%Y-%m-%d}"
    lines = [f"[{stamp} 00:00:0{n}] [INFO] entry {n} \x1b[2J" for n in range(5)]
    (root / "logs" / f"backup-{stamp[:7]}.log").write_text("\n".join(lines) + "\n")
    assert main(["logs", "--tail", "2", "--kind", "backup"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 2 and "entry 4 \\x1b[2J" in out and "\x1b" not in out
    assert main(["logs", "--tail", "0", "--json"]) == 0
    assert [(each["text"], each["time"]) for each in checked(capsys.readouterr().out)["entries"]] == [
        (line, f"{stamp}T00:00:0{n}Z") for n, line in enumerate(lines)
    ]
    (root / "logs" / f"backup-{stamp[:7]}.log").write_text("[2025-99-99 00:00:00] [INFO] by hand\n")
    assert main(["logs", "--json"]) == 0 and checked(capsys.readouterr().out)["entries"][0]["time"] is None
    assert main(["logs", "--kind", "verify"]) == 0 and capsys.readouterr().out == ""
    assert main(["logs", "--run", "nobody's\n"]) == 44


def test_logs_of_one_run_by_the_end_of_its_id(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run(0.5, now=datetime.now(UTC))
    recorded(root, run)
    (root / "logs").mkdir()
    head = f"[{run.started:%Y-%m-%d %H:%M:%S}] [INFO]"
    path = root / "logs" / f"backup-{run.started:%Y-%m}.log"
    path.write_text(f"{head} mine  #{run.id}\n more of it\n{head} another's  #20010101T000000Z-000000\n")
    assert main(["logs", "--run", "abcdef"]) == 0
    assert capsys.readouterr().out == f"{head} mine\n more of it\n"


def test_json_lines_also_for_wrong_settings(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUP_LOG_FORMAT", "json")
    monkeypatch.setenv("BACKUP_DAILY", "never")
    assert main(["status"]) == 10
    assert "BACKUP_DAILY" in json.loads(capsys.readouterr().out)["message"]
