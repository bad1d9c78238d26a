"""The parts of a set, with a manifest or without: which files hold them, and what opens those.

Output is held back until it is known to be right.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Final

from backup.catalog.packs import packs_beside
from backup.errors import IntegrityError
from backup.formatting import printable
from backup.model.backup_set import StoredSet
from backup.operations.verify.stored_bytes import Stored
from backup.pipeline import age, gzip
from backup.pipeline.file_type import HEAD, Content, FileKind, recognise
from backup.postgres.dump.contents import Contents, Part
from backup.progress import Progress, Silent
from backup.storage.directory import LocalStore
from backup.storage.filesystem import storing

_OTHER: Final = "`verify` says what is wrong with it; `list` shows other sets."
_LIMIT: Final = 64 << 20
_BLOCK: Final = 1 << 20


def dump_of(stored: StoredSet) -> str:
    """The file that holds the database; empty for a set without one."""
    artifact = stored.manifest.artifact("database")
    return artifact.file if artifact else ""


def archive_of(stored: StoredSet, volume: str) -> tuple[str, str, str]:
    """The archive of a volume, its index (empty for none), and the folder that it is of.

    Of an incremental set it is the tree, whose files lie in packs.
    """
    found = {each.kind: each for each in reversed(stored.manifest.artifacts) if each.name == volume}
    archive, index = found.get("tree" if stored.manifest.incremental else "volume"), found.get("index")
    return archive.file if archive else "", index.file if index else "", archive.folder if archive else volume


def packs_of(stored: StoredSet) -> Path | None:
    """The folder of the packs that hold a set's files; None for one that has archives."""
    return packs_beside(stored.directory).store.directory if stored.manifest.incremental else None


def content_of(stored: StoredSet, source: Stored) -> Generator[bytes, None, None]:
    """What a dump or an archive holds. One of a derived manifest is packed as its bytes say. Errors as of `content`."""
    if not stored.derived:
        return source.content()
    return source.content(packed=_looked(stored, source.name).packed, single=False)


def recognised(stored: StoredSet, name: str) -> FileKind:
    """What a file is by its first bytes. IntegrityError for anything that is not known, KeyMissing."""
    return _looked(stored, name).kind


def _looked(stored: StoredSet, name: str) -> Content:
    with open(LocalStore(stored.directory).open(name), "rb") as file:
        return recognise(age.read_head(file, stored.identity, HEAD)[0])


@contextlib.contextmanager
def open_file(stored: StoredSet, name: str, progress: Progress | None = None) -> Iterator[Stored]:
    """Open one file of a set, for the body to read."""
    with contextlib.closing(
        Stored(LocalStore(stored.directory), name, progress or Silent(), stored.identity)
    ) as source:
        yield source


def require_as_written(stored: StoredSet, source: Stored) -> None:
    """Read what is left of a file; IntegrityError unless it is the one that the manifest describes."""
    source.drain()
    artifact = next((each for each in stored.manifest.artifacts if each.file == source.name), None)
    if artifact and artifact.stored_sha256 not in ("", source.sha256):
        raise damaged(f"{source.name} is not as it was written: its SHA-256 differs from the manifest's")


def damaged(message: str) -> IntegrityError:
    """Make the error of something that was read and must not be used."""
    return IntegrityError(printable(message), _OTHER)


class HeldBack:
    """Passes bytes on, but the last piece only when told to: what is cut off before that looks like it."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write, self._last = write, b""

    def write(self, data: bytes) -> None:
        """Pass on what was given before."""
        if data:
            self.release()
            self._last = data

    def release(self) -> None:
        """Pass on all: what was given is right."""
        if self._last:
            self._write(self._last)
        self._last = b""


def contents_of(stored: StoredSet) -> Contents | None:
    """The contents of a set's dump; None for a set without, or where they are of no use: nobody can seek in age's
    stream. IntegrityError if damaged."""
    dump, artifact = stored.manifest.artifact("database"), stored.manifest.artifact("contents")
    if artifact is None or dump is None or dump.encryption or stored.derived:
        return None
    with open_file(stored, artifact.file) as source:
        data = read_bounded(source.content(), source.name)
        require_as_written(stored, source)
    return Contents.decode(data)


def read_part(stored: StoredSet, part: Part, progress: Progress | None = None) -> Generator[bytes, None, None]:
    """The plain bytes of one part of a set's dump, as they come; IntegrityError at their end unless they are right."""
    file, digest = dump_of(stored), hashlib.sha256()
    blocks = _blocks(LocalStore(stored.directory), file, part, progress or Silent())
    try:
        for piece in gzip.unpack_part(blocks, part.size):
            digest.update(piece)
            yield piece
    except gzip.DAMAGED as error:
        raise damaged(f"{file} cannot be unpacked from byte {part.offset:,}: {error}") from error
    finally:
        blocks.close()
    if digest.hexdigest() != part.sha256:
        raise damaged(f"{file} does not unpack to what was packed from byte {part.offset:,}")


def _blocks(store: LocalStore, file: str, part: Part, progress: Progress) -> Generator[bytes, None, None]:
    """The stored bytes of a part."""
    with open(store.open(file), "rb", buffering=0) as source, storing(store.directory / file):
        source.seek(part.offset)
        left = part.stored
        while left and (block := source.read(min(left, _BLOCK))):
            left -= len(block)
            progress.advance(len(block))
            yield block


def read_roles(stored: StoredSet, *, unchanged: bool) -> str:
    """Read the SQL that makes the roles a set was dumped with; empty for a set without. IntegrityError if damaged.

    `unchanged`: as the manifest has it, too. Whoever checks the whole set beside this does without.
    """
    artifact = stored.manifest.artifact("roles")
    # A list of which nothing says that it is ours makes no roles.
    if artifact is None or stored.derived:
        return ""
    with open_file(stored, artifact.file) as source:
        try:
            text = read_bounded(source.content(), source.name)
        except IntegrityError as error:
            raise IntegrityError(error.message, f"`verify {stored.id}` says what else is damaged.") from error
        if unchanged:
            require_unchanged(source, artifact.stored_sha256)
    return text.decode(errors="surrogateescape")


def require_unchanged(source: Stored, sha256: str) -> None:
    """Raise IntegrityError unless the bytes that were read are those that were verified."""
    if source.sha256 != sha256:
        raise IntegrityError(
            f"{source.name} has changed since it was verified a moment ago; the live data were not touched",
            "Is the disk failing? `verify` judges the set again.",
        )


def read_bounded(pieces: Iterable[bytes], name: str) -> bytes:
    """The whole content of a small file; IntegrityError for one that is not small."""
    text = bytearray()
    for piece in pieces:
        text += piece
        if len(text) > _LIMIT:
            raise damaged(f"{name} is too large to be what its name says")
    return bytes(text)
