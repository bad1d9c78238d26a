"""A backup volume with small sets, and a place in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.model.manifest import Tier
from backup.operations.offsite import upload as uploading
from backup.operations.offsite.context import OffsiteContext
from backup.progress import Silent
from tests.support.memory_remote import MemoryPlace
from tests.support.set_factory import on_disk

NOW = datetime(2025, 10, 20, 12, tzinfo=UTC)
TIERS = (Tier.DAILY, Tier.MONTHLY)


@dataclass
class Stack:
    """One volume, one place, and a clock that a test moves."""

    root: Path
    place: MemoryPlace
    now: datetime = NOW

    @property
    def catalog(self) -> Catalog:
        return Catalog(self.root, ZoneInfo("UTC"))

    @property
    def records(self) -> Records:
        return Records(self.root / "state" / "runs")

    def context(self, **changes: Any) -> OffsiteContext:
        settled = {
            "place": "s3",
            "remote": self.place,
            "catalog": self.catalog,
            "records": self.records,
            "lock": self.root / "state" / "lock",
            "tiers": TIERS,
            "ages": {Tier.DAILY: timedelta(days=30), Tier.MONTHLY: timedelta(days=365)},
            "progress": Silent(),
            "clock": self.tick,
        }
        return OffsiteContext(**{**settled, **changes})

    def tick(self) -> datetime:
        """The time, a moment later with each look."""
        self.now += timedelta(milliseconds=1)
        return self.now

    def make(self, days: float = 0, tier: Tier = Tier.DAILY, kind: str = "verified", **more: str) -> str:
        return on_disk(self.root, tier, self.now - timedelta(days=days, hours=2), kind, **more)

    def upload(self, tiers: tuple[Tier, ...] = TIERS, **changes: Any) -> uploading.Report:
        return uploading.upload_sets(uploading.Request(tiers=tiers), self.context(**changes))

    def keys(self, identifier: str) -> list[str]:
        return [key for key in sorted(self.place.objects) if identifier in key]


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(tmp_path, MemoryPlace())


@pytest.fixture
def shifted(stack: Stack) -> Callable[[float], None]:
    def shift(days: float) -> None:
        stack.now += timedelta(days=days)

    return shift
