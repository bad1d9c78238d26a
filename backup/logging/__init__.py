"""Log lines as the seed's users know them: `[YYYY-MM-DD HH:MM:SS] [LEVEL] message`, on stdout and in logs/.

On stdout they can be JSON instead, one object a line. In the files the first line of an entry ends with its run.
Control characters are escaped and secrets replaced in every line, also in tracebacks.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loguru import logger

from backup.formatting import printable
from backup.logging import files

if TYPE_CHECKING:
    from loguru import Message, Record

__all__ = ["is_public", "logger", "of_run", "redacting", "run_ended", "setup_logging", "to_file"]

_MEGABYTE: Final = 10**6
_secrets: set[str] = set()
# Words that stand in statements and names. A secret that is one of them is struck out only where it is a value.
_public = {"postgres", "public", "backup", "password", "localhost"}
# The runs under way in this process, the innermost last: a restore makes its safety set within its own run.
_runs: list[str] = []
_ended: set[str] = set()


def setup_logging(
    zone: tzinfo | None, write: Callable[[str], object] = sys.stdout.write, *, as_json: bool = False
) -> None:
    """Send log lines to `write`, stamped with the clock of `zone`; as objects in JSON if so told."""
    logger.remove()
    logger.configure(patcher=lambda record: _patch(record, zone))
    form = _json if as_json else _plain
    logger.add(lambda message: _emit(write, message), format=form, level="INFO", backtrace=False, diagnose=False)
    logging.basicConfig(handlers=[_Bridge()], level=logging.WARNING, force=True)


def to_file(directory: Path, kind: str, zone: tzinfo, limit: float = 10) -> None:
    """Append to `<directory>/<kind>-YYYY-MM.log` besides, of at most `limit` MB and as much before it.

    What is for the record alone (DEBUG) is there, too. A log that cannot be written never stops a run.
    """
    try:
        appender = files.Appender(directory, kind, datetime.now(zone), round(limit * _MEGABYTE))
        logger.add(
            lambda message: _append(appender, message), format=_marked, level="DEBUG", backtrace=False, diagnose=False
        )
    except OSError as error:
        path = f"{directory}/{kind}-{datetime.now(zone):%Y-%m}.log"
        logger.warning("{} cannot be written: {}; this run is logged on stdout only", path, error.strerror)


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


def _emit(write: Callable[[str], object], message: Message) -> None:
    # Nobody listens any more, or a redirected stdout is full: what the run does is not to depend on it.
    with contextlib.suppress(OSError):
        write(str(message))


def _append(appender: files.Appender, message: Message) -> None:
    # A full disk fails every line: the run's own error is what must be read, and stdout has all lines.
    with contextlib.suppress(OSError):
        appender.write(str(message).encode(errors="replace"))


def _patch(record: Record, zone: tzinfo | None) -> None:
    text = record["message"]
    if error := record["exception"]:
        text += "\n" + "".join(traceback.format_exception(error.type, error.value, error.traceback)).rstrip()
    moment = record["time"].astimezone(zone)
    lines = [printable(line) for line in redacted(text).rstrip("\r\n ").split("\n")]
    head = f"[{moment:%Y-%m-%d %H:%M:%S}] [{record['level'].name}] {lines[0]}"
    run = _runs[-1] if _runs else ""
    body = {
        "time": moment.isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "message": "\n".join(lines),
    }
    record["extra"] |= {
        "line": "\n".join([head, *lines[1:]]),
        "marked": "\n".join([head + files.mark(run), *lines[1:]]),
        "json": json.dumps(body | ({"run": run} if run else {}), ensure_ascii=False),
    }


# Functions, because loguru adds the traceback to a format that is a string: as it is, with its secrets.
def _plain(record: Record) -> str:
    return "{extra[line]}\n"


def _marked(record: Record) -> str:
    return "{extra[marked]}\n"


def _json(record: Record) -> str:
    return "{extra[json]}\n"


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
