"""Files of the old scripts: no manifest says what they should hold, so only they themselves can be asked."""

from __future__ import annotations

import io
import tarfile
from typing import Final

from backup.errors import DumpFailed, IntegrityError
from backup.progress import Progress
from backup.stores.disk import storing
from backup.stores.local import LocalStore
from backup.stream import gzip
from backup.stream.filters import DumpReader

_BLOCK: Final = 1 << 20


def check_file(store: LocalStore, name: str, progress: Progress) -> None:
    """Read one file to its end. IntegrityError unless it is whole gzip, and whole as the SQL or tar it holds."""
    descriptor = store.open(name)
    with open(descriptor, "rb") as raw, storing(store.directory / name):
        try:
            with gzip.reader(raw) as stream:
                if name.endswith(".tar.gz"):
                    _walk(stream)
                else:
                    _read(stream, progress)
        except (*gzip.DAMAGED, tarfile.TarError) as error:
            raise IntegrityError(f"cannot be unpacked: {error}") from error


def _read(stream: io.BufferedReader, progress: Progress) -> None:
    reader = DumpReader()
    while block := stream.read(_BLOCK):
        reader.feed(block)
        progress.advance(len(block))
    try:
        reader.check_whole()
    except DumpFailed:
        raise IntegrityError("is no whole plain dump: its beginning or its completion trailer is missing") from None


def _walk(stream: io.BufferedReader) -> None:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for _ in archive:
            # The list would grow by one for every file.
            archive.members = []  # type: ignore[attr-defined]
    while stream.read(_BLOCK):
        pass
