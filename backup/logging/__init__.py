"""Log lines as the seed's users know them: `[YYYY-MM-DD HH:MM:SS] [LEVEL] message`, on stdout and in logs/.

On stdout they can be JSON instead, one object a line. In the files the first line of an entry ends with its run.
Control characters are escaped and secrets replaced in every line, also in tracebacks.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Final, NamedTuple

from backup.formatting import printable
from backup.logging import files

__all__ = ["Logged", "is_public", "logger", "of_run", "redacting", "run_ended", "setup_logging", "to_file"]

_LEVELS: Final = ("DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")
_MEGABYTE: Final = 10**6
_secrets: set[str] = set()
# Words that stand in statements and names. A secret that is one of them is struck out only where it is a value.
_public = {"postgres", "public", "backup", "password", "localhost"}
# The runs under way in this process, the innermost last: a restore makes its safety set within its own run.
_runs: list[str] = []
_ended: set[str] = set()


class Logged(NamedTuple):
    """What was logged, safe to print; of `run`, if one is under way."""

    time: datetime
    level: str
    text: str
    run: str

    def __str__(self) -> str:
        return self.line()

    def line(self, mark: str = "") -> str:
        """Write it for people; `mark` follows its first line."""
        first, newline, more = self.text.partition("\n")
        return f"[{self.time:%Y-%m-%d %H:%M:%S}] [{self.level}] {first}{mark}{newline}{more}\n"

    def encode(self) -> str:
        """Write it as JSON, in one line."""
        body = {"time": self.time.isoformat(timespec="milliseconds"), "level": self.level, "message": self.text}
        return json.dumps(body | ({"run": self.run} if self.run else {}), ensure_ascii=False) + "\n"


_Sink = Callable[[Logged], object]


class _Logger:
    """Gives entries, stamped with the clock of `zone`, to all that want them. `{}` stand for the arguments."""

    def __init__(self) -> None:
        self.zone: tzinfo | None = None
        self._sinks: dict[_Sink, int] = {}
        self._renew()
        # In a child nobody would let go of it.
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def add(self, sink: _Sink, level: str = "INFO") -> _Sink:
        """Let `sink` have what is logged from this level on; what `remove` takes. A failing one fails no run."""
        self._sinks[sink] = _LEVELS.index(level)
        return sink

    def remove(self, sink: _Sink | None = None) -> None:
        """Let it, or all, have nothing more."""
        for each in [sink] if sink else list(self._sinks):
            del self._sinks[each]

    def log(self, level: str, text: str, *args: object) -> None:
        """Log it at the level of that name."""
        number = _LEVELS.index(level)
        wanting = [sink for sink, least in list(self._sinks.items()) if least <= number]
        lines = redacted(text.format(*args) if args else text).rstrip("\r\n ").split("\n")
        run = _runs[-1] if _runs else ""
        entry = Logged(datetime.now(UTC).astimezone(self.zone), level, "\n".join(map(printable, lines)), run)
        with self._lock:
            for sink in wanting:
                # Nobody listens any more, or a disk is full: what the run does is not to depend on it.
                with contextlib.suppress(OSError, ValueError):
                    sink(entry)

    def debug(self, text: str, *args: object) -> None:
        """Log what is for the record alone."""
        self.log("DEBUG", text, *args)

    def info(self, text: str, *args: object) -> None:
        """Log what is done."""
        self.log("INFO", text, *args)

    def success(self, text: str, *args: object) -> None:
        """Log what has gone well."""
        self.log("SUCCESS", text, *args)

    def warning(self, text: str, *args: object) -> None:
        """Log what somebody should look at."""
        self.log("WARNING", text, *args)

    def error(self, text: str, *args: object) -> None:
        """Log what has failed."""
        self.log("ERROR", text, *args)

    def exception(self, text: str) -> None:
        """Log what has failed, with the traceback of the exception at hand."""
        self.log("ERROR", "{}\n{}", text, traceback.format_exc())


logger: Final = _Logger()
# Until it is set up; a helper of ours never does.
logger.add(lambda entry: sys.stderr.write(str(entry)))


def setup_logging(
    zone: tzinfo | None, write: Callable[[str], object] = sys.stdout.write, *, as_json: bool = False
) -> None:
    """Send log lines to `write`, stamped with the clock of `zone`; as objects in JSON if so told."""
    logger.remove()
    logger.zone = zone
    logger.add(lambda entry: write(entry.encode() if as_json else str(entry)))
    logging.basicConfig(handlers=[_Bridge()], level=logging.WARNING, force=True)


def to_file(directory: Path, kind: str, zone: tzinfo, limit: float = 10) -> None:
    """Append to `<directory>/<kind>-YYYY-MM.log` besides, of at most `limit` MB and as much before it.

    What is for the record alone (DEBUG) is there, too. A log that cannot be written never stops a run.
    """
    try:
        appender = files.Appender(directory, kind, datetime.now(zone), round(limit * _MEGABYTE))
    except OSError as error:
        path = f"{directory}/{kind}-{datetime.now(zone):%Y-%m}.log"
        logger.warning("{} cannot be written: {}; this run is logged on stdout only", path, error.strerror)
        return
    logger.add(lambda entry: appender.write(entry.line(files.mark(entry.run)).encode(errors="replace")), "DEBUG")


def of_run(run: str) -> None:
    """What is logged from now on belongs to this run, until it has ended."""
    if _runs and _runs[-1] in _ended:
        _runs.clear()
        _ended.clear()
    _runs.append(run)


def run_ended(run: str) -> None:
    """That run has ended; what follows is the outer run's, or, of the outermost, still its own."""
    if _runs and _runs[-1] == run:
        if len(_runs) > 1:
            _runs.pop()
        else:
            _ended.add(run)


def redacting(secrets: Iterable[str], public: Iterable[str] = ()) -> None:
    """Replace these strings by *** in all later lines; `public` are names that are no secret, of a role for example."""
    _secrets.update(secret for secret in secrets if len(secret) > 2)
    _public.update(public)


def is_public(secret: str) -> bool:
    """Whether a secret is a word that everybody knows, or a part of one."""
    return any(secret in word for word in _public)


def redacted(text: str) -> str:
    """`text` without any known secret."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = _value(secret).sub(r"\g<before>***", text) if is_public(secret) else text.replace(secret, "***")
    return text


@functools.cache
def _value(secret: str) -> re.Pattern[str]:
    """Where a secret stands as a value: behind a word for it, in a URL's login, at the end of a PGPASSFILE's line."""
    return re.compile(
        r"(?P<before>(?i:(?<!\\)(?:pass(?:word|wd|phrase)?|pwd|secret|token|key)[\"'\s:=]{1,8})"
        r"|://[^\s/@:]*:|^(?:[^\s:]*:){4})" + re.escape(secret) + r"(?![\w-])",
        re.MULTILINE,
    )


class _Bridge(logging.Handler):
    """Warnings of libraries (uvicorn, docker) in our own form."""

    def emit(self, record: logging.LogRecord) -> None:
        known = record.levelname in ("WARNING", "ERROR", "CRITICAL")
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        logger.log(record.levelname if known else "INFO", "{}", text)
