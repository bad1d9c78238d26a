"""The WAL files of one recovery, as the tar that is unpacked for it: each is what was recorded, of the right place."""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backup.catalog.wal_archive import WalArchive
from backup.errors import IntegrityError, StoreError
from backup.formatting import printable
from backup.model.manifest import Artifact
from backup.model.wal import PARTIAL, Base, Received, Segment, SegmentHeader, SegmentId, lsn
from backup.operations.verify.stored_bytes import Stored
from backup.progress import Progress
from backup.storage.directory import LocalStore

_BLOCK = 512
_HEAD = 64
_TAKE = "`base --full` takes a new base backup, so that later moments can be had again."
_EARLIER = f"Ask for an earlier moment. {_TAKE}"


def needed(base: Base, received: Received) -> list[SegmentId]:
    """All that is there behind the base without a gap, from the segment that its recovery begins with."""
    last, _, _ = received.chain(base)
    if last is None:
        return []
    found = [SegmentId(last.timeline, number) for number in range(base.first.number, last.number + 1)]
    # At the end of a segment the next one has not come, and may have no file.
    return found if last in (*received.whole, *received.broken, received.partial) else found[:-1]


def received_to(received: Received, last: SegmentId, segment: int) -> int:
    """The place up to which WAL is known to be here when `last` is its last segment; `segment` is the size of one."""
    if received.stream and received.stream.partial == last and last not in received.whole:
        return lsn(received.stream.received)
    # How much had come of one that a gap broke off, or of one that was begun behind the last look, nobody knows.
    return (last.number + 1 if last in received.whole else last.number) * segment


@dataclass(frozen=True)
class SegmentFiles:
    """The WAL of one cluster behind a base. `identity` opens what is encrypted.

    `live`: from that one on, what is being received counts, and not what is left from an earlier end of its timeline.
    """

    archive: WalArchive
    base: Base
    identity: Path | None
    progress: Progress
    live: SegmentId | None = None
    _packed: dict[str, Segment] = field(default_factory=dict)

    def as_tar(self, segments: Sequence[SegmentId]) -> Iterator[bytes]:
        """These, each under its own name. IntegrityError for one that is not as it was recorded, KeyMissing."""
        for each in segments:
            info = tarfile.TarInfo(each.name(self.base.size))
            info.size, info.mode = self.base.size, 0o600
            yield info.tobuf(tarfile.USTAR_FORMAT)
            with contextlib.closing(self._content(each)) as pieces:
                yield from _checked(pieces, each, self.base)
        yield bytes(2 * _BLOCK)

    def _content(self, segment: SegmentId) -> Generator[bytes, None, None]:
        """What a segment holds. Meanwhile it may be packed, or received whole: then it is elsewhere."""
        name = segment.name(self.base.size)
        for attempt in range(3):
            record = self._record(name)
            # After the first, its timeline may have ended once more.
            if record and (attempt or not (record.partial and self.live and segment >= self.live)):
                return _unpacked(self.archive, self.archive.segments, record.artifact, self.identity, self.progress)
            for file in (name, name + PARTIAL):
                with contextlib.suppress(StoreError):
                    # Opened now: from then on it is that file, whatever it is called.
                    return _raw(Stored(self.archive.stream, file, self.progress))
        raise IntegrityError(f"the WAL segment {name} is gone; nothing was changed", _EARLIER)

    def _record(self, name: str) -> Segment | None:
        if name not in self._packed or self._packed[name].partial:
            self._packed.update((each.name, each) for each in self.archive.list_segments())
        return self._packed.get(name)


def unpacked_base(archive: WalArchive, base: Base, identity: Path | None, progress: Progress) -> Iterator[bytes]:
    """The tar of a base; IntegrityError at its end unless it is as it was recorded, KeyMissing."""
    file = printable(str(archive.bases.directory / base.artifact.file))
    # Of one that is not there nothing is expected, nor of what builds on it.
    hint = f"Move {file} elsewhere, and ask again: then an older base backup is used, if there is one. {_TAKE}"
    return _unpacked(archive, archive.bases, base.artifact, identity, progress, hint)


def _unpacked(
    archive: WalArchive,
    store: LocalStore,
    artifact: Artifact,
    identity: Path | None,
    progress: Progress,
    hint: str = _EARLIER,
) -> Generator[bytes, None, None]:
    archive.provide(store, artifact)
    with contextlib.closing(Stored(store, artifact.file, progress, identity)) as source:
        failed = None
        try:
            yield from source.content()
        except IntegrityError as error:
            failed = error
        source.drain()
        if failed or source.sha256 != artifact.stored_sha256:
            raise IntegrityError(
                f"{printable(artifact.file)} is damaged: it is not as it was recorded. Nothing was changed", hint
            ) from failed


def _raw(source: Stored) -> Generator[bytes, None, None]:
    pieces = source.raw()
    first = next(pieces, b"")

    def content() -> Generator[bytes, None, None]:
        with contextlib.closing(source):
            yield first
            yield from pieces

    return content()


def _checked(pieces: Iterator[bytes], segment: SegmentId, base: Base) -> Iterator[bytes]:
    """The bytes of a segment; IntegrityError unless they begin as that one does, and are as many."""
    name, head, count = segment.name(base.size), b"", 0
    for piece in pieces:
        if len(head) < _HEAD:
            head += piece[: _HEAD - len(head)]
        count += len(piece)
        if count <= base.size:
            yield piece
    try:
        # One that was only begun is all zeros: nothing of it was received.
        found = SegmentHeader.parse(head) if head.strip(b"\0") else None
    except ValueError as error:
        raise IntegrityError(f"the WAL segment {name} is damaged: {error}. Nothing was changed", _EARLIER) from None
    wanted = SegmentHeader(segment.timeline, segment.number * base.size, base.system_identifier, base.size)
    if count != base.size or (found and found != wanted):
        what = f"has {count} bytes" if count != base.size else "is that of another place or cluster"
        raise IntegrityError(f"the WAL segment {name} {what}. Nothing was changed", _EARLIER)
