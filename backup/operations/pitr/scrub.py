"""Base backups and packed WAL read back against their SHA-256: damage that comes after they were written.

Each night reads a share, so that each file is read once a week. What differs is set aside: from then on it counts for
no moment, and the next base backup builds on nothing of it.
"""

from __future__ import annotations

import contextlib
import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from pydantic import AwareDatetime, ValidationError

from backup.catalog.wal_archive import WalArchive
from backup.errors import StoreError
from backup.formatting import printable, size
from backup.logging import logger
from backup.model.frozen import Frozen
from backup.model.manifest import Artifact
from backup.operations.verify.stored_bytes import Stored
from backup.progress import Progress, Silent
from backup.storage import atomic_file
from backup.storage.directory import LocalStore

SCRUB_HINT: Final = (
    "The disk may be failing: check the kernel log. Moments that need what is damaged cannot be had from here any more;"
    " `moments` shows the others, and `base` takes a new base backup."
)
EVERY: Final = timedelta(days=7)
_FILE: Final = "scrub.json"


class Turn(Frozen):
    """Which file was read last, and up to when reading has kept up: what was read beyond its time makes it later."""

    after: str = ""
    until: AwareDatetime


def due(files: Sequence[Artifact], turn: Turn, now: datetime) -> tuple[list[Artifact], Turn]:
    """What is to be read now so that each is read once in EVERY, in turn; and the turn that follows. Pure.

    A clock that was wrong costs one round.
    """
    total = sum(each.stored_size for each in files)
    if abs(now - turn.until) > EVERY:
        turn = turn.model_copy(update={"until": now - EVERY if turn.until < now else now})
    if not total:
        return [], turn.model_copy(update={"until": now})
    ordered = sorted(files, key=lambda each: _order(each.file))
    begin = bisect_right(ordered, _order(turn.after), key=lambda each: _order(each.file))
    taken: list[Artifact] = []
    for each in ordered[begin:] + ordered[:begin]:
        if turn.until >= now:
            break
        taken.append(each)
        turn = Turn(after=each.file, until=turn.until + EVERY * (each.stored_size / total))
    return taken, turn


def _order(file: str) -> bytes:
    """Where in a round a file is read.

    Not by its name: by that all that is new comes behind what is read, and before the round is over.
    """
    return hashlib.sha256(file.encode()).digest()


def scrub_share(archive: WalArchive, progress: Progress, now: datetime) -> list[str]:
    """Read what is due of one cluster; what is wrong, in words. Only under the lock of the volume."""
    store = LocalStore(archive.directory)
    # At first all was just read back, when it was written.
    turn = Turn(until=now)
    with contextlib.suppress(ValidationError, StoreError):
        turn = Turn.model_validate_json(store.read(_FILE)) if _FILE in store.names() else turn
    files = _files(archive)
    found, after = due([artifact for _, artifact in files], turn, now)
    taken = {each.file for each in found}
    wrong, readable = _read([each for each in files if each[1].file in taken], archive, progress)
    # What could not be read is not done: the next night begins with the same share, and tells it again.
    if readable:
        atomic_file.replace(store, _FILE, after.model_dump_json().encode())
    return wrong


def scrub(archive: WalArchive, progress: Progress) -> list[str]:
    """Read all there is of one cluster; what is wrong, in words. What differs is set aside.

    What has a record and does not count is told as well: cut short, lost, or set aside before.
    """
    lost = [f"{each} does not count: its file is not there as it was written" for each in archive.uncounted()]
    for each in lost:
        logger.error("{}", printable(each))
    return lost + _read(_files(archive), archive, progress)[0]


def _read(
    files: Sequence[tuple[LocalStore, Artifact]], archive: WalArchive, progress: Progress
) -> tuple[list[str], bool]:
    """Read these: (what is wrong, whether each could be read). What differs is set aside."""
    progress.phase("reading base backups and WAL", sum(each.stored_size for _, each in files))
    wrong, readable = list[str](), True
    for store, artifact in files:
        try:
            if _is_whole(store, artifact, progress):
                continue
            # The receiver may have written another one under its name, and the cleanup have removed it.
            if (store, artifact) not in _files(archive):
                continue
            told = f"{artifact.file} ({size(artifact.stored_size)}) is not as it was written, and was set aside"
            # A cable or memory that fails once says nothing of the file.
            if _is_whole(store, artifact, Silent()):
                told = f"{artifact.file} was read as something else once, and then as it was written"
            else:
                archive.set_file_aside(store, artifact.file)
            wrong.append(told)
        except StoreError as error:
            # The cleanup may have removed it meanwhile; a disk that fails says nothing of one file.
            if artifact.file in store.names():
                readable = False
                wrong.append(f"{artifact.file} cannot be read, or set aside: {error.message}")
    for each in wrong:
        logger.error("{}", printable(each))
    return wrong, readable


def _is_whole(store: LocalStore, artifact: Artifact, progress: Progress) -> bool:
    with contextlib.closing(Stored(store, artifact.file, progress)) as source:
        source.drain()
    return (source.size, source.sha256) == (artifact.stored_size, artifact.stored_sha256)


def _files(archive: WalArchive) -> list[tuple[LocalStore, Artifact]]:
    bases = [(archive.bases, each.artifact) for each in archive.list_bases()]
    return bases + [(archive.segments, each.artifact) for each in archive.list_segments()]
