"""What is at a place and need not be any more; what should be and is not. A key that may not delete leaves it there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from backup.catalog.wal_archive import WalArchive
from backup.catalog.wal_copies import WalCopies
from backup.errors import RemoteFailed
from backup.formatting import plural, size
from backup.logging import logger
from backup.model.wal import SegmentId, expired, is_segment, needless, spans, unneeded
from backup.model.wal_object import WAL_FOLDER, SegmentObject, base_key, orphans, received_there, superseded
from backup.operations.offsite.context import OffsiteContext
from backup.storage.remote import RemoteObject

# One look removes no more; what is left goes with the next ones.
_MOST: Final = 200
# What is there is listed so often: somebody, or a rule of the bucket, may have removed it.
_AGAIN: Final = timedelta(days=1)
# A file without a record may be of a base whose upload is still under way, and be dated from when that began.
_ORPHANED: Final = timedelta(days=7)


@dataclass
class ShipCleanup:
    """Removes, at one place. `denied`: the key may not. `left` says in words what was found there and is of no use."""

    context: OffsiteContext
    keep: timedelta
    denied: bool = False
    left: str = ""
    _listed: datetime | None = None

    def compare(self, copies: dict[str, WalCopies]) -> None:
        """Forget what is not there as it was sent: it is sent again, if it is still here. RemoteFailed."""
        now = self.context.clock()
        if self._listed and timedelta() <= now - self._listed < _AGAIN:
            return
        self.denied = False
        # First what is known: what is sent meanwhile is in neither.
        before = {name: known.all() for name, known in copies.items()}
        entries = {entry.key: entry for entry in self.context.remote.entries(f"{WAL_FOLDER}/")}
        there = {key: entry.size for key, entry in entries.items()}
        useless: list[int] = []
        for name, held in before.items():
            if held and not there and self.context.place == "copy":
                raise RemoteFailed(
                    f"no WAL is in {self.context.remote.name}, where {plural(len(held), 'object')} should be",
                    "Is the disk or share mounted on the host? Then restart this container.",
                )
            files = {key: (base_key(name, c.base.artifact.file), c.base.artifact) for key, c in held.items() if c.base}
            missing = {key for key, copy in held.items() if there.get(key) != copy.size}
            missing |= {key for key, (file, artifact) in files.items() if there.get(file) != artifact.stored_size}
            if missing:
                logger.warning(
                    "{} of WAL or base backups that were sent to {} are not there as they were: what is still here is"
                    " sent again",
                    plural(len(missing), "object"),
                    self.context.remote.name,
                )
                copies[name].remove(missing)
            used, ours = {*held, *(file for file, _ in files.values())}, f"{WAL_FOLDER}/{name}/"
            found = {key: entry for key, entry in entries.items() if key.startswith(ours)}
            gone = self._swept(found, {key: file for key, (file, _) in files.items()}, used)
            useless += [entry.size for key, entry in found.items() if key not in used and key not in gone]
        self.left = (
            f"{plural(len(useless), 'object')} there that no moment needs, {size(sum(useless))}" if useless else ""
        )
        self._listed = now

    def _swept(self, there: dict[str, RemoteObject], known: dict[str, str], used: set[str]) -> set[str]:
        """Remove what removals and uploads that did not end have left of one archive, `there`; what is gone of it.

        `known`: as of `orphans`; what is `used` is left to the rules of the window.
        """
        newest = max((entry.modified for entry in there.values()), default=None)
        left = [key for key in orphans(there, known) if newest and newest - there[key].modified > _ORPHANED]
        left += [each.key for each in superseded(filter(None, map(SegmentObject.parse, there)))]
        gone: set[str] = set()
        for key in [key for key in left if key not in used][:_MOST]:
            if self.denied:
                break
            try:
                end = self.context.remote.remove(key)
            except RemoteFailed as error:  # it is tried again in a day; what is to be sent does not wait for it
                logger.warning("{} is of no use and could not be removed: {}", key, error.message)
                break
            self.denied = end == "denied"
            gone |= {key} if end == "removed" else set()
        return gone

    def remove(self, archive: WalArchive, copies: WalCopies, now: datetime, *, live: bool) -> None:
        """Remove what is superseded, and what left the window here. `now`: by what is there, not by our clock.

        `live`: it is of the cluster whose WAL is received.
        """
        keys = [each.key for each in superseded(copies.segments())]
        keys += list(_over(archive, copies, now - self.keep) if live else _ended(archive, copies, now - self.keep))
        done: list[str] = []
        for key in keys[:_MOST]:
            if not self.denied:
                self.denied = self.context.remote.remove(key) == "denied"
            done.append(key)
        copies.remove(done)


def _over(archive: WalArchive, copies: WalCopies, until: datetime) -> Iterator[str]:
    """The keys of bases, and of the WAL before the oldest that stays: by the rule that holds here, once gone here."""
    bases, here = copies.bases(), {base.id for base in archive.list_bases()}
    held = spans(bases, received_there(copies.segments(), bases[-1].size)) if bases else []
    # One whose own WAL is not there brings nothing back, and no other one gives way to it.
    able = [base for span in held for base in span.bases]
    going = expired(able, timedelta(), until) + [each for each in bases if each not in able and each.ended <= until]
    going = unneeded([base for base in going if base.id not in here], bases)
    stay = [base for base in bases if base not in going]
    for base in going:
        for key in [key for key, copy in copies.all().items() if copy.base == base]:
            # First what makes it one.
            yield from (key, base_key(archive.unique_name(), base.artifact.file))
    kept = {each.name for each in archive.list_segments()}
    for each in copies.segments() if stay else ():
        if is_segment(each.name) and each.name not in kept and needless([SegmentId.of(each.name, stay[-1].size)], stay):
            yield each.key


def _ended(archive: WalArchive, copies: WalCopies, until: datetime) -> Iterator[str]:
    """The keys of all that is there of a cluster that is no more, once nothing of it is here and all is too old."""
    moments = [*(base.ended for base in copies.bases()), *(each.level for each in copies.segments())]
    if archive.list_bases() or archive.list_segments() or max(moments, default=until) > until:
        return
    for key, copy in copies.all().items():
        yield from (key, *([base_key(archive.unique_name(), copy.base.artifact.file)] if copy.base else []))
