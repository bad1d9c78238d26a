"""Log lines as the seed's users know them: `[YYYY-MM-DD HH:MM:SS] [LEVEL] message`, on stdout and in logs/.

Control characters are escaped and secrets replaced in every line, also in tracebacks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loguru import logger

from backup.text import printable

if TYPE_CHECKING:
    from loguru import Message, Record

__all__ = ["logger", "redacting", "setup", "to_file"]

_FORMAT: Final = "{extra[line]}"
_secrets: set[str] = set()


def setup(zone: tzinfo | None, write: Callable[[str], object] = sys.stdout.write) -> None:
    """Send log lines to `write`, stamped with the clock of `zone`."""
    logger.remove()
    logger.configure(patcher=lambda record: _patch(record, zone))
    logger.add(lambda message: _emit(write, message), format=_FORMAT, level="INFO", backtrace=False, diagnose=False)
    logging.basicConfig(handlers=[_Bridge()], level=logging.WARNING, force=True)


def to_file(directory: Path, kind: str, zone: tzinfo) -> None:
    """Append to `<directory>/<kind>-YYYY-MM.log` besides. A log that cannot be written never stops a run."""
    path = directory / f"{kind}-{datetime.now(zone):%Y-%m}.log"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        logger.add(
            lambda message: _append(descriptor, message), format=_FORMAT, level="INFO", backtrace=False, diagnose=False
        )
    except OSError as error:
        logger.warning("{} cannot be written: {}; this run is logged on stdout only", path, error.strerror)


def redacting(secrets: Iterable[str]) -> None:
    """Replace these strings by *** in all later lines."""
    _secrets.update(secret for secret in secrets if len(secret) > 2)


def _emit(write: Callable[[str], object], message: Message) -> None:
    # Nobody listens any more, or a redirected stdout is full: what the run does is not to depend on it.
    with contextlib.suppress(OSError):
        write(str(message))


def _append(descriptor: int, message: Message) -> None:
    # A full disk fails every line: the run's own error is what must be read, and stdout has all lines.
    with contextlib.suppress(OSError):
        os.write(descriptor, str(message).encode(errors="replace"))


def _patch(record: Record, zone: tzinfo | None) -> None:
    text = redacted(record["message"])
    stamp = record["time"].astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")
    record["extra"]["line"] = f"[{stamp}] [{record['level'].name}] " + "\n".join(map(printable, text.split("\n")))


def redacted(text: str) -> str:
    """`text` without any known secret."""
    for secret in _secrets:
        text = text.replace(secret, "***")
    return text


class _Bridge(logging.Handler):
    """Warnings of libraries (uvicorn, docker) in our own form."""

    def emit(self, record: logging.LogRecord) -> None:
        known = record.levelname in ("WARNING", "ERROR", "CRITICAL")
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        logger.log(record.levelname if known else "INFO", "{}", text)
