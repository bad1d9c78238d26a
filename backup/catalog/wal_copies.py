"""What a place has confirmed of one cluster's WAL and base backups: wal/<system identifier>/offsite-<place>.jsonl.

One line for each object, appended once the place has told its size and checksum. Health reads it; nobody is asked.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from typing import Final

from pydantic import ValidationError

from backup.catalog.wal_archive import WalArchive
from backup.model.frozen import Frozen
from backup.model.pack import Count
from backup.model.wal import Base
from backup.model.wal_object import WAL_FOLDER, SegmentObject
from backup.storage import atomic_file
from backup.storage.directory import LocalStore
from backup.storage.filesystem import storing

_LARGEST: Final = 1 << 30


class WalCopy(Frozen):
    """One object, by its key; `size` in bytes. `base`: it is the record of that, as it is there."""

    key: str
    size: Count
    base: Base | None = None


class WalCopies:
    """The objects of one cluster at one place."""

    def __init__(self, archive: WalArchive, place: str) -> None:
        self.archive = archive
        self._store = LocalStore(archive.directory)
        self._name = f"offsite-{place}.jsonl"
        self._read: tuple[object, dict[str, WalCopy], list[SegmentObject]] = (None, {}, [])

    def all(self) -> dict[str, WalCopy]:
        """Every object that is there, by key."""
        if self._name not in self._store.names():
            return {}
        with storing(self._store.directory / self._name):
            status = os.stat(self._store.directory / self._name)
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if self._read[0] != seen:
            copies, ours = {}, f"{WAL_FOLDER}/{self.archive.unique_name()}/"
            for line in self._store.read(self._name, _LARGEST).splitlines():
                with contextlib.suppress(ValidationError):
                    copy = WalCopy.model_validate_json(line)
                    # Of a folder that was set aside in the midst of an upload, the note may have come here.
                    if copy.key.startswith(ours):
                        copies[copy.key] = copy
            # Of a busy server there are tens of thousands, looked at every few seconds.
            self._read = (seen, copies, [found for key in copies if (found := SegmentObject.parse(key))])
        return dict(self._read[1])

    def add(self, copy: WalCopy) -> None:
        """It is there."""
        self.archive.append(self._name, copy.model_dump_json(exclude_defaults=True))

    def remove(self, keys: Collection[str]) -> None:
        """They are there no more, or nobody asks for them any more."""
        if not keys:
            return
        self.archive.unique_name()  # it may have to lock the folder
        with atomic_file.alone(self._store):
            left = [copy for key, copy in self.all().items() if key not in keys]
            lines = "".join(f"{copy.model_dump_json(exclude_defaults=True)}\n" for copy in left)
            atomic_file.replace(self._store, self._name, lines.encode())

    def bases(self) -> list[Base]:
        """The base backups that are there, oldest first, as their records there say."""
        found = [copy.base for copy in self.all().values() if copy.base]
        return sorted(found, key=lambda each: (each.ended, each.id))

    def segments(self) -> list[SegmentObject]:
        """The segments and history files that are there."""
        return list(self._read[2]) if self.all() else []
