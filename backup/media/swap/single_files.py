"""Single files and directories put in the place of live ones, beside which they were unpacked and compared first.

All lies in `<volume>/.obcms-restore-file-<stamp>/`: `new/0`, `new/1` … for each place, and `before/0` … for what was
there. Each place changes by one rename, which exchanges both: whatever ends it, the old or the new is there, whole.
What is noted before the first one tells whoever comes after a kill which of several are to be taken back: it is done
wholly or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

from backup.errors import BackupError, NotFound, RestoreFailed, RestoreUnfinished
from backup.media.case_folding import one_name, other_spelling
from backup.media.directories import FOLDER, closed_after, descend, exists, open_directory, remove_all
from backup.media.reserved_names import PREFIX, is_of_a_restore, strays
from backup.media.selection import Chosen, ReadAgain, Unit
from backup.media.swap.staging import (
    make_staging,
    no_mounts_below,
    open_root,
    open_staging,
    read_note,
    remove_staging,
    staging_name,
    sync_file_system,
    write_note,
)
from backup.media.tar_reader import shown_path
from backup.storage.rename import EXCHANGE, NO_LINKS, NO_REPLACE, renameat2

KIND: Final = "file-"
_DAY: Final = 86400
_NOTE: Final = "places.json"
# Of each place number, `new` has what is to come until it is live, and `before` what was live.
_NEW: Final = "new"
_BEFORE: Final = "before"
_CHANGED: Final = "was changed after an interrupted restore, and stays; what was there before is kept"

Extract = Callable[[int, Chosen], object]


def put_paths(
    root: Path, stamp: str, paths: Sequence[bytes], archive_of: bytes, extract: Extract, *, whole: bool
) -> str:
    """Put `paths` in their places below the volume; the directory that keeps what was there, empty if nothing was.

    `extract` unpacks what is chosen into `new` of an open directory. Raises BackupError, and then all is as before, but
    for what RestoreUnfinished names.
    """
    name = staging_name(KIND + stamp)
    with closed_after(open_root(root)) as top:
        units = _units(top, paths)
        for unit in units:
            no_mounts_below(root / os.fsdecode(unit.place))
        with _doing(root, "prepare it"):
            make_staging(top, root, name, (_NEW, _BEFORE))
        with open_directory(name, top) as folder:
            try:
                _unpack(folder, Chosen(archive_of, units, whole), extract)
                with _doing(root, "put it in its place"), _undisturbed():
                    _place(top, folder, units)
            except BaseException:
                # With a note, something could not be taken back: then nothing is removed.
                with contextlib.suppress(OSError):
                    if _read(folder) is None and not strays(folder):
                        _remove(root, top, name)
                raise
            kept, others = bool(_names_in(_BEFORE, folder)), strays(folder)
        # Beside what somebody has put there it stays until it is tidied away, where that can be told.
        if not (kept or others):
            with contextlib.suppress(OSError):
                _remove(root, top, name)
        return name if kept else ""


def tidy(root: Path, *, days: float | None = None) -> list[str]:
    """End what was killed: take back what had begun to change places, remove the rest; and what is kept so long.

    What was taken back, or could not be, in words.
    """
    told = []
    with closed_after(open_root(root)) as top:
        for name in sorted(each for each in os.listdir(top) if each.startswith(PREFIX + KIND)):
            if not is_of_a_restore(os.fsencode(name), top):
                continue
            try:
                told += _tidy_one(root, top, name, days)
            except (BackupError, OSError) as error:
                told.append(f"{root / name} could not be tidied: {getattr(error, 'message', error)}")
    return told


def require_own_name(root: Path, path: bytes) -> None:
    """RestoreFailed where what would be put at `path` takes the place of something of another name. Only looks."""
    # What is no directory above it is told by who puts it there.
    with closed_after(open_root(root)) as top, contextlib.suppress(OSError):
        _require_own_name(top, path)


def has_begun(root: Path) -> bool:
    """Whether something was killed there while it changed places. Only looks."""
    return any(_placing(root, path.name) for path in root.glob(f"{PREFIX}{KIND}*"))


def _placing(root: Path, name: str) -> bool:
    with closed_after(open_root(root)) as top:
        try:
            with closed_after(open_staging(top, root, name)) as folder:
                note = _read(folder)
        except (BackupError, OSError):
            return False
    return note is not None and note["step"] == "placing"


def _tidy_one(root: Path, top: int, name: str, days: float | None) -> list[str]:
    told = []
    with closed_after(open_staging(top, root, name)) as folder:
        note = _read(folder)
        step = note["step"] if note else ""
        old = days is not None and time.time() - os.fstat(folder).st_mtime > days * _DAY
        if note and step == "placing":
            # Not forward: the application may have gone on for weeks with what was there.
            with _undisturbed():
                for number, place in reversed(list(enumerate(note["places"]))):
                    path = bytes.fromhex(place["path"])
                    if said := take_back(top, folder, number, path, place["inode"]):
                        told.append(f"{shown_path(path)} {said} in {root / name}")
                _write(folder, note | {"step": "taken back"})
            old = False
        kept = told or step == "taken back" or _names_in(_BEFORE, folder)
    if not note or old or not kept:
        told += _remove(root, top, name)
    return told


def _units(top: int, paths: Sequence[bytes]) -> list[Unit]:
    """Where each is to go: its own place, or that of the highest directory above it that is missing."""
    wanted = sorted(set(paths))
    for path in wanted:
        names = path.split(b"/")
        if b"\0" in path or any(each in (b"", b".", b"..") for each in names) or is_of_a_restore(names[0], top):
            raise NotFound(f"{shown_path(path)!r} is not a path below the volume", "Such as uploads/2025/a.pdf.")
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
                    f"{shown_path(b'/'.join(names[: depth + 1]))} is no longer a directory of the volume"
                    f" ({error.strerror}); no live file was touched",
                    "Check what it is; links are not followed.",
                ) from error
            os.close(fd)
            fd = below
    finally:
        os.close(fd)
    return path


def _unpack(folder: int, chosen: Chosen, extract: Extract) -> None:
    try:
        extract(folder, chosen)
    except ReadAgain:
        # Now the files are taken along that chosen ones are second names of.
        with open_directory(_NEW, folder) as new:
            remove_all(new)
        extract(folder, chosen)
    with open_directory(_NEW, folder) as new:
        for name in os.listdir(new):
            if name.startswith("link-"):
                os.unlink(name, dir_fd=new)


def _place(top: int, folder: int, units: Sequence[Unit]) -> None:
    with open_directory(_NEW, folder) as new:
        inodes = [_inode(b"%d" % number, new) for number in range(len(units))]
        sync_file_system(new)
    places = [{"path": unit.place.hex(), "inode": inode} for unit, inode in zip(units, inodes, strict=True)]
    _write(folder, {"step": "placing", "places": places})
    try:
        for number, unit in enumerate(units):
            put_in(top, folder, number, unit.place)
        _write(folder, {"step": "placed", "places": places})
    except BaseException as error:
        left = []
        for number in reversed(range(len(units))):
            said = _CHANGED
            with contextlib.suppress(OSError):
                said = take_back(top, folder, number, units[number].place, inodes[number])
            if said == _CHANGED:
                left.append(shown_path(units[number].place))
        if left:
            raise RestoreUnfinished(
                f"not everything could be restored ({error}), and this could not be taken back: {', '.join(left)}",
                "What was there is kept beside the files. The service or the next restore of a path takes it back.",
            ) from error
        os.unlink(_NOTE, dir_fd=folder)
        raise


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Moments long, and to be finished rather than stopped."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _remove(root: Path, top: int, name: str) -> list[str]:
    with open_directory(name, top) as folder:
        return remove_staging(folder, top, root, name, last=_NOTE)


@contextlib.contextmanager
def _doing(root: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = "Free space in the volume." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise RestoreFailed(
            f"{root}: could not {what}: {error.strerror or error}; the live files are as they were", full
        ) from error


def put_in(top: int, folder: int, number: int, place: bytes) -> None:
    """Give a place its new state, in one step; what was there is kept. Raises OSError, RestoreFailed."""
    own = str(number).encode()
    _require_own_name(top, place)
    with _above(top, place) as (parent, name), open_directory(_NEW, folder) as new:
        if exists(name, parent):
            if renameat2(new, own, parent, name, EXCHANGE):
                _keep(folder, own)
            else:
                _replace(folder, own, parent, name)
        elif not renameat2(new, own, parent, name, NO_REPLACE):
            os.rename(own, name, src_dir_fd=new, dst_dir_fd=parent)
        os.fsync(parent)
        os.fsync(new)


def _require_own_name(top: int, place: bytes) -> None:
    """RestoreFailed where what is at a place, or above it, is called otherwise: it is something else of the archive,
    or may be. Raises OSError."""
    names = place.split(b"/")
    fd = os.dup(top)
    try:
        for end, name in enumerate(names, 1):
            if other := other_spelling(name, fd):
                raise one_name(b"/".join(names[:end]), other)
            if end == len(names) or not exists(name, fd):
                return
            below = os.open(name, FOLDER, dir_fd=fd)
            os.close(fd)
            fd = below
    finally:
        os.close(fd)


def take_back(top: int, folder: int, number: int, place: bytes, inode: object) -> str:
    """Give a place its old state again, whatever was done of it; what was done, in words that end before the folder's
    name, or nothing. `_CHANGED`: what somebody has put there since, stays. Raises OSError."""
    own = str(number).encode()
    with open_directory(_NEW, folder) as new:
        coming = _inode(own, new)
    try:
        with (
            _above(top, place) as (parent, name),
            open_directory(_NEW, folder) as new,
            open_directory(_BEFORE, folder) as before,
        ):
            live = _inode(name, parent)
            old = new if coming not in (None, inode) else before if _inode(own, before) not in (None, inode) else None
            if live == inode and old is None:
                os.rename(name, own, src_dir_fd=parent, dst_dir_fd=new)
            elif live == inode and old is not None:
                if not renameat2(old, own, parent, name, EXCHANGE):
                    os.rename(name, own, src_dir_fd=parent, dst_dir_fd=new)
                    os.rename(own, name, src_dir_fd=old, dst_dir_fd=parent)
            elif live is None and coming == inode and old is not None:
                # Where it takes two steps, only the first was done.
                os.rename(own, name, src_dir_fd=old, dst_dir_fd=parent)
            else:
                return "" if inode in (coming, _inode(own, before)) else _CHANGED
            os.fsync(parent)
    except (FileNotFoundError, NotADirectoryError):
        return "" if coming == inode else _CHANGED
    return "is as it was before an interrupted restore; what was live meanwhile is kept"


def _keep(folder: int, own: bytes) -> None:
    """What was exchanged with the new one lies where that was."""
    with open_directory(_NEW, folder) as new, open_directory(_BEFORE, folder) as before:
        os.rename(own, own, src_dir_fd=new, dst_dir_fd=before)
        os.fsync(before)


def _replace(folder: int, own: bytes, parent: int, name: bytes) -> None:
    """Where the file system cannot exchange: a file that can be linked is replaced in one step all the same, all else
    in two."""
    with open_directory(_NEW, folder) as new, open_directory(_BEFORE, folder) as before:
        if not _linked(name, parent, own, before):
            os.rename(name, own, src_dir_fd=parent, dst_dir_fd=before)
        os.fsync(before)
        os.rename(own, name, src_dir_fd=new, dst_dir_fd=parent)


def _linked(name: bytes, parent: int, own: bytes, before: int) -> bool:
    if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        return False
    try:
        os.link(name, own, src_dir_fd=parent, dst_dir_fd=before, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return False
    return True


@contextlib.contextmanager
def _above(top: int, place: bytes) -> Iterator[tuple[int, bytes]]:
    """The directory that a place is in, open, and its name there. No link is followed."""
    *names, last = place.split(b"/")
    with closed_after(descend(top, names)) as fd:
        yield fd, last


def _inode(name: bytes, folder: int) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino
    return None


def _names_in(side: str, folder: int) -> list[str]:
    """What is in a directory of `folder`; nothing if there is none."""
    with contextlib.suppress(FileNotFoundError), open_directory(side, folder) as fd:
        return os.listdir(fd)
    return []


def _read(folder: int) -> dict[str, Any] | None:
    """What is noted in the open `folder`; None without a note."""
    data = read_note(folder, _NOTE)
    try:
        return None if data is None else cast(dict[str, Any], json.loads(data))
    except ValueError as error:
        raise RestoreFailed(
            "the progress record of a restore of single files is damaged; nothing was moved", "Check it by hand."
        ) from error


def _write(folder: int, note: dict[str, Any]) -> None:
    write_note(folder, _NOTE, json.dumps(note).encode())
