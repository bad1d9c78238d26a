"""The database that is to be dumped, as it answers, is waited for, goes away, or comes from elsewhere."""

from __future__ import annotations

import time
from typing import Final

from backup.docker.translate_errors import Gone
from backup.errors import BackupError, ConfigError, DatabaseNotYet, DatabaseUnavailable, DumpFailed, EngineError
from backup.formatting import printable
from backup.logging import logger
from backup.model.manifest import Manifest
from backup.operations.create.context import CreateContext
from backup.postgres.dump_source import PostgresSource
from backup.postgres.inspect import DatabaseFacts

# For a database that went away, such as one that Compose makes anew.
_RETURN: Final = 60.0
_RETRY: Final = 5.0
_SWEEP_FAILED: Final = "what an earlier run left in the database could not be removed: {}"
# What clients and the engine say of a server or a container that was stopped, restarted or made anew.
_WENT: Final = (
    *("server closed the connection", "terminating connection", "connection is lost", "Connection refused"),
    *("is shutting down", "is starting up", "in recovery mode", "is not running", "non running container"),
)


def went_away(error: BackupError) -> bool:
    """Whether a dump failed because the database was stopped, restarted or made anew meanwhile."""
    if isinstance(error, (Gone, DatabaseNotYet)):
        return True
    return isinstance(error, (DumpFailed, EngineError)) and any(words in error.message for words in _WENT)


def reach(
    context: CreateContext, before: Manifest | None, patience: float, waited: type[BackupError] = DatabaseNotYet
) -> tuple[PostgresSource, DatabaseFacts]:
    """The database and what it says, once it answers; what dead runs left at it is swept. `before` is the last set.

    An error of the kind `waited` is waited for up to `patience` seconds, any other is raised at once.
    """
    source, facts = _answering(context, patience, waited)
    logger.info("backing up the database by {}", source.clients.way)
    try:
        source.sweep()
    except BackupError as error:
        logger.warning(_SWEEP_FAILED, error.message)
    last = before.database if before else None
    if last and last.system_identifier != facts.system_identifier:
        logger.warning(
            "this is not the database server of the last set (system identifier {} instead of {})",
            facts.system_identifier,
            last.system_identifier,
        )
    return source, facts


def reach_again(context: CreateContext, facts: DatabaseFacts) -> tuple[PostgresSource, DatabaseFacts]:
    """The database that `facts` are of, after it went away; DumpFailed when another one has taken its place."""
    # While Compose makes a container anew there is none, or there are two, by that name: no fault of the settings.
    try:
        source, now = reach(context, None, min(_RETURN, context.stall_timeout), BackupError)
    except ConfigError as error:
        raise DatabaseUnavailable(error.message, error.hint) from error
    if (now.system_identifier, now.oid) != (facts.system_identifier, facts.oid):
        raise DumpFailed(
            f"{printable(facts.name)} was replaced by another database during the dump (system identifier"
            f" {now.system_identifier}, oid {now.oid}, instead of {facts.system_identifier}, {facts.oid}). Nothing"
            " was published",
            "If that was on purpose, `create` makes a set of the new one.",
        )
    return source, now


def _answering(
    context: CreateContext, patience: float, waited: type[BackupError]
) -> tuple[PostgresSource, DatabaseFacts]:
    """A stack that has just been started needs a moment."""
    deadline = time.monotonic() + patience
    while True:
        try:
            source = context.source()
            return source, source.inspect()
        except waited as error:
            if time.monotonic() >= deadline:
                raise
            logger.info("waiting for the database: {}", error.message)
            time.sleep(_RETRY)
