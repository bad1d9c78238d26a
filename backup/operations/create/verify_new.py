"""A set that has just been made is verified as any other, and tried: what is called good has been read, and loads."""

from __future__ import annotations

import contextlib
import time
from datetime import timedelta
from typing import Final

from backup.catalog.restore_page import PAGE, restore_page
from backup.errors import BackupError, IntegrityError, Interrupted, NotProven
from backup.formatting import duration, plural, printable, size
from backup.logging import logger
from backup.model.backup_set import NOT_WAITED_FOR, LoadTest, Verdict, present
from backup.model.manifest import Manifest
from backup.model.pack import own_bytes
from backup.model.run import Run
from backup.model.tiers import NO_BACKUPS
from backup.monitoring.health import shrink
from backup.operations import runs
from backup.operations.context import Context
from backup.operations.create.context import CreateContext
from backup.operations.create.draft import SetDraft
from backup.operations.verify.packs import READ_LATELY, PackChecks
from backup.operations.verify.run import check_set
from backup.operations.verify.written import Written
from backup.storage.atomic_file import replace
from backup.storage.directory import LocalStore
from backup.storage.filesystem import ON_A_DISK, in_memory

_UNTRIED: Final = "not load-tested"
_DRILL: Final = "`drill latest` restores it into a throw-away server."


def verify_made(context: Context, done: Run, written: Written | None = None) -> Run:
    """Read the set of a run whole, keep the verdict, and write how to restore it by hand; the run, with the time taken.

    What was read back when it was `written` is judged by that.

    IntegrityError for a damaged set, StoreError when the volume fails, after the run was recorded as failed. The set is
    published by now: whoever ends the verification leaves a good run and a set that says it was not verified.
    """
    started = time.monotonic()
    stored = context.catalog.find(done.set)
    try:
        replace(LocalStore(stored.directory), PAGE, restore_page(stored.manifest).encode(), locked=True)
        if runs.told_to_end():
            logger.warning("{} was not verified: the run was stopped", done.set)
            return done
        # Without the key, what lies there can be compared, and the verdict says what that leaves open.
        sealed = stored.encrypted and stored.identity is None
        # A snapshot, and a set of a moment, leave the packs that were read before to the nights.
        part = stored.manifest.database
        lately = timedelta.max if stored.snapshot or (part and part.recovered) else READ_LATELY
        packs = PackChecks(context.catalog.packs, context.progress, lately, written, locked=True)
        problems, unchecked, _ = check_set(stored, context.progress, quick=sealed, packs=packs, written=written)
        verdict = Verdict(checked=context.clock(), problems=tuple(problems), unchecked=tuple(unchecked))
        context.catalog.record_verdict(stored, verdict, locked=True)
        _judge(done.set, problems)
    except Interrupted as signalled:
        logger.warning("{} is published, but was not verified: signal {}", done.set, signalled.exit_code - 128)
        return done
    except BackupError as error:
        runs.record_failure(context, done, error, done.seconds)
        raise
    done = done.model_copy(update={"seconds": {**done.seconds, "verify": round(time.monotonic() - started, 3)}})
    runs.record(context, done)
    return done


def end_made(context: CreateContext, manifest: Manifest, done: Run, draft: SetDraft) -> Run:
    """Try whether a set that was verified loads, keep and say what was found; the run. NotProven if it does not load.

    `draft` is what it was made of. One without a database is not tried.
    """
    try:
        test = _tried(context, done, draft) if manifest.database else None
        if test and test.refusal:
            raise NotProven(f"{done.set} is complete, but does not load: {test.refusal}", test.remedy)
    except Interrupted as signalled:
        test = LoadTest(tried=context.clock(), untried=f"the run was stopped (signal {signalled.exit_code - 128})")
    except BackupError as error:
        runs.record_failure(context, done, error, done.seconds)
        raise
    if test and test.untried:
        told = "; ".join(filter(None, [done.message, f"{_UNTRIED}: {test.untried}"]))
        done = done.model_copy(update={"message": told, "hint": done.hint or test.remedy or _DRILL})
        runs.record(context, done)
    _report(manifest, done, test)
    _report_less(context, manifest)
    if memory := in_memory(context.catalog.root):
        logger.error("{} is complete, but not on a disk: {}\n  {}", manifest.id, memory, ON_A_DISK)
    return done


def _report_less(context: CreateContext, manifest: Manifest) -> None:
    """Say at once what health will say until it is long ago: data may have been lost before the backup."""
    if manifest.tier in NO_BACKUPS:
        return
    with contextlib.suppress(BackupError):  # said by health
        sets = present(context.catalog.sets(), context.clock())
        for each in shrink.of_set(context.catalog.find(manifest.id), sets):
            logger.warning("{}\n  {}", each.text, each.hint)


def _tried(context: CreateContext, done: Run, draft: SetDraft) -> LoadTest:
    # Who takes the media alone need not wait for the import.
    from backup.operations.create.database import try_set  # noqa: PLC0415

    stored = context.catalog.find(done.set)
    if stored.verdict is None:
        return LoadTest(tried=context.clock(), untried="the run was stopped")
    context.progress.phase("load test")
    test = try_set(context, stored, draft, done.id)
    verdict = stored.verdict.model_copy(update={"load_test": test})
    context.catalog.record_verdict(stored, verdict, locked=True)
    return test


def _report(manifest: Manifest, run: Run, test: LoadTest | None) -> None:
    for caution in manifest.database.cautions if manifest.database else ():
        logger.warning("{}", printable(caution))
    for volume in manifest.volumes:
        for change in volume.changed:
            logger.warning("{}/{}: {}", volume.name, change.path, change.what)
    new = [pack for pack in manifest.packs if own_bytes([pack], manifest.id)]
    took = duration(run.seconds.get("total", 0))
    size_ = size(manifest.stored_size + sum(pack.stored_size for pack in new))
    empty = "".join(f"; {volume.name}: empty" for volume in manifest.volumes if not volume.files)
    what = f"{size_} in {plural(len(manifest.artifacts) + len(new), 'file')}, written and read back in {took}{empty}"
    loads = ", loads" if test else ""
    if test and test.untried:
        loads = f"; {_UNTRIED}: {printable(test.untried)}"
        if test.untried != NOT_WAITED_FOR:  # which is as it should be
            hint = printable(test.remedy or _DRILL)
            logger.warning("set {} is {}{} ({})\n  {}", manifest.id, manifest.status, loads, what, hint)
            return
    logger.success("set {} is {}{}: {}", manifest.id, manifest.status, loads, what)


def _judge(identifier: str, problems: list[str]) -> None:
    if problems:
        raise IntegrityError(
            f"{identifier} is damaged right after it was written: {printable('; '.join(problems))}",
            "Is the disk failing? Its kernel log may say so. Earlier sets were not touched; `create` tries again.",
        )
