"""What a file is, by its bytes. Names say nothing: custom-format dumps are kept as `.sql.gz`, web pages as `.tar`."""

from __future__ import annotations

import tarfile
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from backup.errors import IntegrityError
from backup.pipeline.gzip import MAGIC

# As many bytes of a file as `recognise` wants to see; it makes do with fewer of a shorter one.
HEAD: Final = 64 << 10
_LOOK: Final = 64 << 10
# How an archive of pg_dump's custom format begins.
CUSTOM_MAGIC: Final = b"PGDMP"
_PLAIN: Final = b"--\n-- PostgreSQL database dump\n"
_CLUSTER: Final = b"--\n-- PostgreSQL database cluster dump\n"
_OTHER_PACKERS: Final = (
    (b"\xfd7zXZ\x00", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\x04\x22\x4d\x18", "lz4", "unlz4"),
    (b"PK\x03\x04", "zip", "unzip"),
    (b"7z\xbc\xaf\x27\x1c", "7-zip", "7z x"),
)
_KNOWN: Final = "Plain and custom-format dumps of pg_dump and tar archives are read, as they are or packed with gzip."


class FileKind(StrEnum):
    """Plain SQL of pg_dump, its custom format, or a tar archive."""

    SQL = "sql"
    CUSTOM = "custom"
    TAR = "tar"


@dataclass(frozen=True)
class Content:
    """What a file holds, and whether gzip has to be undone first."""

    kind: FileKind
    packed: bool


def recognise(head: bytes) -> Content:
    """What a file is that begins with `head` (HEAD bytes, or all it has). IntegrityError for anything not known."""
    if not head:
        raise IntegrityError("the file is empty", "Copy it again, or use another one.")
    packed = head.startswith(MAGIC)
    inner = beginning(head)
    if inner.startswith(_CLUSTER):
        raise IntegrityError(
            "this is a pg_dumpall dump of a whole server, not of one database",
            "Load it by hand into an empty server with `psql -X -f FILE postgres`, then dump the one database.",
        )
    if inner.startswith(_PLAIN):
        return Content(FileKind.SQL, packed)
    if inner.startswith(CUSTOM_MAGIC):
        return Content(FileKind.CUSTOM, packed)
    if is_tar(inner):
        return Content(FileKind.TAR, packed)
    raise _refused(inner, packed)


def is_tar(head: bytes) -> bool:
    """Whether the first block is a tar header: by its checksum, which archives older than `ustar` have too."""
    block = head[: tarfile.BLOCKSIZE]
    if len(block) < tarfile.BLOCKSIZE or not block.strip(b"\0"):
        return False
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def beginning(head: bytes) -> bytes:
    """The first bytes of what a file holds, gzip undone; IntegrityError when even that is damaged."""
    if not head.startswith(MAGIC):
        return head
    unpacker = zlib.decompressobj(31)
    try:
        inner = unpacker.decompress(head, _LOOK)
    except zlib.error as error:
        raise IntegrityError(f"the file is gzip, but damaged at its beginning: {error}", "Take another file.") from None
    if not inner:
        raise IntegrityError("the file is an empty or truncated gzip stream", "Take another file.")
    return inner


def _refused(inner: bytes, packed: bool) -> IntegrityError:
    where = "inside gzip" if packed else "the file"
    if inner.startswith(MAGIC):
        return IntegrityError("the file is packed with gzip twice", "Unpack it once with `gunzip`, then try again.")
    for magic, name, tool in _OTHER_PACKERS:
        if inner.startswith(magic):
            return IntegrityError(
                f"{where} is packed with {name}, which is not read here", f"Unpack it first with `{tool}`."
            )
    if inner[:1024].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return IntegrityError(f"{where} is a web page, perhaps from a failed download", "Download it again.")
    what = "neither a dump nor an archive, by its first bytes"
    if all(byte >= 9 for byte in inner):  # nothing that text has not: from the tab on
        what = "text, but not a dump: it does not begin like one of pg_dump"
    return IntegrityError(f"{where} is {what}", _KNOWN)
