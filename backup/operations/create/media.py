"""The volumes of a set: archived whole, or, where sets are incremental, what is new of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from backup.errors import BackupError, NotFound
from backup.logging import logger
from backup.media import archive_tree, volumes
from backup.media.archive_tree import MediaReport
from backup.media.incremental import Increment
from backup.media.known_files import KnownFiles, Lines, TreeFiles, is_stable
from backup.media.pack_reader import PackFiles
from backup.model.backup_set import StoredSet, is_ahead
from backup.model.manifest import FileChange, Tier, VolumePart, file_name, parse_file_name
from backup.model.pack import Pack
from backup.model.run import RESTORE
from backup.operations.create.context import CreateContext
from backup.operations.create.draft import SetDraft
from backup.operations.set_artifacts import open_file, require_as_written
from backup.operations.verify.written import ArchiveMembers, PackContents
from backup.pipeline.chunks import split_lines
from backup.storage.artifact_writer import ArtifactWriter
from backup.storage.filesystem import storing

_MOUNTS: Final = Path("/proc/self/mountinfo")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class KnownVolume:
    """What an earlier set tells of a volume, and the packs that it needs, by their files.

    `since`: when it was begun, in ns; 0 where not all of it can be relied on. `stored` is that set, if all its packs
    are good.
    """

    files: KnownFiles = field(default_factory=KnownFiles)
    packs: dict[str, Pack] = field(default_factory=dict)
    since: int = 0
    stored: StoredSet | None = None


class KnownVolumes:
    """What is known of each volume by the sets there are, read when it is first asked for. `full`: nothing is.

    A `snapshot` goes on from the newest set. All others take no notice of what needs a pack of a snapshot, and so need
    none either.
    """

    def __init__(
        self, context: CreateContext, sets: Sequence[StoredSet], *, full: bool, snapshot: bool = False
    ) -> None:
        self._context, self._sets, self._full, self.snapshot = context, sets, full, snapshot
        self._known: dict[str, KnownVolume] = {}

    def of(self, name: str) -> KnownVolume:
        """What is known of a volume."""
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def _read(self, name: str) -> KnownVolume:
        context = self._context
        nothing = KnownVolume(KnownFiles(directory=context.catalog.root))
        found = nothing if self._full else known_files(name, self._sets, context, snapshots=self.snapshot)
        if self.snapshot and found.stored is None:
            raise NotFound(
                f"there is no whole, verified, incremental set of the volume {name} for a snapshot to go on from",
                "`create daily` takes one now; the schedule takes the next.",
            )
        return found

    def since(self, name: str) -> int:
        """When what a set holds of a volume was made, in ns; 0 where there is none, or a pack of it is not good."""
        return self.of(name).since


def archive_volume(volume: volumes.Volume, context: CreateContext, draft: SetDraft, stack: ExitStack) -> None:
    """Archive all of a volume."""
    context.progress.phase(f"volume {volume.name}", volume.bytes)
    archive, index = (file_name(volume.name, draft.id, suffix) for suffix in ("tar.gz", "files.gz"))
    members = ArchiveMembers(os.fsencode(volume.name))
    writer = stack.enter_context(draft.writer(context, archive, "volume", volume.name, members.take))
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
    draft.written.archives[draft.take(writer).file] = members
    draft.take(listing)
    draft.volumes.append(_part(volume.name, report, context))


def archive_increment(
    volume: volumes.Volume, before: KnownVolumes, context: CreateContext, draft: SetDraft, stack: ExitStack
) -> None:
    """Pack what is new of a volume, and note where the rest lies."""
    known = before.of(volume.name)
    context.progress.phase(f"volume {volume.name}", volume.bytes)
    pack, index, tree = (file_name(volume.name, draft.id, suffix) for suffix in ("tar.gz", "files.gz", "tree.gz"))
    store = context.catalog.packs.store
    held = PackContents()
    writer = ArtifactWriter(store, pack, "volume", volume.name, context.compression, taker=held.take)
    stack.enter_context(writer)
    listing = stack.enter_context(draft.writer(context, index, "index", volume.name))
    listed = stack.enter_context(draft.writer(context, tree, "tree", volume.name))
    day = (context.clock() - _EPOCH).days
    with contextlib.closing(known.files), contextlib.closing(PackFiles(store, known.files.marks)) as packs:
        run = Increment(pack, writer, listed, known.files, packs, day, rereading=not before.snapshot)
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
        known.packs[pack] = _take_pack(writer, draft, run.content)
        draft.written.packs[pack] = held
    else:
        writer.discard()
    listed.write(run.entry_points(writer.marks, known.packs[pack].stored_size if run.new else 0))
    draft.named |= run.named
    draft.packs += [known.packs[each] for each in run.used]
    draft.take(listing)
    draft.take(listed)
    draft.volumes.append(_part(volume.name, report, context))


def as_before(known: KnownVolumes, draft: SetDraft) -> str:
    """The set that holds exactly what a draft does, with all metadata, and nothing else; empty for none."""
    bases = {each.id: each for volume in draft.volumes if (each := known.of(volume.name).stored)}
    if len(bases) != 1 or draft.new_packs or any(volume.changed_total for volume in draft.volumes):
        return ""
    (stored,) = bases.values()
    before = {(each.kind, each.name): each.plain_sha256 for each in stored.manifest.artifacts if each.name}
    now = {(each.kind, each.name): each.plain_sha256 for each in draft.artifacts}
    return stored.id if before == now else ""


def known_files(
    name: str, there: Iterable[StoredSet], context: CreateContext, *, snapshots: bool = False
) -> KnownVolume:
    """What is known of a volume: by its newest verified set that is incremental, as far as its packs are good, and by
    one that was put back since. `snapshots` are such sets, too: then those alone that are good."""
    stable = is_stable(context.volumes / name, _MOUNTS.read_bytes())
    if not stable:
        logger.info("{}: its file system may not keep inodes and their times, so every file is read", name)
    able = filter(_is_verified, there)
    sets = [each for each in able if (each.good if snapshots else not _needs_snapshot(each))]
    now = context.clock()
    # Of one that is dated ahead it is not known whether it is the newest.
    sets.sort(key=lambda each: is_ahead(each, now))
    restored = _restored_since(sets, context)
    earlier = _try_known(restored, name, context, False, None) if restored else None
    for stored in sets:
        if found := _try_known(stored, name, context, stable, earlier):
            return found
    return KnownVolume(KnownFiles(stable=stable, directory=context.catalog.root))


def _is_verified(stored: StoredSet) -> bool:
    trees = any(each.kind == "tree" for each in stored.summary.artifacts)
    return trees and not (stored.derived or stored.verdict is None or stored.verdict.problems)


def _needs_snapshot(stored: StoredSet) -> bool:
    parsed = (parse_file_name(pack.file) for pack in stored.summary.packs)
    return stored.snapshot or any(each is not None and each.tier is Tier.SNAPSHOT for each in parsed)


def _restored_since(sets: Sequence[StoredSet], context: CreateContext) -> StoredSet | None:
    """The set whose media were restored since the newest one was made: its files have other inodes now."""
    since = sets[0].time if sets else context.clock()
    restores = (run for run in context.records.readable() if run.operation == RESTORE and run.only != "database")
    last = next((run.set for run in restores if run.started >= since), "")
    return next((stored for stored in sets[1:] if stored.id == last), None)


def _try_known(
    stored: StoredSet, name: str, context: CreateContext, stable: bool, earlier: KnownVolume | None
) -> KnownVolume | None:
    """What a set tells of a volume; None where it does not, or cannot be read."""
    try:
        part = stored.manifest.database
        # What a set of a moment has of the media is of another time than itself.
        if stored.manifest.artifact("tree", name) and not (part and part.recovered):
            return _read_known(stored, name, context, stable, earlier)
    except BackupError as error:
        logger.warning("{}: what it says of {} is not used: {}", stored.id, name, error.message)
    return None


def excludes(context: CreateContext) -> list[str]:
    """The patterns of what is left out."""
    return [*archive_tree.DEFAULT_EXCLUDES, *context.excludes]


def own_directory(context: CreateContext) -> frozenset[tuple[int, int]]:
    """The backup volume, which is not to be archived into itself."""
    with storing(context.catalog.root):
        found = context.catalog.root.stat()
    return frozenset({(found.st_dev, found.st_ino)})


def _take_pack(writer: ArtifactWriter, draft: SetDraft, content: int) -> Pack:
    artifact = writer.finish()
    draft.new_packs.append(writer.staged)
    draft.written.note(writer.staged)
    return Pack(
        volume=artifact.name,
        file=artifact.file,
        stored_size=artifact.stored_size,
        stored_sha256=artifact.stored_sha256,
        plain_size=artifact.plain_size,
        content=content,
    )


def _read_known(
    stored: StoredSet, name: str, context: CreateContext, stable: bool, earlier: KnownVolume | None
) -> KnownVolume:
    manifest, folder = stored.manifest, context.catalog.packs
    bad = {pack.file for pack in manifest.packs if folder.problems([pack])}
    packs = {pack.file: pack for pack in manifest.packs if pack.file not in bad}
    tree, index = _lines(stored, "tree", name), _lines(stored, "index", name)
    known = KnownFiles(
        TreeFiles(tree, index, packs, _nanoseconds(manifest.ended)),
        stable=stable,
        earlier=earlier.files if earlier else None,
        directory=context.catalog.root,
    )
    return KnownVolume(
        known,
        {**(earlier.packs if earlier else {}), **packs},
        _nanoseconds(manifest.started) if stable and not bad else 0,
        None if bad else stored,
    )


def _lines(stored: StoredSet, kind: str, name: str) -> Lines:
    """The lines of a file, which is as it was written, or IntegrityError."""
    artifact = stored.manifest.artifact(kind, name)
    file = artifact.file if artifact else ""
    with open_file(stored, file) as source:
        require_as_written(stored, source)

    def lines(skip: int) -> Generator[bytes, None, None]:
        with open_file(stored, file) as source, contextlib.closing(source.content()) as pieces:
            yield from split_lines(pieces, skip)

    return lines


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


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
