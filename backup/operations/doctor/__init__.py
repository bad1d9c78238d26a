"""How the doctor's checks are run: side by side, each within its time, none hiding another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from backup.errors import BackupError
from backup.formatting import printable
from backup.logging import redacted
from backup.model.finding import LEVELS, Finding, Level, failure, warning

Fact = TypeVar("Fact")
# Those of `monitor --alert`, which asks how the backups are; this asks whether there can be any.
EXIT: Final[Mapping[Level, int]] = {"pass": 0, "warn": 60, "fail": 61}
SECONDS: Final = 60.0


@dataclass(frozen=True)
class Check:
    """One look at one thing. What it raises becomes a line; after `seconds` it is no longer waited for."""

    topic: str
    look: Callable[[], Iterable[Finding]]
    seconds: float = SECONDS


class NotChecked(Exception):
    """What a check needs is told as missing by another one."""


class SharedFact(Generic[Fact]):
    """A fact that several checks need: found out once, by whoever asks first."""

    def __init__(self, find: Callable[[], Fact], what: str) -> None:
        self._find, self._what, self._lock = find, what, threading.Lock()
        self._found: list[Fact] = []
        self._error: Exception | None = None

    def get(self) -> Fact:
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

    def known(self) -> Fact | None:
        """The fact if it has been found out."""
        return self._found[0] if self._found else None

    def borrow(self) -> Fact:
        """The fact, for a check that it is not the topic of: its error is told elsewhere."""
        try:
            return self.get()
        except Exception as error:
            raise NotChecked(self._what) from error


@dataclass
class _Running:
    check: Check
    lines: list[Finding] = field(default_factory=list)
    over: bool = False

    def work(self) -> None:
        """Take what the check finds, whatever becomes of it."""
        try:
            for line in self.check.look():
                self.lines.append(line)
        except BackupError as error:
            self.lines.append(failure(error.message, error.hint))
        except NotChecked as missing:
            self.lines.append(warning(f"not checked: it needs {missing}"))
        except Exception as error:  # noqa: BLE001 - a bug in one check must not hide the others
            text = f"this check is broken: {type(error).__name__}: {error}"
            self.lines.append(failure(text, "This is a bug in the backup sidecar."))
        self.over = True


def examine(checks: Sequence[Check]) -> list[Finding]:
    """Run all checks; their findings in the order of the checks, as harmless one-line texts without secrets."""
    begun = time.monotonic()
    running = [_Running(check) for check in checks]
    # Daemons: a check that hangs keeps nobody from ending.
    threads = [threading.Thread(target=each.work, name=each.check.topic, daemon=True) for each in running]
    for thread in threads:
        thread.start()
    for each, thread in zip(running, threads, strict=True):
        thread.join(max(0.0, begun + each.check.seconds - time.monotonic()))
    return [_clean(line, each.check.topic) for each in running for line in _ended(each)]


def worst(lines: Iterable[Finding]) -> Level:
    """The level of the worst line."""
    return max((line.level for line in lines), key=LEVELS.index, default="pass")


def _ended(each: _Running) -> Iterator[Finding]:
    over = each.over
    yield from list(each.lines)
    if not over:
        yield failure(
            f"no answer within {each.check.seconds:.0f} s", "What it asks hangs: check its log, or restart it."
        )


def _clean(line: Finding, topic: str) -> Finding:
    text, hint = (printable(" ".join(redacted(part).split())) for part in (line.text, line.hint))
    return Finding(line.level, text, "" if line.level == "pass" else hint, topic)
