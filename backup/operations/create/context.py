"""What a backup works with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from backup.model.backup_set import StoredSet
from backup.operations.context import Context
from backup.pipeline.age import Recipient
from backup.postgres.dump_source import PostgresSource
from backup.postgres.scratch_server import Places


@dataclass(frozen=True, kw_only=True)
class CreateContext(Context):
    """What a backup works with. `source` connects when called, so that its failure is the run's.

    `places` decides where a set is tried.

    A volume that stands still for twice `stall_timeout` seconds, but half a minute at least, ends the run.
    `recipients`: what to encrypt to. `incremental`: only what is new of the volumes is archived.
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
    incremental: bool = False
