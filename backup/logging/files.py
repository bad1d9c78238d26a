"""The log files `<kind>-YYYY-MM.log`: bounded when they are written, read back as entries.

A file that has grown too large is renamed to `<kind>-YYYY-MM.1.log`; what was called so before is lost. The newest
thirteen months of each kind stay, by their names and not by the clock: one that is years ahead removes next to nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Final

LOG_KINDS: Final = ("backup", "restore", "verify", "monitor")
_MONTHS: Final = 13
_NAME: Final = re.compile(r"(?P<kind>[a-z]+)-(?P<month>\d{4}-\d\d)(?P<old>\.1)?\.log")
_HEAD: Final = re.compile(r"\[(?P<stamp>\d{4}(?:-\d\d){2} \d\d(?::\d\d){2})\] \[(?P<level>[A-Z]+)\] ")
# Written after the first line of an entry: by it the lines of one run are found.
_MARK: Final = re.compile(r"  #(?P<run>\d{8}T\d{6}Z-[0-9a-f]{6})$")
# A file may be larger than its bound by one entry, and the bound may have been lowered since.
_READ: Final = 64 << 20
_END: Final = 64 << 10


@dataclass(frozen=True)
class LogEntry:
    """One log entry as it stands in its file, without the mark; `run` is "" where the line had none."""

    stamp: str
    level: str
    text: str
    kind: str
    run: str = ""


def mark(run: str) -> str:
    """What follows the first line of an entry of that run."""
    return f"  #{run}" if _MARK.fullmatch(f"  #{run}") else ""


class Appender:
    """Appends to this month's file of a kind, and rotates it when it is over `limit` bytes."""

    def __init__(self, directory: Path, kind: str, now: datetime, limit: int) -> None:
        self._path = directory / f"{kind}-{now:%Y-%m}.log"
        self._limit = limit
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_old_files(directory)
        self._descriptor = self._open()

    def write(self, data: bytes) -> None:
        """Append one entry in one piece, so that those of two processes never mix. OSError when it cannot be."""
        if os.fstat(self._descriptor).st_size + len(data) > self._limit:
            self._rotate()
        os.write(self._descriptor, data)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        return os.open(self._path, flags, 0o600)

    def _rotate(self) -> None:
        """Another process may have rotated it already; then its new file is the one to go on in."""
        mine = os.fstat(self._descriptor)
        with contextlib.suppress(OSError):
            now = self._path.lstat()
            if now.st_ino == mine.st_ino and now.st_size:
                self._path.rename(self._path.with_name(f"{self._path.stem}.1.log"))
            descriptor = self._open()
            os.close(self._descriptor)
            self._descriptor = descriptor


def remove_old_files(directory: Path) -> None:
    """Remove log files of all but the newest months of each kind."""
    with contextlib.suppress(OSError):
        found = list(_found(directory))
        for kind in LOG_KINDS:
            mine = [each for each in found if each[0] == kind]
            kept = sorted({month for _, month, _ in mine})[-_MONTHS:]
            for path in (path for _, month, path in mine if month not in kept):
                path.unlink()


def tail(directory: Path, kinds: Iterable[str], count: int | None) -> list[LogEntry]:
    """The newest `count` entries of these kinds (None: all), oldest first."""
    found: list[LogEntry] = []
    for month in reversed(_months(directory)):
        found = _month(directory, month, kinds) + found
        if count is not None and len(found) >= count:
            break
    return found if count is None else found[len(found) - min(count, len(found)) :]


def recent(directory: Path) -> dict[str, list[LogEntry]]:
    """By run, the entries at the very end of each kind's newest file: few bytes, whatever the logs hold."""
    found: dict[str, list[LogEntry]] = {}
    for kind in LOG_KINDS:
        mine = [path for each, _, path in _listed(directory) if each == kind]
        for entry in _entries(kind, _text(max(mine), _END)) if mine else ():
            if entry.run:
                found.setdefault(entry.run, []).append(entry)
    return found


def _listed(directory: Path) -> list[tuple[str, str, Path]]:
    try:
        return [each for each in _found(directory) if not each[2].name.endswith(".1.log")]
    except OSError:
        return []


def of_run(
    directory: Path, run: str, started: datetime, ended: datetime | None, zone: tzinfo, kinds: Iterable[str] = LOG_KINDS
) -> list[LogEntry]:
    """The entries of one run: those marked with it, else those without any mark from its time."""
    first = started.astimezone(zone)
    last = (ended or started + timedelta(days=1)).astimezone(zone)
    months = [month for month in _months(directory) if f"{first:%Y-%m}" <= month <= f"{last:%Y-%m}"]
    entries = [entry for month in months for entry in _month(directory, month, kinds)]
    marked = [entry for entry in entries if entry.run == run]
    if marked:
        return marked
    since, until = (f"{moment:%Y-%m-%d %H:%M:%S}" for moment in (first, last + timedelta(seconds=1)))
    return [entry for entry in entries if not entry.run and since <= entry.stamp <= until]


def _found(directory: Path) -> Iterator[tuple[str, str, Path]]:
    """(kind, month, path) of each log file; whatever else lies there is not ours."""
    with os.scandir(directory) as entries:
        for entry in entries:
            name = _NAME.fullmatch(entry.name)
            if name and name["kind"] in LOG_KINDS and entry.is_file(follow_symlinks=False):
                yield name["kind"], name["month"], Path(entry.path)


def _months(directory: Path) -> list[str]:
    try:
        return sorted({month for _, month, _ in _found(directory)})
    except FileNotFoundError:
        return []


def _month(directory: Path, month: str, kinds: Iterable[str]) -> list[LogEntry]:
    """One month's entries of these kinds by their time; those of one file keep their order."""
    entries: list[LogEntry] = []
    for kind in kinds:
        for name in (f"{kind}-{month}.1.log", f"{kind}-{month}.log"):
            entries += _entries(kind, _text(directory / name))
    return sorted(entries, key=lambda entry: entry.stamp)


def _text(path: Path, limit: int = _READ) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return ""
        file.seek(max(0, found.st_size - limit))
        return file.read(limit).decode(errors="replace")


def _entries(kind: str, text: str) -> Iterator[LogEntry]:
    block: list[str] = []
    for line in text.split("\n"):
        if _HEAD.match(line) and block:
            yield from _entry(kind, block)
            block = []
        block.append(line)
    yield from _entry(kind, block)


def _entry(kind: str, block: list[str]) -> Iterator[LogEntry]:
    head = _HEAD.match(block[0])
    if head:  # what stands before the first stamp was cut off
        found = _MARK.search(block[0])
        first = block[0][: found.start()] if found else block[0]
        yield LogEntry(
            head["stamp"],
            head["level"],
            "\n".join([first, *block[1:]]).rstrip("\n"),
            kind,
            found["run"] if found else "",
        )
