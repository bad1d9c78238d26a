"""Which volumes there are: every directory below /volumes is one archive."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backup.errors import MediaFailed
from backup.formatting import printable
from backup.logging import logger
from backup.media import archive_tree

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NO_VOLUMES: Final = "none"
_MOUNT: Final = "Mount it in the backup service: `media_volume:/volumes/media:ro`, as docker-compose.backup.yml does."


@dataclass(frozen=True)
class Volume:
    """A mounted volume: its name is the archive's root entry. Sizes as `archive_tree.measure` counts them."""

    name: str
    path: Path
    files: int
    bytes: int


def find_volumes(
    root: Path,
    excludes: Sequence[str],
    forbidden: frozenset[tuple[int, int]],
    allow_empty: Collection[str],
    filled: Collection[str] | None,
    since: Callable[[str], int] | None = None,
) -> list[Volume]:
    """The volumes below `root`, measured. MediaFailed when there is none, or one is empty and may not be.

    One may that is not among `filled`, those which sets hold files of: nobody has put a file there yet. `since` gives
    for each the time in ns; what is as it was then does not count.
    """
    names = _directories(root)
    if not names and NO_VOLUMES not in allow_empty:
        raise MediaFailed(
            f"no volume is mounted below {root}, so no media would be in the set; nothing was started",
            f"{_MOUNT} If there is no media at all, set BACKUP_ALLOW_EMPTY={NO_VOLUMES}.",
        )
    volumes = []
    for name in names:
        measured = archive_tree.measure_tree(root / name, excludes, forbidden, since(name) if since else 0)
        if not measured.files and name not in allow_empty:
            if filled is None or name in filled or _left_out(root / name, forbidden):
                raise MediaFailed(
                    f"the volume {name} is empty, which is how a wrong or forgotten mount looks; nothing was started",
                    f"Is it the volume that the application writes to? {_MOUNT}"
                    f" If it is meant to be empty, set BACKUP_ALLOW_EMPTY={name}.",
                )
            logger.warning("the volume {} is empty, and no set holds a file of it yet: is it the right one?", name)
        volumes.append(Volume(name, root / name, measured.files, measured.bytes))
    return volumes


def _left_out(path: Path, forbidden: frozenset[tuple[int, int]]) -> bool:
    """Whether there are files that somebody's patterns leave out."""
    return archive_tree.measure_tree(path, archive_tree.DEFAULT_EXCLUDES, forbidden).files > 0


def _directories(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MediaFailed(f"{root} cannot be read: {error.strerror}", _MOUNT) from error
    for name in names:
        if not _NAME.fullmatch(name):
            raise MediaFailed(
                f"the directory {printable(name)!r} below {root} has no valid name for an archive",
                "Use letters, digits, dots, dashes and underscores for the mount's name.",
            )
    return names
