"""Single files and directories put in the place of live ones, beside which they were unpacked and compared first.

All lies in `<volume>/.obcms-restore-file-<stamp>/`: `new/0`, `new/1` … for each place, and `before/0` … for what was
there. Each place changes by one rename, which exchanges both: whatever ends it, the old or the new is there, whole.
What is noted before the first one tells whoever comes after a kill which of several are to be taken back: it is done
wholly or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from backup.errors import BackupError, NotFound, RestoreFailed, RestoreUnfinished
from backup.media.branch import FOLDER
from backup.media.removal import remove_all
from backup.media.reserved_names import PREFIX, is_of_a_restore, strays
from backup.media.selection import Again, Chosen, Unit
from backup.media.swap import placing
from backup.media.swap.directories import (
    make_staging,
    no_mounts_below,
    open_root,
    open_staging,
    opened,
    remove_staging,
    staging_name,
    sync_file_system,
)
from backup.media.swap.placing import (
    BEFORE,
    CHANGED,
    NEW,
    NOTE,
    identity,
    listed,
    put_in,
    read_note,
    take_back,
    write_note,
)
from backup.media.tar_reader import shown

KIND: Final = "file-"
_DAY: Final = 86400

Extract = Callable[[int, Chosen], object]


def put(root: Path, stamp: str, paths: Sequence[bytes], archive_of: bytes, extract: Extract, *, whole: bool) -> str:
    """Put `paths` in their places below the volume; the directory that keeps what was there, empty if nothing was.

    `extract` unpacks what is chosen into `new` of an open directory. Raises BackupError, and then all is as before, but
    for what RestoreUnfinished names.
    """
    name = staging_name(KIND + stamp)
    top = open_root(root)
    try:
        units = _units(top, paths)
        for unit in units:
            no_mounts_below(root / os.fsdecode(unit.place))
        with _doing(root, "prepare it"):
            make_staging(top, root, name, (NEW, BEFORE))
        with opened(name, top) as folder:
            try:
                _unpack(folder, Chosen(archive_of, units, whole), extract)
                with _doing(root, "put it in its place"), _undisturbed():
                    _place(top, folder, units)
            except BaseException:
                # With a note, something could not be taken back: then nothing is removed.
                with contextlib.suppress(OSError):
                    if read_note(folder) is None and not strays(folder):
                        _remove(root, top, name)
                raise
            kept, others = bool(listed(BEFORE, folder)), strays(folder)
        # Beside what somebody has put there it stays until it is tidied away, where that can be told.
        if not (kept or others):
            with contextlib.suppress(OSError):
                _remove(root, top, name)
        return name if kept else ""
    finally:
        os.close(top)


def tidy(root: Path, *, days: float | None = None) -> list[str]:
    """End what was killed: take back what had begun to change places, remove the rest; and what is kept so long.

    What was taken back, or could not be, in words.
    """
    top, told = open_root(root), []
    try:
        for name in sorted(each for each in os.listdir(top) if each.startswith(PREFIX + KIND)):
            if not is_of_a_restore(os.fsencode(name), top):
                continue
            try:
                told += _tidy_one(root, top, name, days)
            except (BackupError, OSError) as error:
                told.append(f"{root / name} could not be tidied: {getattr(error, 'message', error)}")
    finally:
        os.close(top)
    return told


def require_own_name(root: Path, path: bytes) -> None:
    """RestoreFailed where what would be put at `path` takes the place of something of another name. Only looks."""
    top = open_root(root)
    try:
        # What is no directory above it is told by who puts it there.
        with contextlib.suppress(OSError):
            placing.require_own_name(top, path)
    finally:
        os.close(top)


def begun(root: Path) -> bool:
    """Whether something was killed there while it changed places. Only looks."""
    return any(_placing(root, path.name) for path in root.glob(f"{PREFIX}{KIND}*"))


def _placing(root: Path, name: str) -> bool:
    top = open_root(root)
    try:
        folder = open_staging(top, root, name)
        try:
            note = read_note(folder)
        finally:
            os.close(folder)
    except (BackupError, OSError):
        return False
    finally:
        os.close(top)
    return note is not None and note["step"] == "placing"


def _tidy_one(root: Path, top: int, name: str, days: float | None) -> list[str]:
    folder, told = open_staging(top, root, name), []
    try:
        note = read_note(folder)
        step = note["step"] if note else ""
        old = days is not None and time.time() - os.fstat(folder).st_mtime > days * _DAY
        if note and step == "placing":
            # Not forward: the application may have gone on for weeks with what was there.
            with _undisturbed():
                for number, place in reversed(list(enumerate(note["places"]))):
                    path = bytes.fromhex(place["path"])
                    if said := take_back(top, folder, number, path, place["inode"]):
                        told.append(f"{shown(path)} {said} in {root / name}")
                write_note(folder, note | {"step": "taken back"})
            old = False
        kept = told or step == "taken back" or listed(BEFORE, folder)
    finally:
        os.close(folder)
    if not note or old or not kept:
        told += _remove(root, top, name)
    return told


def _units(top: int, paths: Sequence[bytes]) -> list[Unit]:
    """Where each is to go: its own place, or that of the highest directory above it that is missing."""
    wanted = sorted(set(paths))
    for path in wanted:
        names = path.split(b"/")
        if b"\0" in path or any(each in (b"", b".", b"..") for each in names) or is_of_a_restore(names[0], top):
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


def _unpack(folder: int, chosen: Chosen, extract: Extract) -> None:
    try:
        extract(folder, chosen)
    except Again:
        # Now the files are taken along that chosen ones are second names of.
        with opened(NEW, folder) as new:
            remove_all(new)
        extract(folder, chosen)
    with opened(NEW, folder) as new:
        for name in os.listdir(new):
            if name.startswith("link-"):
                os.unlink(name, dir_fd=new)


def _place(top: int, folder: int, units: Sequence[Unit]) -> None:
    places = [
        {"path": unit.place.hex(), "inode": identity(str(number), NEW, folder)} for number, unit in enumerate(units)
    ]
    with opened(NEW, folder) as new:
        sync_file_system(new)
    write_note(folder, {"step": "placing", "places": places})
    try:
        for number, unit in enumerate(units):
            put_in(top, folder, number, unit.place)
        write_note(folder, {"step": "placed", "places": places})
    except BaseException as error:
        left = []
        for number in reversed(range(len(units))):
            said = CHANGED
            with contextlib.suppress(OSError):
                said = take_back(top, folder, number, units[number].place, places[number]["inode"])
            if said == CHANGED:
                left.append(shown(units[number].place))
        if left:
            raise RestoreUnfinished(
                f"not all could be put in its place ({error}), and this could not be taken back: {', '.join(left)}",
                "What was there is kept beside the files. The service takes it back when it can, or the next restore of"
                " a path does.",
            ) from error
        os.unlink(NOTE, dir_fd=folder)
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
    with opened(name, top) as folder:
        return remove_staging(folder, top, root, name, last=NOTE)


@contextlib.contextmanager
def _doing(root: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = "Free space in the volume." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise RestoreFailed(
            f"{root}: could not {what}: {error.strerror or error}; the live files are as they were", full
        ) from error
