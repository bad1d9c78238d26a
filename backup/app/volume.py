"""Settings → what lies in the backup volume: all that most commands need. Neither engine nor database is imported."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from backup.catalog import resolve
from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.config.loader import Settings
from backup.errors import StoreError
from backup.model.backup_set import StoredSet
from backup.storage.filesystem import storing


@dataclass(frozen=True)
class BackupVolume:
    """The backup volume that settings name."""

    settings: Settings

    @cached_property
    def catalog(self) -> Catalog:
        """The sets in the backup volume; one for all who ask, with what it remembers."""
        return Catalog(self.settings.root, self.settings.zone, self.settings.age_identity)

    @property
    def records(self) -> Records:
        """The run records in the backup volume."""
        return Records(self.settings.root / "state" / "runs")

    @property
    def lock(self) -> Path:
        """The lock of the backup volume."""
        return self.settings.root / "state" / "lock"

    def find(self, *queries: str) -> StoredSet:
        """The set that a person names, here or elsewhere, by one name or by those of several of its files."""
        return resolve.together(self.catalog, queries, self.volume_names())

    def volume_names(self) -> list[str]:
        """The volumes that are mounted for backups."""
        with contextlib.suppress(OSError):
            return sorted(os.listdir(self.settings.volumes))
        return []

    def require_volume(self) -> None:
        """StoreError unless the backup volume is mounted: what is written beside it is lost with the container."""
        root = self.settings.root
        with storing(root):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.environ.get("container") and not is_mounted(root):
            raise StoreError(
                f"no volume is mounted at {root}; backups written there would vanish with this container",
                "Mount `obcms_backups:/backups` in the backup service, as docker-compose.backup.yml does.",
            )


def is_mounted(directory: Path) -> bool:
    """Whether a mount, other than the root's, holds `directory`."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = {line.split()[1].encode().decode("unicode_escape") for line in lines} - {"/"}
    resolved = directory.resolve()
    return any(str(path) in points for path in (resolved, *resolved.parents))
