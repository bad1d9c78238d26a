"""The WAL and the base backups of one cluster in the backup volume.

    <root>/wal/<system identifier>/stream/          what the receiver writes: whole segments, one `.partial`, histories
    <root>/wal/<system identifier>/segments/        whole ones, packed: <name>.gz, <name>.gz.age
    <root>/wal/<system identifier>/segments.jsonl   a record for each, appended when it was read back
    <root>/wal/<system identifier>/bases/           <id>.tar.gz, then <id>.json: no record, no base
                                                    <id>.manifest: by it the server sends what has changed since
    <root>/wal/<system identifier>/…/<file>.damaged what is not as it was written: it counts for nothing
    <root>/wal/<system identifier>/scrub.json       which file was read back last (operations/pitr/scrub.py)
    <root>/wal/<system identifier>/proof.json       what the newest drill of all this found
    <root>/wal/<system identifier>/server.json      which service its server was, and the slot that was made there
    <root>/wal/<system identifier>/unique           tells this folder from others of the same cluster, at a place
    <root>/wal/<system identifier>/offsite-<place>.jsonl   what a place has confirmed (catalog/wal_copies.py)
    <root>/wal/<system identifier>-<time>/          what was set aside: WAL of a history that the server has left
    <root>/state/wal.json                           what is known of the stream
    <root>/state/wal-<place>.json                   the same of what is sent on to a place

The newest whole segment stays in `stream/` when it is packed: by it the receiver knows where to go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from backup.errors import StoreError
from backup.formatting import printable
from backup.logging import logger
from backup.model.frozen import Frozen
from backup.model.manifest import Artifact
from backup.model.wal import (
    PARTIAL,
    UNKNOWN,
    Base,
    Received,
    Segment,
    SegmentId,
    Stream,
    WindowProof,
    is_history,
    is_segment,
)
from backup.storage import atomic_file
from backup.storage.directory import LocalStore
from backup.storage.filesystem import storing, sync_directory
from backup.storage.staged_file import StagedFile, bare_name

WAL: Final = "wal"
_RECORDS: Final = "segments.jsonl"
_LARGEST: Final = 1 << 30
_PROOF: Final = "proof.json"
_SERVER: Final = "server.json"
_UNIQUE: Final = "unique"
_DAMAGED: Final = ".damaged"
_STAMP: Final = "%Y%m%dT%H%M%SZ"
_ASIDE: Final = re.compile(r"[0-9]{1,20}-[0-9]{8}T[0-9]{6}Z")
_IDENTIFIER: Final = re.compile(r"[0-9]{1,20}")
_ASIDE_FILE: Final = re.compile(rf"([0-9A-Z]+)(?:\.history)?\.(?:tar\.)?gz(?:\.age)?{re.escape(_DAMAGED)}")
_BASE: Final = re.compile(r"([0-9]{8}T[0-9]{6}Z)\.(?:tar\.gz(?:\.age)?|manifest|json)")


class StreamFile:
    """state/wal.json: what the process that receives WAL says of it; of a `place`: what is sent on to that."""

    def __init__(self, root: Path, place: str = "") -> None:
        self._store = LocalStore(root / "state")
        self._name = f"wal-{place}.json" if place else "wal.json"

    def read(self) -> Stream | None:
        """What was said last; None before anything was. StoreError for what cannot be read."""
        if self._name not in self._store.names():
            return None
        try:
            return Stream.model_validate_json(self._store.read(self._name))
        except ValidationError as error:
            raise StoreError(
                f"state/{self._name} is damaged: {error.errors()[0]['msg']}", "It is written anew within seconds."
            ) from None

    def read_quietly(self) -> Stream | None:
        """What was said last, if that can be read."""
        with contextlib.suppress(StoreError):
            return self.read()
        return None

    def write(self, stream: Stream) -> None:
        """Say this from now on."""
        atomic_file.replace(self._store, self._name, stream.model_dump_json().encode())


class ArchivedServer(Frozen):
    """The server that WAL was received of: its service or container, and the slot of ours there, if there is one."""

    service: str
    slot: str = ""


def clusters(root: Path) -> list[WalArchive]:
    """Every cluster of which there is WAL or a base."""
    names = sorted(name for name, regular in LocalStore(root / WAL).listing().items() if not regular)
    return [WalArchive(root, name) for name in names if _IDENTIFIER.fullmatch(name)]


class WalArchive:
    """What is kept of one cluster, by its system identifier."""

    def __init__(self, root: Path, system_identifier: str) -> None:
        if not _IDENTIFIER.fullmatch(system_identifier):
            raise StoreError(f"{printable(system_identifier)!r} is not a system identifier")
        self.system_identifier = system_identifier
        self.root = root
        self.directory = root / WAL / system_identifier
        self.stream = LocalStore(self.directory / "stream")
        self.segments = LocalStore(self.directory / "segments")
        self.bases = LocalStore(self.directory / "bases")
        self._read: tuple[object, list[Segment]] = (None, [])

    def prepare(self) -> None:
        """Make the folders that are not there."""
        for store in (self.stream, self.segments, self.bases):
            with storing(store.directory):
                store.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def list_bases(self) -> list[Base]:
        """Every base, oldest first. One whose record cannot be read is told and left out, and so is one cut short."""
        found, sizes = list[Base](), _sizes(self.bases)
        for name in self.bases.names():
            if not name.endswith(".json"):
                continue
            try:
                base = Base.model_validate_json(self.bases.read(name))
                if sizes.get(base.artifact.file) == base.artifact.stored_size:
                    found.append(base)
            except (ValidationError, StoreError) as error:
                logger.warning("the base backup {} cannot be read: {}", printable(name), printable(str(error)))
        return sorted(found, key=lambda each: (each.ended, each.id))

    def list_segments(self) -> list[Segment]:
        """The records of packed segments and histories whose files are there as they were written, by name."""
        store = LocalStore(self.directory)
        if _RECORDS not in store.names():
            return []
        # Of a busy server there are tens of thousands, looked at every two seconds.
        paths = (self.directory / _RECORDS, self.segments.directory)
        with storing(self.directory):
            seen = [(found.st_mtime_ns, found.st_size, found.st_ino) for found in map(os.stat, paths)]
        if self._read[0] != seen:
            records = self._records()
            # Behind the records: what is packed meanwhile has a file before it has one.
            sizes = _sizes(self.segments)
            found = {each.name: each for each in records if sizes.get(each.artifact.file) == each.artifact.stored_size}
            self._read = (seen, [found[name] for name in sorted(found)])
        return list(self._read[1])

    def uncounted(self) -> list[str]:
        """Bases and segments of which there is a record, and not the file as long as it was written; their names."""
        recorded = self._recorded()
        counted = {each.id for each in self.list_bases()} | {each.name for each in self.list_segments()}
        # What is removed meanwhile loses its record first.
        return sorted((recorded - counted) & self._recorded())

    def _recorded(self) -> set[str]:
        bases = {name.removesuffix(".json") for name in self.bases.names() if name.endswith(".json")}
        return bases | {each.name for each in self._records()}

    def _records(self) -> list[Segment]:
        store = LocalStore(self.directory)
        lines = store.read(_RECORDS, _LARGEST).splitlines() if _RECORDS in store.names() else []
        return [each for line in lines if (each := _record(line))]

    def provide(self, store: LocalStore, artifact: Artifact) -> None:
        """Have a packed segment or a base in its folder before it is read: here it is, or nowhere."""

    def waiting(self) -> list[str]:
        """Whole segments and histories that the receiver has written, by name."""
        return [name for name in self.stream.names() if is_segment(name) or is_history(name)]

    def partials(self) -> list[str]:
        """Segments that are being received, or were when a timeline ended, oldest first."""
        return [name for name in self.stream.names() if name.endswith(PARTIAL)]

    def timeline(self) -> int:
        """The timeline of the newest thing that was received; 0 for nothing."""
        names = [name.removesuffix(PARTIAL) for name in self.stream.names()]
        return max((int(name[:8], 16) for name in names if is_segment(name)), default=0)

    def received(self, size: int, stream: Stream | None = None) -> Received:
        """What is here: packed segments, and whole ones that wait to be; `size` of a segment in bytes."""
        whole, broken = dict[SegmentId, datetime](), dict[SegmentId, datetime]()
        # First what waits: it may be packed, and removed from there, before the records are read.
        for name in self.waiting():
            if is_segment(name):
                with contextlib.suppress(OSError):
                    if (self.stream.directory / name).stat().st_size == size:
                        whole[SegmentId.of(name, size)] = UNKNOWN
        for each in self.list_segments():
            if is_segment(each.name):
                (broken if each.partial else whole)[SegmentId.of(each.name, size)] = each.received
        ours = stream if stream and stream.system_identifier == self.system_identifier else None
        names = [name.removesuffix(PARTIAL) for name in self.partials()]
        partial = max((SegmentId.of(name, size) for name in names if is_segment(name)), default=None)
        return Received(whole, ours, broken, partial)

    def wal_bytes(self) -> int:
        """Bytes on disk of all WAL, packed and not."""
        return sum(size for store in (self.segments, self.stream) for size in _sizes(store).values())

    def proof(self) -> WindowProof | None:
        """What the newest drill found; None before there was one, or where that cannot be read."""
        store = LocalStore(self.directory)
        with contextlib.suppress(ValidationError):
            return WindowProof.model_validate_json(store.read(_PROOF)) if _PROOF in store.names() else None
        return None

    def keep_proof(self, proof: WindowProof) -> None:
        """Note what a drill found."""
        atomic_file.replace(LocalStore(self.directory), _PROOF, proof.model_dump_json().encode())

    @property
    def server_file(self) -> Path:
        """Written when WAL is first received, and when the server is another one."""
        return self.directory / _SERVER

    def server(self) -> ArchivedServer | None:
        """The server of this cluster; None before it was noted, or where that cannot be read."""
        store = LocalStore(self.directory)
        with contextlib.suppress(ValidationError, StoreError):
            return ArchivedServer.model_validate_json(store.read(_SERVER)) if _SERVER in store.names() else None
        return None

    def note_server(self, server: ArchivedServer | None) -> None:
        """Note which server it is of; None: that is of no interest any more."""
        store = LocalStore(self.directory)
        if server is None:
            store.remove(_SERVER)
        elif server != self.server():
            atomic_file.replace(store, _SERVER, server.model_dump_json().encode())

    def remove_aside(self, until: datetime) -> None:
        """Remove what was set aside before `until`."""
        last = f"{self.system_identifier}-{until:{_STAMP}}"
        for name in LocalStore(self.root / WAL).listing():
            if _ASIDE.fullmatch(name) and name.startswith(f"{self.system_identifier}-") and name < last:
                with storing(self.root / WAL / name):
                    shutil.rmtree(self.root / WAL / name)

    def set_aside(self, now: datetime) -> Path:
        """Give the folder a name by which it is nobody's archive, for a person to look at; that name."""
        aside = self.directory.with_name(f"{self.system_identifier}-{now:{_STAMP}}")
        with storing(self.directory):
            self.directory.rename(aside)
        sync_directory(aside.parent)
        return aside

    def keep(self, segment: Segment, staged: StagedFile) -> None:
        """Publish a packed segment that was read back, then its record. A file of that name gives way."""
        final = self.segments.directory / segment.artifact.file
        with storing(final):
            staged.path.replace(final)
        sync_directory(self.segments.directory)
        self.append(_RECORDS, segment.model_dump_json())

    def keep_base(self, base: Base, staged: StagedFile, manifest: bytes = b"") -> None:
        """Publish a base: its manifest, if one may build on it, and its file, then its record."""
        if manifest:
            self.bases.put(f"{base.id}.manifest", manifest)
        self.bases.publish([staged])
        self.bases.put(f"{base.id}.json", base.model_dump_json().encode())

    def manifest(self, base: Base) -> bytes:
        """What was kept of its manifest; empty where that is not here."""
        name = f"{base.id}.manifest"
        return self.bases.read(name, _LARGEST) if name in self.bases.names() else b""

    def remove_base(self, base: Base) -> None:
        """Remove a base: first what makes it one."""
        self.bases.remove_all([f"{base.id}.json", base.artifact.file, f"{base.id}.manifest"])

    def set_file_aside(self, store: LocalStore, name: str) -> None:
        """Have a damaged file of a base or segment count for nothing, for a person to look at."""
        path = store.directory / name
        with storing(path):
            aside = path.rename(path.with_name(name + _DAMAGED))
            os.utime(aside)
        sync_directory(store.directory)

    def remove_damaged(self, until: datetime) -> int:
        """Remove what is damaged and was set aside before `until`; how many files."""
        gone = 0
        for store in (self.bases, self.segments):
            names = store.names()
            for match in filter(None, map(_ASIDE_FILE.fullmatch, names)):
                with storing(store.directory / match[0]):
                    old = (store.directory / match[0]).stat().st_mtime < until.timestamp()
                if not old:
                    continue
                # Of a base that somebody has put back from elsewhere they are used again.
                if store is self.bases and match[0].removesuffix(_DAMAGED) not in names:
                    store.remove_all([f"{match[1]}.json", f"{match[1]}.manifest"])
                store.remove(match[0])
                gone += 1
        return gone

    def sweep_bases(self) -> None:
        """Remove what dead runs left of bases: files of which there is no record. Only under the lock."""
        names = self.bases.names()
        for name in names:
            if (match := _BASE.fullmatch(bare_name(name))) and f"{match[1]}.json" not in names:
                logger.warning("removed {}: a killed run had left it", name)
                self.bases.remove(name)

    def remove_segments(self, segments: Sequence[Segment]) -> None:
        """Remove packed segments: their records first, so that none names a file that is not there."""
        gone = {each.name for each in segments}
        if not gone:
            return
        # The receiver's process appends: what it adds meanwhile must not be lost.
        with atomic_file.alone(LocalStore(self.directory)):
            left = [each for each in self.list_segments() if each.name not in gone]
            lines = "".join(f"{each.model_dump_json()}\n" for each in left)
            atomic_file.replace(LocalStore(self.directory), _RECORDS, lines.encode())
        self.segments.remove_all(each.artifact.file for each in segments)

    def append(self, file: str, record: str) -> None:
        """A record of one line, in one write: a torn one is no record, and what it is of is looked at again."""
        path = self.directory / file
        with atomic_file.alone(LocalStore(self.directory)), storing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                os.write(descriptor, (b"\n" if torn else b"") + record.encode() + b"\n")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if not size:
            sync_directory(self.directory)

    def unique_name(self) -> str:
        """What tells this folder from others of the same cluster, at a place; made once, and set aside with it."""
        store = LocalStore(self.directory)
        if _UNIQUE not in store.names():
            with atomic_file.alone(store):  # two may ask at first
                if _UNIQUE not in store.names():
                    atomic_file.replace(store, _UNIQUE, secrets.token_hex(8).encode())
        return f"{self.system_identifier}-{store.read(_UNIQUE).decode()}"


def _sizes(store: LocalStore) -> dict[str, int]:
    """The sizes of the files in a folder, by name."""
    found = {}
    with storing(store.directory), contextlib.suppress(FileNotFoundError), os.scandir(store.directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                found[entry.name] = entry.stat(follow_symlinks=False).st_size
    return found


def _record(line: bytes) -> Segment | None:
    try:
        return Segment.model_validate(json.loads(line))
    except (ValueError, ValidationError):
        return None
