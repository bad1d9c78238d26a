"""An incremental set made a full one, which needs no packs: for what carries sets elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from backup.catalog.catalog import Catalog
from backup.errors import NoSpace
from backup.formatting import size
from backup.media.pack_reader import TreeReader, assembled
from backup.model.backup_set import StoredSet, manifest_name
from backup.model.manifest import MANIFEST_FORMAT, Artifact, Manifest, file_name, to_json
from backup.operations.inspect.file_index import index_entries
from backup.operations.inspect.one_file import open_archive
from backup.operations.set_artifacts import archive_of, open_file, require_as_written
from backup.operations.temporary import temporary_folder
from backup.progress import Progress
from backup.storage.artifact_writer import ArtifactWriter
from backup.storage.directory import LocalStore
from backup.storage.filesystem import free_space, storing
from backup.storage.staged_file import StagedFile

_SPARE: Final = 16 << 20


@contextlib.contextmanager
def without_packs(stored: StoredSet, catalog: Catalog, name: str, progress: Progress) -> Iterator[StoredSet]:
    """The set for the body: as it is if it needs no packs, else a full one in a temporary folder called `name`.

    Every byte of it is compared on its way. NoSpace where there is no room for it, IntegrityError.
    """
    if not stored.manifest.incremental:
        yield stored
        return
    needed = stored.size + sum(pack.stored_size for pack in stored.manifest.packs) + _SPARE
    if needed > free_space(catalog.root):
        raise NoSpace(
            f"to copy {stored.id}, its archives are put together in the backup volume first, which takes up to"
            f" {size(needed)}; that is not free. Nothing was copied",
            NoSpace.remedy,
        )
    with temporary_folder(catalog.root, name, "copy") as folder:
        with storing(folder):
            folder.mkdir(mode=0o700, parents=True)
        _write(stored, folder, progress)
        yield next(each for each in catalog.sets_in(folder, stored.tier) if each.id == stored.id)


def _write(stored: StoredSet, folder: Path, progress: Progress) -> None:
    store, manifest = LocalStore(folder), stored.manifest
    progress.phase(f"putting the archives of {stored.id} together")
    with ExitStack() as stack:
        staged: list[StagedFile] = []
        artifacts: list[Artifact] = []
        for artifact in manifest.artifacts:
            if artifact.kind == "tree":
                artifacts.append(_archived(stored, artifact.name, store, staged, stack, progress))
            else:
                artifacts.append(artifact)
                staged.append(_copied(stored, artifact, store, stack, progress))
        whole = manifest.model_copy(update={"format": MANIFEST_FORMAT, "artifacts": tuple(artifacts), "packs": ()})
        for name, data in (
            (file_name("set", manifest.id, "sha256"), _sums(whole)),
            (manifest_name(manifest.id), to_json(whole)),
        ):
            staged.append(stack.enter_context(store.stage(name)))
            staged[-1].write(data)
            staged[-1].seal()
        store.publish(staged)


def _archived(
    stored: StoredSet, volume: str, store: LocalStore, staged: list[StagedFile], stack: ExitStack, progress: Progress
) -> Artifact:
    tree, _, root = archive_of(stored, volume)
    archive = file_name(volume, stored.id, "tar.gz")
    writer = stack.enter_context(ArtifactWriter(store, archive, "volume", volume))
    with open_archive(stored, volume, tree, root, progress) as reader:
        for piece in assembled(reader, index_entries(stored, volume)) if isinstance(reader, TreeReader) else ():
            writer.write(piece)
    artifact = writer.finish()
    staged.append(writer.staged)
    return artifact


def _copied(
    stored: StoredSet, artifact: Artifact, store: LocalStore, stack: ExitStack, progress: Progress
) -> StagedFile:
    staged = stack.enter_context(store.stage(artifact.file))
    with open_file(stored, artifact.file, progress) as source:
        for piece in source.raw():
            staged.write(piece)
        require_as_written(stored, source)
    staged.seal()
    return staged


def _sums(manifest: Manifest) -> bytes:
    return "".join(f"{each.stored_sha256}  {each.file}\n" for each in manifest.artifacts).encode()
