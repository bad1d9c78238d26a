"""What must be so before a restore touches anything: all that the set needs, and a safety set of what is live."""

from __future__ import annotations

from backup.errors import BackupError, LockHeld, RestoreFailed
from backup.logging import logger
from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier
from backup.operations.create.run import Only as Half
from backup.operations.create.run import Request, create_set
from backup.operations.restore.context import RestoreContext
from backup.operations.restore.locking import RUN_WAIT, require_alone
from backup.operations.restore.plan import Only
from backup.operations.restore.plan.checks import lacking
from backup.operations.restore.plan_inputs import missing_extensions
from backup.operations.restore.server_compatibility import Fit, fit
from backup.operations.set_artifacts import dump_of
from backup.operations.verify.run import SetContent
from backup.postgres.server import find_database, server_version, usable


def check_fit(stored: StoredSet, only: Only, context: RestoreContext) -> Fit:
    """How a set fits the server, if its database is restored."""
    if only == "media" or not dump_of(stored):
        return Fit()
    login = context.source().login
    return fit(login, stored.manifest.database, server_version(login))


def require_extensions(stored: StoredSet, only: Only, context: RestoreContext, found: SetContent) -> None:
    """The plan knows what the manifest says; a dump without one says it itself."""
    wanted = found.extensions if only != "media" else []
    if wanted and (absent := missing_extensions(context.source().login, wanted)):
        finding = lacking(absent)
        raise RestoreFailed(f"{stored.id} cannot be restored; nothing was touched: {finding.text}", finding.hint)


def safety_set(only: Only, context: RestoreContext, *, wanted: bool) -> str:
    """A verified set of the present state; its id. Whatever there is not, need not be saved."""
    if not wanted:
        logger.warning("no safety set is taken (--no-safety)")
        return ""
    database = only != "media" and _database_there(context)
    if not database and only == "database":
        logger.warning("there is no database yet: no safety set is needed")
        return ""
    require_alone(context)
    logger.info("taking a safety set of the live state")
    half: Half | None = only or (None if database else "media")
    try:
        made = create_set(Request(Tier.PRE_RESTORE, half, trigger="restore", wait=RUN_WAIT), context.create_context).set
    except LockHeld:
        raise
    except BackupError as error:
        raise RestoreFailed(
            f"the safety set failed, so nothing was restored and nothing was touched: {error.message}",
            f"{error.hint} `--no-safety` restores without one.".strip(),
        ) from error
    verdict = context.catalog.find(made).verdict
    if verdict is None or verdict.problems:
        raise RestoreFailed(
            f"the safety set {made} was not verified, because the run was stopped; nothing was restored",
            "Run the restore again.",
        )
    return made


def _database_there(context: RestoreContext) -> bool:
    login = context.source().login
    found = find_database(login, login.name)
    if found and found.half_removed:
        logger.warning("the live database is half removed, because a DROP DATABASE of it was interrupted")
    return usable(found) is not None
