"""A tar stream back into an empty directory, exactly, whatever the stream tries.

Every name is looked up by one component at a time below an open directory, and no link is ever followed, so nothing
can be written elsewhere. Directories get their modes and times when they are left, the deepest first.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import shutil
import stat
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from backup.errors import IntegrityError, RestoreFailed, StoreError
from backup.media import metadata
from backup.media.archive_rules import LEFT_OUT, Members, Rules
from backup.media.case_folding import one_name, other_spelling
from backup.media.directories import FOLDER, Inode, closed_after, identity
from backup.media.directory_stack import Branch
from backup.media.metadata import Metadata, Notes
from backup.media.pack_reader import TreeReader
from backup.media.selection import ROOT, Chosen, Selection
from backup.media.tar_reader import Member, TarReader, pieces_of, refused_member, shown_path
from backup.media.tar_writer import ZEROS, IndexEntry, hash_hole
from backup.pipeline.gzip import DAMAGED
from backup.storage.rename import NO_LINKS

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
    errno.EINVAL: "has an impossible size or attribute",
}
# What file systems say that cannot hold a name.
_NO_NAME: Final = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
_SHORT, _ENDING = 80, 16
_T = TypeVar("_T")

SPECIAL = "FIFOs and devices were left out"
NAMES = "names that this file system does not allow were changed"
LINKS = "symbolic links were left out: this file system has none, or not so long ones"
COPIES = "hard links became copies: this file system allows no more links"

_NO_PLACE: Final = (errno.ENOSPC, errno.EDQUOT)
_OTHER: Final = "Restore another set: `list` shows them, `verify` says which are whole."
_HINTS: Final = {
    errno.ENOSPC: "Free space in the volume, or give it a larger disk, and restore again.",
    errno.EDQUOT: "Free space in the volume, or raise its quota, and restore again.",
    errno.EPERM: "The process that restores media needs the capabilities CHOWN, DAC_OVERRIDE, FOWNER and FSETID.",
    errno.EACCES: "The process that restores media needs the capabilities CHOWN, DAC_OVERRIDE, FOWNER and FSETID.",
    errno.EROFS: "Mount the volume writable.",
    errno.EIO: "The disk reports errors: check the kernel log.",
}


@dataclass(frozen=True)
class Extracted:
    """What was written, counted as `MediaReport` counts. `notes` say what could not be set on this system."""

    files: int
    directories: int
    links: int
    hard_links: int
    bytes: int
    notes: tuple[str, ...] = ()


def extract_archive(
    stream: io.BufferedIOBase | TreeReader,
    root_name: str,
    target: Path,
    *,
    index: Iterable[IndexEntry] | None,
    trusted: bool,
    limit: int,
    progress: Callable[[int], None],
    dir_fd: int | None = None,
    select: Chosen | None = None,
) -> Extracted:
    """Write the tar `stream`, or a tree, rooted at `<root_name>/` into the empty `target` (below `dir_fd`, if given).

    Every regular file is hashed and compared with `index`, in order. Unless `trusted`, links must stay inside.
    `limit`: the most bytes of content. `select` leaves only some members, of which then `index` is, and puts them below
    a root of their own. `progress` gets bytes written since its last call.
    IntegrityError for what is wrong with the archive, RestoreFailed for what the disk says; what was written stays.
    """
    root, notes = os.fsencode(root_name), Notes()
    with contextlib.closing(Branch(_opened_empty(target, dir_fd), notes)) as branch:
        reader: Members
        if isinstance(stream, TreeReader):
            reader = stream
        else:
            reader = TarReader(pieces_of(stream), limit, b"" if trusted else root)
        members, top = (Selection(reader, select), ROOT) if select else (reader, root)
        made = _Extraction(members, top, branch, index, notes, trusted=trusted, limit=limit, progress=progress)
        try:
            return made.run()
        except (IntegrityError, StoreError) as error:
            error.message = f"the archive was not restored: {error.message}; no live file was touched"
            error.hint = error.hint or _OTHER
            raise


def _opened_empty(target: Path, dir_fd: int | None) -> int:
    try:
        fd = os.open(target, FOLDER, dir_fd=dir_fd)
        if not os.listdir(fd):
            return fd
    except OSError as error:
        raise RestoreFailed(f"{target} cannot be opened: {error.strerror}; nothing was extracted into it") from error
    os.close(fd)
    raise RestoreFailed(f"{target} is not empty; nothing was extracted into it")


def _unwritable(path: bytes, error: OSError) -> IntegrityError | RestoreFailed:
    number = error.errno or 0
    if number in _UNSAFE:
        return refused_member(path, _UNSAFE[number])
    reason = "the volume is full" if number in _NO_PLACE else error.strerror or str(error)
    return RestoreFailed(
        f"{shown_path(path)} could not be written: {reason}; no live file was touched", _HINTS.get(number, "")
    )


class _Extraction:
    def __init__(
        self,
        reader: Members,
        root: bytes,
        branch: Branch,
        index: Iterable[IndexEntry] | None,
        notes: Notes,
        *,
        trusted: bool,
        limit: int,
        progress: Callable[[int], None],
    ) -> None:
        self._reader, self._branch, self._notes = reader, branch, notes
        self._rules = Rules(root, trusted=trusted)
        self._index = None if index is None else iter(index)
        self._limit, self._progress = limit, progress
        self._counts: Counter[bytes] = Counter()
        self._bytes = 0
        self._linked: dict[Inode, str] = {}
        # What is called otherwise here than in the archive, by its place there.
        self._called: dict[tuple[bytes, ...], bytes] = {}

    def run(self) -> Extracted:
        for found in self._reader.members():
            self._add(found)
            self._counts[found.kind] += 1
        self._rules.finish()
        if missing := self._next_indexed():
            raise refused_member(missing.path, "is in the file index, but not in the archive")
        try:
            self._branch.finish()
        except OSError as error:
            raise _unwritable(b".", error) from error
        return Extracted(
            files=self._counts[tarfile.REGTYPE],
            directories=self._counts[tarfile.DIRTYPE],
            links=self._counts[tarfile.SYMTYPE],
            hard_links=self._counts[tarfile.LNKTYPE],
            bytes=self._bytes,
            notes=self._notes.lines,
        )

    def _add(self, found: Member) -> None:
        names = self._rules.place(found)
        wanted = Metadata(found.mode, found.uid, found.gid, found.mtime_ns, found.attributes)
        self._notes.path = found.origin or b"/".join(names)
        try:
            if not names:
                self._branch.note_root(wanted)
            elif found.kind in LEFT_OUT:
                self._notes.add(SPECIAL)
            else:
                self._make(found, names, wanted)
        except OSError as error:
            raise _unwritable(found.path, error) from error

    def _make(self, found: Member, names: list[bytes], wanted: Metadata) -> None:
        folder = self._branch.move_to(self._here(names[:-1]))
        if found.kind == tarfile.DIRTYPE:
            self._created(names, folder, lambda name: self._branch.make(name, folder, wanted))
        elif found.kind == tarfile.SYMTYPE:
            self._link(found.target, names, folder, wanted)
        elif found.kind == tarfile.LNKTYPE:
            self._hard_link(found, names, folder)
        else:
            self._file(found, names, folder, wanted)

    def _here(self, names: list[bytes]) -> list[bytes]:
        """What a place of the archive is called on this file system."""
        if not self._called:
            return names
        return [self._called.get(tuple(names[: end + 1]), name) for end, name in enumerate(names)]

    def _created(self, names: list[bytes], folder: int, make: Callable[[bytes], _T]) -> _T:
        """Let `make` use the name, or the nearest one that the file system takes."""
        try:
            return make(names[-1])
        except OSError as error:
            if error.errno == errno.EEXIST and (there := other_spelling(names[-1], folder)):
                raise one_name(self._notes.path, there) from error
            if error.errno not in _NO_NAME or _lstat(names[-1], folder):
                raise
        other = _nearest(names[-1])
        made = make(other)
        self._called[tuple(names)] = other
        self._notes.add(NAMES)
        return made

    def _link(self, target: bytes, names: list[bytes], folder: int, wanted: Metadata) -> None:
        def make(name: bytes) -> bytes:
            os.symlink(target, name, dir_fd=folder)
            return name

        try:
            name = self._created(names, folder, make)
        except OSError as error:
            if error.errno not in (*NO_LINKS, errno.ENAMETOOLONG):
                raise
            self._notes.add(LINKS)
            return
        metadata.apply_to_link(name, folder, wanted, self._notes)

    def _hard_link(self, found: Member, names: list[bytes], folder: int) -> None:
        expected = self._expected(found, None)
        *above, first = self._here(self._rules.names(found.target)) or [b""]
        try:
            source = self._branch.open(above)
        except OSError as error:
            raise refused_member(found.path, "is a hard link to something that is not in the archive") from error
        with closed_after(source):
            at = _lstat(first, source)
            if at is None or not (stat.S_ISREG(at.st_mode) or stat.S_ISLNK(at.st_mode) and expected is None):
                raise refused_member(found.path, "is a hard link to something that is not a file of the archive")
            if expected and (at.st_size, self._sha256(first, source, at)) != (expected.size, expected.sha256):
                raise refused_member(found.path, "has other content than the file index says")
            self._second_name(first, source, names, folder)

    def _second_name(self, first: bytes, source: int, names: list[bytes], folder: int) -> None:
        def make(name: bytes) -> None:
            os.link(first, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)

        try:
            self._created(names, folder, make)
        except OSError as error:
            found = _lstat(first, source)
            if error.errno not in NO_LINKS or not found or not stat.S_ISREG(found.st_mode):
                raise
            self._notes.add(COPIES)
            self._copy(first, source, names, folder)

    def _copy(self, first: bytes, source: int, names: list[bytes], folder: int) -> None:
        with os.fdopen(os.open(first, _READ, dir_fd=source), "rb") as file:
            self._bytes += os.fstat(file.fileno()).st_size
            if self._bytes > self._limit:
                raise self._reader.refused("cannot be linked here, and a copy would be more than the archive may hold")
            fd = self._created(names, folder, lambda name: os.open(name, _NEW, 0o600, dir_fd=folder))
            with os.fdopen(fd, "wb") as copy:
                shutil.copyfileobj(file, copy, len(ZEROS))
                copy.flush()
                metadata.apply_metadata(fd, metadata.read_metadata(file.fileno()), self._notes)

    def _sha256(self, name: bytes, folder: int, found: os.stat_result) -> str:
        """Read anew, once per inode: to remember the sum of every file would take memory without bound."""
        if identity(found) not in self._linked:
            with os.fdopen(os.open(name, _READ, dir_fd=folder), "rb") as file:
                self._linked[identity(found)] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._linked[identity(found)]

    def _file(self, found: Member, names: list[bytes], folder: int, wanted: Metadata) -> None:
        expected = self._expected(found, found.size)
        digest = hashlib.sha256() if expected else None
        # With the mode that it is to have, so far as it can be written then, too.
        mode = wanted.mode & 0o777 | 0o600
        fd = self._created(names, folder, lambda name: os.open(name, _NEW, mode, dir_fd=folder))
        try:
            self._write(fd, found, digest)
            if digest and expected and digest.hexdigest() != expected.sha256:
                raise refused_member(found.path, "has other content than the file index says")
            metadata.apply_metadata(fd, wanted, self._notes)
        finally:
            os.close(fd)

    def _write(self, fd: int, found: Member, digest: hashlib._Hash | None) -> None:
        position = length = 0
        for start, count in (*found.regions, (found.size, 0)):
            if start > position:
                if digest:
                    hash_hole(digest, start - position, self._progress)
                os.lseek(fd, start, os.SEEK_SET)
            for chunk in self._reader.content(count):
                if digest:
                    digest.update(chunk)
                length, rest = start + count, chunk
                while rest:
                    rest = rest[os.write(fd, rest) :]
                self._bytes += len(chunk)
                self._progress(len(chunk))
            position = start + count
        if length < found.size:  # it ends in a hole
            os.ftruncate(fd, found.size)

    def _expected(self, found: Member, size: int | None) -> IndexEntry | None:
        """The line of the index for this file; `size` is compared unless None."""
        if self._index is None:
            return None
        entry = self._next_indexed()
        if entry is None or entry.path != found.path:
            raise refused_member(found.path, "is not what the file index lists next")
        if size is not None and size != entry.size:
            raise refused_member(found.path, f"has {size:,} bytes, but {entry.size:,} by the file index")
        return entry

    def _next_indexed(self) -> IndexEntry | None:
        try:
            return next(self._index, None) if self._index is not None else None
        except DAMAGED as error:
            raise IntegrityError(f"the file index is damaged: {error}") from error


def _nearest(name: bytes) -> bytes:
    """A name that any file system takes, of which nobody has the like."""
    plain = Path(re.sub(r"[^A-Za-z0-9._-]", "_", os.fsdecode(name)))
    own = hashlib.sha256(name).hexdigest()[:12]
    return f"{plain.stem[:_SHORT]}~{own}{plain.suffix[:_ENDING]}".encode()


def _lstat(name: bytes, folder: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
