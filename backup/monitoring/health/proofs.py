"""What has been shown of the sets by load tests, drills and verifications, and what has not. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from backup.formatting import age, plural
from backup.model.backup_set import StoredSet
from backup.model.finding import Finding, warning
from backup.model.run import Outcome, Run
from backup.monitoring.health.model import FIRST_BACKUP, Limits, failed, newest, newest_database

DRILL: Final = "drill"
# What a first drill is given, where the schedule says nothing of it.
PROOF_GRACE: Final = timedelta(days=14)
# A set is verified right after it was made; the largest ones take hours.
_VERIFIED: Final = timedelta(hours=24)
_LISTED: Final = 5
# A load test that was killed before it had tried is not waited for without end.
_TRYING: Final = timedelta(minutes=10)


def proof_findings(sets: Sequence[StoredSet], runs: Sequence[Run], now: datetime, limits: Limits) -> Iterator[Finding]:
    """Drills that failed, proofs that are too old or missing, a newest set that nobody has verified."""
    yield from _differences(sets)
    yield from _failed(sets, runs)
    if stale := proof_reason(sets, now, limits):
        yield stale
    if limits.proof:
        yield from _unverified(sets, now)


def proof_reason(sets: Sequence[StoredSet], now: datetime, limits: Limits) -> Finding | None:
    """Why the newest proven set is too old, or that there is none after a time in which there should be."""
    if not limits.proof:
        return None
    proven = newest(each for each in sets if each.proven and not each.safety)
    if proven is not None:
        if limits.proof_age is None or now - proven.time <= limits.proof_age:
            return None
        text = f"the newest proven set, {proven.id}, is {age(now - proven.time)} old; the limit is"
        return warning(f"{text} {age(limits.proof_age)}", "`drill` proves the newest sets now.")
    first = min((s.time for s in sets if s.good and s.summary.database), default=now)
    if now - first <= (limits.proof_age or PROOF_GRACE):
        return None
    off = "" if limits.proof_age else "; BACKUP_DRILL is off"
    text = f"no set has ever been proven, in {age(now - first)}{off}"
    return warning(text, "`drill` restores the newest sets into a throw-away server, to prove them.")


def _differences(sets: Sequence[StoredSet]) -> Iterator[Finding]:
    """The newest drilled set of each tier, if restoring it gave something else than was dumped."""
    for tier in sorted({stored.tier for stored in sets}):
        last = newest(s for s in sets if s.tier is tier and s.good and s.verdict and s.verdict.proof)
        proof = last.verdict.proof if last and last.verdict else None
        if last and proof and not proof.proven:
            found = f"{proof.differences[0]}" + (
                f" and {len(proof.differences) - 1} more" * (len(proof.differences) > 1)
            )
            text = f"{last.id} was restored by a drill and differs from the dump: {found}"
            yield warning(text, f"`show {last.id}` lists what differs; `drill {last.id}` tries again.")


def _failed(sets: Sequence[StoredSet], runs: Sequence[Run]) -> Iterator[Finding]:
    """Drills that did not come to an end, each tier by its newest one; an interrupted one has shown nothing."""
    ours = (s for s in sets if s.state != "old script")
    told = {s.id for s in ours if s.verdict and s.verdict.proof and not s.verdict.proof.proven}
    drills = sorted((run for run in runs if run.operation == DRILL), key=lambda run: (run.started, run.id))
    ended = [run for run in drills if run.outcome not in (Outcome.RUNNING, Outcome.INTERRUPTED)]
    for last in {run.tier: run for run in ended}.values():
        if failed(last) and last.set not in told:
            why = f": {last.message}" if last.message else ""
            hint = last.hint or f"`logs --run {last.id}` shows it; `drill` tries again."
            yield warning(f"the last drill of {last.set or last.tier} {last.outcome}{why}", hint)


def _unverified(sets: Sequence[StoredSet], now: datetime) -> Iterator[Finding]:
    good = newest_database(sets)
    if good is not None and good.verdict is None and now - good.time > _VERIFIED:
        text = f"{good.id} was read back when it was written, but has not been verified since"
        yield warning(text, f"`verify {good.id}` reads and compares all of it.")


def load_reasons(sets: Sequence[StoredSet], runs: Sequence[Run], now: datetime) -> Iterator[Finding]:
    """Sets that do not load, and a newest one that nobody has tried; `starting` while that of the first backup is."""
    yield from _refused(sets)
    good = newest_database(sets)
    part = good.manifest.database if good else None
    # Sets of earlier releases do not say what they would have to be compared by.
    if good and part and part.definitions and not good.loads:
        test = good.verdict.load_test if good.verdict else None
        made = next((run for run in runs if run.set == good.id and run.trigger == FIRST_BACKUP), None)
        if test is None and made and made.ended and timedelta() <= now - made.ended < _TRYING:
            hint = "`docker compose logs -f backup` shows its progress."
            yield Finding("starting", f"the first backup load-tests {good.id}", hint)
            return
        why = test.untried if test and test.untried else "no run has done it here"
        hint = test.remedy if test and test.remedy else ""
        yield warning(
            f"{good.id} was not load-tested: {why}",
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
