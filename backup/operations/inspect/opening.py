"""The one place where what is looked into is opened, and what holds output back until it is known to be right."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from backup.errors import IntegrityError
from backup.formatting import printable
from backup.model.backup_set import StoredSet
from backup.model.manifest import Artifact
from backup.operations.verify.stored_bytes import Stored
from backup.progress import Progress
from backup.storage.directory import LocalStore

_OTHER: str = "`verify` says what is wrong with it; `list` shows other sets."


@contextlib.contextmanager
def opened(stored: StoredSet, name: str, progress: Progress) -> Iterator[Stored]:
    """One file of a set, for the body to read."""
    source = Stored(LocalStore(stored.directory), name, progress, stored.identity)
    with contextlib.closing(source):
        yield source


def artifact_of(stored: StoredSet, name: str) -> Artifact | None:
    """What the manifest says of a file; None without a manifest, or for a file that it does not list."""
    listed = stored.manifest.artifacts if stored.manifest else ()
    return next((each for each in listed if each.file == name), None)


def require_as_written(stored: StoredSet, source: Stored) -> None:
    """Read what is left of a file; IntegrityError unless it is the one that the manifest describes."""
    source.drain()
    artifact = artifact_of(stored, source.name)
    if artifact and (source.size, source.sha256) != (artifact.stored_size, artifact.stored_sha256):
        raise damaged(f"{source.name} is not as it was written: its SHA-256 differs from the manifest's")


def damaged(message: str) -> IntegrityError:
    """The error of something that was read and must not be used."""
    return IntegrityError(printable(message), _OTHER)


class HeldBack:
    """Passes bytes on, but the last piece only when told to: what is cut off before that looks like it."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write, self._last = write, b""

    def write(self, data: bytes) -> None:
        """Pass on what was given before."""
        if data:
            self.release()
            self._last = data

    def release(self) -> None:
        """All that was given is right."""
        if self._last:
            self._write(self._last)
        self._last = b""
