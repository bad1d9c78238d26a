"""Where a manifest contradicts itself, or a tree its manifest: nothing is read for it but these."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from backup.errors import IntegrityError
from backup.formatting import printable
from backup.media.tar_writer import IndexEntry
from backup.media.tree import TreeEntry
from backup.model.manifest import Manifest

Pair = tuple[TreeEntry, IndexEntry | None]
OF_A_VOLUME: Final = ("volume", "tree", "index")


def contradictions(manifest: Manifest) -> list[str]:
    """Where the manifest describes what it lists no file of, or lists a file that it does not describe."""
    kinds = [(artifact.kind, artifact.name) for artifact in manifest.artifacts]
    volumes = {part.name for part in manifest.volumes}
    problems = []
    if (manifest.database is not None) != (("database", "") in kinds):
        problems.append("the manifest contradicts itself about the database")
    dump = manifest.artifact("database")
    if dump and not dump.plain_sha256 and ("contents", "") not in kinds:
        problems.append("the manifest does not say what its dump holds")
    held, other = ("tree", "volume") if manifest.incremental else ("volume", "tree")
    named = {each: {name for kind, name in kinds if kind == each} for each in OF_A_VOLUME}
    if not volumes == named[held] == named["index"] or named[other] or (manifest.packs and not manifest.incremental):
        problems.append("the manifest contradicts itself about the volumes")
    if len(set(kinds)) != len(kinds) or len({artifact.file for artifact in manifest.artifacts}) != len(kinds):
        problems.append("the manifest lists a file twice")
    return problems


def named_by(pairs: Iterable[Pair], packs: Collection[str]) -> Iterator[Pair]:
    """The entries of a tree; IntegrityError where one lies in a pack that the manifest does not name."""
    for pair in pairs:
        place = pair[0].place
        if place and place.pack and place.pack not in packs:
            raise IntegrityError(f"{printable(place.pack)} is needed, but is no pack that the manifest names")
        yield pair
