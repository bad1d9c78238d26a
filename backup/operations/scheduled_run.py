"""A scheduled run's side of the accounts: it claims the slot it is for, and says how it ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from backup.catalog.scheduler_state import Ledger
from backup.errors import BackupError, Interrupted
from backup.formatting import local_time
from backup.logging import logger
from backup.model.schedule import Account, claim, opened, settle


@dataclass(frozen=True)
class Claim:
    """Whether to run, and for which account; `said` is what to tell about it."""

    wanted: bool
    account: Account | None = None
    said: str = ""


UNBOUND: Final = Claim(wanted=True)


@contextlib.contextmanager
def fulfil(
    ledger: Ledger, job: str, cron: str, zone: ZoneInfo, clock: Callable[[], datetime], *, force: bool = False
) -> Iterator[Claim]:
    """Claim what is owed of `job` for the body, and note how that ended. `force`: run also if nothing is owed.

    Accounts that cannot be written never keep a run from its work: a full disk may be what it puts right.
    """
    if not cron:
        yield UNBOUND
        return
    with contextlib.ExitStack() as stack:
        try:
            if stack.enter_context(ledger.running(job)):
                found = _claim(ledger, job, cron, zone, clock(), force)
            else:
                found = Claim(wanted=False, said=f"{job} is running already; nothing was done")
        except BackupError as error:
            logger.warning("the slot of {} could not be claimed: {}", job, error.message)
            found = UNBOUND
        if not found.account:
            yield found
            return
        code = 0
        try:
            yield found
        except BaseException as error:
            code = _exit_code(error)
            raise
        finally:
            _settle(ledger, job, found.account, clock(), code)


def _claim(ledger: Ledger, job: str, cron: str, zone: ZoneInfo, now: datetime, force: bool) -> Claim:
    with ledger.changing(now) as draft:
        before = draft.book.jobs.get(job)
        account, _ = opened(before, cron, now, zone)
        claimed = claim(account, now, zone)
        if claimed is None and before is None:
            # No service has opened the accounts: somebody runs the command by itself.
            claimed = account.model_copy(update={"trigger": "schedule", "begun": now})
        if claimed is None:
            if force:
                return UNBOUND
            last = local_time(account.until, zone, "%Y-%m-%d %H:%M:%S")
            return Claim(wanted=False, said=f"{job} is not due: its slots until {last} are accounted for")
        draft.book = draft.book.with_account(job, claimed)
    said = ""
    if claimed.trigger == "catch-up":
        due = local_time(claimed.slot, zone) if claimed.slot else "an unknown time"
        said = f"{job} is caught up, once for {claimed.slots}: it was due at {due}"
    return Claim(wanted=True, account=claimed, said=said)


def _settle(ledger: Ledger, job: str, claimed: Account, now: datetime, code: int) -> None:
    try:
        with ledger.changing(now) as draft:
            account = draft.book.jobs.get(job)
            if account and account.begun == claimed.begun:
                draft.book = draft.book.with_account(job, settle(account, now, code))
    except BackupError as error:
        logger.warning("how {} ended could not be noted for the schedule: {}", job, error.message)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, (BackupError, Interrupted)):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 130 if isinstance(error, KeyboardInterrupt) else 1
