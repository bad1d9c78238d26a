"""The service's side of proofs: the first set with new definitions is drilled as soon as nothing else runs."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from backup.catalog.catalog import Catalog
from backup.catalog.run_records import Records
from backup.errors import BackupError
from backup.logging import logger
from backup.model.backup_set import StoredSet, present
from backup.model.run import Outcome, Run
from backup.monitoring.health import newest_database
from backup.monitoring.health.proofs import DRILL
from backup.operations.drill.run import NEW
from backup.storage import lock

_LOOK: Final = 30.0
# Starts of one set by one service: what ends without a record is not begun again and again.
_STARTS: Final = 3
# Runs that have found something out, or failed for want of what the next one would want, too.
_DECIDED: Final = (Outcome.SUCCESS, Outcome.CHANGED, Outcome.FAILED, Outcome.CRASHED)


def due(sets: Sequence[StoredSet], runs: Sequence[Run]) -> StoredSet | None:
    """The set that is to be drilled now; None when one with its definitions was, or could not be.

    After one whose rows did not load, the next is drilled again: somebody may have put them right.
    """
    newest = newest_database(sets)
    part = newest.manifest.database if newest and newest.manifest else None
    if newest is None or part is None or not part.definitions:
        return None
    drilled = {run.set for run in runs if run.operation == DRILL and run.outcome in _DECIDED}
    alike = [s for s in sets if s.summary and part.alike(s.summary.database)]
    proofs = [(s, s.verdict.proof) for s in alike if s.verdict and s.verdict.proof]
    refused = [s.time for s, proof in proofs if proof.refusal]
    if any(not proof.refusal for _, proof in proofs) or newest.id in drilled:
        return None
    tried = bool(refused) or any(s.id in drilled for s in alike)
    return newest if not tried or (refused and newest.time > max(refused)) else None


def command(stored: StoredSet) -> tuple[str, ...]:
    """What drills it."""
    return ("drill", stored.id, "--trigger", NEW)


@dataclass
class DrillQueue:
    """Looks every half minute; one drill at a time, and none beside another run, to which it gives way."""

    catalog: Catalog
    records: Records
    lock: Path
    spawn: Callable[[tuple[str, ...]], subprocess.Popen[bytes]]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    _child: subprocess.Popen[bytes] | None = None
    _looked: float = field(default=0.0)
    _starts: Counter[str] = field(default_factory=Counter)

    def tick(self, steady: float, *, busy: bool) -> None:
        """To be called every second; `steady` are seconds of a clock that nobody sets. `busy`: start nothing."""
        if busy or (self._looked and steady - self._looked < _LOOK) or (self._child and self._child.poll() is None):
            return
        self._looked, self._child = steady, None
        if lock.holder(self.lock) is not None:
            return
        try:
            stored = due(present(self.catalog.sets(), self.clock()), self.records.all())
        except BackupError:  # said by health
            return
        if stored and self._starts[stored.id] < _STARTS:
            self._starts[stored.id] += 1
            logger.info("the drill of {} starts: no set with its definitions has been drilled", stored.id)
            self._child = self.spawn(command(stored))
