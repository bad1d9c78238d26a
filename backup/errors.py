"""The error tree: what failed, what to do about it, and how the process ends.

Every expected failure is a BackupError. Its message names what failed and in what state things
are now, its hint names the next command or setting. `backup/cli/` alone turns it into text and an exit code;
anything that is not a BackupError is a bug and keeps its traceback.
"""

from __future__ import annotations


class BackupError(Exception):
    """An expected failure. `message` is one sentence, `hint` the remedy, `exit_code` the process's."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(BackupError):
    """The settings cannot be used. The message lists every problem found, not the first."""

    exit_code = 10


class LockHeld(BackupError):
    """Another run holds the backup volume's lock."""

    exit_code = 11


class NotConfirmed(BackupError):
    """Nobody agreed to something that overwrites or removes data; nothing was touched."""

    exit_code = 12


class SourceError(BackupError):
    """What is to be backed up cannot be read."""

    exit_code = 20


class DatabaseUnavailable(SourceError):
    """The database server does not answer, or refuses the login."""


class DatabaseNotYet(DatabaseUnavailable):
    """The database does not answer now, but may in a moment: it is starting, or its container is."""


class DumpFailed(SourceError):
    """The database client ended with an error, stalled, or wrote an incomplete dump."""


class EngineError(SourceError):
    """The Docker engine refused or failed a request."""


class MediaFailed(SourceError):
    """A volume is missing, empty, or holds something that cannot be read."""


class StoreError(BackupError):
    """The backup volume cannot be used: not mounted, full, read-only or failing."""

    exit_code = 30


class NoSpace(StoreError):
    """There is not enough room in the backup volume."""

    # The way out that loses nothing which is still within its time.
    remedy = "`prune --make-room` removes sets that are past retention; or give the volume a larger disk."


class IntegrityError(BackupError):
    """Stored bytes are not what was written."""

    exit_code = 40


class NotTaken(IntegrityError):
    """A place has other bytes, which sets there need, under a name that a set needs too. Nothing was overwritten."""


class RemoteFailed(BackupError):
    """The place of the offsite copies does not answer, or fails. Local sets are untouched."""

    exit_code = 32


class RemoteDenied(RemoteFailed):
    """The place of the offsite copies refuses the key, or what is asked of it."""


class RemoteMissing(RemoteFailed):
    """An object that should be at the place of the offsite copies is not there."""


class RemoteDamaged(RemoteFailed):
    """The bytes of an object are not those that the place of the offsite copies says it holds."""

    exit_code = 40


class RemoteArchived(RemoteFailed):
    """The bytes of an object cannot be read without a request that takes hours."""


class NotProven(BackupError):
    """A set's bytes are as they were written, but restoring them gave something else."""

    exit_code = 41


class NotFound(BackupError):
    """No set or file of that name."""

    exit_code = 44


class AlreadyHere(BackupError):
    """What is to be brought here is here already, and is not known to be damaged. Nothing was changed."""

    exit_code = 46


class KeyMissing(BackupError):
    """What is encrypted cannot be opened: there is no identity, or it belongs to other recipients."""

    exit_code = 45


class LoadFailed(BackupError):
    """The database client could not load what it was given.

    `refused`: the server refused a statement of it, with this `sqlstate` where psql told it. `constraint`: which one
    was broken, by its schema, table and name. `lost`: it got no connection, or lost it.
    """

    exit_code = 50

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        refused: bool = False,
        sqlstate: str = "",
        constraint: tuple[str, ...] = (),
        lost: bool = False,
    ) -> None:
        super().__init__(message, hint)
        self.refused, self.sqlstate, self.constraint, self.lost = refused, sqlstate, constraint, lost


class RestoreFailed(BackupError):
    """A restore did not happen: the live data is what it was before."""

    exit_code = 50


class DropDelayed(RestoreFailed):
    """The server let DROP DATABASE wait for somebody else; what is left of the database is dropped next time."""


class RestoreUnfinished(BackupError):
    """A restore was stopped half way; `restore --resume` or `restore --rollback` ends it."""

    exit_code = 51


class AfterRestore(BackupError):
    """The restore happened, but something that belongs after it failed."""

    exit_code = 52


class NotDelivered(BackupError):
    """A message did not reach every target."""

    exit_code = 62


class Interrupted(BaseException):
    """A signal ended the run. `exit_code` is 128 + the signal's number.

    No BackupError and no Exception: it can be raised at any line, also in a library or in a block of ours that
    takes every error for its own and goes on.
    """

    hint = ""

    def __init__(self, signal_number: int) -> None:
        self.message = f"stopped by signal {signal_number}; nothing of this run was published"
        super().__init__(self.message)
        self.exit_code = 128 + signal_number
