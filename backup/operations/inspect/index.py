"""The file indexes of a set, read line by line: which files its archives hold, where one is, how they are spread."""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from backup.errors import BackupError, NotFound
from backup.manifest import file_name
from backup.operations.check_volume import lines
from backup.operations.inspect.opening import opened, require_as_written
from backup.operations.restore.loading import archive_of, volumes_of
from backup.progress import Progress, Silent
from backup.sets import StoredSet
from backup.sources.tarstream import IndexEntry, parse_index
from backup.text import printable

# Directories that are counted each; what lies in others beyond that is counted together.
_MOST: Final = 5000
_REST: Final = "(other directories)"
_LOOSE: Final = "(files in the root)"


@dataclass
class Tree:
    """How the files of a volume are spread: files and bytes by directory, the largest first."""

    volume: str
    files: int = 0
    bytes: int = 0
    directories: list[tuple[str, int, int]] = field(default_factory=list)
    problem: str = ""


def volumes(stored: StoredSet) -> tuple[str, ...]:
    """The volumes of which a set has an archive."""
    return volumes_of(stored)


def index_of(stored: StoredSet, volume: str) -> str:
    """The file index of a volume's archive; empty where there is none, as beside archives of the old scripts."""
    name = file_name(volume, stored.id, "files.gz")
    listed = stored.manifest.artifact("index", volume) if stored.manifest else None
    return listed.file if listed else name if name in stored.files else ""


def entries(stored: StoredSet, volume: str, progress: Progress | None = None) -> Iterator[IndexEntry]:
    """All lines of one index. IntegrityError, at the latest after the last, unless it is as it was written."""
    name = index_of(stored, volume)
    if not name:
        return
    with opened(stored, name, progress or Silent()) as source:
        yield from parse_index(lines(source.content()))
        require_as_written(stored, source)


def matching(stored: StoredSet, pattern: str) -> Iterator[tuple[str, IndexEntry]]:
    """Volume and entry of every file whose path has `pattern` in it; with `*`, `?` or `[` the whole has to match."""
    fits = _matcher(pattern)
    for volume in volumes(stored):
        for entry in entries(stored, volume):
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
        for entry in entries(stored, volume):
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


def locate(stored: StoredSet, path: str) -> tuple[str, IndexEntry] | None:
    """Volume and entry of the file that a person calls `path`; None if no index has it. Every index is read whole."""
    exact: tuple[str, IndexEntry] | None = None
    alike: list[tuple[str, IndexEntry]] = []
    for volume in volumes(stored):
        names = spellings(volume, path)
        shown = {printable(os.fsdecode(name)) for name in names}
        for entry in entries(stored, volume):
            if entry.path in names:
                exact = exact or (volume, entry)
            elif printable(os.fsdecode(entry.path)) in shown:
                alike.append((volume, entry))
    return exact or (alike[0] if len(alike) == 1 else None)


def spellings(volume: str, path: str) -> set[bytes]:
    """What an archive may call what a person calls `path`: below the volume, or with its name, as it is mounted."""
    bare = path.removeprefix(f"/volumes/{volume}/").removeprefix("./").rstrip("/")
    names = {f"{volume}/{bare}"}
    if bare.startswith(f"{volume}/"):
        names.add(bare)
    return {os.fsencode(name) for name in names if bare}


def no_such_file(stored: StoredSet, path: str) -> NotFound:
    """The error of a path that is in no archive."""
    name = printable(path.rstrip("/").rpartition("/")[2])
    return NotFound(
        f"{stored.id} holds no file {printable(path)!r}", f"`show {stored.id} --files {name!r}` searches for the name."
    )


def archive_and_root(stored: StoredSet, volume: str) -> tuple[str, str]:
    """The archive of a volume and the folder that it is of."""
    archive, _, root = archive_of(stored, volume)
    return archive, root
