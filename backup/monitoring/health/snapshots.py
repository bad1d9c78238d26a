"""Snapshots of the media that fail again and again. Pure.

They are no backups: nothing here makes health better, and what fails costs no set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Final

from backup.model.finding import Finding, warning
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run

# One may give way to a backup, and one fail for a moment's reason.
_ROW: Final = 3
_WELL: Final = (Outcome.SUCCESS, Outcome.CHANGED)


def snapshot_findings(runs: Iterable[Run]) -> Iterator[Finding]:
    """Tell that none of the last snapshots came to its end: what was uploaded meanwhile is in no set yet."""
    mine = [run for run in runs if run.tier == Tier.SNAPSHOT and run.outcome is not Outcome.RUNNING]
    newest_first = sorted(mine, key=lambda run: (run.started, run.id), reverse=True)
    bad = list(takewhile(lambda run: run.outcome not in _WELL, newest_first))
    if len(bad) >= _ROW:
        yield warning(
            f"none of the last {len(bad)} snapshots of the media came to its end: {bad[0].message}",
            bad[0].hint or "`create snapshot` takes one now.",
        )
