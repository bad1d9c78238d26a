"""The volumes of a set: archived whole, or, where sets are incremental, what is new of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from backup.errors import BackupError
from backup.logging import logger
from backup.media import archive_tree, volumes
from backup.media.archive_tree import MediaReport
from backup.media.incremental import Increment
from backup.media.known_files import KnownFiles, is_stable, with_digests
from backup.media.pack_reader import PackFiles
from backup.media.tar_writer import parse_index
from backup.media.tree import marks_line, parse_marks
from backup.model.backup_set import StoredSet
from backup.model.manifest import FileChange, VolumePart, file_name
from backup.model.pack import Pack
from backup.operations.create.context import CreateContext
from backup.operations.create.draft import SetDraft
from backup.operations.set_artifacts import open_file, require_as_written
from backup.operations.verify.volume_archive import split_lines
from backup.storage.artifact_writer import ArtifactWriter
from backup.storage.filesystem import storing

_MOUNTS: Final = Path("/proc/self/mountinfo")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class KnownVolume:
    """What an earlier set tells of a volume, and the packs that it needs, by their files."""

    files: KnownFiles = field(default_factory=KnownFiles)
    packs: dict[str, Pack] = field(default_factory=dict)


class KnownVolumes:
    """What is known of each volume, read when it is first asked for. `full`: nothing is."""

    def __init__(self, context: CreateContext, *, full: bool) -> None:
        self._context, self._full = context, full
        self._known: dict[str, KnownVolume] = {}

    def of(self, name: str) -> KnownVolume:
        """What is known of a volume."""
        if name not in self._known:
            self._known[name] = KnownVolume() if self._full else known_files(name, self._context)
        return self._known[name]

    def untouched(self, name: str) -> Callable[[os.stat_result], object]:
        """What says whether the content of a file of that volume lies in a pack."""
        return self.of(name).files.untouched


def archive_volume(volume: volumes.Volume, context: CreateContext, draft: SetDraft, stack: ExitStack) -> None:
    """Archive all of a volume."""
    context.progress.phase(f"volume {volume.name}", volume.bytes)
    archive, index = (file_name(volume.name, draft.id, suffix) for suffix in ("tar.gz", "files.gz"))
    writer = stack.enter_context(draft.writer(context, archive, "volume", volume.name))
    listing = stack.enter_context(draft.writer(context, index, "index", volume.name))
    report = archive_tree.archive(
        volume.path,
        volume.name,
        writer,
        listing,
        excludes=excludes(context),
        forbidden=own_directory(context),
        progress=context.progress.advance,
    )
    context.progress.phase(f"reading the archive of {volume.name} back")
    draft.take(writer)
    draft.take(listing)
    draft.volumes.append(_part(volume.name, report, context))


def archive_increment(
    volume: volumes.Volume, known: KnownVolume, context: CreateContext, draft: SetDraft, stack: ExitStack
) -> None:
    """Pack what is new of a volume, and note where the rest lies."""
    context.progress.phase(f"volume {volume.name}", volume.bytes)
    pack, index, tree = (file_name(volume.name, draft.id, suffix) for suffix in ("tar.gz", "files.gz", "tree.gz"))
    store = context.catalog.packs.store
    writer = stack.enter_context(ArtifactWriter(store, pack, "volume", volume.name, context.compression))
    listing = stack.enter_context(draft.writer(context, index, "index", volume.name))
    listed = stack.enter_context(draft.writer(context, tree, "tree", volume.name))
    day = (context.clock() - _EPOCH).days
    with contextlib.closing(PackFiles(store, known.files.marks)) as packs:
        run = Increment(pack, writer, listed, known.files, packs, day)
        report = archive_tree.archive(
            volume.path,
            volume.name,
            writer,
            listing,
            excludes=excludes(context),
            forbidden=own_directory(context),
            progress=context.progress.advance,
            kind=run.archiver,
        )
    context.progress.phase(f"reading what is new of {volume.name} back")
    if run.new:
        known.packs[pack] = _take_pack(writer, draft)
    else:
        writer.discard()
    for each, marks in run.entry_points(writer.marks):
        listed.write(marks_line(each, marks))
        draft.packs.append(known.packs[each])
    draft.take(listing)
    draft.take(listed)
    draft.volumes.append(_part(volume.name, report, context))


def known_files(name: str, context: CreateContext) -> KnownVolume:
    """What is known of a volume: by its newest verified set that is incremental, as far as its packs are good."""
    stable = is_stable(context.volumes / name, _MOUNTS.read_bytes())
    if not stable:
        logger.info("{}: its file system may not keep inodes and their times, so every file is read", name)
    for stored in context.catalog.sets():
        if stored.derived or not stored.summary.packs or stored.verdict is None or stored.verdict.problems:
            continue
        try:
            if stored.manifest.artifact("tree", name):
                return _read_known(stored, name, context, stable=stable)
        except BackupError as error:
            logger.warning("{}: what it says of {} is not used: {}", stored.id, name, error.message)
    return KnownVolume(KnownFiles(stable=stable))


def excludes(context: CreateContext) -> list[str]:
    """The patterns of what is left out."""
    return [*archive_tree.DEFAULT_EXCLUDES, *context.excludes]


def own_directory(context: CreateContext) -> frozenset[tuple[int, int]]:
    """The backup volume, which is not to be archived into itself."""
    with storing(context.catalog.root):
        found = context.catalog.root.stat()
    return frozenset({(found.st_dev, found.st_ino)})


def _take_pack(writer: ArtifactWriter, draft: SetDraft) -> Pack:
    artifact = writer.finish()
    draft.new_packs.append(writer.staged)
    return Pack(
        volume=artifact.name,
        file=artifact.file,
        stored_size=artifact.stored_size,
        stored_sha256=artifact.stored_sha256,
        plain_size=artifact.plain_size,
    )


def _read_known(stored: StoredSet, name: str, context: CreateContext, *, stable: bool) -> KnownVolume:
    manifest, folder = stored.manifest, context.catalog.packs
    packs = {pack.file: pack for pack in manifest.packs if not folder.problems([pack])}
    known, marks = KnownFiles(stable=stable), list[bytes]()
    with _lines(stored, "tree", name, marks.append) as tree, _lines(stored, "index", name) as index:
        for sha256, line in with_digests(tree, parse_index(index)):
            if (pack := line.split(b"\t", 10)[9].decode()) in packs or not pack:
                known.add(sha256, line)
    known.marks.update(parse_marks(marks))
    return KnownVolume(known, packs)


@contextlib.contextmanager
def _lines(
    stored: StoredSet, kind: str, name: str, marks: Callable[[bytes], object] = len
) -> Iterator[Iterator[bytes]]:
    """The lines of a file that are as they were written, or IntegrityError at the end; `marks` gets those of marks."""
    artifact = stored.manifest.artifact(kind, name)
    with open_file(stored, artifact.file if artifact else "") as source:

        def lines() -> Iterator[bytes]:
            for line in split_lines(source.content()):
                if line.startswith(b"m\t"):
                    marks(line)
                yield line

        yield lines()
        require_as_written(stored, source)


def _part(name: str, report: MediaReport, context: CreateContext) -> VolumePart:
    return VolumePart(
        name=name,
        files=report.files,
        directories=report.directories,
        links=report.links,
        hard_links=report.hard_links,
        bytes=report.bytes,
        excludes=tuple(excludes(context)),
        changed=tuple(FileChange(path=c.path, what=c.what) for c in report.changed),
        changed_total=report.changed_total,
        skipped=tuple(FileChange(path=c.path, what=c.what) for c in report.skipped),
        skipped_total=report.skipped_total,
    )
