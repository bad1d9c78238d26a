"""What the manifests and verdicts of older sets said when they were read, so that thousands need not be read each time.

    <root>/state/catalogue-<tier>.json     the release and a SHA-256 in one line, then JSON

Never the truth: an entry counts as long as its file has the inode, size and times that it was read with. A file that
is damaged, of another release or gone is as good as none, and one that cannot be written costs time alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from backup import __version__
from backup.errors import BackupError, StoreError
from backup.model.backup_set import Verdict
from backup.model.manifest import Manifest, Summary, Tier, summarise
from backup.storage.atomic_file import replace
from backup.storage.directory import LocalStore

# So many files must have come, changed or gone before it is written anew.
MANY: Final = 100
# A file system may tell times by seconds: what was changed just now may change again without a trace.
_SETTLED: Final = 3.0
# A verdict that lists a thousand missing files is read each time.
_SMALL: Final = 4096
_LINE: Final = 100

# Inode, size, time of content, time of inode.
_FileState = tuple[int, int, int, int]
_T = TypeVar("_T")


class _Kept(BaseModel):
    """By the name of each file, what identified it and what it said."""

    model_config = ConfigDict(extra="forbid")

    manifests: dict[str, tuple[_FileState, Summary]]
    verdicts: dict[str, tuple[_FileState, Verdict]]

    def lines(self) -> list[bytes]:
        """As JSON, a few sets a line: what is read piece by piece takes little memory."""
        parts = [_Kept.model_construct(manifests=dict(some), verdicts={}) for some in _cut(self.manifests)]
        parts += [_Kept.model_construct(manifests={}, verdicts=dict(some)) for some in _cut(self.verdicts)]
        return [part.model_dump_json().encode() + b"\n" for part in parts]


class ManifestCache:
    """What is remembered of one tier, by one process and in the file."""

    def __init__(self, root: Path, tier: Tier, clock: Callable[[], datetime]) -> None:
        self._store, self._name, self._clock = LocalStore(root / "state"), f"catalogue-{tier}.json", clock
        self._changes = 0
        self._lock = threading.Lock()

    def summary(self, name: str, status: os.stat_result, read: Callable[[], Manifest]) -> Summary:
        """What the manifest of that name says, read only if it is not known of the file with this status."""
        return self._known(self._kept.manifests, name, status, lambda: summarise(read()))

    def whole(self, name: str, read: Callable[[], Manifest]) -> Manifest:
        """The manifest of that name as its file is now; one that cannot be read is known no more."""
        try:
            return read()
        except BackupError:
            with self._lock:
                self._kept.manifests.pop(name, None)
            raise

    def verdict(self, name: str, status: os.stat_result, read: Callable[[], Verdict]) -> Verdict:
        """The same of a verdict."""
        return self._known(self._kept.verdicts, name, status, read)

    def keep(self, present: Iterable[str]) -> None:
        """Forget all files but those present, and write what is known if much has changed."""
        there = set(present)
        with self._lock:
            for known in (self._kept.manifests, self._kept.verdicts):
                for name in known.keys() - there:
                    del known[name]
                    self._changes += 1
            if self._changes < MANY:
                return
            self._changes = 0
            data = self._kept.lines()
        with contextlib.suppress(BackupError):  # a volume that is read-only or full
            replace(self._store, self._name, b"".join([_head(data), *data]))

    def _known(
        self, known: dict[str, tuple[_FileState, _T]], name: str, status: os.stat_result, read: Callable[[], _T]
    ) -> _T:
        identity = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        found = known.get(name)
        if found and found[0] == identity:
            return found[1]
        value = read()
        settled = self._clock().timestamp() - max(status.st_mtime, status.st_ctime) > _SETTLED
        if settled and (isinstance(value, Summary) or status.st_size <= _SMALL):
            with self._lock:
                known[name] = identity, value
                self._changes += 1
        return value

    @cached_property
    def _kept(self) -> _Kept:
        """What the file says, read when it is first asked for."""
        kept = _Kept(manifests={}, verdicts={})
        with contextlib.suppress(StoreError, ValidationError):
            lines = self._store.read(self._name).splitlines(keepends=True)
            whole = lines[:1] == [_head(lines[1:])]
            for more in [_Kept.model_validate_json(line) for line in lines[1:]] if whole else ():
                kept.manifests.update(more.manifests)
                kept.verdicts.update(more.verdicts)
        return kept


def _head(lines: Iterable[bytes]) -> bytes:
    """The line that says what wrote the file, and that it is whole."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return f"obcms-backup {__version__} {digest.hexdigest()}\n".encode()


def _cut(known: dict[str, _T]) -> Iterator[tuple[tuple[str, _T], ...]]:
    items = iter(known.items())
    return iter(lambda: tuple(islice(items, _LINE)), ())
