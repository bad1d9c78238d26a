"""What a base backup says of itself while it streams by: every file is compared with the server's own manifest.

pg_basebackup writes one tar: backup_label, the files of the cluster, and last backup_manifest, which has size and
SHA-256 of each file and the WAL that the backup needs.

In an incremental one most files of relations are called INCREMENTAL.<name>: how long the file is, and those of its
blocks that WAL summaries tell of (backup/basebackup_incremental.c in PostgreSQL's sources).
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import tarfile
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from backup.errors import DumpFailed
from backup.formatting import printable
from backup.pipeline.bounded_queue import BoundedQueue
from backup.pipeline.chunks import Writer

MANIFEST: Final = "backup_manifest"
_LABEL: Final = "backup_label"
_START: Final = re.compile(r"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) ", re.MULTILINE)
_TIMELINE: Final = re.compile(r"^START TIMELINE: ([0-9]+)$", re.MULTILINE)
_FROM: Final = re.compile(r"^INCREMENTAL FROM LSN: ([0-9A-F]+/[0-9A-F]+)$", re.MULTILINE)
_AHEAD: Final = 4
_LARGEST_LABEL: Final = 64 << 10
# Of the main fork; those of maps have a word more.
_INCREMENTAL: Final = re.compile(r"(?:base/(?P<database>\d+)|global)/INCREMENTAL\.(?P<file>\d+)(?:\.(?P<segment>\d+))?")
# Magic, how many blocks follow, how many there are at least; then the numbers of those that follow.
_HEADER: Final = struct.Struct("<3I")
_MAGIC: Final = 0xD3AE1F0D
# Blocks of a file of a relation, unless the server was built otherwise. pg_combinebackup takes no larger one.
SEGMENT_BLOCKS: Final = 131072


@dataclass(frozen=True)
class BaseContent:
    """Where recovery of a base begins and where it is consistent, as PostgreSQL writes places; `bytes` of its files.

    `manifest` is what the server needs of it to send what has changed since. Of an incremental one `parent` is where
    the base begins that it builds on, and by (database, file, segment) of a table or an index, of those that are not
    sent whole: `taken` has the highest block that is to be taken from there, and `lengths` how many there are.
    """

    timeline: int
    start: str
    end: str
    manifest: bytes
    parent: str
    taken: Mapping[tuple[int, int, int], int]
    lengths: Mapping[tuple[int, int, int], int]
    files: int
    bytes: int


class BaseReader:
    """Reads a base backup beside the caller's thread. `feed` its tar, then `finish`."""

    def __init__(self) -> None:
        self._waiting = BoundedQueue[bytes | None](_AHEAD)
        self._gathered = Writer(self._waiting.put)
        self._content: BaseContent | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="base backup", daemon=True)
        self._thread.start()

    def feed(self, piece: bytes) -> None:
        """Read on."""
        self._gathered.write(piece)

    def finish(self) -> BaseContent:
        """What it holds; DumpFailed unless every file is there and is as the server's manifest has it."""
        self._end()
        if self._error is not None or self._content is None:
            raise DumpFailed(
                f"the base backup is not whole: {printable(str(self._error))}. It was not kept",
                "Run `base` again. If it fails once more, the database's log and disk may say why.",
            )
        return self._content

    def abandon(self) -> None:
        """End the thread."""
        self._end()

    def _end(self) -> None:
        if self._thread.is_alive():
            self._gathered.flush()
            self._waiting.put(None)
            self._thread.join()

    def _work(self) -> None:
        pieces = iter(self._waiting.get, None)
        try:
            self._content = read_base(pieces)
        except (tarfile.TarError, ValueError, KeyError, EOFError) as error:
            self._error = error
        finally:
            # Take what still comes, so that nobody waits to give it.
            for _ in pieces:
                pass


class _Tar:
    """The members of a tar as it streams by. tarfile's own reading of streams copies each byte several times."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._rest = iter(pieces), memoryview(b"")

    def members(self) -> Iterator[tuple[tarfile.TarInfo, Iterator[memoryview]]]:
        """Each with what it holds, which is to be read before the next one. EOFError, tarfile.TarError."""
        while (header := b"".join(self._take(tarfile.BLOCKSIZE))).strip(b"\0"):
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            yield member, self._take(member.size)
            for _ in self._take(-member.size % tarfile.BLOCKSIZE):
                pass

    def _take(self, count: int) -> Iterator[memoryview]:
        while count:
            if not self._rest and not (piece := next(self._pieces, b"")):
                raise EOFError("it breaks off")
            self._rest = self._rest or memoryview(piece)
            taken, self._rest = self._rest[:count], self._rest[count:]
            count -= len(taken)
            yield taken


def read_base(pieces: Iterable[bytes]) -> BaseContent:
    """Read the tar of a base backup and compare each file with its manifest; ValueError for what differs."""
    found = dict[str, tuple[int, str]]()
    taken, lengths = dict[tuple[int, int, int], int](), dict[tuple[int, int, int], int]()
    label, manifest = "", b""
    for member, content in _Tar(pieces).members():
        name = member.name.removeprefix("./")
        if not member.isreg() and (member.size or not (member.isdir() or member.issym())):
            raise ValueError(f"{name} cannot be read")
        if name == MANIFEST:
            manifest = b"".join(content)
            continue
        if name == _LABEL and member.size <= _LARGEST_LABEL:
            data = b"".join(content)
            label, content = data.decode(errors="replace"), iter([memoryview(data)])
        if member.isreg():
            digest, head = hashlib.sha256(), bytearray()
            part = _INCREMENTAL.fullmatch(name)
            for piece in content:
                digest.update(piece)
                if part and len(head) < _HEADER.size + 4 * SEGMENT_BLOCKS:
                    head += piece
            if part:
                key = int(part["database"] or 0), int(part["file"]), int(part["segment"] or 0)
                block, lengths[key] = _blocks(head, name)
                taken |= {key: block} if block >= 0 else {}
            found[name] = (member.size, digest.hexdigest())
    start, timeline = _START.search(label), _TIMELINE.search(label)
    if not start or not timeline:
        raise ValueError("it has no backup_label that says where its WAL begins")
    parsed, parent = _parsed(manifest), _FROM.search(label)
    end = _compare(parsed, found, int(timeline[1]))
    count, before = sum(size for size, _ in found.values()), parent[1] if parent else ""
    return BaseContent(
        int(timeline[1]), start[1], end, _without_sums(parsed), before, taken, lengths, len(found), count
    )


def _blocks(head: bytearray, name: str) -> tuple[int, int]:
    """(The highest block of an incremental file that is to be taken from the base before it, how many it has).

    -1 for none.
    """
    magic, count, length = _HEADER.unpack_from(head) if len(head) >= _HEADER.size else (0, 0, 0)
    if magic != _MAGIC or len(head) < _HEADER.size + 4 * count:
        raise ValueError(f"{name} is no incremental file")
    there = array("I", bytes(head[_HEADER.size : _HEADER.size + 4 * count]))
    held = set(there)
    taken = next((block for block in range(length - 1, -1, -1) if block not in held), -1)
    return taken, max(length, max(there, default=-1) + 1)


def _without_sums(manifest: dict[str, Any]) -> bytes:
    """The same manifest, as small as the server takes it. Sums of small files could tell what is in them."""
    files = [{k: each[k] for k in ("Path", "Encoded-Path", "Size") if k in each} for each in manifest["Files"]]
    rest = {key: value for key, value in manifest.items() if key not in ("Files", "Manifest-Checksum")}
    # The server wants its version first, and the sum in a line of its own.
    version = "PostgreSQL-Backup-Manifest-Version"
    text = json.dumps(
        {version: rest.pop(version, 1), "Files": files, **rest}, ensure_ascii=False, separators=(",", ":")
    )
    body = f"{text[:-1]},\n".encode()
    return body + f'"Manifest-Checksum": "{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


def _parsed(manifest: bytes) -> dict[str, Any]:
    """The manifest, whose last line is the SHA-256 of all before it."""
    if not manifest:
        raise ValueError("it ends before its manifest")
    body, _, last = manifest.rstrip(b"\n}").rpartition(b"\n")
    said = last.decode(errors="replace").partition('"Manifest-Checksum": "')[2].rstrip('"')
    if hashlib.sha256(body + b"\n").hexdigest() != said:
        raise ValueError("its manifest is damaged")
    return dict(json.loads(manifest))


def _compare(manifest: Mapping[str, Any], found: Mapping[str, tuple[int, str]], timeline: int) -> str:
    """Where the base is consistent; ValueError unless the files are those of the manifest."""
    wanted = {_path(each): each for each in manifest["Files"]}
    for name, each in wanted.items():
        if name not in found:
            raise ValueError(f"{name} is missing")
        size, digest = found[name]
        if size != each["Size"]:
            raise ValueError(f"{name} has {size} bytes instead of {each['Size']}")
        if each.get("Checksum-Algorithm") != "SHA256" or digest != each.get("Checksum"):
            raise ValueError(f"{name} is not what the server sent")
    # tablespace_map and what the server adds to the stream itself are not in the manifest of older releases.
    if unknown := set(found) - set(wanted) - {"tablespace_map"}:
        raise ValueError(f"{min(unknown)} is not in its manifest")
    ranges = [each for each in manifest["WAL-Ranges"] if each["Timeline"] == timeline]
    if not ranges:
        raise ValueError("its manifest does not say which WAL it needs")
    return str(ranges[-1]["End-LSN"])


def _path(entry: Mapping[str, Any]) -> str:
    encoded = entry.get("Encoded-Path")
    return bytes.fromhex(encoded).decode(errors="surrogateescape") if encoded is not None else str(entry["Path"])
