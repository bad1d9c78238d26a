"""Packs read and judged, each once however many sets need it, and what each of its files holds."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from backup.catalog.packs import PackFolder
from backup.errors import BackupError, IntegrityError, StoreError
from backup.logging import logger
from backup.media.tree import Judged, Location
from backup.model.pack import Pack
from backup.operations.verify.stored_bytes import Stored
from backup.operations.verify.volume_archive import UNREAD
from backup.operations.verify.written import PackContents, Written, layout
from backup.progress import Progress

# How long it counts that a pack was read, where a set that needs it is made.
READ_LATELY: Final = timedelta(days=7)
# Lines of files that were judged, some hundred bytes each.
_REMEMBERED: Final = 1_000_000


class PackChecks:
    """Checks of the packs of one folder; what was found is noted beside each, so that every set that needs it shows it.

    `fresh`: a pack that was read so short a time ago, and is the same file, is not read again. `written`: what
    was just made. `locked`: by the holder of the lock. `several` sets are judged: what they have in common once.
    """

    def __init__(
        self,
        folder: PackFolder,
        progress: Progress,
        fresh: timedelta | None = None,
        written: Written | None = None,
        *,
        locked: bool = False,
        several: bool = False,
    ) -> None:
        self._folder, self._progress, self._fresh, self._locked = folder, progress, fresh, locked
        self._written = written or Written()
        self._held: dict[Pack, PackContents] = {}
        self._whole: set[Pack] = set()
        self._lines: set[int] = set()
        self._several = several

    def problems(self, pack: Pack, *, quick: bool = False) -> list[str]:
        """What is wrong with a pack. Quick: by its size and SHA-256 alone."""
        if pack not in self._held or not (quick or pack in self._whole):
            self._held[pack] = self._judged(pack, quick=quick)
            if not quick:
                self._whole.add(pack)
        return self._held[pack].problems

    def judged(self, packs: Iterable[Pack]) -> Judged:
        """The files that need not be judged: those in packs that were not read, as they need not be, and those of sets
        that were judged before by this one."""
        there = list(packs)
        unread = {pack.file for pack in there if not self._held[pack].pieces}
        return Judged(unread, self._lines, {pack.file for pack in there}, met=[] if self._several else None)

    def note_judged(self, judged: Judged) -> None:
        """Files that are right."""
        if judged.met and len(self._lines) < _REMEMBERED:
            self._lines.update(judged.met)

    def content(self, pack: Pack, place: Location, size: int) -> str | None:
        """SHA-256 of the file of that size whose content lies there; None where there is none, UNREAD."""
        held = self._held[pack]
        if not held.pieces and not held.problems:
            return UNREAD
        regions = place.regions if place.regions is not None else ((0, place.stored),)
        return held.sha256(place.offset, layout(size, regions))

    def _judged(self, pack: Pack, *, quick: bool) -> PackContents:
        now = datetime.now(UTC)
        if self._fresh and not self._folder.problems([pack]):
            read = self._folder.last_read(pack.file)
            if read and timedelta(0) <= now - read < self._fresh:
                return PackContents()
        missing = [each for each in self._folder.problems([pack]) if not each.endswith("is damaged")]
        if missing:  # which every listing shows
            return PackContents(problems=missing)
        written = self._written.held(self._written.packs, self._folder.store, pack)
        held = written or self._read(pack, quick=quick)
        if not quick or held.problems:
            try:
                self._folder.note(pack.file, held.problems, now, locked=self._locked)
            except StoreError as error:  # such as a volume that is read-only
                if held.problems:
                    said = "{} is damaged; that could not be noted, so other sets that need it may look good: {}"
                    logger.warning(said, pack.file, error.message)
        return held

    def _read(self, pack: Pack, *, quick: bool) -> PackContents:
        held = PackContents()
        source = Stored(self._folder.store, pack.file, self._progress)
        try:
            if not quick:
                try:
                    held.read(source.content())
                except IntegrityError as error:
                    held.problems.append(error.message)
            source.drain()
            # Asked now: it may have been written anew a moment ago.
            if source.sha256 not in self._folder.digests(pack):
                held.problems.append("has changed since it was written: its SHA-256 differs from the manifest's")
            elif not quick and not held.problems and source.plain_size != pack.plain_size:
                held.problems.append(f"unpacks to {source.plain_size:,} bytes instead of {pack.plain_size:,}")
        except BackupError as error:
            held.problems.append(error.message)
        finally:
            source.close()
        held.problems = [_named(pack, each) for each in held.problems]
        return held


def _named(pack: Pack, problem: str) -> str:
    return problem if pack.file in problem else f"the pack {pack.file}: {problem}"
