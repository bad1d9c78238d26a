"""The file indexes of a set, read line by line: which files its archives hold, where one is, how they are spread."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from backup.errors import BackupError, NotFound
from backup.formatting import printable
from backup.media.tar_reader import shown_path
from backup.media.tar_writer import IndexEntry, parse_index
from backup.model.backup_set import StoredSet
from backup.operations.set_artifacts import archive_of, open_file, require_as_written
from backup.pipeline.chunks import split_lines

# Directories that are counted each; what lies in others beyond that is counted together.
_MOST: Final = 5000
_REST: Final = "(other directories)"
_LOOSE: Final = "(files in the root)"
_NEAR: Final = 5
_ALIKE: Final = 0.6
# Comparisons of one name with the others beside it, each of which takes some microseconds.
_COMPARED: Final = 20_000


@dataclass
class Tree:
    """How the files of a volume are spread: files and bytes by directory, the largest first."""

    volume: str
    files: int = 0
    bytes: int = 0
    directories: list[tuple[str, int, int]] = field(default_factory=list)
    problem: str = ""


def volumes(stored: StoredSet) -> tuple[str, ...]:
    """The volumes of which a set has an archive; an empty name for that of a volume that is not known."""
    return stored.summary.volume_names


def index_of(stored: StoredSet, volume: str) -> str:
    """The file index of a volume's archive; empty where there is none, as beside archives of the old scripts."""
    listed = stored.manifest.artifact("index", volume)
    return listed.file if listed else ""


def index_entries(stored: StoredSet, volume: str) -> Iterator[IndexEntry]:
    """All lines of one index. IntegrityError, at the latest after the last, unless it is as it was written."""
    name = index_of(stored, volume)
    if not name:
        return
    with open_file(stored, name) as source:
        yield from parse_index(split_lines(source.content()))
        require_as_written(stored, source)


def matching(stored: StoredSet, pattern: str) -> Iterator[tuple[str, IndexEntry]]:
    """Volume and entry of every file whose path has `pattern` in it; with `*`, `?` or `[` the whole has to match."""
    fits = _matcher(pattern)
    for volume in volumes(stored):
        for entry in index_entries(stored, volume):
            if fits(os.fsdecode(entry.path)):
                yield volume, entry


def _matcher(pattern: str) -> Callable[[str], bool]:
    if not {"*", "?", "["} & set(pattern):
        wanted = pattern.casefold()
        return lambda path: wanted in path.casefold() or wanted in printable(path).casefold()

    def fits(path: str) -> bool:
        below, name = path.partition("/")[2], path.rpartition("/")[2]
        return any(fnmatch.fnmatchcase(each, pattern) for each in (path, below, name))

    return fits


def tree(stored: StoredSet, volume: str) -> Tree:
    """Files and bytes of each top directory, or of those one level down where there is only one."""
    counts: list[Counter[str]] = [Counter(), Counter()]
    sizes: list[Counter[str]] = [Counter(), Counter()]
    found = Tree(volume)
    try:
        for entry in index_entries(stored, volume):
            found.files, found.bytes = found.files + 1, found.bytes + entry.size
            folders = os.fsdecode(entry.path).split("/")[1:-1]
            for depth in range(2):
                name = "/".join(folders[: depth + 1]) or _LOOSE
                name = name if name in counts[depth] or len(counts[depth]) < _MOST else _REST
                counts[depth][name] += 1
                sizes[depth][name] += entry.size
    except BackupError as error:
        return Tree(volume, problem=error.message)
    level = 1 if len(set(counts[0]) - {_LOOSE}) == 1 else 0
    found.directories = [(name, counts[level][name], size) for name, size in sizes[level].most_common()]
    return found


def locate_file(stored: StoredSet, path: str) -> tuple[str, IndexEntry] | None:
    """Volume and entry of the file that a person calls `path`; None if no index has it. Every index is read whole."""
    exact: tuple[str, IndexEntry] | None = None
    alike: list[tuple[str, IndexEntry]] = []
    for volume in volumes(stored):
        names, there = spellings(volume, path), dict[bytes, IndexEntry]()
        shown = {printable(os.fsdecode(name)) for name in names}
        for entry in index_entries(stored, volume):
            if entry.path in names:
                there[entry.path] = entry
            elif printable(os.fsdecode(entry.path)) in shown:
                alike.append((volume, entry))
        exact = exact or next(((volume, there[name]) for name in names if name in there), None)
    return exact or (alike[0] if len(alike) == 1 else None)


def spellings(volume: str, path: str, root: str = "") -> list[bytes]:
    """What an archive of `root` (the volume's name) may call what a person calls `path`, in the order of preference.

    Below the volume; else with the volume's name, as it is mounted, or with `root`, as `tar -t` shows it.
    """
    bare = path.removeprefix(f"/volumes/{volume}/").removeprefix("./").rstrip("/")
    names = [bare, *(bare.removeprefix(f"{top}/") for top in (root, volume))]
    return [os.fsencode(f"{root or volume}/{name}") for name in dict.fromkeys(names) if name]


class Near:
    """The names most like one that nothing has, out of any number: its own elsewhere, and those spelt alike beside it.

    A path of an archive is given with the name of the archive's root; the directories above it count, too.
    """

    def __init__(self, stored: StoredSet, path: str) -> None:
        path = path.removeprefix("./")
        for volume in volumes(stored):
            tops = (f"/volumes/{volume}", volume, archive_of(stored, volume)[2])
            path = next((path.removeprefix(f"{top}/") for top in tops if path.startswith(f"{top}/")), path)
        self._wanted = printable(path.strip("/")).casefold()
        self._folder, _, self._name = self._wanted.rpartition("/")
        self._matcher = difflib.SequenceMatcher(b=self._name)
        self._best: list[tuple[float, int, bytes]] = []
        self._left = _COMPARED
        self._last: list[bytes] = []

    def add(self, path: bytes) -> None:
        """Look at one path, in the archive's order."""
        names = path.removesuffix(b"/").removeprefix(b"./").split(b"/")
        common = len(os.path.commonprefix([names, self._last]))
        for end in range(max(common, 1), len(names)):
            self._judge(b"/".join(names[1 : end + 1]))
        self._last = names

    @property
    def names(self) -> list[str]:
        """The best five, as messages show them."""
        return [shown_path(path) for _, _, path in self._best]

    def _judge(self, below: bytes) -> None:
        plain = printable(os.fsdecode(below)).casefold()
        folder, _, name = plain.rpartition("/")
        if name == self._name:
            self._keep(2.0 if plain == self._wanted else 1.0, below)
        elif folder == self._folder and self._left:
            self._left -= 1
            self._matcher.set_seq1(name)
            if self._matcher.real_quick_ratio() >= _ALIKE and self._matcher.quick_ratio() >= _ALIKE:
                ratio = self._matcher.ratio()
                self._keep(ratio, below) if ratio >= _ALIKE else None

    def _keep(self, score: float, below: bytes) -> None:
        self._best = sorted({*self._best, (-score, len(below), below)})[:_NEAR]


def tells_all(stored: StoredSet, volume: str, near: Near) -> bool:
    """Whether an archive holds no more than its index lists: no link, no directory without a file. `near` is told."""
    root = os.fsencode(volume)
    folders = {root}
    for entry in index_entries(stored, volume):
        near.add(entry.path)
        folder = entry.path.rpartition(b"/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition(b"/")[0]
    part = next((each for each in stored.manifest.volumes if each.name == volume), None)
    return part is not None and not part.links and part.directories == len(folders)


def no_such_file(stored: StoredSet, path: str, near: Near | None = None, state: str = "") -> NotFound:
    """The error of a path that is in no archive; the nearest names are looked for in the indexes unless given."""
    if near is None:
        near = Near(stored, path)
        with contextlib.suppress(BackupError):
            for volume in volumes(stored):
                tells_all(stored, volume, near)
    name = printable(path.rstrip("/").rpartition("/")[2])
    alike = f"Did you mean {', '.join(map(repr, near.names))}? " if near.names else ""
    return NotFound(
        f"{stored.id} holds nothing called {printable(path)!r}{state}",
        f"{alike}`show {stored.id} --files {name!r}` searches for the name.",
    )
