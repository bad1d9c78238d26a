"""Whole segments on their way from the receiver's folder to the kept ones: looked at, packed, read back, recorded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from backup.catalog.wal_archive import WalArchive
from backup.errors import IntegrityError
from backup.model.wal import PARTIAL, UNKNOWN, Segment, SegmentHeader, SegmentId, is_segment
from backup.pipeline.age import Recipient
from backup.storage.artifact_writer import ArtifactWriter
from backup.storage.filesystem import storing

_BLOCK: Final = 1 << 20
_PAGE: Final = 64


@dataclass
class Packer:
    """Packs what the receiver of `archive` has written. `recipients`: what to encrypt to.

    `size` of a segment in bytes. One of them is at work at a time: it remembers what is `packed`.
    """

    archive: WalArchive
    size: int
    level: int = 1
    recipients: Sequence[Recipient] = ()
    packed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.packed = {each.name for each in self.archive.list_segments() if not each.partial}

    def pack(
        self,
        seconds: float,
        moment: Callable[[int], datetime] = lambda _: UNKNOWN,
        clock: Callable[[], float] = time.monotonic,
    ) -> int:
        """Pack what waits, for so many seconds at most; how many. IntegrityError for what is no segment of its name.

        `moment` tells the newest one of which all that was committed lies before a place in the WAL.
        """
        begun, count = clock(), 0
        for name in self.archive.waiting():
            if name in self.packed or (is_segment(name) and self._length(name) != self.size):
                continue
            if clock() - begun > seconds:
                break
            end = (SegmentId.of(name, self.size).number + 1) * self.size if is_segment(name) else 0
            self._keep(name, moment(end))
            self.packed.add(name)
            count += 1
        self._clear()
        return count

    def break_off(self, level: datetime) -> None:
        """Keep what a gap left of the segment that was being received, and let the receiver begin anew.

        By what is in its folder it would ask for the segment that the server no longer has, again and again. `level`:
        the newest moment of which all that was committed is here.
        """
        self.pack(float("inf"), lambda _: level)
        self.close_timelines(1 << 32, level)
        self.archive.stream.remove_all(name for name in self.archive.waiting() if name in self.packed)

    def close_timelines(self, timeline: int, level: datetime) -> None:
        """Keep what is left of the last segment of each timeline before this one: nothing comes behind it.

        A timeline may have been left before, and come back for moments: what was kept then, and reaches further, stays.
        """
        kept = {each.name: each.received for each in self.archive.list_segments()}
        for partial in self.archive.partials():
            name = partial.removesuffix(PARTIAL)
            if not is_segment(name) or int(name[:8], 16) >= timeline:
                continue
            # One that was only begun is all zeros.
            with open(self.archive.stream.open(partial), "rb", buffering=0) as source:
                begun = any(source.read(_PAGE))
            if begun and kept.get(name, UNKNOWN) <= level:
                self._keep(name, level, partial)
            self.archive.stream.remove(partial)

    def mend(self) -> None:
        """Give segments that a full disk cut short their size again: a receiver takes them by that, and goes on."""
        for partial in self.archive.partials():
            if self._length(partial) not in (0, self.size):
                with storing(self.archive.stream.directory / partial):
                    os.truncate(self.archive.stream.directory / partial, self.size)

    def _keep(self, name: str, received: datetime, file: str = "") -> None:
        store = self.archive.stream
        with open(store.open(file or name), "rb", buffering=0) as source, storing(store.directory / name):
            head = source.read(_PAGE)
            if is_segment(name):
                self._require(name, head)
            with ArtifactWriter(
                self.archive.segments, f"{name}.gz", "segment", name, self.level, self.recipients
            ) as writer:
                piece = head
                while piece:
                    writer.write(piece)
                    piece = source.read(_BLOCK)
                artifact = writer.finish()
        self.archive.keep(Segment(name=name, artifact=artifact, received=received, partial=bool(file)), writer.staged)

    def _require(self, name: str, head: bytes) -> None:
        """IntegrityError unless the first page is that of the segment of this name, of this cluster."""
        wanted = SegmentId.of(name, self.size)
        try:
            header = SegmentHeader.parse(head)
            if header != SegmentHeader(
                header.timeline, wanted.number * self.size, self.archive.system_identifier, self.size
            ):
                raise ValueError("its first page is that of another one")
        except ValueError as error:
            raise IntegrityError(
                f"the received segment {name} cannot be kept: {error}. It stays in {self.archive.stream.directory}",
                "Is the disk failing? Remove the file: a new base backup is then taken, and the window begins anew.",
            ) from None

    def _clear(self) -> None:
        """Remove what is packed. The newest one stays: by it the receiver knows where to go on."""
        waiting = [name for name in self.archive.waiting() if is_segment(name)]
        self.archive.stream.remove_all(name for name in waiting[:-1] if name in self.packed)

    def _length(self, name: str) -> int:
        path = self.archive.stream.directory / name
        with storing(path):
            return path.stat().st_size
