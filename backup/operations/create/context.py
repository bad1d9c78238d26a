"""What a backup works with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from zoneinfo import ZoneInfo

from backup.model.backup_set import StoredSet
from backup.model.recovered import Recovered
from backup.operations.context import Context
from backup.pipeline.age import Recipient
from backup.progress import Progress

if TYPE_CHECKING:  # who takes the media alone need not wait for their imports
    from backup.postgres.dump_source import PostgresSource
    from backup.postgres.inspect import DatabaseFacts
    from backup.postgres.scratch_server import Places


@dataclass(frozen=True)
class Reached:
    """A database to be dumped. `moment`: as of when it is, None for the live one; `recovered`: what from."""

    source: PostgresSource
    facts: DatabaseFacts
    moment: datetime | None = None
    recovered: Recovered | None = None


class Origin(Protocol):
    """Where a database comes from that is not the live one."""

    def reach(self, run: str, progress: Progress) -> AbstractContextManager[Reached]:
        """Have it for the body, under the lock, in the name of `run`."""


@dataclass(frozen=True, kw_only=True)
class CreateContext(Context):
    """What a backup works with. `source` connects when called, so that its failure is the run's.

    `places` decides where a set is tried.

    A volume that stands still for twice `stall_timeout` seconds, but half a minute at least, ends the run.
    `recipients`: what to encrypt to. `origin`: where the database comes from instead of `source`; `takes_media`: the
    set also holds the media that go with it, `file_columns` are the columns that name them. `incremental`: only what is
    new of the volumes is archived.
    """

    zone: ZoneInfo
    volumes: Path
    excludes: Sequence[str]
    allow_empty: Sequence[str]
    compression: int
    stall_timeout: float
    source: Callable[[], PostgresSource]
    places: Callable[[StoredSet], Places]
    recipients: Sequence[Recipient] = ()
    origin: Origin | None = None
    takes_media: bool = False
    file_columns: Sequence[str] = ()
    incremental: bool = False
