"""Settings → what a backup works with. Engine and database are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from backup.app.volume import BackupVolume
from backup.model.backup_set import StoredSet
from backup.operations.create.context import CreateContext
from backup.pipeline import age
from backup.progress import Progress

if TYPE_CHECKING:
    from backup.app.composition import App
    from backup.postgres.dump_source import PostgresSource
    from backup.postgres.scratch_server import Places


@dataclass(frozen=True)
class SetMaker(BackupVolume):
    """What makes sets in the backup volume."""

    def create_context(self, progress: Progress) -> CreateContext:
        """What `create` works with."""
        settings = self.settings
        return CreateContext(
            catalog=self.catalog,
            records=self.records,
            lock=self.lock,
            zone=settings.zone,
            volumes=settings.volumes,
            excludes=settings.excludes,
            allow_empty=settings.allow_empty,
            compression=settings.compression,
            stall_timeout=settings.stall_timeout,
            source=self.source,
            places=self.places,
            progress=progress,
            recipients=self.recipients,
            takes_media=bool(settings.media_every),
            file_columns=settings.file_columns,
            incremental=settings.media == "incremental",
        )

    @property
    def recipients(self) -> Sequence[age.Recipient]:
        """Whom what is written here is encrypted to."""
        return age.recipients(self.settings.age_recipients) if self.settings.encrypt == "all" else ()

    @cached_property
    def app(self) -> App:
        """The same, with all that speaks to engine and database."""
        from backup.app.composition import App  # noqa: PLC0415 - who takes the media alone need not wait for it

        return App(self.settings)

    def source(self) -> PostgresSource:
        """The database, by the way that settings and surroundings allow."""
        return self.app.source()

    def places(self, stored: StoredSet) -> Places:
        """Where a set is tried."""
        return self.app.places(stored)
