"""Base backups and WAL of a place, as if they were here: listed as a whole, fetched one by one when they are needed."""

from __future__ import annotations

import contextlib
import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from backup.catalog.wal_archive import WalArchive
from backup.errors import BackupError, IntegrityError, RemoteMissing
from backup.formatting import printable
from backup.logging import logger
from backup.model.finding import Finding, warning
from backup.model.manifest import Artifact, DatabasePart
from backup.model.wal import DEFAULT_SIZE, Base, Segment, offered, spans
from backup.model.wal_object import WAL_FOLDER, BaseRecord, SegmentObject, base_key, best, received_there
from backup.monitoring import forecast
from backup.monitoring.window import OffsiteWindow
from backup.operations.offsite.context import OffsiteContext, candidates, manifest_of, small
from backup.operations.offsite.fetch import fetched_file
from backup.operations.pitr.base_choice import Cluster
from backup.operations.pitr.window_reader import check_places, incomplete
from backup.storage.directory import LocalStore
from backup.storage.filesystem import free_space, storing
from backup.storage.remote import RemoteObject

_AIR: Final = 8 << 20


@dataclass
class RemoteCluster:
    """One archive of WAL at a place, by its name there."""

    name: str
    entries: dict[str, RemoteObject] = field(default_factory=dict)
    bases: list[Base] = field(default_factory=list)
    segments: list[SegmentObject] = field(default_factory=list)
    problems: list[Finding] = field(default_factory=list)

    @property
    def cluster(self) -> Cluster:
        """What brings its moments back."""
        return Cluster(self.bases, received_there(self.segments, self.size))

    @property
    def size(self) -> int:
        """Of its segments, in bytes."""
        return self.bases[-1].size if self.bases else DEFAULT_SIZE


def read_place(context: OffsiteContext) -> list[RemoteCluster]:
    """All archives of WAL there, from one complete listing and the records of their bases."""
    context.progress.phase(f"listing {context.remote.name}")
    found: dict[str, RemoteCluster] = {}
    for entry in context.remote.entries(f"{WAL_FOLDER}/"):
        segment, record = SegmentObject.parse(entry.key), BaseRecord.parse(entry.key)
        name = entry.key.split("/")[1] if entry.key.count("/") == 3 else ""
        there = found.setdefault(name, RemoteCluster(name))
        there.entries[entry.key] = entry
        if segment:
            there.segments.append(segment)
        if record:
            _add_base(context, there, record)
    for there in found.values():
        there.bases = [base for base in there.bases if _whole(there, base)]
        there.bases.sort(key=lambda each: (each.ended, each.id))
        there.problems += incomplete(there.bases)
    return [found[name] for name in sorted(found) if name]


def _add_base(context: OffsiteContext, there: RemoteCluster, record: BaseRecord) -> None:
    try:
        data = small(context.remote, record.key)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise IntegrityError("it is not as it was sent")
        base = Base.model_validate_json(data)
        check_places(base.size, base.start, base.end)
        if base.id != record.id or base.system_identifier != there.name.partition("-")[0]:
            raise IntegrityError("it is of another base backup")
        there.bases.append(base)
    except (BackupError, ValidationError) as error:
        why = error.message if isinstance(error, BackupError) else "it makes no sense"
        text = f"the base backup {printable(record.id)} at {context.remote.name} does not count: its record: {why}"
        there.problems.append(warning(text, "Older base backups there bring back what they can."))


def _whole(there: RemoteCluster, base: Base) -> bool:
    """Whether its file is there, as large as it was sent."""
    entry = there.entries.get(base_key(there.name, base.artifact.file))
    if entry and entry.size == base.artifact.stored_size:
        return True
    what = "is missing" if entry is None else "has another size than was sent"
    text = f"the base backup {printable(base.id)} of {there.name} does not count: its file {what}"
    there.problems.append(warning(text, "Older base backups there bring back what they can."))
    return False


def remote_clusters(context: OffsiteContext, folder: Path) -> list[tuple[WalArchive, Cluster]]:
    """The archives there that have a base; what is read of them is fetched into `folder`, compared, and then read."""
    there = read_place(context)
    for problem in (problem for each in there for problem in each.problems):
        logger.warning("{} {}", problem.text, problem.hint)
    return [
        (PulledArchive(context, folder / str(number), each), each.cluster)
        for number, each in enumerate(there)
        if each.bases
    ]


class PulledArchive(WalArchive):
    """An archive of WAL whose files come from a place when they are asked for."""

    def __init__(self, context: OffsiteContext, root: Path, there: RemoteCluster) -> None:
        super().__init__(root, there.name.partition("-")[0])
        self._context, self._there = context, there

    def list_segments(self) -> list[Segment]:
        """The records of all that is there: their objects' names say what is in them."""
        chosen = best(self._there.segments).values()
        return [each.segment(self._there.entries[each.key].size, self._there.size) for each in chosen]

    def provide(self, store: LocalStore, artifact: Artifact) -> None:
        """Fetch a file, unless it was. IntegrityError unless it is, byte for byte, what was sent there."""
        if artifact.file in store.names():
            return
        context, key = self._context, f"{WAL_FOLDER}/{self._there.name}/{store.directory.name}/{artifact.file}"
        with storing(store.directory):
            store.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        forecast.require_space(artifact.stored_size + _AIR, free_space(store.directory))
        try:
            with ExitStack() as stack:
                store.publish([fetched_file(context, key, artifact, "that moment", store, stack)])
        except (IntegrityError, RemoteMissing) as error:
            raise IntegrityError(
                f"{artifact.file} cannot be used: {error.message}",
                "Ask for an earlier moment, or restore the newest set there: `restore s3:latest`.",
            ) from error


def remote_window(context: OffsiteContext, keep: timedelta) -> OffsiteWindow:
    """The moments that a place alone can bring back, by what is there now."""
    there = read_place(context)
    held = offered(span for each in there for span in spans(each.bases, each.cluster.received))
    sizes = [each.entries[segment.key].size for each in there for segment in best(each.segments).values()]
    return OffsiteWindow(
        keep,
        timedelta(),
        spans=tuple(sorted(held, key=lambda span: span.start)),
        bases=tuple(sorted((base for each in there for base in each.bases), key=lambda base: base.ended)),
        segments=len(sizes),
        segment_bytes=sum(sizes),
        problems=tuple(problem for each in there for problem in each.problems),
        place=context.place,
        name=context.remote.name,
    )


def newest_database_there(context: OffsiteContext) -> DatabasePart | None:
    """The database of the newest set there whose manifest can be read: what its server needs is known from that."""
    for found in candidates(context.remote, "latest"):
        with contextlib.suppress(BackupError):
            if part := manifest_of(context.remote, found).database:
                return part
    return None
