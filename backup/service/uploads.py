"""The service's side of uploads: those that follow each backup, and those that are to be tried again."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.config.types import AFTER
from backup.errors import BackupError
from backup.logging import logger
from backup.model.manifest import Tier
from backup.operations.offsite.copy_status import OPERATIONS
from backup.operations.offsite.remote_state import BookFile, PlaceName
from backup.operations.offsite.rules import candidates, due, waiting

_LOOK: Final = 60.0
TRIGGER: Final = "after the backup"


def command(tier: Tier) -> tuple[str, ...]:
    """What uploads a tier besides the schedule."""
    return ("upload", str(tier), "--trigger", TRIGGER)


@dataclass
class After:
    """Looks every minute; one upload at a time. `uploads` maps tiers to `after` or a cron line, without those off."""

    catalog: Catalog
    records: Records
    places: Sequence[PlaceName]
    uploads: Mapping[Tier, str]
    ages: Mapping[Tier, timedelta]
    spawn: Callable[[tuple[str, ...]], subprocess.Popen[bytes]]
    _child: subprocess.Popen[bytes] | None = None
    _looked: float = field(default=0.0)

    def tick(self, now: datetime, steady: float) -> None:
        """To be called every second; `steady` are seconds of a clock that nobody sets."""
        if not self.places or not self.uploads or (self._looked and steady - self._looked < _LOOK):
            return
        if self._child and self._child.poll() is None:
            return
        self._looked, self._child = steady, None
        try:
            tiers = self.tiers(now)
        except BackupError:  # said by health
            return
        if tiers:
            logger.info("the upload of {} sets starts: they wait for it", tiers[0])
            self._child = self.spawn(command(tiers[0]))

    def tiers(self, now: datetime) -> list[Tier]:
        """The tiers whose upload is due now."""
        found = candidates(self.catalog.sets(), self.uploads, self.ages, now)
        follows = [tier for tier, when in self.uploads.items() if when == AFTER]
        scheduled = [tier for tier, when in self.uploads.items() if when != AFTER]
        runs = self.records.all()
        tiers: set[Tier] = set()
        for place in self.places:
            unsent = waiting(found, BookFile(self.catalog.root, place).read())
            tiers |= set(due(follows, scheduled, unsent, runs, OPERATIONS[place], now))
        return [tier for tier in Tier if tier in tiers]
