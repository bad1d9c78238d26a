"""Read every stored byte of a set again and judge it, and all that it holds, by the manifest."""

from __future__ import annotations

from datetime import datetime

from backup.catalog.catalog import Catalog
from backup.errors import KeyMissing, StoreError
from backup.logging import logger
from backup.model.backup_set import StoredSet, Verdict
from backup.operations.verify.bare_set import BareCheck
from backup.operations.verify.packs import PackChecks
from backup.operations.verify.set_files import Checked, Reader, SetCheck, SetContent
from backup.operations.verify.written import Written
from backup.progress import Progress

__all__ = ["Checked", "SetContent", "check_set", "verify_set"]


def verify_set(
    catalog: Catalog,
    stored: StoredSet,
    progress: Progress,
    now: datetime,
    *,
    quick: bool = False,
    packs: PackChecks | None = None,
) -> Verdict:
    """Judge a set by its bytes on disk, and keep the verdict beside it when it is one of this volume.

    Quick: sizes and SHA-256 of the stored files alone. A set that was found damaged is always judged in full, since
    its bytes may be as they were written and what they hold wrong all the same. `packs`: as of check_set.
    """
    before = stored.verdict
    if before and before.problems:
        quick = False
    problems, unchecked, _ = check_set(stored, progress, quick=quick, packs=packs)
    verdict = Verdict(checked=now, problems=tuple(problems), unchecked=tuple(unchecked))
    if not catalog.keeps_verdict(stored):
        return verdict
    try:
        verdict = catalog.record_verdict(stored, verdict, now)
    except StoreError as error:
        logger.warning("the verdict on {} could not be saved: {}", stored.id, error.message)
        if problems:  # the lists still call it good: whoever gets the exit code must be told
            unkept = f"this verdict could not be saved, so the set may still be listed as good: {error.message}"
            verdict = verdict.model_copy(update={"problems": (*problems, unkept)})
    return verdict


def check_set(
    stored: StoredSet,
    progress: Progress,
    *,
    quick: bool = False,
    outline: Reader | None = None,
    packs: PackChecks | None = None,
    written: Written | None = None,
) -> Checked:
    """What `verify` finds, recorded nowhere but beside packs. Without a manifest all is read, `quick` means nothing.

    KeyMissing when it is encrypted and there is no key, or another one. `outline`, if given, gets the database's dump
    from the same reading; finished only when there are no problems. `packs` knows what was found of packs before,
    `written` what the disk gave back of a set that was just made.
    """
    if stored.encrypted and stored.identity is None and (stored.derived or not quick):
        raise KeyMissing(
            f"{stored.id} is encrypted, and no identity is here to open it",
            "Name the file with the private key: --identity FILE, or BACKUP_AGE_IDENTITY_FILE."
            " `verify --quick` compares the stored bytes without it.",
        )
    progress.phase(f"reading {stored.id}", stored.size)
    kind = BareCheck if stored.derived else SetCheck
    return kind(stored, progress, outline, packs, written).run(quick=quick)
