"""A folder on another disk, or a mounted share, as a place of copies: staged, synced, read back, renamed.

No link is followed anywhere below it. The SHA-256 that it tells is noted with the file (an extended attribute) together
with the file's size and time, so that a file that was written anew tells none; reading it is what proves its bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from backup.errors import IntegrityError, NoSpace, RemoteDamaged, RemoteDenied, RemoteFailed, RemoteMissing, StoreError
from backup.formatting import printable
from backup.storage.filesystem import sync_directory
from backup.storage.rate_limit import Pace
from backup.storage.remote import RemoteObject, Removal, require_key
from backup.storage.staged_file import STAGED_SUFFIX, StagedFile, staged_name

_BLOCK: Final = 1 << 20
_NOTE: Final = "user.obcms.sha256"
# Somebody else's upload may be on its way; no file of ours takes a day.
_STALE: Final = 24 * 3600.0
_STAGED: Final = re.compile(rf"\..+{re.escape(STAGED_SUFFIX)}")


class Folder:
    """Implements Remote. `mounted`: refuse a folder that is no mount of its own, as when a share is not there."""

    def __init__(self, root: Path, *, mounted: bool = False, bandwidth: float = 0.0) -> None:
        self._root, self._mounted = root, mounted
        self._pace = Pace(bandwidth)

    @property
    def name(self) -> str:
        """The path."""
        return str(self._root)

    def entries(self, prefix: str = "") -> list[RemoteObject]:
        """Every regular file below, by its name; links and what is still being written are none."""
        with self._told("listing"):
            self._require()
            whole = ((key, each) for key, each in self._files(self._root) if not _STAGED.fullmatch(each.name))
            entries = (_entry(key, each.stat(follow_symlinks=False)) for key, each in whole)
            found = [entry for entry in entries if entry.key.startswith(prefix)]
        return sorted(found, key=lambda entry: entry.key.encode(errors="surrogateescape"))

    def stat(self, key: str) -> RemoteObject | None:
        """What is there now; None also for a link."""
        with self._told(key):
            self._require()
            try:
                descriptor = self._open(require_key(key))
            except (FileNotFoundError, NotADirectoryError):
                return None
            with os.fdopen(descriptor, "rb") as file:
                return _entry(key, os.fstat(file.fileno()), _noted(file.fileno()))

    def put(
        self,
        key: str,
        chunks: Iterable[bytes],
        size: int | None = None,
        advance: Callable[[int], None] = lambda count: None,
        sha256: str = "",
        *,
        bound: int | None = None,
    ) -> RemoteObject:
        """Write beside the final name, sync, read back from the disk, then rename."""
        path = self._root / require_key(key)
        with self._told(key):
            staged = self._stage(path)
        # What `chunks` raise is of their source, and passes as it is.
        with staged:
            for chunk in chunks:
                self._pace.wait(len(chunk))
                with self._told(key):
                    staged.write(chunk)
                advance(len(chunk))
            with self._told(key):
                staged.seal()
            _require(key, staged, size, sha256)
            with self._told(key):
                self._publish(staged, path)
        found = self.stat(key)
        if found is None or found.size != staged.size:
            raise RemoteFailed(f"{path} was written, but does not exist", "Check the disk or the share.")
        return RemoteObject(key, found.size, found.modified, staged.sha256, f"sha256:{staged.sha256}")

    def get(self, key: str) -> Iterator[bytes]:
        """The bytes; RemoteDamaged when they are not those of the SHA-256 that was noted with them."""
        digest, count = hashlib.sha256(), 0
        with self._told(key):
            self._require()
            try:
                descriptor = self._open(require_key(key))
            except (FileNotFoundError, NotADirectoryError):
                raise RemoteMissing(f"{self.name}: {printable(key)} is not there") from None
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            size, noted = os.fstat(descriptor).st_size, _noted(descriptor)
            while True:
                with self._told(key):
                    block = file.read(_BLOCK)
                if not block:
                    break
                digest.update(block)
                count += len(block)
                yield block
        if count != size or noted not in ("", digest.hexdigest()):
            raise RemoteDamaged(
                f"{self.name}: {printable(key)} does not match what was stored there",
                "Use another copy; `offsite verify --download` marks a damaged one, and `upload` then sends it again.",
            )

    def remove(self, key: str) -> Removal:
        """Remove a file; `denied` where this user may not, or the file system keeps it (`chattr +i`)."""
        path = self._root / require_key(key)
        try:
            with self._told(key):
                self._require()
                self._above(path.parent)
                path.unlink()
                sync_directory(path.parent)
        except RemoteMissing:
            return "removed"
        except RemoteDenied:
            return "denied"
        return "removed"

    def sweep(self) -> int:
        """Remove staged files that nobody has written to for a day."""
        limit, count = time.time() - _STALE, 0
        with self._told("sweeping"):
            self._require()
            for each in [each for _, each in self._files(self._root) if _STAGED.fullmatch(each.name)]:
                if each.stat(follow_symlinks=False).st_mtime < limit:
                    Path(each.path).unlink()
                    count += 1
        return count

    def _require(self) -> None:
        if not self._root.is_dir():
            raise RemoteFailed(f"{self.name} does not exist", "Mount the other disk or share there: BACKUP_COPY_DIR.")
        if self._mounted and not os.path.ismount(self._root):
            raise RemoteFailed(
                f"{self.name} is not a mount: copies would fill the container or the disk of the backups",
                "Mount the other disk or share there: BACKUP_COPY_DIR.",
            )

    def _files(self, folder: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
        """The regular files below, staged ones too, each by its key."""
        for each in os.scandir(folder):
            if each.is_dir(follow_symlinks=False):
                yield from self._files(Path(each.path), f"{prefix}{each.name}/")
            elif each.is_file(follow_symlinks=False):
                yield prefix + each.name, each

    def _stage(self, path: Path) -> StagedFile:
        self._require()
        self._make(path.parent)
        with contextlib.suppress(FileNotFoundError):
            # Of a run that died: there is one writer, which holds the lock.
            (path.parent / staged_name(path.name)).unlink()
        return StagedFile(path.parent, path.name)

    def _open(self, key: str) -> int:
        path = self._root / key
        self._above(path.parent)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise RemoteFailed(f"{printable(str(path))} is not a regular file")
        return descriptor

    def _above(self, folder: Path) -> None:
        """RemoteFailed when a folder on the way is a link; FileNotFoundError when there is none."""
        for each in reversed([folder, *folder.parents]):
            if self._root in each.parents and not stat.S_ISDIR(each.lstat().st_mode):
                raise RemoteFailed(f"{printable(str(each))} is a link or not a folder; it was not followed")

    def _make(self, folder: Path) -> None:
        for each in reversed([folder, *folder.parents]):
            if self._root in each.parents and not os.path.lexists(each):
                each.mkdir(mode=0o700)
                sync_directory(each.parent)
        self._above(folder)

    def _publish(self, staged: StagedFile, path: Path) -> None:
        """Note the SHA-256 where the file system can, and give the file its name."""
        with contextlib.suppress(OSError):
            found = staged.path.stat(follow_symlinks=False)
            note = f"{staged.sha256} {found.st_size} {found.st_mtime_ns}"
            os.setxattr(staged.path, _NOTE, note.encode(), follow_symlinks=False)
        if path.is_dir() and not path.is_symlink():
            raise RemoteFailed(f"{path} is a folder; it was left alone")
        staged.path.replace(path)
        sync_directory(path.parent)

    @contextlib.contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """What the disk says, in the words of a place of copies."""
        what = f"{self.name}: {printable(key)}"
        try:
            yield
        except NoSpace as error:
            raise RemoteFailed(
                f"{what} does not fit: the disk is full; earlier copies are untouched",
                "Give it a larger disk, or remove copies: `offsite prune`.",
            ) from error
        except (StoreError, IntegrityError) as error:
            if isinstance(error.__cause__, PermissionError):
                raise _denied(what) from error
            if isinstance(error.__cause__, FileNotFoundError):
                raise RemoteMissing(f"{what} is not there") from error
            raise RemoteFailed(f"{what}: {error.message}", error.hint) from error
        except FileNotFoundError as error:
            raise RemoteMissing(f"{what} is not there") from error
        except PermissionError as error:
            raise _denied(what) from error
        except OSError as error:
            raise RemoteFailed(f"{what}: {error.strerror or error}", "Check the disk or the share.") from error


def _denied(what: str) -> RemoteDenied:
    return RemoteDenied(f"{what}: this user may not", "The folder must belong to the user this container runs as.")


def _entry(key: str, found: os.stat_result, sha256: str = "") -> RemoteObject:
    checksum = f"sha256:{sha256}" if sha256 else ""
    return RemoteObject(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC), sha256, checksum)


def _noted(descriptor: int) -> str:
    """The SHA-256 that was noted, if the file is still the one that it was noted of."""
    try:
        digest, size, modified = os.getxattr(descriptor, _NOTE).decode().split(" ")
    except (OSError, ValueError):
        return ""
    found = os.fstat(descriptor)
    same = (size, modified) == (str(found.st_size), str(found.st_mtime_ns))
    return digest if same and re.fullmatch("[0-9a-f]{64}", digest) else ""


def _require(key: str, staged: StagedFile, size: int | None, sha256: str) -> None:
    if (size is not None and size != staged.size) or (sha256 and sha256.lower() != staged.sha256):
        raise IntegrityError(
            f"{printable(key)} was not copied: what was read ({staged.size} bytes) is not what was stored",
            "It changed while it was read, or the disk returns other bytes: run `verify`.",
        )
