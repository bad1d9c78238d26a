"""Messages on their way, in state/outbox, one file each; and what the alerts remember, in state/alerts.json.

A disk that is full or failing is what an alert is most needed for: what it does not take is kept in memory.
"""

from __future__ import annotations

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

# What waits at most; one file more is not read, so that nobody can fill the memory through the directory.
MOST: Final = 20
_READ: Final = 2 * MOST
_LIMIT: Final = 64 << 10
_MEMORY: Final = "alerts.json"
_MEMORY_LIMIT: Final = 1 << 20
_NAME: Final = re.compile(r"([0-9A-Za-z-]{1,64})\.json")


def message(notice: Notice, now: datetime) -> Message:
    """A notice as a message, under a name that sorts by time."""
    name = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    title, body = redacted(notice.title)[:TITLE], shortened(redacted(notice.body), BODY)
    return Message(id=name, kind=notice.kind, title=printable(title), body=body, created=now)


class Outbox:
    """The messages of one backup volume. Any process may put one in; only the service takes them out."""

    def __init__(self, root: Path) -> None:
        self._store = LocalStore(root / "state" / "outbox")
        self._kept: dict[str, Message] = {}
        self._gone: set[str] = set()

    def messages(self) -> list[Message]:
        """All that wait, oldest first."""
        found = {name: each for name in self._names() if name not in self._gone and (each := self._read(name))}
        return sorted((found | self._kept).values(), key=lambda each: (each.created, each.id))

    def put(self, each: Message) -> None:
        """Keep a message, in memory if the disk does not take it."""
        try:
            self.save(each)
            self._kept.pop(each.id, None)
        except BackupError as error:
            if each.id not in self._kept:
                logger.warning("an alert is kept in memory only: {}", error.message)
            self._kept[each.id] = each
        self._gone.discard(each.id)

    def save(self, each: Message) -> None:
        """Keep a message on the disk; StoreError or NoSpace when it does not take it."""
        replace(self._store, f"{each.id}.json", each.model_dump_json(indent=1).encode())

    def remove(self, identifier: str) -> None:
        """Forget a message. One that the disk will not let go is not sent again by this process."""
        self._kept.pop(identifier, None)
        try:
            self._store.remove(f"{identifier}.json")
        except BackupError:
            self._gone.add(identifier)

    def sweep(self) -> None:
        """Remove what writers that died left."""
        try:
            for name in self._store.names():
                if forgotten(self._store, name):
                    self._store.remove(name)
        except BackupError as error:
            logger.debug("the outbox was not swept: {}", error.message)

    def _names(self) -> list[str]:
        try:
            names = self._store.names()
        except BackupError as error:
            logger.debug("the outbox cannot be read: {}", error.message)
            return []
        return [match[1] for name in names if (match := _NAME.fullmatch(name))][:_READ]

    def _read(self, name: str) -> Message | None:
        try:
            data = self._store.read(f"{name}.json", _LIMIT)
            return Message.model_validate_json(data).model_copy(update={"id": name})
        except StoreError as error:
            logger.debug("a message cannot be read: {}", error.message)
        except ValidationError:
            logger.warning("the message {} was damaged and is removed; nobody was sent it", name)
            self.remove(name)
        return None


def enqueue(root: Path, notice: Notice, now: datetime) -> None:
    """Give the running service a notice to deliver. StoreError when the volume does not take it, or too many wait."""
    outbox = Outbox(root)
    if len(outbox.messages()) >= MOST:
        raise StoreError(
            f"{MOST} messages wait to be delivered already; this one was not added",
            "`notify --pending` lists them, `notify --test` tries the targets; is the service running?",
        )
    outbox.save(message(notice, now))


def recall(root: Path) -> Memory | None:
    """What is remembered; nothing yet: an empty one; None: damaged. StoreError when the volume cannot be read."""
    store = LocalStore(root / "state")
    if _MEMORY not in store.names():
        return Memory()
    try:
        return Memory.model_validate_json(store.read(_MEMORY, _MEMORY_LIMIT))
    except ValidationError:
        return None


def remember(root: Path, memory: Memory) -> bool:
    """Whether the disk took it."""
    try:
        replace(LocalStore(root / "state"), _MEMORY, memory.model_dump_json(indent=1).encode())
    except BackupError as error:
        logger.debug("what was told is remembered in memory only: {}", error.message)
        return False
    return True


def waiting(messages: Iterable[Message], target: str) -> list[Message]:
    """Those that `target` has refused so far."""
    return [each for each in messages if target in each.tries and target not in each.delivered]
