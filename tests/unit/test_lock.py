"""One holder at a time, known by name, gone with its process."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from backup import lock
from backup.errors import LockHeld, StoreError
from backup.lock import hold, holder

HOLDER = """
import sys, time
from pathlib import Path
from backup.lock import hold
with hold(Path(sys.argv[1]), "create daily", "run-7"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lock, "_UNNAMED", 0.3)
    return tmp_path / "state" / "lock"


def other(path: Path) -> subprocess.Popen[bytes]:
    """A process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"held\n"
    return process


def test_the_second_is_told_who_is_first(path: Path) -> None:
    with other(path) as process:
        with pytest.raises(LockHeld, match=r"create daily \(run run-7 in .*, since 20") as caught, hold(path, "x", "y"):
            pass
        assert caught.value.exit_code == 11 and "--wait" in caught.value.hint
        assert "create daily" in (holder(path) or "")
        process.kill()


def test_a_killed_holder_frees_it_at_once(path: Path) -> None:
    with other(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert holder(path) is None
        with hold(path, "next", "run-8"):
            assert "next" in (holder(path) or "")
    assert holder(path) is None


def test_waiting_ends_when_the_first_ends(path: Path) -> None:
    told: list[str] = []
    with other(path) as process:
        threading.Timer(0.3, process.kill).start()
        with hold(path, "x", "y", wait=30, waiting=told.append):
            pass
    assert len(told) == 1 and "run-7" in told[0]


def test_who_overtakes_is_named_too(path: Path) -> None:
    """A restore asks a drill to end, so it must hear of one that came between the backup it waits for and itself."""
    told: list[str] = []

    def waiting(who: str) -> None:
        told.append(who)
        text = json.dumps({"operation": "drill", "run": "run-8", "host": "h", "since": "s"})
        if len(told) == 1:
            path.write_text(text)  # as if the first had ended and another had been quicker
        else:
            process.kill()

    with other(path) as process, hold(path, "restore", "y", wait=10, waiting=waiting):
        pass
    assert ["create" in told[0], "drill" in told[1]] == [True, True] and len(told) == 2


def test_waiting_has_an_end(path: Path) -> None:
    with other(path) as process:
        before = time.monotonic()
        with pytest.raises(LockHeld), hold(path, "x", "y", wait=0.5):
            pass
        assert 0.4 < time.monotonic() - before < 3
        process.kill()


@pytest.mark.parametrize("text", [b"", b"\0" * 90, b"[1]", b'{"operation": 1}', b"\xff\xfe", b"9" * 9000])
def test_spoofed_text_misleads_nobody(path: Path, text: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(text)
    assert holder(path) is None
    with hold(path, "x", "y"):
        assert json.loads(path.read_bytes())["operation"] == "x"
        path.write_bytes(text)
        with pytest.raises(LockHeld, match="has not said"), hold(path, "z", "z"):
            pass


def test_escape_codes_in_the_text_are_shown_as_text(path: Path) -> None:
    with hold(path, "x", "y"):
        path.write_text(json.dumps({"operation": "\x1b[2J", "run": "r", "host": "h", "since": "s"}))
        assert "\x1b" not in (holder(path) or "") and r"\x1b[2J" in (holder(path) or "")


def test_a_freed_lock_names_no_earlier_holder(path: Path) -> None:
    """Who comes between taking the lock and naming oneself must not be told of a run that has ended."""
    with hold(path, "earlier", "run-1"):
        pass
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockHeld) as caught, hold(path, "x", "y"):
            pass
    assert "earlier" not in caught.value.message


def test_a_look_at_the_lock_does_not_turn_a_run_away(path: Path) -> None:
    """`holder` takes it shared for an instant; a run that starts in that instant must not be refused."""
    with hold(path, "earlier", "run-1"):
        pass
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, (file.fileno(), fcntl.LOCK_UN)).start()
        with hold(path, "x", "y"):
            pass


def test_a_link_or_a_directory_is_refused(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError), hold(path, "x", "y"):
        pass
    assert not (tmp_path / "elsewhere").exists()
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError), hold(path, "x", "y"):
        pass


def test_the_lock_is_private_and_not_inherited(path: Path) -> None:
    before = os.umask(0)
    try:
        with hold(path, "x", "y"):
            child = subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, check=True)
            assert str(path) not in child.stdout
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
