"""The window of a backup volume, by names and records alone: no WAL is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from backup.catalog.wal_archive import StreamFile, WalArchive, clusters
from backup.catalog.wal_copies import WalCopies, WalCopy
from backup.config.loader import Settings
from backup.errors import BackupError, StoreError
from backup.formatting import printable
from backup.model.finding import Finding, warning
from backup.model.wal import DEFAULT_SIZE, Base, Span, Stream, WindowProof, lsn, offered, spans, supported
from backup.model.wal_object import received_there
from backup.monitoring.overview.compute import period, slots_between
from backup.monitoring.window import OffsiteWindow, Window
from backup.operations.offsite.rules import places

# Of a base that is taken each night: one may be late by half a day.
_BASE_AGE: Final = timedelta(hours=36)
_TAKE: Final = "`base --full` takes a new one; then remove the damaged file from the backup volume."


@dataclass
class _Found:
    """What is here of one cluster; `begun` is when its folder for bases was made, or last changed.

    `since`: when its WAL was first received.
    """

    bases: list[Base] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    segments: int = 0
    bytes: int = 0
    begun: datetime | None = None
    since: datetime | None = None
    problems: list[Finding] = field(default_factory=list)
    proof: WindowProof | None = None


def read_window(settings: Settings, root: Path, now: datetime) -> Window:
    """What is here of WAL and base backups. What cannot be read is a problem in it, never an error."""
    stream, problems = _stream(root, now)
    found: list[_Found] = []
    try:
        archives = clusters(root)
        found = [_look(archive, stream) for archive in archives]
        problems += left_slots(archives, stream.system_identifier if stream else "")
    except BackupError as error:
        problems.append(warning(f"the WAL that is here cannot be listed: {error.message}", error.hint))
    cron, keep = settings.pitr_base, timedelta(days=settings.pitr_days)
    each = period(cron, now, settings.zone) if cron else None
    return Window(
        keep=keep,
        max_lag=timedelta(seconds=settings.pitr_max_lag),
        base_age=max(_BASE_AGE, each * 3 / 2) if each else None,
        # Those within the window, and the one that its oldest moments need.
        kept=slots_between(cron, now - keep, now, settings.zone) + 1,
        spans=tuple(sorted((span for cluster in found for span in cluster.spans), key=lambda span: span.start)),
        bases=tuple(sorted((base for cluster in found for base in cluster.bases), key=lambda base: base.ended)),
        stream=stream,
        segments=sum(cluster.segments for cluster in found),
        segment_bytes=sum(cluster.bytes for cluster in found),
        begun=max((cluster.begun for cluster in found if cluster.begun), default=None),
        since=max((cluster.since for cluster in found if cluster.since), default=None),
        proof=max(
            (each.proof for each in found if each.proof and each.spans), key=lambda proof: proof.tried, default=None
        ),
        problems=(*problems, *(problem for cluster in found for problem in cluster.problems)),
    )


def read_offsite(settings: Settings, root: Path, here: Window) -> Window:
    """The window that was read here, with those of the places, as they have confirmed them. Nobody is asked."""
    every = timedelta(seconds=settings.pitr_offsite_every)
    found, problems = list[OffsiteWindow](), list(here.problems)
    for place, name in places(settings):
        try:
            window = OffsiteWindow(here.keep, here.max_lag + 2 * every, here.base_age, place=place, name=name)
            found.append(_sent(root, replace(window, every=every, begun=here.begun)))
        except BackupError as error:
            problems.append(warning(f"what is at {name} of the window is unknown: {error.message}", error.hint))
    return replace(here, offsite=tuple(found), problems=tuple(problems))


def _sent(root: Path, window: OffsiteWindow) -> OffsiteWindow:
    """What a place has confirmed."""
    stream, held, bases, segments = StreamFile(root, window.place).read(), list[Span](), list[Base](), list[WalCopy]()
    for archive in clusters(root):
        copies = WalCopies(archive, window.place)
        there = copies.bases()
        ours = stream if stream and stream.system_identifier == archive.system_identifier else None
        received = received_there(copies.segments(), there[-1].size if there else DEFAULT_SIZE)
        held += offered(spans(there, replace(received, stream=ours)))
        bases += there
        segments += [each for each in copies.all().values() if each.base is None]
    return replace(
        window,
        spans=tuple(sorted(held, key=lambda span: span.start)),
        bases=tuple(sorted(bases, key=lambda base: base.ended)),
        stream=stream,
        bases_stream=StreamFile(root, f"{window.place}-bases").read(),
        segments=len(segments),
        segment_bytes=sum(each.size for each in segments),
    )


def _stream(root: Path, now: datetime) -> tuple[Stream | None, list[Finding]]:
    """What is said of the stream, if it makes sense."""
    try:
        stream = StreamFile(root).read()
        if stream:
            check_places(stream.size, stream.received, stream.current)
        return stream and stream.as_of(now), []
    except BackupError as error:
        return None, [warning(error.message, error.hint)]


def _look(archive: WalArchive, stream: Stream | None) -> _Found:
    found = _Found()
    try:
        found.begun, found.since = _changed(archive.bases.directory), _changed(archive.server_file)
        found.bases = list(_bases(archive, found.problems))
        found.problems += incomplete(found.bases)
        ours = stream if stream and stream.system_identifier == archive.system_identifier else None
        size = ours.size if ours else found.bases[-1].size if found.bases else DEFAULT_SIZE
        received = archive.received(size, ours)
        found.spans = list(offered(spans(found.bases, received)))
        found.proof = archive.proof()
        found.segments, found.bytes = len(received.whole), archive.wal_bytes()
    except BackupError as error:
        text = f"the WAL of cluster {archive.system_identifier} cannot be listed: {error.message}"
        found.problems.append(warning(text, error.hint))
    return found


def _bases(archive: WalArchive, problems: list[Finding]) -> Iterator[Base]:
    """The bases whose file is there as it was written; the others become problems."""
    there = archive.bases.names()
    bases = archive.list_bases()
    known = {f"{base.id}.json" for base in bases}
    for name in there:
        if name.endswith(".json") and name not in known:
            text = f"the base backup {printable(name.removesuffix('.json'))} does not count: its record cannot be read,"
            problems.append(warning(f"{text} or its file is not as it was written", _TAKE))
    for base in bases:
        try:
            check_places(base.size, base.start, base.end)
            yield base
        except StoreError as error:
            text = f"the base backup {printable(base.id)} does not count: {error.message}"
            problems.append(warning(text, _TAKE))


def left_slots(archives: Sequence[WalArchive], current: str) -> list[Finding]:
    """Tell of slots on servers that were the database before: of clusters of another service than the `current` one.

    A cluster that was replaced within its service took its slot with it.
    """
    servers = {archive.system_identifier: archive.server() for archive in archives}
    now = servers.get(current)
    left = [each for each in servers.values() if now and each and each.slot and each.service != now.service]
    return [
        warning(
            f"the slot {printable(each.slot)} may still be on the server of {printable(each.service)}, which is not the"
            " database any more: it keeps WAL there, up to max_slot_wal_keep_size",
            f"There, as a superuser: SELECT pg_drop_replication_slot('{printable(each.slot)}'); This is said until the"
            " WAL of that server has left the window.",
        )
        for each in left
    ]


def incomplete(bases: Sequence[Base]) -> Iterator[Finding]:
    """Say of which bases something is missing that they build on."""
    able = supported(bases)
    for base in bases:
        if base not in able:
            text = (
                f"the base backup {printable(base.id)} does not count: {printable(base.parent)}, which it builds on, is"
            )
            yield warning(f"{text} not here, or does not count either", "`base --full` takes one that builds on none.")


def check_places(size: int, *places: str) -> None:
    """StoreError unless this can be of WAL: `size` of a segment in bytes, `places` as PostgreSQL writes them."""
    if size < 1 << 20 or size & (size - 1):
        raise StoreError(f"its record speaks of segments of {size} bytes")
    try:
        for place in places:
            lsn(place)
    except ValueError as error:
        raise StoreError(f"its record is damaged: {printable(str(error))}") from None


def _changed(path: Path) -> datetime | None:
    with contextlib.suppress(OSError):
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return None
