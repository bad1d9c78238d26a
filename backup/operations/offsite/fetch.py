"""Bring a set back from a place: into the catalogue, an empty folder, a temporary one, or a throw-away server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Final

from backup.catalog import quarantine
from backup.catalog.packs import PACKS_FOLDER, PackFolder
from backup.catalog.restore_page import PAGE, restore_page
from backup.errors import AlreadyHere, IntegrityError, RemoteArchived, RemoteDamaged, StoreError
from backup.formatting import listed, plural, printable, size
from backup.logging import logger
from backup.model.backup_set import StoredSet, Verdict, manifest_name
from backup.model.manifest import Artifact, Manifest, to_json
from backup.model.pack import Pack
from backup.model.run import Run, new_run_id
from backup.monitoring import forecast
from backup.operations import runs
from backup.operations.create.verify_new import verify_made
from backup.operations.drill.run import DrillContext, prove_set, proven
from backup.operations.offsite.context import OffsiteContext, first
from backup.operations.offsite.layout import RemoteSet, compare, key, keys_of, pack_key, sums, sums_name
from backup.operations.offsite.remote_state import Book
from backup.operations.offsite.rules import DRILL, PULL
from backup.operations.temporary import temporary_folder
from backup.storage.directory import LocalStore
from backup.storage.filesystem import free_space, storing
from backup.storage.staged_file import StagedFile

# What a set takes besides its artifacts, and a little air.
_AIR: Final = 8 << 20


def pull_set(context: OffsiteContext, query: str, wait: float = 0.0) -> Run:
    """Bring a set back into the catalogue, as a backup would put it there; the run, whose `set` is its id.

    Nothing appears before every byte was read and compared. AlreadyHere for one that is here and not known to be
    damaged; the files of one that is are kept aside until the copy in its place has been verified.
    """
    run = runs.Request().run(PULL, context.clock(), set=query)
    with runs.locked(context, run, wait) as run:
        with runs.recorded(context, run) as recording, runs.timed(recording.seconds, "total"):
            found, manifest, replaced = first(context, query, lambda *chosen: _published(context, *chosen))
            told = f"{size(manifest.stored_size)} from {context.remote.name}"
            recording.success = {
                "tier": str(found.tier),
                "set": found.id,
                "message": f"{told}, in place of damaged files" if replaced else told,
            }
        try:
            return verify_made(context, recording.run)
        finally:
            context.catalog.settle()
            if replaced and replaced.exists():
                logger.warning("the copy of {} is not verified: what it replaced is kept in {}", found.id, replaced)


def _published(
    context: OffsiteContext, found: RemoteSet, manifest: Manifest
) -> tuple[RemoteSet, Manifest, Path | None]:
    """Fetch and publish one set; also where the damaged files are that lay here under its id."""
    here = next((stored for stored in context.catalog.sets(found.tier) if stored.id == found.id), None)
    if here and here.state not in ("damaged", "unreadable"):
        raise AlreadyHere(
            f"{found.id} is here already and was not overwritten",
            f"`verify {found.id}` judges it; if it is damaged, this command replaces it with the copy.",
        )
    if here and (kept := quarantine.holds(context.catalog.root, found.id)):
        raise IntegrityError(
            f"an earlier copy of {found.id} is not good either",
            f"{kept} holds what it replaced: move that elsewhere, then pull again; or pull another set.",
        )
    with ExitStack() as stack:
        staged = _fetched(context, manifest, found, context.catalog.store(found.tier), stack)
        packs = _fetched_packs(context, manifest, context.catalog.packs, stack)
        stack.enter_context(runs.undisturbed())
        packs = context.catalog.packs.put_back(packs)
        context.catalog.packs.make_way(each.name for each in packs)
        if here is None:
            context.catalog.publish(manifest, staged, packs)
            return found, manifest, None
        try:
            replaced = context.catalog.put_aside(here)
            context.catalog.publish(manifest, staged, packs)
        except BaseException:
            context.catalog.settle()
            raise
        logger.warning("{} is damaged here ({}): the copy replaces it", found.id, printable(here.problem))
    return found, manifest, replaced


def pull_to(context: OffsiteContext, query: str, folder: Path) -> Manifest:
    """Bring a set to an empty folder; its manifest. StoreError when the folder is not empty, or is full."""
    store = LocalStore(folder)
    with storing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if store.names(foreign=True):
        raise StoreError(f"{printable(str(folder))} is not empty; nothing was written there", "Name an empty folder.")
    return first(context, query, lambda found, manifest: _laid(context, store, found, manifest))


def _laid(context: OffsiteContext, store: LocalStore, found: RemoteSet, manifest: Manifest) -> Manifest:
    with ExitStack() as stack:
        staged = _fetched(context, manifest, found, store, stack)
        folder = PackFolder(store.directory / PACKS_FOLDER)
        if packs := _fetched_packs(context, manifest, folder, stack):
            folder.store.publish(packs)
        last = stack.enter_context(store.stage(manifest_name(manifest.id)))
        for name, data in ((sums_name(manifest.id), sums(manifest)), (PAGE, restore_page(manifest).encode())):
            staged.append(_made(store, name, data, stack))
        last.write(to_json(manifest))
        last.seal()
        store.publish(staged)
        store.publish([last])
    return manifest


@contextlib.contextmanager
def temporarily(context: OffsiteContext, query: str, find: Callable[[Path], StoredSet]) -> Iterator[StoredSet]:
    """A set of the place in an empty temporary folder of the backup volume, for the body; then it is gone.

    Nothing but the place was asked for it. What a kill leaves goes with the next `sweep`.
    """
    with temporary_folder(context.catalog.root, new_run_id(context.clock()), "fetch") as folder:
        manifest = pull_to(context, query, folder)
        logger.info("{} was fetched from {}: {}", manifest.id, context.remote.name, size(manifest.stored_size))
        yield find(folder)


def _fetched(
    context: OffsiteContext, manifest: Manifest, found: RemoteSet, store: LocalStore, stack: ExitStack
) -> list[StagedFile]:
    """All artifacts, staged and compared with the manifest. An error leaves nothing."""
    missing, wrong = compare(manifest, found.objects)
    if problems := [*missing, *wrong]:
        raise IntegrityError(
            f"{found.id} at {context.remote.name} is not whole: {listed(problems, mark='; ')}",
            "`offsite list` shows others; `offsite verify` looks at all of them.",
        )
    wanted = {*found.entries, *keys_of(manifest)}
    needed = {name: entry for name, entry in found.objects.items() if name in wanted}
    if archived := [name for name, entry in needed.items() if entry.archived and _archived(context, name)]:
        raise RemoteArchived(
            f"{found.id} is archived at {context.remote.name}: its bytes cannot be read at once",
            f"Ask the store for {plural(len(archived), 'file')} (`aws s3api restore-object`), which takes hours; then"
            f" run this again: {', '.join(f'{context.remote.name}/{name}' for name in archived)}",
        )
    context.catalog.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with storing(store.directory):
        store.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    forecast.require_space(manifest.stored_size + _AIR, free_space(store.directory))
    return [
        fetched_file(context, key(manifest.tier, each.file), each, manifest.id, store, stack)
        for each in manifest.artifacts
    ]


def _fetched_packs(
    context: OffsiteContext, manifest: Manifest, folder: PackFolder, stack: ExitStack
) -> list[StagedFile]:
    """The packs that are not here, or not whole, or without what sets here do not need, staged and compared with the
    manifest."""
    wanted = [pack for pack in manifest.packs if folder.problems([pack]) or folder.as_stored(pack) != pack]
    known = {each.file: each for stored in context.catalog.sets() for each in stored.summary.packs}
    for pack in wanted:
        here = known.get(pack.file, pack)
        if here.stored_sha256 != pack.stored_sha256 and not folder.problems([here]):
            raise AlreadyHere(
                f"{manifest.id} needs {pack.file} as it was written anew elsewhere, and sets that are here need another"
                " one of that name; nothing was overwritten",
                f"`offsite pull {manifest.id} --to FOLDER` brings it to a folder of its own.",
            )
    if wanted:
        with storing(folder.store.directory):
            folder.store.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        forecast.require_space(sum(pack.stored_size for pack in wanted) + _AIR, free_space(folder.store.directory))
    return [fetched_file(context, pack_key(pack.file), pack, manifest.id, folder.store, stack) for pack in wanted]


def _archived(context: OffsiteContext, name: str) -> bool:
    """A listing goes on saying so after the store was asked for the bytes and has them; the object itself does not."""
    entry = context.remote.stat(name)
    return entry is None or entry.archived


def fetched_file(
    context: OffsiteContext, path: str, wanted: Artifact | Pack, identifier: str, store: LocalStore, stack: ExitStack
) -> StagedFile:
    """A file there, staged. IntegrityError unless it is what `wanted` says; `identifier` is what it is part of."""
    context.progress.phase(f"fetching {wanted.file}", wanted.stored_size)
    staged = stack.enter_context(store.stage(wanted.file))
    # Other bytes than the place says are others than the manifest says, too.
    with contextlib.suppress(RemoteDamaged):
        for chunk in context.remote.get(path):
            if staged.size + len(chunk) > wanted.stored_size:
                break
            staged.write(chunk)
            context.progress.advance(len(chunk))
    staged.seal()
    if (staged.size, staged.sha256) != (wanted.stored_size, wanted.stored_sha256):
        raise IntegrityError(
            f"{wanted.file} at {context.remote.name} differs from what was sent there; nothing of {identifier}"
            " was kept",
            "Try again; if it fails again, the copy is damaged: `offsite list` shows others.",
        )
    return staged


def _made(store: LocalStore, name: str, data: bytes, stack: ExitStack) -> StagedFile:
    staged = stack.enter_context(store.stage(name))
    staged.write(data)
    staged.seal()
    return staged


def drill_copy(
    query: str,
    context: OffsiteContext,
    local: DrillContext,
    find: Callable[[Path], StoredSet],
    *,
    wait: float = 0.0,
    trigger: str = "manual",
    slot: datetime | None = None,
    slots: int = 0,
) -> tuple[StoredSet, Verdict]:
    """Fetch, verify and prove one copy, and record the run. The lock of the volume is held for the proof alone."""
    request = runs.Request(wait=wait, trigger=trigger, slot=slot, slots=slots)
    run = request.run(DRILL, context.clock(), set=query, place=context.place)
    with runs.recorded_beside(context, run, f"{context.place}-drill", wait) as recording, ExitStack() as stack:
        with runs.timed(recording.seconds, "fetch"):
            stored = stack.enter_context(temporarily(context, query, find))
        with runs.locked(local, run, wait):
            verdict = prove_set(stored, local, run.id, recording.seconds)
        context.book.change(lambda book: _proven(book, stored, context.clock()))
        recording.success = {
            "set": stored.id,
            "tier": str(stored.tier),
            "message": f"from {context.remote.name}, {proven(verdict)}",
        }
    return stored, verdict


def _proven(book: Book, stored: StoredSet, now: datetime) -> Book:
    """A copy that was fetched and restored has been read, too."""
    copy = book.copies.get(stored.id)
    if copy is None or copy.run != stored.manifest.run:
        return book
    return book.with_copy(copy.model_copy(update={"proven": now, "read": now}))
