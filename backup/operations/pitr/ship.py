"""Base backups and received WAL on their way to a place: each an object that is written once and read back.

It runs beside what receives: a place that does not answer delays nothing here, and what waits for it stays here.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from backup.catalog.wal_archive import StreamFile, WalArchive, clusters
from backup.catalog.wal_copies import WalCopies, WalCopy
from backup.errors import BackupError, IntegrityError, StoreError
from backup.formatting import size as shown
from backup.logging import logger
from backup.model.manifest import Artifact
from backup.model.wal import DOWN, PARTIAL, STARTING, STREAMING, Base, Segment, Stream, chain, is_segment, lsn, lsn_text
from backup.model.wal_object import BROKEN, BaseRecord, SegmentObject, base_key, place_there
from backup.operations.offsite.context import OffsiteContext, with_digest
from backup.operations.offsite.send import Hashed
from backup.operations.pitr.ship_cleanup import ShipCleanup
from backup.operations.temporary import temporary_folder
from backup.pipeline.age import SUFFIX, Recipient, encrypted_bound
from backup.storage.artifact_writer import ArtifactWriter
from backup.storage.directory import LocalStore
from backup.storage.filesystem import storing

# Seconds between two looks; after a failure twice as many each time.
LOOK: Final = 10.0
_LONGEST: Final = 300.0
# Seconds that uploads under way have to end.
_GRACE: Final = 5.0
_BLOCK: Final = 256 << 10
_ZEROS: Final = bytes(1 << 20)
# A partial segment that does not change is sent again after this, so that no lifecycle rule takes it.
_STALE: Final = timedelta(days=1)


class _Stopped(BackupError):
    """It is to end, in the midst of an upload."""


@dataclass(frozen=True, kw_only=True)
class ShipContext(OffsiteContext):
    """What sending on works with. `every`: seconds between two looks at the segment that is being received; 0: none.

    `keep`: how far back moments are kept. `recipients`: whom what is packed here is encrypted to. `wait` waits for so
    many seconds, or until it is to end: whether it is.
    """

    every: float
    keep: timedelta
    wait: Callable[[float], bool]
    recipients: Sequence[Recipient] = ()


def ship_all(shippers: Sequence[Shipper | BaseShipper], ended: threading.Event) -> None:
    """Let each work in a thread of its own until `ended`: none waits for another's uploads, nor for another place.

    A bug in one of them ends all, and is raised.
    """
    failed: list[Exception] = []

    def work(shipper: Shipper | BaseShipper) -> None:
        try:
            ship_wal(shipper)
        except Exception as error:  # noqa: BLE001 - raised again by the thread that waits
            failed.append(error)
            ended.set()

    # Daemons: a place that hangs cannot keep the process from ending.
    threads = [threading.Thread(target=work, args=(each,), daemon=True) for each in shippers]
    for thread in threads:
        thread.start()
    ended.wait()
    for thread in threads:
        thread.join(_GRACE)
    if failed:
        raise failed[0]


def ship_wal(shipper: Shipper | BaseShipper) -> None:
    """Send on until `wait` says that it is to end. Whatever fails is said in state/ and tried again."""
    context, failures, pause = shipper.context, 0, 0.0
    while not context.wait(pause):
        try:
            shipper.look()
            failures, pause = 0, LOOK
        except _Stopped:
            return
        except BackupError as error:
            failures += 1
            if failures == 1:
                logger.warning(
                    "{} are not sent to {}: {} {}", shipper.what, context.remote.name, error.message, error.hint
                )
            shipper.say_down(error)
            pause = min(LOOK * 2**failures, _LONGEST)


@dataclass
class _Sender:
    """Puts files at a place, and keeps what that has confirmed."""

    context: ShipContext
    what = ""
    _copies: dict[str, WalCopies] = field(default_factory=dict)

    def copies(self, archive: WalArchive) -> WalCopies:
        """What is there of a cluster; another folder of the same cluster is another archive."""
        name = archive.unique_name()
        if name not in self._copies:
            self._copies[name] = WalCopies(archive, self.context.place)
        return self._copies[name]

    @property
    def file(self) -> StreamFile:
        """Where it is said how this goes."""
        raise NotImplementedError

    def begin(self) -> None:
        """Write down when this began, at first: how late it is counts from then."""
        if self.file.read_quietly() is None:
            self.file.write(Stream(looked=self.context.clock(), state=STARTING))

    def say_down(self, error: BackupError) -> None:
        """Write down what failed. When all was there last, and up to which moment, stays."""
        before = self.file.read_quietly() or Stream(looked=self.context.clock(), state=DOWN)
        told = {"state": DOWN, "message": error.message, "hint": error.hint}
        with contextlib.suppress(BackupError):
            self.file.write(before.model_copy(update=told))

    def put(self, key: str, chunks: Iterator[bytes], size: int, sha256: str) -> None:
        """Have an object there, of these bytes, as the place itself says. One that is there already is not sent."""
        remote = self.context.remote
        found = remote.stat(key)
        found = with_digest(self.context, found) if found else None
        if found is None or (found.size, found.sha256) != (size, sha256):
            found = remote.put(key, self._going_on(chunks), size, lambda count: None, sha256)
        if (found.size, found.sha256) != (size, sha256):
            raise IntegrityError(
                f"{key} was sent to {remote.name}, which then returned other bytes; what is here is untouched",
                "It is sent again. If that fails too, the connection or the store changes data.",
            )

    def _going_on(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same, until it is to end: an upload may take hours."""
        for chunk in chunks:
            if self.context.wait(0):
                raise _Stopped("the upload was stopped")
            yield chunk


@dataclass
class Shipper(_Sender):
    """Sends segments, whole ones and the one that is being received, to one place."""

    what = "segments of WAL"
    _sent: datetime | None = None
    _cleanup: ShipCleanup | None = None

    @property
    def cleanup(self) -> ShipCleanup:
        """What removes there."""
        self._cleanup = self._cleanup or ShipCleanup(self.context, self.context.keep)
        return self._cleanup

    @property
    def file(self) -> StreamFile:
        """Where it is said how this goes."""
        return StreamFile(self.context.catalog.root, self.context.place)

    def look(self) -> None:
        """Send all that waits, and say so. BackupError for the first that could not be sent, after all that could."""
        self.begin()
        context = self.context
        stream, failed = StreamFile(context.catalog.root).read(), list[IntegrityError]()
        with temporary_folder(context.catalog.root, f"ship-{context.place}", "ship") as folder:
            archives = clusters(context.catalog.root)
            self.cleanup.compare({each.unique_name(): self.copies(each) for each in archives})
            for archive in archives:
                copies = self.copies(archive)
                failed += self._whole(archive, copies, LocalStore(folder))
                live = stream is not None and stream.system_identifier == archive.system_identifier
                if stream and live and context.every:
                    self._partial(archive, copies, stream, LocalStore(folder))
                if stream and stream.level:
                    self.cleanup.remove(archive, copies, stream.level, live=live)
                if stream and live and not failed:
                    self._say(copies, stream)
        if failed:
            raise failed[0]

    def _whole(self, archive: WalArchive, copies: WalCopies, work: LocalStore) -> list[IntegrityError]:
        """Send what is packed, oldest first; those that are not as they were recorded are told, and not sent."""
        there, failed = {(each.name, each.part) for each in copies.segments()}, []
        for segment in archive.list_segments():
            if (segment.name, BROKEN if segment.partial else "") in there:
                continue
            try:
                self._segment(archive, copies, segment, work)
            except IntegrityError as error:
                logger.error("{} was not sent: {} {}", segment.name, error.message, error.hint)
                failed.append(error)
        return failed

    def _segment(self, archive: WalArchive, copies: WalCopies, segment: Segment, work: LocalStore) -> None:
        artifact, store = segment.artifact, archive.segments
        if self.context.encrypt is None or artifact.encryption:
            made = SegmentObject.of(
                archive.unique_name(), segment, artifact.stored_sha256, encrypted=bool(artifact.encryption)
            )
            self._kept(copies, made, file_blocks(store, artifact.file), artifact.stored_size)
            return
        # Its name has the SHA-256 of what is sent, and encrypted bytes are other ones each time.
        with work.stage(f"{segment.name}.gz.age") as staged:
            for chunk in self.context.encrypt(unchanged(file_blocks(store, artifact.file), artifact)):
                staged.write(chunk)
            staged.seal()
            made = SegmentObject.of(archive.unique_name(), segment, staged.sha256, encrypted=True)
            self._kept(copies, made, file_blocks(work, staged.path.name), staged.size)
            staged.discard()

    def _kept(self, copies: WalCopies, made: SegmentObject, chunks: Iterator[bytes], size: int) -> None:
        self.put(made.key, chunks, size, made.sha256)
        copies.add(WalCopy(key=made.key, size=size))

    def _partial(self, archive: WalArchive, copies: WalCopies, stream: Stream, work: LocalStore) -> None:
        """Send as much of the segment that is being received as is known to be here, if it is more than is there."""
        now, filled, name = self.context.clock(), lsn(stream.received) % stream.size, stream.partial.name(stream.size)
        there = [each for each in copies.segments() if each.name == name]
        last = max(there, key=lambda each: each.worth, default=None)
        if not filled or stream.level is None or (last and not last.received):
            return
        if last and int(last.part, 16) >= filled and stream.level - last.level < _STALE:
            return
        # A clock that was put back holds nothing up.
        if self._sent and timedelta() <= now - self._sent < timedelta(seconds=self.context.every):
            return
        # Before it is opened: if the folder is set aside meanwhile, this is sent as what it was.
        unique, again = archive.unique_name(), StreamFile(self.context.catalog.root).read()
        if again is None or (again.timeline, again.system_identifier) != (stream.timeline, stream.system_identifier):
            return
        try:
            descriptor = archive.stream.open(name + PARTIAL)
        except StoreError:  # whole by now: then it is sent as that
            return
        with (
            os.fdopen(descriptor, "rb", buffering=0) as source,
            # Whoever encrypts anything here has no plain byte there.
            ArtifactWriter(work, f"{name}.gz", "segment", name, recipients=self.context.recipients) as writer,
        ):
            for piece in _filled(source, filled, stream.size):
                writer.write(piece)
            artifact = writer.finish()
            part, encrypted = f"{filled:08x}", bool(artifact.encryption)
            made = SegmentObject(unique, name, stream.level, artifact.stored_sha256, part, encrypted)
            self._kept(copies, made, file_blocks(work, writer.staged.path.name), artifact.stored_size)
            writer.staged.discard()
        self._sent = now

    def _say(self, copies: WalCopies, stream: Stream) -> None:
        """Write down up to which moment all is there, and that nothing waits."""
        segments = copies.segments()
        reached, file = place_there(segments, stream.timeline, stream.size), self.file
        before = file.read_quietly()
        alike = before is not None and (before.system_identifier, before.timeline) == (
            stream.system_identifier,
            stream.timeline,
        )
        level = stream.level
        if reached < lsn(stream.received):
            ours = f"{stream.timeline:08X}"
            known = [each.level for each in segments if is_segment(each.name) and each.name.startswith(ours)]
            level = max([*known, *([before.level] if before and alike and before.level else [])], default=None)
        file.write(
            Stream(
                looked=self.context.clock(),
                state=STREAMING,
                message=self.cleanup.left,
                system_identifier=stream.system_identifier,
                timeline=stream.timeline,
                size=stream.size,
                received=lsn_text(reached),
                current=stream.received,
                level=level,
            )
        )


@dataclass
class BaseShipper(_Sender):
    """Sends base backups to one place: beside the segments, because one may take hours."""

    what = "base backups"

    @property
    def file(self) -> StreamFile:
        """Where it is said how this goes."""
        return StreamFile(self.context.catalog.root, f"{self.context.place}-bases")

    def look(self) -> None:
        """Send those that are not there, the newest first, and say so."""
        self.begin()
        root = self.context.catalog.root
        with temporary_folder(root, f"ship-{self.context.place}-bases", "ship"):
            for archive in clusters(root):
                copies = self.copies(archive)
                there = {base.id for base in copies.bases()}
                bases = archive.list_bases()
                # An incremental one is of no use before those that it builds on.
                for each in (link for base in reversed(bases) for link in chain(base, bases)):
                    if each.id not in there:
                        self._base(archive, copies, each)
                        there.add(each.id)
        self.file.write(Stream(looked=self.context.clock(), state=STREAMING))

    def _base(self, archive: WalArchive, copies: WalCopies, base: Base) -> None:
        """Its file, then its record, which makes it a base."""
        name, artifact, context = archive.unique_name(), base.artifact, self.context
        logger.info("sending the base backup {}, {}, to {}", base.id, shown(artifact.stored_size), context.remote.name)
        chunks = file_blocks(archive.bases, artifact.file)
        if context.encrypt is None or artifact.encryption:
            token, end = artifact.stored_sha256[:16], "tar.gz" + (SUFFIX if artifact.encryption else "")
            sent = artifact.model_copy(update={"file": f"{base.id}.{token}.{end}"})
            self.put(base_key(name, sent.file), chunks, sent.stored_size, sent.stored_sha256)
        else:
            file = f"{base.id}.{secrets.token_hex(8)}.tar.gz{SUFFIX}"
            hashed = Hashed(context.encrypt(unchanged(chunks, artifact)))
            bound = encrypted_bound(artifact.stored_size)
            entry = context.remote.put(base_key(name, file), self._going_on(iter(hashed)), bound=bound)
            if (entry.size, entry.sha256) != (hashed.size, hashed.sha256):
                raise IntegrityError(
                    f"the base backup {base.id} was sent to {context.remote.name}, which then returned other bytes",
                    "It is sent again. If that fails too, the connection or the store changes data.",
                )
            described = {"file": file, "stored_size": hashed.size, "stored_sha256": hashed.sha256, "encryption": "age"}
            sent = artifact.model_copy(update=described)
        there = base.model_copy(update={"artifact": sent})
        data = there.model_dump_json().encode()
        record = BaseRecord(name, base.id, hashlib.sha256(data).hexdigest())
        self.put(record.key, iter([data]), len(data), record.sha256)
        copies.add(WalCopy(key=record.key, size=len(data), base=there))
        logger.success("the base backup {} is offsite: {}, read back", base.id, context.remote.name)


def file_blocks(store: LocalStore, name: str) -> Iterator[bytes]:
    """The bytes of a file. StoreError."""
    with os.fdopen(store.open(name), "rb", buffering=0) as file:
        while True:
            with storing(store.directory / name):
                chunk = file.read(_BLOCK)
            if not chunk:
                return
            yield chunk


def _filled(source: io.FileIO, filled: int, size: int) -> Iterator[bytes]:
    """So many bytes of a segment, then zeros; StoreError when there are fewer."""
    left = filled
    while left:
        piece = source.read(min(left, len(_ZEROS)))
        if not piece:
            raise StoreError("the segment that is being received is shorter than what was received of it")
        left -= len(piece)
        yield piece
    for begin in range(filled, size, len(_ZEROS)):
        yield _ZEROS[: size - begin]


def unchanged(chunks: Iterator[bytes], artifact: Artifact) -> Iterator[bytes]:
    """The same; IntegrityError at their end unless they are as they were recorded."""
    counted = Hashed(chunks)
    yield from counted
    if (counted.size, counted.sha256) != (artifact.stored_size, artifact.stored_sha256):
        raise IntegrityError(
            f"{artifact.file} is not as it was recorded; it was not sent",
            "The disk may be failing. `base --full` takes a new base backup, from which the window begins anew.",
        )
