"""Snapshots of the media that fail again and again. Pure.

They are no backups: nothing here makes health better, and what fails costs no set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final

from backup.formatting import age
from backup.model.backup_set import SKEW
from backup.model.finding import Finding, warning
from backup.model.run import Outcome, Run

# One may give way to a backup, and one fail for a moment's reason.
_ROW: Final = 3
# Other work may keep the backup volume for hours.
_LONG: Final = timedelta(hours=6)
_WELL: Final = (Outcome.SUCCESS, Outcome.CHANGED)


def snapshot_findings(
    runs: Sequence[Run], now: datetime, since: datetime | None, period: timedelta | None
) -> Iterator[Finding]:
    """Tell that none of the last snapshots came to its end, or that none comes: what was uploaded meanwhile is in no
    set yet. One is due each `period`; `since`: when the service began."""
    mine = [run for run in runs if run.snapshot and run.outcome is not Outcome.RUNNING]
    newest_first = sorted(mine, key=lambda run: (run.started, run.id), reverse=True)
    bad = list(takewhile(lambda run: run.outcome not in _WELL, newest_first))
    if len(bad) >= _ROW:
        yield warning(
            f"none of the last {len(bad)} snapshots of the media came to its end: {bad[0].message}",
            bad[0].hint or "`create snapshot` takes one now.",
        )
        return
    # One that finds another run at work leaves no record. A set of the media does as well.
    well = (run for run in runs if run.operation == "create" and run.outcome in _WELL and run.only != "database")
    known = [*(run.started for run in well), *([since] if since else [])]
    last = max((each for each in known if each <= now + SKEW), default=now)
    if period and (old := now - last) > max(_ROW * period, _LONG):
        yield warning(
            f"no snapshot of the media has been taken for {age(old)}: what was uploaded since then is in no set yet",
            "One is left out while another run is at work: `logs --kind backup` says which. `create snapshot` takes one"
            " now.",
        )
