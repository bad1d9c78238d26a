"""What the alerts remember, with the messages on their way, in state/alerts.json: the service alone writes it.

Other processes put a message into state/outbox, one file each, from where the service takes it.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from backup.errors import BackupError, StoreError
from backup.formatting import printable, shortened
from backup.logging import logger, redacted
from backup.monitoring.alerts.model import BODY, TITLE, Memory, Message, Notice
from backup.storage.atomic_file import forgotten, replace
from backup.storage.directory import LocalStore

# What waits at most.
MOST: Final = 20
_LIMIT: Final = 64 << 10
_MEMORY: Final = "alerts.json"
_MEMORY_LIMIT: Final = 4 << 20
_NAME: Final = re.compile(r"([0-9A-Za-z-]{1,64})\.json")


def message(notice: Notice, now: datetime, identifier: str = "") -> Message:
    """A notice as a message, under a name that sorts by time."""
    title, body = printable(redacted(notice.title)[:TITLE]), shortened(redacted(notice.body), BODY)
    name = identifier or f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    return Message(id=name, kind=notice.kind, title=title, body=body, created=now)


def enqueue(root: Path, notice: Notice, now: datetime) -> None:
    """Give the running service a notice to deliver. StoreError when the volume does not take it, or too many wait."""
    if len(_files(root)) >= MOST:
        raise StoreError(
            f"{MOST} messages wait to be delivered already; this one was not added",
            "`notify --pending` lists them, `notify --test` tries the targets; is the service running?",
        )
    each = message(notice, now)
    replace(_store(root), f"{each.id}.json", each.model_dump_json(indent=1).encode())


def recall(root: Path) -> Memory:
    """What is remembered, and what others have put in. StoreError when it cannot be read, or is damaged."""
    store, memory = LocalStore(root / "state"), Memory()
    if _MEMORY in store.names():
        try:
            memory = Memory.model_validate_json(store.read(_MEMORY, _MEMORY_LIMIT))
        except ValidationError:
            hint = "The service writes it anew. Is the disk failing?"
            raise StoreError("state/alerts.json is damaged: what was told before may be told again", hint) from None
    return collected(root, memory, ())


def collected(root: Path, memory: Memory, taken: Iterable[str]) -> Memory:
    """`memory` with what others have put in, oldest first, but for what was `taken`. What is damaged is removed."""
    had = {*taken, *(each.id for each in memory.messages)}
    new = [each for name in _files(root) if name not in had and (each := _read(root, name))]
    messages = sorted([*memory.messages, *new], key=lambda each: (each.created, each.id))
    return memory.model_copy(update={"messages": tuple(messages)})


def remember(root: Path, memory: Memory) -> None:
    """Keep it on the disk. StoreError or NoSpace when the disk does not take it."""
    replace(LocalStore(root / "state"), _MEMORY, memory.model_dump_json(indent=1).encode())


def clear(root: Path, taken: Iterable[str]) -> None:
    """Remove the files of what was taken, and what writers that died left. StoreError when the disk does not let go."""
    store = _store(root)
    files = {f"{each}.json" for each in taken}
    store.remove_all(name for name in store.names() if name in files or forgotten(store, name))


def _store(root: Path) -> LocalStore:
    return LocalStore(root / "state" / "outbox")


def _files(root: Path) -> list[str]:
    """One file more than may be is not read, so that nobody can fill the memory through the directory."""
    try:
        return [match[1] for name in _store(root).names() if (match := _NAME.fullmatch(name))][: 2 * MOST]
    except BackupError as error:
        logger.debug("the outbox cannot be read: {}", error.message)
        return []


def _read(root: Path, name: str) -> Message | None:
    store, file = _store(root), f"{name}.json"
    try:
        return Message.model_validate_json(store.read(file, _LIMIT)).model_copy(update={"id": name})
    except BackupError as error:
        logger.debug("a message cannot be read: {}", error.message)
    except ValidationError:
        logger.warning("the message {} was damaged and is removed; nobody was sent it", name)
        with contextlib.suppress(BackupError):
            store.remove(file)
    return None
