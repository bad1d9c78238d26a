"""The packs of a backup volume: whether those that a set needs are there and whole, and which nobody needs any more.

    <root>/packs/obcms_media_<id>.tar.gz            a pack, named after the set that wrote it
    <root>/packs/obcms_media_<id>.tar.gz.damaged    it is: whatever needs it is damaged
    <root>/packs/obcms_media_<id>.tar.gz.checked    when it was read last, and was right
    <root>/packs/obcms_media_<id>.tar.gz.repacked   it was written anew: what its file is since (see rewritten_packs)

A pack is there before the first manifest that names it, and goes after the last one has gone.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import AwareDatetime, ValidationError

from backup.errors import BackupError, StoreError
from backup.media.rewritten_packs import REPACKED, PackNote, Rewritten, note_bytes, read_note
from backup.model.backup_set import StoredSet
from backup.model.frozen import Frozen
from backup.model.manifest import Tier, from_json, parse_file_name
from backup.model.pack import Pack
from backup.storage.atomic_file import replace
from backup.storage.directory import LocalStore
from backup.storage.filesystem import statuses_of, storing, sync_directory
from backup.storage.staged_file import FileIdentity, StagedFile

PACKS_FOLDER: Final = "packs"
_DAMAGED, _CHECKED = ".damaged", ".checked"
_QUARANTINE: Final = "damaged"


class _Checked(Frozen):
    """Which file was read when."""

    time: AwareDatetime
    file: FileIdentity


class PackFolder:
    """The packs beside the folders of sets. What was listed is remembered: make another one to look again."""

    def __init__(self, directory: Path) -> None:
        self.store = LocalStore(directory)
        self._names: set[str] | None = None
        self._problems: dict[tuple[str, int, str], str] = {}

    @property
    def names(self) -> set[str]:
        """The regular files here."""
        if self._names is None:
            self._names = set(self.store.names())
        return self._names

    def problems(self, packs: Iterable[Pack]) -> list[str]:
        """What the folder alone shows to be wrong with packs."""
        return [found for pack in packs if (found := self._problem(pack))]

    def _problem(self, pack: Pack) -> str:
        # Each set of a year names the same hundreds.
        known = pack.file, pack.stored_size, pack.stored_sha256
        if known not in self._problems:
            self._problems[known] = self._looked_for(pack)
        return self._problems[known]

    def _looked_for(self, pack: Pack) -> str:
        damaged = pack.file + _DAMAGED in self.names
        # Not by its name: it may have come after these were listed, and before the manifest that names it was.
        status = statuses_of(self.store.directory, [pack.file])[pack.file]
        if status is None or not stat.S_ISREG(status.st_mode):
            return f"the pack {pack.file} is missing"
        if status.st_size != pack.stored_size and not self._of_size(pack, status.st_size):
            return f"the pack {pack.file} has {status.st_size:,} bytes instead of {pack.stored_size:,}"
        return f"the pack {pack.file} is damaged" if damaged else ""

    def as_stored(self, pack: Pack) -> Pack:
        """A pack as its file is now, where it was written anew; else as it is named."""
        found = self._rewritten(pack)
        return _written(pack, found) if found else pack

    def was_written_anew(self, pack: Pack) -> bool:
        """Whether it ever was, here."""
        return bool(read_note(self.store, pack.file).files)

    def content(self, pack: Pack) -> int:
        """Bytes of content in its file that sets named when that was written; 0 where that is not known."""
        found = self._rewritten(pack)
        return found.content if found else pack.content

    def versions(self, pack: Pack) -> list[Pack]:
        """What its file may be: as it is named, and as it was written anew."""
        note = read_note(self.store, pack.file)
        anew = note.files if note.original == pack.stored_sha256 else ()
        return [pack, *(_written(pack, each) for each in anew)]

    def digests(self, pack: Pack) -> set[str]:
        """The SHA-256 that its file may have."""
        return {each.stored_sha256 for each in self.versions(pack)}

    def put_in_place(self, pack: Pack, staged: StagedFile, made: Rewritten) -> None:
        """Let a sealed file take the name of a pack in one step. A kill leaves either, and a note that knows both."""
        note = PackNote(pack.stored_sha256, (made,))
        replace(self.store, pack.file + REPACKED, note_bytes(note), locked=True)
        with storing(staged.path):
            staged.path.replace(self.store.directory / pack.file)
        sync_directory(self.store.directory)
        self._forget()

    def put_back(self, staged: Sequence[StagedFile]) -> list[StagedFile]:
        """Let sealed files of packs take the names of such as were written anew here, in one step; the others."""
        left = []
        for file in staged:
            if read_note(self.store, file.name).files and (self.store.directory / file.name).is_file():
                with storing(file.path):
                    file.path.replace(self.store.directory / file.name)
                sync_directory(self.store.directory)
                self.store.remove_all([file.name + _DAMAGED, file.name + _CHECKED])
            else:
                left.append(file)
        self._forget()
        return left

    def _rewritten(self, pack: Pack) -> Rewritten | None:
        status = statuses_of(self.store.directory, [pack.file])[pack.file]
        return self._of_size(pack, status.st_size) if status else None

    def _of_size(self, pack: Pack, found: int) -> Rewritten | None:
        """What a pack was written anew as that has so many bytes."""
        if found == pack.stored_size:
            return None
        note = read_note(self.store, pack.file)
        return note.file(found) if note.original == pack.stored_sha256 else None

    def last_read(self, pack: str) -> datetime | None:
        """When this very file was read last, and was right."""
        with contextlib.suppress(StoreError, ValidationError):
            if pack + _CHECKED in self.names:
                note = _Checked.model_validate_json(self.store.read(pack + _CHECKED))
                return note.time if note.file == self.store.identity(pack) else None
        return None

    def note(self, pack: str, problems: Sequence[str], now: datetime, *, locked: bool = False) -> None:
        """What was found when a pack was read. StoreError where that cannot be kept. `locked`: by the lock's holder."""
        there, gone = (_DAMAGED, _CHECKED) if problems else (_CHECKED, _DAMAGED)
        if problems:
            self.store.remove(pack + gone)
            replace(self.store, pack + there, "\n".join(problems).encode(), locked=locked)
        else:
            note = _Checked(time=now, file=self.store.identity(pack))
            replace(self.store, pack + there, note.model_dump_json().encode(), locked=locked)
            self.store.remove(pack + gone)
        # Hundreds are noted one after the other: the folder is not listed anew for each.
        if self._names is not None:
            self._names = self._names - {pack + gone} | {pack + there}
        self._problems.clear()

    def _forget(self) -> None:
        self._names = None
        self._problems.clear()

    def make_way(self, packs: Iterable[str]) -> None:
        """Remove packs that are not whole, and what was noted of them: good ones are about to take their names."""
        for pack in packs:
            self.store.remove_all([pack, *_notes(pack)])
        self._forget()


def _written(pack: Pack, anew: Rewritten) -> Pack:
    return pack.model_copy(update={"stored_size": anew.stored_size, "stored_sha256": anew.stored_sha256})


def packs_beside(directory: Path) -> PackFolder:
    """The packs of the sets in a folder: `packs` lies beside it; in it, where a set was brought from elsewhere."""
    inside = directory / PACKS_FOLDER
    return PackFolder(inside if inside.is_dir() else directory.parent / PACKS_FOLDER)


def remove_unneeded(root: Path, sets: Iterable[StoredSet]) -> int:
    """Remove the packs that no manifest names; their bytes. Only for the holder of the lock, who just listed `sets`.

    None while a manifest cannot be read, here, of a set that is being removed, or aside: it may name any of them.
    """
    folder = PackFolder(root / PACKS_FOLDER)
    packs = {name for name in folder.names if _is_pack(name)}
    if not packs:
        return 0
    needed: set[str] = set()
    for stored in sets:
        if stored.state == "unreadable" or stored.summary.id != stored.id:
            return 0
        needed |= {pack.file for pack in stored.summary.packs}
    try:
        needed |= named_aside(root)
    except BackupError:
        return 0
    left = sorted(packs - needed)
    statuses = statuses_of(folder.store.directory, left)
    for name in left:
        folder.store.remove_all([name, *_notes(name)])
    if left:
        sync_directory(folder.store.directory)
    return sum(status.st_size for status in statuses.values() if status)


def named_aside(root: Path) -> set[str]:
    """The packs that manifests name which no listing shows. BackupError for one that cannot be read."""
    found: set[str] = set()
    folders = [root / tier for tier in Tier]
    with contextlib.suppress(OSError):
        folders += [path for path in (root / _QUARANTINE).iterdir() if path.is_dir()]
    for directory in folders:
        store = LocalStore(directory)
        aside = directory.parent.name == _QUARANTINE
        for name in store.names():
            bare = name.removeprefix(".").removesuffix(".removing")
            parsed = parse_file_name(bare)
            if parsed and parsed.what == "set" and parsed.suffix == "json" and (aside or name != bare):
                found |= {pack.file for pack in from_json(store.read(name), name).packs}
    return found


def _notes(pack: str) -> list[str]:
    return [pack + _DAMAGED, pack + _CHECKED, pack + REPACKED]


def _is_pack(name: str) -> bool:
    parsed = parse_file_name(name)
    return parsed is not None and parsed.content == "tar.gz"
