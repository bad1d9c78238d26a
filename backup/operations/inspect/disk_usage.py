"""What takes the space in the backup volume, file by file: nothing is left out."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backup.catalog.catalog import Catalog
from backup.catalog.packs import PACKS_FOLDER, PackFolder
from backup.catalog.restore_page import PAGE
from backup.catalog.wal_archive import WAL
from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier, parse_file_name
from backup.operations.restore.journal import KeptFile
from backup.storage.filesystem import disk_space, store_error
from backup.storage.staged_file import STAGED_SUFFIX

_REMOVING: Final = ".removing"
_LISTED: Final = 1000
LOGS: Final = "logs"
STATE: Final = "state"


@dataclass
class SetUse:
    """Bytes of one set by kind: database, roles, media, index, and the small files that say what it is.

    `needs`: bytes of the packs that it needs, `alone` of those that no other set needs.
    """

    id: str
    tier: str
    kinds: Counter[str] = field(default_factory=Counter)
    needs: int = 0
    alone: int = 0

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.kinds.total()

    @property
    def frees(self) -> int:
        """What its removal frees."""
        return self.bytes + self.alone


@dataclass
class Use:
    """The volume. `leftovers` are of runs that died, `foreign` is not ours: (path, bytes), the first 1,000.

    `undo` is what the last restore replaced; it lies in the database server and in the volumes, not here.
    """

    free: int
    total: int
    undo: int
    sets: dict[str, SetUse] = field(default_factory=dict)
    other: Counter[str] = field(default_factory=Counter)
    leftovers: list[tuple[str, int]] = field(default_factory=list)
    foreign: list[tuple[str, int]] = field(default_factory=list)

    @property
    def by_size(self) -> list[SetUse]:
        """The sets, the largest first."""
        return sorted(self.sets.values(), key=lambda each: (-each.bytes, each.id))

    @property
    def tiers(self) -> dict[str, int]:
        """Bytes of the sets of each tier."""
        sums: Counter[str] = Counter()
        for each in self.sets.values():
            sums[each.tier] += each.bytes
        return dict(sums)

    @property
    def kinds(self) -> Counter[str]:
        """Bytes of each kind, over all sets."""
        sums: Counter[str] = Counter()
        for each in self.sets.values():
            sums.update(each.kinds)
        return sums

    @property
    def bytes(self) -> int:
        """All that lies in the volume (of one tier: there)."""
        return self.kinds.total() + self.other.total()


def usage(catalog: Catalog, tier: Tier | None = None) -> Use:
    """Look at every file of the volume, or of one tier."""
    free, total = disk_space(catalog.root)
    kept = KeptFile(catalog.root).read()
    use = Use(free, total, kept.size if kept else 0)
    sets = catalog.sets()
    # Files of the old scripts that are one set bear ids of their own.
    bare = (each for each in sets if each.state == "old script")
    ids = {f"{each.tier}{os.sep}{name}": each.id for each in bare for name in each.files}
    top = str(catalog.root / tier) if tier else str(catalog.root)
    for path, size in _files(top):
        _place(use, os.path.relpath(path, catalog.root), size, ids)
    _share(use, sets, catalog.packs)
    return use


def _share(use: Use, sets: Sequence[StoredSet], folder: PackFolder) -> None:
    """Note what each set needs of packs. They are counted once, whoever needs them."""
    known = {pack for stored in sets for pack in stored.summary.packs}
    sizes = {pack: folder.as_stored(pack).stored_size for pack in known}
    needing = {stored.id: {pack.file: sizes[pack] for pack in stored.summary.packs} for stored in sets}
    needed = Counter(file for packs in needing.values() for file in packs)
    for identifier, each in use.sets.items():
        packs = needing.get(identifier, {})
        each.needs = sum(packs.values())
        each.alone = sum(count for file, count in packs.items() if needed[file] == 1)


def _files(top: str) -> Iterator[tuple[str, int]]:
    """Every file below a directory with its bytes; links are not followed, directories that vanish are passed over."""
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as found:
                entries = list(found)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise store_error(error, Path(folder)) from error
        for entry in entries:
            try:
                detail = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(detail.st_mode):
                waiting.append(entry.path)
            else:
                yield entry.path, detail.st_size


def _place(use: Use, path: str, size: int, ids: Mapping[str, str]) -> None:
    top, _, name = path.partition(os.sep)
    bare = name.removeprefix(".").removesuffix(STAGED_SUFFIX).removesuffix(_REMOVING)
    plain = bare.removesuffix(".verdict").removesuffix(".pin")
    parsed = parse_file_name(bare, Tier(top)) or parse_file_name(f"{plain}.json") if top in set(Tier) else None
    if name.startswith(".") and (name.endswith((STAGED_SUFFIX, _REMOVING))) or path.startswith("state/import/"):
        _list(use, "leftovers", use.leftovers, path, size)
    elif parsed and parsed.tier == top:
        kind, identifier = _kind(parsed.what, parsed.suffix), ids.get(path, parsed.set_id)
        use.sets.setdefault(identifier, SetUse(identifier, top)).kinds[kind] += size
    elif top in (LOGS, STATE, WAL, PACKS_FOLDER):
        use.other[top] += size
    elif name == PAGE:
        use.other["pages"] += size
    else:
        _list(use, "foreign", use.foreign, path, size)


def _kind(what: str, suffix: str) -> str:
    if what == "set":
        return "manifest"
    if suffix.startswith(("files.gz", "tree.gz")):
        return "index"
    if suffix.startswith("tar.gz"):
        return "media"
    return "roles" if what == "roles" else "database"


def _list(use: Use, kind: str, listed: list[tuple[str, int]], path: str, size: int) -> None:
    use.other[kind] += size
    if len(listed) < _LISTED:
        listed.append((path, size))
