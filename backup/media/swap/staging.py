"""The directory that a restore has to itself on a volume: made, opened, noted in, removed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from backup.errors import NotFound, RestoreFailed
from backup.formatting import listed, printable
from backup.media import metadata
from backup.media.directories import FOLDER, open_directory, remove_all
from backup.media.metadata import Metadata, Notes
from backup.media.reserved_names import PREFIX, is_made_by_a_restore, is_ours, is_private, strays

_STAMP: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")


def staging_name(stamp: str) -> str:
    """The directory of a restore; NotFound for what cannot be one's name."""
    if not _STAMP.fullmatch(stamp):
        raise NotFound(f"{printable(stamp)!r} is not the name of a restore")
    return PREFIX + stamp


def open_root(root: Path) -> int:
    """A descriptor of the volume's root. RestoreFailed if there is none."""
    try:
        return os.open(root, FOLDER & ~os.O_NOFOLLOW)
    except OSError as error:
        raise RestoreFailed(
            f"{root} cannot be opened: {error.strerror}", "Mount the volume there, writable."
        ) from error


def open_staging(root: int, path: Path, name: str) -> int:
    """A descriptor of a restore's directory in the volume's open `root`, which messages call `path`.

    NotFound if it is not there, or no more than what others put there is left of it. RestoreFailed if it is anything
    but a directory that only we may enter, of what a restore makes: whoever writes to the volume can make others.
    """
    try:
        fd = os.open(name, FOLDER, dir_fd=root)
    except FileNotFoundError as error:
        raise NotFound(f"{path / name} does not exist; nothing was done") from error
    except OSError as error:
        raise RestoreFailed(f"{path / name} cannot be opened: {error.strerror}; nothing was done") from error
    if os.fstat(fd).st_uid != os.geteuid() or not is_made_by_a_restore(fd):
        names = os.listdir(fd)
        os.close(fd)
        if names and not any(map(is_ours, names)):
            raise NotFound(f"{path / name} holds nothing of a restore any more; nothing was done")
        raise RestoreFailed(
            f"{path / name} was not made by a restore of this user; nothing was done",
            "Check what it is; whoever writes to the volume can have made it.",
        )
    return fd


def make_staging(root: int, path: Path, name: str, inner: Iterable[str]) -> None:
    """Make a restore's directory in the open `root`, which messages call `path`, with these in it.

    RestoreFailed where the file system does not keep it for us alone, and then there is none. Raises OSError.
    """
    with time_kept(root):
        os.mkdir(name, 0o700, dir_fd=root)
    with open_directory(name, root) as folder:
        # Not what the volume's own ACL and set-group-ID bit hand down.
        mine = Metadata(0o700, os.geteuid(), os.getegid(), os.fstat(folder).st_mtime_ns)
        metadata.apply_metadata(folder, mine, Notes())
        found = os.fstat(folder)
        if not is_private(found):
            with time_kept(root):
                os.rmdir(name, dir_fd=root)
            raise RestoreFailed(
                f"the file system of {path} does not enforce owners and modes: a new directory has the owner"
                f" {found.st_uid} and the mode {stat.S_IMODE(found.st_mode):04o}; the live files are as they were",
                "Use a volume whose file system has owners and modes, or mount this one for root alone, such as with"
                " uid=0,dmask=0077 (FAT) or uid=0,dir_mode=0700 (CIFS).",
            )
        for each in inner:
            os.mkdir(each, 0o700, dir_fd=folder)
        os.fsync(folder)
    os.fsync(root)


def remove_staging(folder: int, root: int, path: Path, name: str, *, last: str) -> list[str]:
    """Remove all that is ours in the open directory `folder`, called `name`, of that `last`; then the directory.

    It stays if somebody else has put something there, which stays, too: that in words. Raises OSError.
    """
    remove_all(folder, but=lambda each: each == last or not is_ours(each))
    remove_all(folder, but=lambda each: not is_ours(each))
    with time_kept(root):
        try:
            os.rmdir(name, dir_fd=root)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return [_left(path / name, strays(folder))]
    os.fsync(root)
    return []


def _left(folder: Path, names: list[str]) -> str:
    what = printable(listed([repr(name) for name in names]))
    return (
        f"{folder} stays: no restore put {what} there, and it is as it was; all else in it is removed. Move it where it"
        " belongs, or remove it; until then it is archived as other files are."
    )


@contextlib.contextmanager
def time_kept(fd: int) -> Iterator[None]:
    """What is made or removed of ours does not show in the directory's time."""
    found = os.fstat(fd)
    yield
    os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))


def read_note(folder: int, name: str) -> bytes | None:
    """Read a note in the open directory `folder`; None without it. Raises OSError."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read()


def write_note(folder: int, name: str, data: bytes) -> None:
    """Note it durably, whole or not at all. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(f"{name}.new", flags, 0o600, dir_fd=folder)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    os.rename(f"{name}.new", name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def no_mounts_below(path: Path) -> None:
    """RestoreFailed if something is mounted within `path`: it can be neither moved nor removed with the rest."""
    top = os.path.realpath(os.fsencode(path)).rstrip(b"/") + b"/"
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        point = _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), line.split(b" ")[4])
        if point.startswith(top):
            raise RestoreFailed(
                f"{printable(os.fsdecode(point))!r} is mounted within the volume {path}; nothing was moved",
                "Make what is mounted there a volume of its own below /volumes.",
            )


def sync_file_system(fd: int) -> None:
    """Make all that was written to the file system of an open file durable. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
