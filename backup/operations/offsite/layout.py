"""Which object of a place belongs to which set: `<tier>/<file>`, and `packs/<file>` of those that share it. Pure.

The names are those of the local files, so that a set which somebody fetches by hand is one. `RESTORE_<id>.txt` says how
to restore it; it has the id in its name, so that no upload has to overwrite anything.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from backup.catalog.packs import PACKS_FOLDER
from backup.errors import IntegrityError
from backup.formatting import printable
from backup.model.backup_set import manifest_name
from backup.model.manifest import Manifest, Tier, file_name, from_json, parse_file_name
from backup.storage.remote import RemoteObject

_PAGE: Final = re.compile(r"RESTORE_(?P<id>.+)\.txt")


@dataclass
class RemoteSet:
    """The objects of one set, by key. `packs` are all that the place has, whichever set needs them."""

    id: str
    tier: Tier
    entries: dict[str, RemoteObject] = field(default_factory=dict)
    packs: dict[str, RemoteObject] = field(default_factory=dict)

    @property
    def objects(self) -> dict[str, RemoteObject]:
        """All among which those are that it needs."""
        return {**self.packs, **self.entries}

    @property
    def manifest_key(self) -> str:
        """Where its manifest is, or should be."""
        return key(self.tier, manifest_name(self.id))

    @property
    def size(self) -> int:
        """Bytes of all its objects."""
        return sum(entry.size for entry in self.entries.values())


def key(tier: Tier, file: str) -> str:
    """The key of a file of a set."""
    return f"{tier}/{file}"


def pack_key(file: str) -> str:
    """The key of a pack."""
    return f"{PACKS_FOLDER}/{file}"


def page_name(identifier: str) -> str:
    """`RESTORE_<id>.txt`."""
    return f"RESTORE_{identifier}.txt"


def sums_name(identifier: str) -> str:
    """`obcms_set_<id>.sha256`."""
    return file_name("set", identifier, "sha256")


def keys_of(manifest: Manifest) -> list[str]:
    """The keys of a set's objects in the order in which they are put, the manifest last."""
    packs = [pack_key(pack.file) for pack in manifest.packs]
    files = [key(manifest.tier, artifact.file) for artifact in manifest.artifacts]
    last = (sums_name(manifest.id), page_name(manifest.id), manifest_name(manifest.id))
    return [*packs, *files, *(key(manifest.tier, name) for name in last)]


def sums(manifest: Manifest) -> bytes:
    """The list for `sha256sum -c`."""
    return "".join(f"{artifact.stored_sha256}  {artifact.file}\n" for artifact in manifest.artifacts).encode()


class RemoteSets(dict[str, RemoteSet]):
    """The sets of a place, by id, and the packs that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.packs: dict[str, RemoteObject] = {}

    def of(self, identifier: str, tier: Tier) -> RemoteSet:
        """What is there of a set, if anything is."""
        return self.get(identifier) or RemoteSet(identifier, tier, packs=self.packs)


def grouped(entries: Iterable[RemoteObject]) -> RemoteSets:
    """The objects that belong to sets, by set; others are not ours."""
    found = RemoteSets()
    for entry in entries:
        tier, slash, name = entry.key.partition("/")
        identifier = _identifier(name)
        if tier == PACKS_FOLDER and identifier:
            found.packs[entry.key] = entry
        if slash and identifier and identifier.startswith(f"{tier}_"):
            found.setdefault(identifier, found.of(identifier, Tier(tier))).entries[entry.key] = entry
    return found


def _identifier(name: str) -> str:
    page = _PAGE.fullmatch(name)
    parsed = parse_file_name(file_name("set", page["id"], "json") if page else name)
    return parsed.set_id if parsed else ""


def read_manifest(data: bytes, remote: RemoteSet) -> Manifest:
    """The manifest of a set, which may name its own files only. IntegrityError for any other."""
    manifest = from_json(data, remote.manifest_key)
    files = [artifact.file for artifact in manifest.artifacts]
    foreign = [name for name in files if (parsed := parse_file_name(name)) is None or parsed.set_id != remote.id]
    packs = [pack.file for pack in manifest.packs]
    foreign += [name for name in packs if (parsed := parse_file_name(name)) is None or parsed.content != "tar.gz"]
    if manifest.id != remote.id or manifest.tier is not remote.tier:
        raise IntegrityError(f"the manifest {remote.manifest_key} is that of {printable(manifest.id)}")
    if foreign or len({*files, *packs}) != len(files) + len(packs):
        named = printable(foreign[0]) if foreign else "a file twice"
        raise IntegrityError(f"the manifest {remote.manifest_key} names {named}, which is not its own")
    return manifest


def files_of(manifest: Manifest) -> list[tuple[str, int, str]]:
    """(key, size, SHA-256) of every file that the manifest tells the bytes of: packs, artifacts, the list of sums."""
    data = sums(manifest)
    files = [(pack_key(pack.file), pack.stored_size, pack.stored_sha256) for pack in manifest.packs]
    files += [(key(manifest.tier, a.file), a.stored_size, a.stored_sha256) for a in manifest.artifacts]
    return [*files, (key(manifest.tier, sums_name(manifest.id)), len(data), hashlib.sha256(data).hexdigest())]


def compare(
    manifest: Manifest, entries: dict[str, RemoteObject], *, whole: bool = False
) -> tuple[list[str], list[str]]:
    """(objects that are missing, objects that are not as the manifest says), as far as `entries` tell; in words.

    Packs and artifacts alone, which is what a restore needs; `whole`: the list for `sha256sum -c`, too.
    """
    missing: list[str] = []
    wrong: list[str] = []
    for path, size, sha256 in files_of(manifest)[: None if whole else -1]:
        entry, file = entries.get(path), path.partition("/")[2]
        if entry is None:
            missing.append(f"{file} is missing")
        elif entry.size != size:
            wrong.append(f"{file} has {entry.size:,} bytes instead of {size:,}")
        elif entry.sha256 and entry.sha256 != sha256:
            wrong.append(f"{file} has another SHA-256 than the manifest says")
    return missing, wrong
