"""What every operation works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.progress import Progress, Silent


@dataclass(frozen=True, kw_only=True)
class Context:
    """One backup volume: its sets, its run records and its `lock`; who is shown the progress; what time it is.

    An operation that needs more extends it.
    """

    catalog: Catalog
    records: Records
    lock: Path
    progress: Progress = Silent()
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
