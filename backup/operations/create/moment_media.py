"""The media that go with the database of a moment: which set has them, and what its rows name that is not there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from typing import Final

from backup.errors import BackupError
from backup.formatting import printable
from backup.logging import logger
from backup.model.backup_set import StoredSet
from backup.model.manifest import Artifact, ArtifactKind, file_name
from backup.model.moment_media import neighbours
from backup.model.recovered import MediaThen, Missing, Recovered
from backup.operations import media_references
from backup.operations.create.context import CreateContext, Reached
from backup.operations.create.draft import SetDraft
from backup.operations.set_artifacts import open_file, require_as_written
from backup.operations.verify.volume_archive import archived
from backup.storage.artifact_writer import ArtifactWriter

_LISTED: Final = 100
_FILES: Final[tuple[tuple[ArtifactKind, str], ...]] = (("index", "files.gz"), ("tree", "tree.gz"))


def with_media(recovered: Recovered, reached: Reached, context: CreateContext, draft: SetDraft) -> Recovered:
    """What a database was recovered from, with the set whose media go with it.

    It is looked up in the recovered server, which holds something of ours afterwards: not before it was dumped. What
    cannot be looked up costs no set.
    """
    found = neighbours(context.catalog.sets(), context.records.readable(), draft.started, context.clock())
    if not found:
        logger.info("media: no set has any")
        return recovered
    then = MediaThen(set=found[0][0].id, taken=found[0][1])
    context.progress.phase("looking up the files that rows refer to")
    try:
        names = archived(found[0][0])
        files = media_references.look_up(reached.source.clients, names, context.file_columns, draft.run)
        then = _told(then, files, [stored for stored, _ in found[1:]])
    except BackupError as error:
        logger.warning("the files that rows refer to could not be looked up: {}", printable(error.message))
    tell = logger.warning if then.files and then.files.missing else logger.info
    tell("media: {}", then.words(draft.started))
    return recovered.model_copy(update={"media": then})


def _told(then: MediaThen, files: Missing, older: Sequence[StoredSet]) -> MediaThen:
    held = 0
    if files.missing and older:
        paths = {line.partition(": ")[2] for line in files.listed}
        try:
            held = sum(path.decode(errors="backslashreplace") in paths for path in archived(older[0]))
        except BackupError as error:
            logger.warning("{} was not looked into: {}", older[0].id, error.message)
    listed = files.model_copy(update={"listed": files.listed[:_LISTED]})
    return then.model_copy(update={"files": listed, "before": older[0].id if held else "", "held_before": held})


def _copy(stored: StoredSet, artifact: Artifact | None, writer: ArtifactWriter) -> None:
    """Write the content of a file of a set once more. IntegrityError unless it is as it was written."""
    with open_file(stored, artifact.file if artifact else "") as source:
        for piece in source.content():
            writer.write(piece)
        require_as_written(stored, source)


def take_media(context: CreateContext, draft: SetDraft, stack: ExitStack) -> None:
    """Let a set of a moment hold the media that go with it, where those lie in packs: its trees name what they do.

    Where they cannot be read as they were written, it holds the database alone.
    """
    recovered = draft.database.recovered if draft.database else None
    if recovered is None or recovered.media is None:
        return
    stored = context.catalog.find(recovered.media.set)
    if not stored.manifest.incremental:
        logger.info("the media of {} lie in archives of its own: the new set does not repeat them", stored.id)
        return
    context.progress.phase(f"taking over the media of {stored.id}")
    writers: list[ArtifactWriter] = []
    try:
        for volume, (kind, suffix) in product(stored.manifest.volumes, _FILES):
            name = file_name(volume.name, draft.id, suffix)
            writers.append(stack.enter_context(draft.writer(context, name, kind, volume.name)))
            _copy(stored, stored.manifest.artifact(kind, volume.name), writers[-1])
    except BackupError as error:
        logger.warning("the new set holds the database alone: {} {}", error.message, error.hint)
        for writer in writers:
            writer.discard()
        return
    for writer in writers:
        draft.take(writer)
    draft.volumes += stored.manifest.volumes
    draft.packs += stored.manifest.packs
    draft.named |= stored.manifest.named
