"""Single files and directories put in the place of live ones, beside which they were unpacked and compared first.

All lies in `<volume>/.obcms-restore-file-<stamp>/`: `new/0`, `new/1` … for each place, and `before/0` … for what was
there. Each place changes by one rename, which exchanges both: whatever ends it, the old or the new is there, whole.
What is noted before the first one tells whoever comes after a kill which of several are still to be exchanged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from backup.errors import BackupError, NotFound, RestoreFailed
from backup.sources.branch import FOLDER
from backup.sources.removal import remove_all
from backup.sources.selection import Again, Chosen, Unit
from backup.sources.tarread import shown
from backup.trees.places import (
    PREFIX,
    exists,
    no_mounts_below,
    open_root,
    open_staging,
    opened,
    staging_name,
    sync_file_system,
    time_kept,
)
from backup.trees.placing import (
    EXCHANGE,
    NOREPLACE,
    NOTE,
    above,
    identity,
    listed,
    read_note,
    rename,
    write_note,
)

KIND: Final = "file-"
_NEW: Final = "new"
_BEFORE: Final = "before"
_DAY: Final = 86400

Extract = Callable[[int, Chosen], object]


def put(root: Path, stamp: str, paths: Sequence[bytes], archive_of: bytes, extract: Extract, *, whole: bool) -> str:
    """Put `paths` in their places below the volume; the directory that keeps what was there, empty if nothing was.

    `extract` unpacks what is chosen into `new` of an open directory. Raises BackupError, and then all is as before.
    """
    name = staging_name(KIND + stamp)
    top = open_root(root)
    try:
        units = _units(top, paths)
        for unit in units:
            no_mounts_below(root / os.fsdecode(unit.place))
        with _doing(root, "prepare it"):
            _prepare(top, name)
        with opened(name, top) as folder:
            try:
                _unpack(folder, Chosen(archive_of, units, whole), extract)
                with _doing(root, "put it in its place"), _undisturbed():
                    _place(top, folder, units)
            except BaseException:
                # With a note, something could not be taken back: then nothing is removed.
                with contextlib.suppress(OSError):
                    if read_note(folder) is None:
                        _remove(top, name)
                raise
            kept = bool(listed(_BEFORE, folder))
        if not kept:
            with contextlib.suppress(OSError):
                _remove(top, name)
        return name if kept else ""
    finally:
        os.close(top)


def tidy(root: Path, *, days: float | None = None) -> None:
    """End what was killed: finish what had begun to change places, remove what had not; and what is kept so long."""
    top = open_root(root)
    try:
        for name in sorted(each for each in os.listdir(top) if each.startswith(PREFIX + KIND)):
            with contextlib.suppress(BackupError), _doing(root, f"tidy {name}"):
                _tidy_one(root, top, name, days)
    finally:
        os.close(top)


def _tidy_one(root: Path, top: int, name: str, days: float | None) -> None:
    folder = open_staging(top, root, name)
    try:
        note = read_note(folder)
        if note and note["step"] == "placing":
            for number, place in enumerate(note["places"]):
                here = identity(str(number), _NEW, folder)
                if here == place["inode"]:
                    _exchange(top, folder, number, bytes.fromhex(place["path"]))
                elif here is not None:
                    _keep(folder, number)
            write_note(folder, note | {"step": "placed"})
        old = days is not None and time.time() - os.fstat(folder).st_mtime > days * _DAY
        gone = not note or old or not listed(_BEFORE, folder)
    finally:
        os.close(folder)
    if gone:
        _remove(top, name)


def _units(top: int, paths: Sequence[bytes]) -> list[Unit]:
    """Where each is to go: its own place, or that of the highest directory above it that is missing."""
    wanted = sorted(set(paths))
    for path in wanted:
        names = path.split(b"/")
        if b"\0" in path or any(each in (b"", b".", b"..") for each in names) or names[0].startswith(PREFIX.encode()):
            raise NotFound(f"{shown(path)!r} is no path below the volume", "Such as uploads/2025/a.pdf.")
    outer = [path for path in wanted if not any(path.startswith(each + b"/") for each in wanted)]
    places: dict[bytes, list[bytes]] = {}
    for path in outer:
        places.setdefault(_place_of(top, path), []).append(path)
    return [Unit(place, tuple(below)) for place, below in places.items()]


def _place_of(top: int, path: bytes) -> bytes:
    names = path.split(b"/")
    fd = os.dup(top)
    try:
        for depth, name in enumerate(names[:-1]):
            try:
                below = os.open(name, FOLDER, dir_fd=fd)
            except FileNotFoundError:
                return b"/".join(names[: depth + 1])
            except OSError as error:
                raise RestoreFailed(
                    f"{shown(b'/'.join(names[: depth + 1]))} is no directory of the volume now ({error.strerror});"
                    " no live file was touched",
                    "Look at what it is; no link is followed.",
                ) from error
            os.close(fd)
            fd = below
    finally:
        os.close(fd)
    return path


def _prepare(top: int, name: str) -> None:
    with time_kept(top):
        os.mkdir(name, 0o700, dir_fd=top)
    with opened(name, top) as folder:
        os.fchown(folder, os.geteuid(), os.getegid())
        os.fchmod(folder, 0o700)
        for each in (_NEW, _BEFORE):
            os.mkdir(each, 0o700, dir_fd=folder)


def _unpack(folder: int, chosen: Chosen, extract: Extract) -> None:
    try:
        extract(folder, chosen)
    except Again:
        # Now the files are taken along that chosen ones are second names of.
        with opened(_NEW, folder) as new:
            remove_all(new)
        extract(folder, chosen)
    with opened(_NEW, folder) as new:
        for name in os.listdir(new):
            if name.startswith("link-"):
                os.unlink(name, dir_fd=new)


def _place(top: int, folder: int, units: Sequence[Unit]) -> None:
    places = [
        {"path": unit.place.hex(), "inode": identity(str(number), _NEW, folder)} for number, unit in enumerate(units)
    ]
    with opened(_NEW, folder) as new:
        sync_file_system(new)
    write_note(folder, {"step": "placing", "places": places})
    try:
        for number, unit in enumerate(units):
            _exchange(top, folder, number, unit.place)
    except BaseException:
        for number in reversed(range(len(units))):
            _exchange_back(top, folder, number, units[number].place, places[number]["inode"])
        os.unlink(NOTE, dir_fd=folder)
        raise
    write_note(folder, {"step": "placed", "places": places})


def _exchange(top: int, folder: int, number: int, place: bytes) -> None:
    own = str(number).encode()
    with above(top, place) as (parent, name), opened(_NEW, folder) as new:
        if exists(name, parent):
            if rename(new, own, parent, name, EXCHANGE):
                _keep(folder, number)
            else:
                _replace(folder, own, parent, name)
        elif not rename(new, own, parent, name, NOREPLACE):
            os.rename(own, name, src_dir_fd=new, dst_dir_fd=parent)
        os.fsync(parent)
        os.fsync(new)


def _keep(folder: int, number: int) -> None:
    """What was exchanged with the new one lies where that was."""
    own = str(number)
    with opened(_NEW, folder) as new, opened(_BEFORE, folder) as before:
        os.rename(own, own, src_dir_fd=new, dst_dir_fd=before)
        os.fsync(before)


def _replace(folder: int, own: bytes, parent: int, name: bytes) -> None:
    """Where the file system cannot exchange: a file is replaced in one step all the same, a directory in two."""
    with opened(_NEW, folder) as new, opened(_BEFORE, folder) as before:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.rename(name, own, src_dir_fd=parent, dst_dir_fd=before)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(name, own, src_dir_fd=parent, dst_dir_fd=before, follow_symlinks=False)
        os.fsync(before)
        os.rename(own, name, src_dir_fd=new, dst_dir_fd=parent)


def _exchange_back(top: int, folder: int, number: int, place: bytes, inode: object) -> None:
    """Whatever was done of it, what was there is there again."""
    own = str(number).encode()
    here = identity(str(number), _NEW, folder)
    with above(top, place) as (parent, name), opened(_NEW, folder) as new, opened(_BEFORE, folder) as before:
        if here == inode:
            if exists(own, before) and not exists(name, parent):
                os.rename(own, name, src_dir_fd=before, dst_dir_fd=parent)
            return
        if here is not None or exists(own, before):
            source = new if here is not None else before
            if not rename(source, own, parent, name, EXCHANGE):
                os.rename(name, own, src_dir_fd=parent, dst_dir_fd=new)
                os.rename(own, name, src_dir_fd=source, dst_dir_fd=parent)
        elif exists(name, parent):
            os.rename(name, own, src_dir_fd=parent, dst_dir_fd=new)
        os.fsync(parent)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Moments long, and to be finished rather than stopped."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _remove(top: int, name: str) -> None:
    with opened(name, top) as folder:
        remove_all(folder)
    with time_kept(top):
        os.rmdir(name, dir_fd=top)
    os.fsync(top)


@contextlib.contextmanager
def _doing(root: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = "Free space in the volume." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise RestoreFailed(
            f"{root}: could not {what}: {error.strerror or error}; the live files are as they were", full
        ) from error
