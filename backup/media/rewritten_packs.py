"""A pack written anew without the content that no set names any more.

It unpacks to as many bytes as before: members that no set names have zeros for content, all else lies where it lay. So
trees and manifests stay as they are. A note beside the pack says what its file is now:

    packs/obcms_media_<id>.tar.gz.repacked      SHA-256 that manifests know, and what took its place

The note is there before the file takes the name, with what was there as well: whichever of them lies there is known.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Container, Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from backup.errors import StoreError
from backup.media.tar_reader import TarReader
from backup.media.tree import EntryPoint
from backup.pipeline.chunks import Sink
from backup.storage.directory import LocalStore

REPACKED: Final = ".repacked"
# Entry points of a pack lie so far apart, at least.
APART: Final = 8 << 20


class PackSink(Sink, Protocol):
    """Where a pack goes."""

    def mark(self) -> None:
        """Let what follows be read by itself."""


class Rewritten(NamedTuple):
    """A file that took the place of a pack: its size and SHA-256, the bytes of content that sets name, entry points."""

    stored_size: int
    stored_sha256: str
    content: int
    marks: list[EntryPoint]


class PackNote(NamedTuple):
    """What a note says. `original` is the SHA-256 in manifests; of `files` one lies there, or the original does."""

    original: str = ""
    files: tuple[Rewritten, ...] = ()

    def file(self, size: int) -> Rewritten | None:
        """What lies there, by its size."""
        return next((each for each in self.files if each.stored_size == size), None)


def read_note(store: LocalStore, pack: str) -> PackNote:
    """The note of a pack; an empty one where there is none that can be used."""
    with contextlib.suppress(StoreError, ValueError, TypeError, KeyError):
        found = json.loads(store.read(pack + REPACKED))
        files = [
            Rewritten(size, sha256, content, [(plain, stored) for plain, stored in marks])
            for size, sha256, content, marks in found["files"]
        ]
        return PackNote(str(found["original"]), tuple(files))
    return PackNote()


def note_bytes(note: PackNote) -> bytes:
    """A note as its file."""
    return json.dumps(note._asdict()).encode() + b"\n"


def rewrite(chunks: Iterable[bytes], live: Container[int], sink: PackSink) -> list[int]:
    """Write what a pack unpacks to, but zeros for content that begins at no offset of `live`; where marks are in that.

    IntegrityError where it is not whole.
    """
    source, marks = _Copied(chunks), list[int]()
    reader = TarReader(source.pieces())
    for found in reader.members():
        if not marks or source.at - marks[-1] >= APART:
            sink.mark()
            marks.append(source.at)
        done = reader.position
        sink.write(source.take(done))
        kept = done in live
        for piece in reader.content(found.stored):
            done += len(piece)
            data = source.take(done)
            sink.write(data if kept else bytes(len(data)))
    sink.write(source.take(source.read))
    return marks


class _Copied:
    """Bytes that another one reads, to be taken as they are once he has read them; `at`: so many of `read` were."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._held = chunks, bytearray()
        self.read = self.at = 0

    def pieces(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._held += chunk
            self.read += len(chunk)
            yield chunk

    def take(self, end: int) -> bytes:
        count = end - self.at
        data = bytes(self._held[:count])
        del self._held[:count]
        self.at = end
        return data
