"""Whether sets load, as far as somebody has tried. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from backup.formatting import plural
from backup.model.backup_set import StoredSet
from backup.model.finding import Finding, warning
from backup.model.run import Run
from backup.monitoring.health.model import FIRST, newest, newest_database

_LISTED: Final = 5
# A run that was killed before it had tried is not waited for without end.
_TRYING: Final = timedelta(minutes=10)


def reasons(sets: Sequence[StoredSet], runs: Sequence[Run], now: datetime) -> Iterator[Finding]:
    """Sets that do not load, and a newest one that nobody has tried; `starting` while that of the first backup is."""
    yield from _refused(sets)
    good = newest_database(sets)
    part = good.manifest.database if good and good.manifest else None
    # Sets of earlier releases do not say what they would have to be compared by.
    if good and part and part.definitions and not good.loads:
        test = good.verdict.load_test if good.verdict else None
        made = next((run for run in runs if run.set == good.id and run.trigger == FIRST), None)
        if test is None and made and made.ended and timedelta() <= now - made.ended < _TRYING:
            hint = "`docker compose logs -f backup` shows its progress."
            yield Finding("starting", f"the first backup tries whether {good.id} loads", hint)
            return
        why = test.untried if test and test.untried else "nobody has done it here"
        hint = test.remedy if test and test.remedy else ""
        yield warning(
            f"whether {good.id} loads was not tried: {why}",
            f"{hint} `drill {good.id}` restores it into a throw-away server.".strip(),
        )


def _refused(sets: Sequence[StoredSet]) -> Iterator[Finding]:
    """The newest is a failure until a newer set has been shown to load, older ones are a warning."""
    ours = sorted((s for s in sets if s.state != "old script"), key=lambda s: (s.time, s.id), reverse=True)
    bad = [(place, stored) for place, stored in enumerate(ours) if stored.state == "does not load"]
    newest_bad = newest(stored for _, stored in bad if not stored.safety)
    for place, stored in bad[:_LISTED]:
        which = stored.id if place else f"the newest set, {stored.id},"
        failure = stored is newest_bad and not any(_clears(each, stored) for each in ours[:place])
        remedy = stored.verdict.remedy if stored.verdict else ""
        hint = f"{remedy} `list` shows which sets load, `drill {stored.id}` tries this one again.".strip()
        yield Finding("fail" if failure else "warn", f"{which} does not load: {stored.problem}", hint)
    if len(bad) > _LISTED:
        yield warning(f"{plural(len(bad) - _LISTED, 'more set')} do not load", "`list` shows them.")


def _clears(newer: StoredSet, bad: StoredSet) -> bool:
    """Whether a newer set shows that what kept one from loading is over: rows are tried by drills alone."""
    if bad.verdict and bad.verdict.proof:
        return newer.loads and newer.verdict is not None and newer.verdict.proof is not None
    return newer.loads
