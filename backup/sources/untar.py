"""A tar stream back into an empty directory, exactly, whatever the stream tries.

Every name is looked up by one component at a time below an open directory, and no link is ever followed, so nothing
can be written elsewhere. Directories get their modes and times when they are left, the deepest first.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from backup.errors import IntegrityError, RestoreFailed
from backup.sources import metadata
from backup.sources.branch import FOLDER, Branch
from backup.sources.metadata import Metadata
from backup.sources.tarread import Found, TarReader, refused, shown
from backup.sources.tarstream import IndexEntry
from backup.sources.tree import ZEROS, Identity, identity
from backup.stream.gzip import DAMAGED

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
# What the kernel says of a name that no archive of ours has; everything else it says is about the disk.
_UNSAFE: Final = {
    errno.EEXIST: "is in it twice",
    errno.ENOENT: "lies in a directory that is not in it",
    errno.ENOTDIR: "lies below something that is not a directory",
    errno.ELOOP: "lies below a symbolic link",
    errno.ENAMETOOLONG: "has a name that is too long",
    errno.EFBIG: "is larger than a file can be",
    errno.EINVAL: "has a size or an attribute that cannot be",
}
_NO_PLACE: Final = (errno.ENOSPC, errno.EDQUOT)
_HINTS: Final = {
    errno.ENOSPC: "Free space in the volume, or give it a larger disk, and restore again.",
    errno.EDQUOT: "Free space in the volume, or raise its quota, and restore again.",
    errno.EPERM: "The process that restores media needs the capabilities CHOWN, DAC_OVERRIDE, FOWNER and FSETID.",
    errno.EACCES: "The process that restores media needs the capabilities CHOWN, DAC_OVERRIDE, FOWNER and FSETID.",
    errno.EROFS: "Mount the volume writable.",
    errno.EIO: "The disk reports errors: check the kernel log.",
}


class Members(Protocol):
    """What TarReader gives: the members of an archive, or some of them."""

    def members(self) -> Iterator[Found]:
        """In their order; the content of one must be read before the next is asked for."""

    def content(self, count: int) -> Iterator[bytes]:
        """The next bytes of the present member's content."""

    def refused(self, what: str) -> IntegrityError:
        """The error about the present member."""


@dataclass(frozen=True)
class Extracted:
    """What was written, counted as `MediaReport` counts. `notes` say what could not be set on this system."""

    files: int
    directories: int
    links: int
    hard_links: int
    bytes: int
    notes: tuple[str, ...] = ()


def extract(
    stream: BinaryIO,
    root_name: str,
    target: Path,
    *,
    index: Iterable[IndexEntry] | None,
    trusted: bool,
    limit: int,
    progress: Callable[[int], None],
    dir_fd: int | None = None,
    select: Callable[[TarReader], Members] | None = None,
) -> Extracted:
    """Write the tar `stream` rooted at `<root_name>/` into the empty directory `target` (below `dir_fd`, if given).

    Every regular file is hashed and compared with `index`, in order. Unless `trusted`, links must stay inside.
    `limit`: the most bytes of content. `select` leaves only some
    members, of which then `index` is. `progress` gets bytes written since its last call.
    IntegrityError for what is wrong with the archive, RestoreFailed for what the disk says; what was written stays.
    """
    with contextlib.closing(Branch(_opened_empty(target, dir_fd))) as branch:
        reader = TarReader(stream, limit)
        members = select(reader) if select else reader
        return _Extraction(members, os.fsencode(root_name), branch, index, trusted, progress).run()


def _opened_empty(target: Path, dir_fd: int | None) -> int:
    try:
        fd = os.open(target, FOLDER, dir_fd=dir_fd)
        if not os.listdir(fd):
            return fd
    except OSError as error:
        raise RestoreFailed(f"{target} cannot be opened: {error.strerror}; nothing was extracted into it") from error
    os.close(fd)
    raise RestoreFailed(f"{target} is not empty; nothing was extracted into it")


@contextlib.contextmanager
def _writing(path: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        if number in _UNSAFE:
            raise refused(path, _UNSAFE[number]) from error
        reason = "the volume is full" if number in _NO_PLACE else error.strerror or str(error)
        raise RestoreFailed(
            f"{shown(path)} could not be written: {reason}; no live file was touched", _HINTS.get(number, "")
        ) from error


class _Extraction:
    def __init__(
        self,
        reader: Members,
        root: bytes,
        branch: Branch,
        index: Iterable[IndexEntry] | None,
        trusted: bool,
        progress: Callable[[int], None],
    ) -> None:
        self._reader, self._root, self._branch = reader, root, branch
        self._index = None if index is None else iter(index)
        self._trusted, self._progress = trusted, progress
        self._counts = dict.fromkeys((tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE), 0)
        self._bytes = 0
        self._linked: dict[Identity, str] = {}

    def run(self) -> Extracted:
        for found in self._reader.members():
            self._add(found)
            self._counts[found.kind] += 1
        if not self._counts[tarfile.DIRTYPE]:
            raise self._reader.refused("is all there is: the archive is empty")
        if missing := self._next_indexed():
            raise refused(missing.path, "is in the file index, but not in the archive")
        with _writing(self._root):
            self._branch.finish()
        files, directories, links, hard_links = self._counts.values()
        return Extracted(files, directories, links, hard_links, self._bytes, tuple(sorted(self._branch.notes)))

    def _add(self, found: Found) -> None:
        names = self._names(found.path, folder=found.kind == tarfile.DIRTYPE)
        wanted = Metadata(found.mode, found.uid, found.gid, found.mtime_ns, found.attributes)
        if not names and found.kind != tarfile.DIRTYPE or names and not self._counts[tarfile.DIRTYPE]:
            raise refused(found.path, "comes before the directory that the archive is of")
        with _writing(found.path):
            if names:
                self._make(found, names, wanted)
            else:
                self._branch.root(wanted)

    def _make(self, found: Found, names: list[bytes], wanted: Metadata) -> None:
        name, folder = names[-1], self._branch.folder(names[:-1])
        if found.kind == tarfile.DIRTYPE:
            self._branch.make(name, folder, wanted)
        elif found.kind == tarfile.SYMTYPE:
            self._check_link(found, len(names) - 1)
            os.symlink(found.target, name, dir_fd=folder)
            metadata.apply_to_link(name, folder, wanted, self._branch.notes)
        elif found.kind == tarfile.LNKTYPE:
            self._hard_link(found, name, folder)
        else:
            self._file(found, name, folder, wanted)

    def _names(self, path: bytes, *, folder: bool = False) -> list[bytes]:
        """The components below the root."""
        names = path.split(b"/")
        if folder and len(names) > 1 and not names[-1]:
            names.pop()
        if not self._trusted and len(names) > 1 and names[0] == b".":
            del names[0]
        if b"\0" in path or any(name in (b"", b".", b"..") for name in names):
            raise refused(path, "is no safe name")
        if names[0] != self._root:
            raise refused(path, f"lies outside of {shown(self._root)}/")
        return names[1:]

    def _check_link(self, found: Found, depth: int) -> None:
        if not found.target or b"\0" in found.target:
            raise refused(found.path, "is a symbolic link to nothing")
        if self._trusted:
            return
        names = [name for name in found.target.split(b"/") if name not in (b"", b".")]
        up = next((number for number, name in enumerate(names) if name != b".."), len(names))
        # A `..` after a name may step out of another link's target: only leading ones are certain to stay inside.
        if found.target.startswith(b"/") or up > depth or b".." in names[up:]:
            raise refused(found.path, f"is a symbolic link that may lead outside, to {shown(found.target)!r}")

    def _hard_link(self, found: Found, name: bytes, folder: int) -> None:
        expected = self._expected(found, None)
        *above, first = self._names(found.target) or [b""]
        try:
            source = self._branch.opened(above)
        except OSError as error:
            raise refused(found.path, "is a hard link to something that is not in the archive") from error
        try:
            at = _lstat(first, source)
            if at is None or not (stat.S_ISREG(at.st_mode) or stat.S_ISLNK(at.st_mode) and expected is None):
                raise refused(found.path, "is a hard link to something that is no file of the archive")
            if expected and (at.st_size, self._sha256(first, source, at)) != (expected.size, expected.sha256):
                raise refused(found.path, "has other content than the file index says")
            os.link(first, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(source)

    def _sha256(self, name: bytes, folder: int, found: os.stat_result) -> str:
        """Read anew, once per inode: to remember the sum of every file would take memory without bound."""
        if identity(found) not in self._linked:
            with os.fdopen(os.open(name, _READ, dir_fd=folder), "rb") as file:
                self._linked[identity(found)] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._linked[identity(found)]

    def _file(self, found: Found, name: bytes, folder: int, wanted: Metadata) -> None:
        expected = self._expected(found, found.size)
        digest = hashlib.sha256() if expected else None
        fd = os.open(name, _NEW, 0o600, dir_fd=folder)
        try:
            self._write(fd, found, digest)
            if digest and expected and digest.hexdigest() != expected.sha256:
                raise refused(found.path, "has other content than the file index says")
            metadata.apply(fd, wanted, self._branch.notes)
        finally:
            os.close(fd)

    def _write(self, fd: int, found: Found, digest: hashlib._Hash | None) -> None:
        position = 0
        for start, length in (*found.regions, (found.size, 0)):
            self._hole(digest, start - position)
            os.lseek(fd, start, os.SEEK_SET)
            for chunk in self._reader.content(length):
                if digest:
                    digest.update(chunk)
                rest = memoryview(chunk)
                while rest:
                    rest = rest[os.write(fd, rest) :]
                self._bytes += len(chunk)
                self._progress(len(chunk))
            position = start + length
        os.ftruncate(fd, found.size)

    def _hole(self, digest: hashlib._Hash | None, length: int) -> None:
        while digest and length:
            count = min(length, len(ZEROS))
            digest.update(ZEROS[:count])
            self._progress(0)
            length -= count

    def _expected(self, found: Found, size: int | None) -> IndexEntry | None:
        """The line of the index for this file; `size` is compared unless None."""
        if self._index is None:
            return None
        entry = self._next_indexed()
        if entry is None or entry.path != found.path:
            raise refused(found.path, "is not what the file index lists next")
        if size is not None and size != entry.size:
            raise refused(found.path, f"has {size:,} bytes, but {entry.size:,} by the file index")
        return entry

    def _next_indexed(self) -> IndexEntry | None:
        try:
            return next(self._index, None) if self._index is not None else None
        except DAMAGED as error:
            raise IntegrityError(f"the file index is damaged: {error}; no live file was touched") from error


def _lstat(name: bytes, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
