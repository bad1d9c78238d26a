"""Two trees on one volume, of which one is live: extracted beside it, exchanged, exchanged back, discarded.

All lies in `<volume>/.obcms-restore-<stamp>/`: the directories `new` and `old`, each for the tree of that name while it
is not live, and `state`. The volume's root is a mount point and cannot be renamed, so an exchange moves its entries in
two steps: `out`, the live ones into the directory of their own tree, and `in`, the others to the root. In either step
each entry's place and the step together tell its tree. So turning round is one write of the state: `out` of one
direction is `in` of the other. Every step is durable before the next is noted, and each can be done again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from backup.errors import BackupError, IntegrityError, LockHeld, NotFound, RestoreFailed, RestoreUnfinished
from backup.formatting import printable
from backup.media import archive_tree, metadata
from backup.media.directories import closed_after, exists, open_directory
from backup.media.metadata import Metadata, Notes
from backup.media.reserved_names import PREFIX, is_of_a_restore, is_of_the_file_system, is_ours
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

Side = Literal["new", "old"]
TreeState = Literal["absent", "extracting", "ready", "moving", "exchanged", "discarding"]
_Step = Literal["extracting", "settled", "out", "in", "discarding"]
_OTHER: Final[dict[Side, Side]] = {"new": "old", "old": "new"}
_STATE: Final = "state"
# A name of its own, so that discarding needs no room on a full disk.
_DISCARDING: Final = "state.discarding"
_RESUME: Final = "`restore --resume` continues, `restore --rollback` brings back the old files."


@dataclass(frozen=True)
class KeptTrees:
    """What a restore left on a volume. `bytes` is the content of files, as `archive_tree.measure` counts."""

    stamp: str
    state: TreeState
    bytes: int


@dataclass(frozen=True)
class _Noted:
    """`live`: the tree that is live, or will be after this step; `roots`: what the volume's root has in each."""

    step: _Step
    live: Side = "old"
    roots: dict[Side, Metadata] = field(default_factory=dict)

    @property
    def state(self) -> TreeState:
        """The same for those who only look."""
        if self.step == "settled":
            return "exchanged" if self.live == "new" else "ready"
        return "moving" if self.step in ("out", "in") else "extracting" if self.step == "extracting" else "discarding"


class StagedTrees:
    """The trees of one restore on the volume at `root`, open and locked. For a `with` block.

    NotFound if there are none, RestoreFailed if they are not ours, LockHeld if another process is at work on them.
    """

    def __init__(self, root: Path, stamp: str) -> None:
        self._path, self._name, self.folder = root, staging_name(stamp), -1
        self._root = open_root(root)
        try:
            self.folder = open_staging(self._root, root, self._name)
            self._lock()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> StagedTrees:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the lock and the descriptors."""
        if self.folder >= 0:
            # Not by closing alone: a child that another thread is just starting has a copy of the descriptor.
            fcntl.flock(self.folder, fcntl.LOCK_UN)
        for fd in (self.folder, self._root):
            if fd >= 0:
                os.close(fd)
        self.folder = self._root = -1

    def _lock(self) -> None:
        try:
            fcntl.flock(self.folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockHeld(
                f"another process is working on {self._path / self._name}; nothing was done",
                "Wait for it, or stop its helper container, then run this again.",
            ) from error

    def note_extracted(self) -> None:
        """Note, durably, that `new` is whole, and what it has as the volume's root."""
        noted = _read(self.folder)
        with self._doing("note that it is extracted", RestoreFailed), open_directory("new", self.folder) as new:
            # Not only the directory: all files in it were written without a sync.
            sync_file_system(new)
            _write(self.folder, replace(noted, step="settled", live="old", roots={"new": metadata.read_metadata(new)}))

    def settle(self, live: Side) -> list[str]:
        """Make that tree the live one, from whatever state; what was in the way, in words.

        RestoreUnfinished where only a part could be moved.
        """
        noted, told = _read(self.folder), list[str]()
        if (noted.step, live) == ("extracting", "old") or (
            noted.step in ("settled", "discarding") and noted.live == live
        ):
            return told
        if noted.step in ("extracting", "discarding"):
            what = "was not extracted completely" if noted.step == "extracting" else "is being removed"
            raise RestoreFailed(f"the tree in {self._path / self._name} {what}; the live files are as they were")
        no_mounts_below(self._path)
        with self._doing("exchange the files", RestoreFailed if noted.step == "settled" else RestoreUnfinished):
            if noted.step == "settled":
                told = self._set_aside(noted.live)
                noted = replace(noted, step="out", roots=noted.roots | {noted.live: metadata.read_metadata(self._root)})
                noted = _write(self.folder, replace(noted, live=live))
            elif noted.live != live:
                noted = _write(self.folder, replace(noted, step="in" if noted.step == "out" else "out", live=live))
        with self._doing("exchange the files", RestoreUnfinished):
            self._move(noted)
        return told

    def _set_aside(self, live: Side) -> list[str]:
        """Move up what somebody has put into the directory of the live tree: it is in the way there. What, in words."""
        told = []
        with open_directory(live, self.folder) as empty:
            for name in sorted(os.listdir(empty)):
                free, number = name, 0
                while is_ours(free) or exists(os.fsencode(free), self.folder):
                    free, number = f"stray-{number}", number + 1
                os.rename(name, free, src_dir_fd=empty, dst_dir_fd=self.folder)
                told.append(
                    f"no restore put {printable(name)!r} into {self._path / self._name / live}; it was not exchanged,"
                    f" and is {printable(str(self._path / self._name / free))!r} now"
                )
            os.fsync(self.folder)
            os.fsync(empty)
        return told

    def _move(self, noted: _Noted) -> None:
        with (
            open_directory(noted.live, self.folder) as coming,
            open_directory(_OTHER[noted.live], self.folder) as going,
        ):
            if noted.step == "out":
                self._rename_all(self._root, going)
                noted = _write(self.folder, replace(noted, step="in"))
            self._rename_all(coming, self._root)
            metadata.apply_metadata(self._root, noted.roots[noted.live], Notes())
            os.fsync(self._root)
            _write(self.folder, replace(noted, step="settled"))

    def _rename_all(self, source: int, target: int) -> None:
        for name in sorted(map(os.fsencode, os.listdir(source))):
            if is_of_a_restore(name, source) or is_of_the_file_system(name, self._root):
                continue
            if exists(name, target):
                raise RestoreUnfinished(
                    f"{printable(os.fsdecode(name))!r} appeared in {self._path}, or in {self._name}/new or /old,"
                    " while the files were swapped; nothing was overwritten, and the files are between two states",
                    "Stop what writes there. Compare the two of that name, in the volume's root and there, and move"
                    f" the new one away. Then {_RESUME}",
                )
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        os.fsync(target)
        os.fsync(source)

    def discard(self) -> list[str]:
        """Remove it all but the live tree, and what others put there; where that is, in words.

        RestoreUnfinished in the middle of an exchange.
        """
        noted = _read(self.folder)
        if noted.state == "moving":
            raise RestoreUnfinished(
                f"the files of {self._path} are in the middle of a swap: nothing was removed", _RESUME
            )
        no_mounts_below(self._path / self._name)
        with self._doing("remove what is kept", RestoreFailed):
            if noted.step == "settled":
                self._set_aside(noted.live)
                os.rename(_STATE, _DISCARDING, src_dir_fd=self.folder, dst_dir_fd=self.folder)
                os.fsync(self.folder)
            return remove_staging(self.folder, self._root, self._path, self._name, last=_DISCARDING)

    @contextlib.contextmanager
    def _doing(self, what: str, failed: type[BackupError]) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            state = "between two states" if failed is RestoreUnfinished else "as they were"
            full = "The volume is full: free space in it. " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise failed(
                f"{self._path}: could not {what}: {error.strerror or error}; its live files are {state}",
                full + (_RESUME if failed is RestoreUnfinished else ""),
            ) from error


def prepare_tree(root: Path, stamp: str) -> None:
    """Make an empty `new` and `old` for this restore; what an unfinished extraction left is removed first."""
    found = tree_state(root, stamp)
    if found == "extracting":
        discard_tree(root, stamp)
    elif found != "absent":
        raise RestoreFailed(f"{root / staging_name(stamp)} holds a tree already ({found}); nothing was done")
    with closed_after(open_root(root)) as fd:
        try:
            make_staging(fd, root, staging_name(stamp), _OTHER)
        except OSError as error:
            there = isinstance(error, FileExistsError)
            raise RestoreFailed(
                f"{root / staging_name(stamp)}: {error.strerror}; nothing was extracted",
                "Check what that is, and move it away." if there else "Mount the volume writable.",
            ) from error


def exchange_tree(root: Path, stamp: str) -> list[str]:
    """Make the extracted tree live, from any state: start, go on, or turn round; what was in the way, in words."""
    with StagedTrees(root, stamp) as trees:
        return trees.settle("new")


def exchange_back(root: Path, stamp: str) -> list[str]:
    """Make the old tree live, from any state; nothing to do where it never ceased to be. What was in the way."""
    with contextlib.suppress(NotFound), StagedTrees(root, stamp) as trees:
        return trees.settle("old")
    return []


def discard_tree(root: Path, stamp: str) -> list[str]:
    """Remove all of this restore but the live tree; nothing to do where there is nothing. What stays, in words."""
    with contextlib.suppress(NotFound), StagedTrees(root, stamp) as trees:
        return trees.discard()
    return []


def tree_state(root: Path, stamp: str) -> TreeState:
    """How far it is. `ready`: extracted or undone; `moving`: an exchange was stopped half way."""
    name = staging_name(stamp)
    with closed_after(open_root(root)) as fd:
        try:
            folder = open_staging(fd, root, name)
        except NotFound:
            return "absent"
    with closed_after(folder):
        return _read(folder).state


def kept(root: Path) -> list[KeptTrees]:
    """What restores left on this volume, by stamp; what only looks like it is left out. RestoreFailed without root."""
    found = []
    with closed_after(open_root(root)) as fd:
        names = sorted(name for name in os.listdir(fd) if name.startswith(PREFIX))
    for name in names:
        path, stamp = root / name, name.removeprefix(PREFIX)
        with contextlib.suppress(NotFound, RestoreFailed):
            if (how_far := tree_state(root, stamp)) == "absent":
                continue
            sizes = [archive_tree.measure_tree(path / side, ()).bytes for side in _OTHER if (path / side).is_dir()]
            found.append(KeptTrees(stamp, how_far, sum(sizes)))
    return found


def _read(folder: int) -> _Noted:
    """What is noted in the open directory `folder`; without a note, it is extracting. IntegrityError if damaged."""
    if (data := read_note(folder, _STATE)) is not None:
        return _unpacked(data)
    if (data := read_note(folder, _DISCARDING)) is not None:
        return _Noted("discarding", _unpacked(data).live)
    return _Noted("extracting")


def _write(folder: int, noted: _Noted) -> _Noted:
    """Note it durably, whole or not at all; the same again. Raises OSError."""
    roots = {side: root._asdict() | {"attributes": _hex(root)} for side, root in noted.roots.items()}
    text = json.dumps({"version": 1, "step": noted.step, "live": noted.live, "roots": roots})
    write_note(folder, _STATE, text.encode())
    return noted


def _hex(root: Metadata) -> dict[str, str]:
    return {name.hex(): value.hex() for name, value in root.attributes.items()}


def _unpacked(data: bytes) -> _Noted:
    try:
        found = json.loads(data)
        if found["version"] != 1 or found["step"] not in ("settled", "out", "in") or found["live"] not in _OTHER:
            raise ValueError(found["step"])
        return _Noted(found["step"], found["live"], {side: _root(root) for side, root in found["roots"].items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"the progress record of a restore of files is damaged: {error}; nothing was moved",
            "The directories `new` and `old` beside it hold the trees: check them, and move one by hand.",
        ) from error


def _root(found: dict[str, Any]) -> Metadata:
    attributes = {bytes.fromhex(name): bytes.fromhex(value) for name, value in found["attributes"].items()}
    mode, uid, gid, mtime_ns = (int(found[name]) for name in ("mode", "uid", "gid", "mtime_ns"))
    return Metadata(mode, uid, gid, mtime_ns, attributes)
