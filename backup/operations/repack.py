"""Packs of which sets name little any more are written anew without the rest, under their own names.

Only for the holder of the lock, after sets were removed. What the sets that are kept name is told by their trees, all
of them: a pack is left as it is where one cannot be read. A new file is read back and judged, then noted, and then
takes the name in one step; a kill leaves one of the two files, and both are known.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backup.catalog.catalog import Catalog
from backup.catalog.packs import PackFolder, named_aside
from backup.errors import BackupError, IntegrityError, NoSpace
from backup.formatting import size
from backup.logging import logger
from backup.media.known_files import listed_sha256
from backup.media.rewritten_packs import Rewritten, rewrite
from backup.media.tree import WRONG, TreeParser, differ, file_lines
from backup.model.backup_set import StoredSet
from backup.model.pack import Pack
from backup.operations.set_artifacts import open_file, require_as_written
from backup.operations.verify.stored_bytes import Stored
from backup.operations.verify.written import contents
from backup.pipeline.chunks import split_lines
from backup.progress import Progress, Silent
from backup.storage.artifact_writer import ArtifactWriter
from backup.storage.filesystem import free_space

# A pack is written anew when sets name less than this share of its content. Of a year of uploads and reports, a half
# left up to 1.35 times what differs, two thirds 1.14, three quarters 1.08 for more that is written.
_SHARE: Final = 2 / 3
# What no set names waits until it is this share of the content of all packs: for one byte of it, the trees of all sets
# are read. Of 20,000 files in 55 sets that takes 3 s of a core, three times what a night's set does.
_WORTH: Final = 1 / 100
# So many packs one cleanup looks at, and after so many bytes of them it begins no other.
_MOST, _AT_ONCE = 16, 10 << 30
_SPARE: Final = 16 << 20


@dataclass
class _Live:
    """What sets name of a pack, by where it begins: SHA-256 and size of the file, and bytes in the pack."""

    pack: Pack
    files: dict[int, tuple[str, int, int]] = field(default_factory=dict)

    @property
    def content(self) -> int:
        return sum(stored for _, _, stored in self.files.values())


def repack(catalog: Catalog, progress: Progress, level: int = 1) -> int:
    """Write anew the packs of which sets name less than two thirds; the bytes that this freed."""
    sets, folder = catalog.sets(), catalog.packs
    if any(each.state == "unreadable" or each.summary.id != each.id for each in sets):
        return 0
    freed, left = 0, _AT_ONCE
    try:
        for live in _live(sets, _candidates(sets, folder, catalog.root)):
            if live.content >= _SHARE * folder.content(live.pack):
                continue
            left -= live.pack.stored_size
            freed += _rewritten(live, folder, catalog.root, progress, level)
            if left <= 0:
                break
    except BackupError as error:
        logger.warning("packs were not written anew: {}", error.message)
    return freed


def _candidates(sets: Sequence[StoredSet], folder: PackFolder, root: Path) -> list[Pack]:
    """The packs of which no set alone names enough. Not those that sets know differently, or that are not whole, nor
    those that were written anew before: of each there are two files at most, here and at all places of copies. Nor
    those that snapshots alone need: these go within a week.
    """
    packs: dict[str, Pack] = {}
    named: dict[str, int] = {}
    lasting: set[str] = set()
    aside = named_aside(root)
    for stored in sets:
        for pack in stored.summary.packs:
            if packs.setdefault(pack.file, pack) != pack:
                aside.add(pack.file)
        lasting |= {pack.file for pack in stored.summary.packs} if stored.pin or not stored.snapshot else set()
        for file, count in stored.manifest.named.items() if stored.summary.packs else ():
            named[file] = max(named.get(file, 0), count)
    contents = {file: folder.content(pack) for file, pack in packs.items() if file in lasting and file not in aside}
    few = sorted(
        (named.get(file, 0) / content, file)
        for file, content in contents.items()
        if named.get(file, 0) < _SHARE * content and not folder.was_written_anew(packs[file])
    )
    unneeded = sum(contents[file] - named.get(file, 0) for _, file in few)
    if unneeded < _WORTH * sum(content or packs[file].plain_size for file, content in contents.items()):
        return []
    return list(itertools.islice((packs[file] for _, file in few if not folder.problems([packs[file]])), _MOST))


def _live(sets: Sequence[StoredSet], packs: Sequence[Pack]) -> list[_Live]:
    """What all sets together name of each. IntegrityError, StoreError where a tree is not as it was written."""
    found = {pack.file: _Live(pack) for pack in packs}
    for stored in sets:
        if any(pack.file in found for pack in stored.summary.packs):
            for volume in stored.summary.volume_names:
                _note(stored, volume, found)
    return list(found.values())


def _note(stored: StoredSet, volume: str, found: dict[str, _Live]) -> None:
    files = [each.file for kind in ("tree", "index") if (each := stored.manifest.artifact(kind, volume))]
    if len(files) < 2:
        raise IntegrityError(f"{stored.id} does not list what it holds of {volume}", f"`verify {stored.id}` judges it.")
    with open_file(stored, files[0]) as tree, open_file(stored, files[1]) as index:
        parser = TreeParser()
        try:
            for known in file_lines(split_lines(tree.content()), split_lines(index.content()), parser):
                if live := found.get(parser.names[known.pack]):
                    place = listed_sha256(known), known.size, int(known.fields[8] or known.size)
                    if live.files.setdefault(known.offset, place) != place:
                        raise IntegrityError(f"sets differ in {live.pack.file}", "`verify all` judges them.")
        except WRONG:
            raise differ() from None
        require_as_written(stored, tree)
        require_as_written(stored, index)


def _rewritten(live: _Live, folder: PackFolder, root: Path, progress: Progress, level: int) -> int:
    """Write one pack anew, judge it, and let it take the place of the old one; the bytes that this freed."""
    pack = live.pack
    now = folder.as_stored(pack)
    if now.stored_size + _SPARE > free_space(root):
        raise NoSpace(f"{size(now.stored_size)} must be free for a moment to write {pack.file} anew", NoSpace.remedy)
    progress.phase(f"writing {pack.file} anew", now.stored_size)
    with ArtifactWriter(folder.store, pack.file, "volume", pack.volume, level) as writer:
        with contextlib.closing(Stored(folder.store, pack.file, progress)) as source:
            marks = rewrite(source.content(), live.files, writer)
            source.drain()
            if source.sha256 != now.stored_sha256:
                raise IntegrityError(f"{pack.file} is not as it was written", "`verify all` judges the sets.")
        made = writer.finish()
        if made.stored_size >= now.stored_size:
            writer.discard()
            return 0
        _require(live, folder, writer, made.plain_size)
        points = list(zip(marks, writer.marks, strict=True))
        folder.put_in_place(pack, writer.staged, Rewritten(made.stored_size, made.stored_sha256, live.content, points))
    freed = now.stored_size - made.stored_size
    logger.info("{} was written anew without what no set names any more, {} less", pack.file, size(freed))
    return freed


def _require(live: _Live, folder: PackFolder, writer: ArtifactWriter, plain_size: int) -> None:
    """IntegrityError unless all that sets name lies in the new file, as the disk has it, where it lay."""
    left = dict(live.files)
    with contextlib.closing(Stored(folder.store, writer.staged.path.name, Silent())) as source:
        for offset, count, _, digest in contents(source.content()):
            if (known := left.get(offset)) and known[:2] == (digest.hex(), count):
                del left[offset]
        source.drain()
        same = source.sha256 == writer.staged.sha256 and plain_size == live.pack.plain_size
    if left or not same:
        raise IntegrityError(
            f"{live.pack.file} could not be written anew: what sets need is not in the new file; the old one stays",
            "`verify all` judges the sets.",
        )
