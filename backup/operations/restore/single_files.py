"""Single files and directories of a set put back, each in one step; the application runs on and nothing is unpacked
besides. What was there is kept beside them in the volume, for as many days as `undo` keeps what a restore replaced."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from backup.errors import BackupError, EngineError, NotFound, RestoreFailed
from backup.formatting import plural, printable
from backup.logging import logger
from backup.media.swap import single_files
from backup.model.backup_set import StoredSet
from backup.model.run import RESTORE
from backup.operations.inspect import file_index, one_file
from backup.operations.restore import build
from backup.operations.restore.context import RestoreContext
from backup.operations.restore.locking import recorded, refuse_unfinished, require_alone
from backup.operations.set_artifacts import archive_of, packs_of
from backup.storage.filesystem import free_space


@dataclass(frozen=True)
class Choice:
    """One path below a volume: what the index says of it, and what is there now."""

    volume: str
    path: bytes
    files: int = 0
    bytes: int = 0
    live: bool = False
    live_files: int = 0
    live_bytes: int = 0


def choose(stored: StoredSet, paths: Sequence[str], context: RestoreContext) -> list[Choice]:
    """What these paths are. NotFound, with the nearest names, for one that is in no archive."""
    refuse_unfinished(context.catalog.root, context.clock())
    if stored.encrypted:
        # What unpacks may have to read an archive twice, and an encrypted one comes to it through a pipe.
        raise RestoreFailed(
            f"{stored.id} is encrypted: single files of it cannot be restored in place; nothing was touched",
            f"`cat {stored.id} --path PATH` writes one to stdout; `restore --only media` restores all of them.",
        )
    return list(dict.fromkeys(_with_live(_choice(stored, path, context), context) for path in paths))


def restore_paths(stored: StoredSet, chosen: Sequence[Choice], context: RestoreContext) -> str:
    """Put them back, each wholly or not at all; what is to be said of it."""
    require_alone(context)
    refuse_unfinished(context.catalog.root, context.clock())
    kept: list[str] = []
    notes: list[str] = []
    with recorded(context, RESTORE, stored.id, "media", notes) as run:
        refuse_unfinished(context.catalog.root, context.clock())
        stamp = f"{run.started:%Y%m%d%H%M%S}"
        done: list[str] = []
        for volume in dict.fromkeys(each.volume for each in chosen):
            if single_files.has_begun(context.volumes / volume):
                _tidy(context, volume)
            context.progress.phase(f"looking for it in {volume}")
            where, nearest = _put(
                stored, volume, [each.path for each in chosen if each.volume == volume], stamp, context, done
            )
            kept += [f"{where}/before in {volume}"] if where else []
            notes += [f"{volume}: {note}" for note in nearest]
            done.append(volume)
    for line in notes:
        logger.warning("{}", line)
    what = f"{plural(len(chosen), 'path')} of {stored.id} put back"
    return f"{what}; what was there is kept in {', '.join(kept)}" if kept else f"{what}; nothing was there before"


def _put(
    stored: StoredSet, volume: str, paths: list[bytes], stamp: str, context: RestoreContext, done: list[str]
) -> tuple[str, list[str]]:
    trees = context.trees()
    archive, listing, root = archive_of(stored, volume)
    try:
        return trees.put(
            volume,
            stored.directory / archive,
            stored.directory / listing if listing else None,
            stamp,
            root=root,
            limit=build.most_bytes(stored.manifest, volume) or free_space(context.volumes / volume),
            trusted=not stored.derived,
            paths=paths,
            days=context.days,
            packs=packs_of(stored),
        )
    except BackupError as error:
        _tidy(context, volume)
        if isinstance(error, EngineError):
            # Whoever did it died, and cannot say how far it came.
            error.message += "; each path of that volume is whole: as it was, or put back"
        if done:
            raise RestoreFailed(f"{error.message}; the paths in {', '.join(done)} are put back", error.hint) from error
        raise
    except BaseException:
        _tidy(context, volume)
        raise


def interrupted_volumes(volumes: Path) -> list[str]:
    """The volumes in which one was killed while paths changed places."""
    return [path.name for path in sorted(volumes.glob("*")) if single_files.has_begun(path)]


def recover(context: RestoreContext) -> None:
    """Take back what one that was killed had begun: nobody else may come by for weeks."""
    with recorded(context, "recover", ""):
        for volume in interrupted_volumes(context.volumes):
            _tidy(context, volume)


def _tidy(context: RestoreContext, volume: str) -> None:
    try:
        for line in context.trees().tidy(volume):
            logger.warning("{}", line)
    except BackupError as error:
        logger.warning("{} {}", error.message, error.hint)


def _choice(stored: StoredSet, path: str, context: RestoreContext) -> Choice:
    """What a path is, by an index or else by an archive."""
    for volume in file_index.volumes(stored):
        for name in file_index.spellings(volume, path):
            found = _counted(stored, volume, name)
            if found.files:
                return found
    if at := file_index.locate_file(stored, path):
        return _counted(stored, at[0], at[1].path)
    return _unlisted(stored, path, context)


def _unlisted(stored: StoredSet, path: str, context: RestoreContext) -> Choice:
    """A link or an empty directory is in no index, and old archives have none: where there can be such, it is read."""
    near = file_index.Near(stored, path)
    for volume in file_index.volumes(stored):
        if file_index.tells_all(stored, volume, near):
            continue
        below = one_file.found(stored, volume, path, near, context.progress)
        if below and not volume:
            raise RestoreFailed(
                f"it is not known which volume the media of {stored.id} belong to; nothing was touched",
                "Make the archive from a folder with the volume's name; `cat` writes one file to stdout.",
            )
        if below:
            return Choice(volume, below)
    raise file_index.no_such_file(stored, path, near, "; nothing was touched")


def _counted(stored: StoredSet, volume: str, name: bytes) -> Choice:
    """What an index has at a path, and below it. The index is read to its end, which proves it."""
    files = count = 0
    for entry in file_index.index_entries(stored, volume):
        if entry.path == name or entry.path.startswith(name + b"/"):
            files, count = files + 1, count + entry.size
    below = name.removeprefix(os.fsencode(volume) + b"/")
    if below == name or not {b"", b".", b".."}.isdisjoint(below.split(b"/")):
        raise NotFound(f"{printable(os.fsdecode(below))!r} is not a path below a volume", "Such as uploads/2025/a.pdf.")
    return Choice(volume, below, files, count)


def _with_live(choice: Choice, context: RestoreContext) -> Choice:
    volume = context.volumes / choice.volume
    if not volume.is_dir():
        raise RestoreFailed(
            f"the volume {printable(choice.volume)} is not mounted here; nothing was touched",
            f"Mount it at {volume} in the backup service.",
        )
    single_files.require_own_name(volume, choice.path)
    path = Path(os.fsdecode(os.fsencode(volume) + b"/" + choice.path))
    try:
        found = path.lstat()
    except OSError:
        return choice
    if not stat.S_ISDIR(found.st_mode):
        return replace(choice, live=True, live_files=1, live_bytes=found.st_size)
    sizes = [(Path(at) / name).lstat().st_size for at, _, names in os.walk(path) for name in names]
    return replace(choice, live=True, live_files=len(sizes), live_bytes=sum(sizes))
