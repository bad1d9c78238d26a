"""What a restore, an undo and the end of an unfinished one work with."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

from backup.docker.application import Application
from backup.docker.container import DataPlace
from backup.docker.database_server import DatabaseServer
from backup.media.helper import FileTrees
from backup.operations.context import Context
from backup.operations.create.context import CreateContext
from backup.operations.load import Loaded
from backup.operations.restore.journal import Journal, JournalFile, KeptFile, RestoreStep
from backup.postgres.availability import Way
from backup.postgres.dump_source import PostgresSource


@dataclass(frozen=True, kw_only=True)
class RestoreContext(Context):
    """`source` connects when called; `application` is None where there is no engine; `mounts` are the volumes'.

    `trees` ends what dead runs left at work on the volumes: only for the lock's holder. `reach` raises BackupError
    unless what unpacks archives can see a folder; it touches nothing. `server_free`: the free bytes where the database
    server's data lie, and the number of that file system. `way`: how the application reaches its database, as far as
    its containers tell. `server`: the database's container, to be stopped and started. `jobs`: how many sessions may
    load a dump at once.
    """

    zone: ZoneInfo
    volumes: Path
    spool: Path
    instance: str
    create_context: CreateContext
    source: Callable[[], PostgresSource]
    trees: Callable[[], FileTrees]
    reach: Callable[[Path], None]
    application: Callable[[], Application | None]
    mounts: Callable[[], Collection[str]]
    way: Callable[[], Way | None]
    server: Callable[[DataPlace], DatabaseServer]
    server_free: Callable[[], tuple[int, int] | None]
    stops: Collection[str]
    commands: tuple[tuple[str, str], ...]
    command_seconds: float
    days: int
    jobs: Callable[[], int]
    sleep: Callable[[float], None] = time.sleep


@dataclass
class Work:
    """One restore or undo under way, and its journal. `loaded`: how the database was, once it is.

    `way` is how the application reaches its database. `window`: seconds for which the database could not be reached,
    `through` there, if it was asked there; `down`: for which the application was stopped.
    """

    context: RestoreContext
    file: JournalFile
    journal: Journal
    way: Way | None = None
    window: float = 0.0
    allow_invalid: bool = False
    loaded: Loaded = Loaded(())
    # What is to be said at its end, with the next step where there is one.
    told: list[tuple[str, str]] = field(default_factory=list)
    through: str = ""
    down: float = 0.0

    def advance(self, step: RestoreStep, **changes: object) -> None:
        """Note the next step before it is taken."""
        self.journal = self.file.advance(self.journal, step, **changes)

    @property
    def kept(self) -> KeptFile:
        """The record of what is kept for undo."""
        return KeptFile(self.context.catalog.root)
