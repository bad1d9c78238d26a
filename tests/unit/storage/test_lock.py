"""One holder at a time, known by name, gone with its process."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pytest

from backup.errors import LockHeld, StoreError
from backup.storage.lock import hold, holder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "lock"


class Other:
    """A process that holds the lock until it is killed."""

    def __init__(self, path: Path) -> None:
        said, say = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            with hold(path, "create daily", "run-7"):
                os.write(say, b"held")
                signal.pause()
            os._exit(0)
        os.close(say)
        with os.fdopen(said, "rb") as news:
            assert news.read(4) == b"held"

    def __enter__(self) -> Other:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill it and see it gone."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0


class Time:
    """Passes when somebody sleeps; then `meanwhile` happens."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.now, self._meanwhile = 0.0, meanwhile

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._meanwhile()


def test_the_second_is_told_who_is_first(path: Path) -> None:
    with Other(path):
        with pytest.raises(LockHeld, match=r"create daily \(run run-7 in .*, since 20") as caught, hold(path, "x", "y"):
            pass
        assert caught.value.exit_code == 11 and "--wait" in caught.value.hint
        assert "create daily" in (holder(path) or "")


def test_a_killed_holder_frees_it_at_once(path: Path) -> None:
    with Other(path) as process:
        process.kill()
        assert holder(path) is None
        with hold(path, "next", "run-8"):
            assert "next" in (holder(path) or "")
    assert holder(path) is None


def test_waiting_ends_when_the_first_ends(path: Path) -> None:
    told: list[str] = []
    with Other(path) as process:
        time = Time(process.kill)
        with hold(path, "x", "y", wait=30, waiting=told.append, clock=time.clock, sleep=time.sleep):
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

    with Other(path) as process, hold(path, "restore", "y", wait=10, waiting=waiting):
        pass
    assert ["create" in told[0], "drill" in told[1]] == [True, True] and len(told) == 2


def test_waiting_has_an_end(path: Path) -> None:
    time = Time()
    with Other(path), pytest.raises(LockHeld), hold(path, "x", "y", wait=50, clock=time.clock, sleep=time.sleep):
        pass
    assert 50 <= time.now < 51


@pytest.mark.parametrize("text", [b"", b"\0" * 90, b"[1]", b'{"operation": 1}', b"\xff\xfe", b"9" * 9000])
def test_spoofed_text_misleads_nobody(path: Path, text: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(text)
    assert holder(path) is None
    time = Time()
    with hold(path, "x", "y"):
        assert json.loads(path.read_bytes())["operation"] == "x"
        path.write_bytes(text)
        with pytest.raises(LockHeld, match="unknown"), hold(path, "z", "z", clock=time.clock, sleep=time.sleep):
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
        time = Time()
        with pytest.raises(LockHeld) as caught, hold(path, "x", "y", clock=time.clock, sleep=time.sleep):
            pass
    assert "earlier" not in caught.value.message


def test_a_look_at_the_lock_does_not_turn_a_run_away(path: Path) -> None:
    """`holder` takes it shared for an instant; a run that starts in that instant must not be refused."""
    with hold(path, "earlier", "run-1"):
        pass
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        time = Time(lambda: fcntl.flock(file.fileno(), fcntl.LOCK_UN))
        with hold(path, "x", "y", clock=time.clock, sleep=time.sleep):
            pass
        assert time.now > 0


def test_a_look_at_the_lock_of_a_killed_run_is_not_taken_for_that_run(path: Path) -> None:
    """Its name stays behind; a restore that read it would refuse for a run that is long dead."""
    with Other(path) as process:
        process.kill()
    told: list[str] = []
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        time = Time(lambda: fcntl.flock(file.fileno(), fcntl.LOCK_UN))
        with hold(path, "x", "y", waiting=told.append, clock=time.clock, sleep=time.sleep):
            pass
    assert told == []


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
