"""A line of the doctor, and how checks are run: side by side, each within its time, none hiding another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, TypeVar

from backup.errors import BackupError
from backup.formatting import printable
from backup.logging import redacted
from backup.monitoring.health import Reason

T = TypeVar("T")
Level = Literal["ok", "warning", "failed"]
LEVELS: Final[tuple[Level, ...]] = ("ok", "warning", "failed")
# Those of `monitor --alert`, which asks how the backups are; this asks whether there can be any.
EXIT: Final[Mapping[Level, int]] = {"ok": 0, "warning": 60, "failed": 61}
SECONDS: Final = 60.0


@dataclass(frozen=True)
class Line:
    """What one check found. `hint` is the next command or setting."""

    level: Level
    topic: str
    text: str
    hint: str = ""


@dataclass(frozen=True)
class Found:
    """Lines of one topic, to be written down shortly."""

    topic: str

    def ok(self, text: str) -> Line:
        """All is well."""
        return Line("ok", self.topic, text)

    def warning(self, text: str, hint: str = "") -> Line:
        """It works, but not as it should."""
        return Line("warning", self.topic, text, hint)

    def failed(self, text: str, hint: str = "") -> Line:
        """It does not work."""
        return Line("failed", self.topic, text, hint)

    def error(self, error: BackupError) -> Line:
        """What an error says."""
        return self.failed(error.message, error.hint)

    def reason(self, reason: Reason) -> Line:
        """What health says."""
        level: Level = "failed" if reason.severity == "fail" else "warning" if reason.severity == "warn" else "ok"
        return Line(level, self.topic, reason.text, reason.hint)


@dataclass(frozen=True)
class Check:
    """One look at one thing. What it raises becomes a line; after `seconds` it is no longer waited for."""

    topic: str
    look: Callable[[], Iterable[Line]]
    seconds: float = SECONDS


class NotChecked(Exception):
    """What a check needs is told as missing by another one."""


class Shared(Generic[T]):
    """A fact that several checks need: found out once, by whoever asks first."""

    def __init__(self, find: Callable[[], T], what: str) -> None:
        self._find, self._what, self._lock = find, what, threading.Lock()
        self._found: list[T] = []
        self._error: Exception | None = None

    def get(self) -> T:
        """The fact, or the error that it ended with."""
        with self._lock:
            if self._error:
                raise self._error
            if not self._found:
                try:
                    self._found.append(self._find())
                except Exception as error:
                    self._error = error
                    raise
            return self._found[0]

    def known(self) -> T | None:
        """The fact if it has been found out."""
        return self._found[0] if self._found else None

    def borrow(self) -> T:
        """The fact, for a check that it is not the topic of: its error is told elsewhere."""
        try:
            return self.get()
        except Exception as error:
            raise NotChecked(self._what) from error


@dataclass
class _Running:
    check: Check
    lines: list[Line] = field(default_factory=list)
    over: bool = False

    def work(self) -> None:
        """Take what the check finds, whatever becomes of it."""
        say = Found(self.check.topic)
        try:
            for line in self.check.look():
                self.lines.append(line)
        except BackupError as error:
            self.lines.append(say.error(error))
        except NotChecked as missing:
            self.lines.append(say.warning(f"not checked, for want of {missing}"))
        except Exception as error:  # noqa: BLE001 - a bug in one check must not hide the others
            text = f"this check is broken: {type(error).__name__}: {error}"
            self.lines.append(say.failed(text, "This is a bug in the backup sidecar."))
        self.over = True


def examine(checks: Sequence[Check]) -> list[Line]:
    """What all checks find, in their order, as harmless one-line texts without secrets."""
    begun = time.monotonic()
    running = [_Running(check) for check in checks]
    # Daemons: a check that hangs keeps nobody from ending.
    threads = [threading.Thread(target=each.work, name=each.check.topic, daemon=True) for each in running]
    for thread in threads:
        thread.start()
    for each, thread in zip(running, threads, strict=True):
        thread.join(max(0.0, begun + each.check.seconds - time.monotonic()))
    return [_clean(line) for each in running for line in _ended(each)]


def worst(lines: Iterable[Line]) -> Level:
    """The level of the worst line."""
    return max((line.level for line in lines), key=LEVELS.index, default="ok")


def _ended(each: _Running) -> Iterator[Line]:
    over = each.over
    yield from list(each.lines)
    if not over:
        yield Found(each.check.topic).failed(
            f"no answer within {each.check.seconds:.0f} s", "What it asks hangs: look at its log, or start it again."
        )


def _clean(line: Line) -> Line:
    text, hint = (printable(" ".join(redacted(part).split())) for part in (line.text, line.hint))
    return Line(line.level, line.topic, text, hint)
