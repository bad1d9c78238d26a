"""Names that a file system takes for one: those of another case, on FAT, on shares of Windows, in a folded ext4.

Found out by looking, and asked only where a name is there already: a file system that tells them apart pays nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from backup.errors import RestoreFailed
from backup.media.directories import Inode, identity
from backup.media.tar_reader import shown_path

APART: Final = "Restore to a volume whose file system tells them apart, such as ext4 or XFS."


def other_spelling(name: bytes, folder: int) -> bytes | None:
    """What that is called which is found as `name` in an open directory; None if it is called so, or nothing is found.

    Raises OSError.
    """
    names = list(map(os.fsencode, os.listdir(folder)))
    if name in names or not (found := _identity(name, folder)):
        return None
    return next((each for each in names if _identity(each, folder) == found), None)


def one_name(path: bytes, other: bytes) -> RestoreFailed:
    """The error about a path where `other` is found instead of its last name."""
    beside = b"/".join([*path.split(b"/")[:-1], other])
    return RestoreFailed(
        f"{shown_path(beside)!r} and {shown_path(path)!r} are one name on this file system, and one would overwrite the"
        " other; the live files are as they were",
        f"{APART} `cat ID --path PATH` writes one of them to stdout.",
    )


def folds_case(folder: Path) -> bool:
    """Whether names of another case are the same there. False, too, where no name in it can tell. Raises OSError."""
    names = set(os.listdir(folder))
    for name in names:
        other = name.swapcase()
        if other not in names and other.swapcase() == name:
            return os.path.lexists(folder / other)
    return False


def alike(paths: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Pairs of files or directories that differ in the case of ASCII letters alone, of paths in an archive's order.

    What comes back to a directory after it was left is not compared with what was there before.
    """
    inside: list[dict[bytes, bytes]] = [{}]
    last: list[bytes] = []
    for path in paths:
        names = path.split(b"/")
        common = len(os.path.commonprefix([last, names[:-1]]))
        del inside[common + 1 :]
        for depth, name in enumerate(names[common:], common):
            first = inside[depth].setdefault(name.lower(), name)
            if first != name:
                yield b"/".join([*names[:depth], first]), b"/".join(names[: depth + 1])
            inside.append({})
        last = names[:-1]


def _identity(name: bytes, folder: int) -> Inode | None:
    with contextlib.suppress(FileNotFoundError):
        return identity(os.stat(name, dir_fd=folder, follow_symlinks=False))
    return None
