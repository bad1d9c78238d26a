"""Pins: a small file beside a set that says it is to be kept, whatever its age.

Beside the set, so that it is copied with it. That it is there is the pin; what it holds is only told. So a pin that
is damaged, or that is no file at all, keeps its set as well, and no damage to one pin can release another set.
"""

from __future__ import annotations

import os
import stat
from datetime import datetime
from typing import Final

from pydantic import ValidationError

from backup.errors import StoreError
from backup.model.backup_set import Pin, pin_name
from backup.storage.atomic_file import replace
from backup.storage.directory import LocalStore
from backup.storage.filesystem import storing, sync_directory

_LONGEST: Final = 300
_UNREADABLE: Final = "its note cannot be read"


def is_pinned(store: LocalStore, identifier: str) -> bool:
    """Whether the set is pinned."""
    return os.path.lexists(store.directory / pin_name(identifier))


def read_pin(store: LocalStore, identifier: str) -> Pin | None:
    """The pin of a set; one that cannot be read is a pin all the same."""
    if not is_pinned(store, identifier):
        return None
    try:
        return Pin.model_validate_json(store.read(pin_name(identifier), limit=1 << 16))
    except (StoreError, ValidationError):
        return Pin(reason=_UNREADABLE)


def write(store: LocalStore, identifier: str, reason: str, now: datetime) -> None:
    """Pin a set, or say anew why it is pinned."""
    _ours(store, identifier)
    pin = Pin(since=now, reason=" ".join(reason.split())[:_LONGEST])
    replace(store, pin_name(identifier), pin.model_dump_json(indent=1).encode() + b"\n")


def remove_pin(store: LocalStore, identifier: str) -> bool:
    """Unpin a set; whether it was pinned."""
    if not _ours(store, identifier):
        return False
    store.remove(pin_name(identifier))
    sync_directory(store.directory)
    return True


def _ours(store: LocalStore, identifier: str) -> bool:
    """Whether there is a pin; StoreError when something that is no file has its name."""
    path = store.directory / pin_name(identifier)
    with storing(path):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return False
    if not stat.S_ISREG(mode):
        raise StoreError(f"{path} is not a regular file and was not touched", "Move it away; the set is pinned by it.")
    return True
