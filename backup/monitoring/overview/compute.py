"""Sets, runs and facts → the overview. Pure; `now` is an argument."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from backup.formatting import size
from backup.model.backup_set import SKEW, StoredSet, is_ahead, present
from backup.model.finding import Finding
from backup.model.manifest import Tier
from backup.model.run import RESTORE, Outcome, Run
from backup.model.schedule import Slot, upcoming
from backup.model.tiers import NO_BACKUPS
from backup.monitoring import forecast
from backup.monitoring.health import Health, Limits, SchedulerState, evaluate
from backup.monitoring.health.model import newest
from backup.monitoring.health.moments import window_findings
from backup.monitoring.health.proofs import DRILL, PROOF_GRACE, proof_reason
from backup.monitoring.health.snapshots import snapshot_findings
from backup.monitoring.overview import Alerting, Clock, Offsite, Overview, Storage, TierSummary
from backup.monitoring.window import Window, still_to_come

_DAY: Final = timedelta(days=1)
# From so many slots the rate of a cron line is told, and at most so many are counted one by one.
_SAMPLE: Final = 40
_MOST: Final = 1000
NO_OFFSITE: Final = Clock("offsite", None, None, None, "pass", "not set up: all sets are on this machine only")


@dataclass(frozen=True)
class Policy:
    """The numbers of the settings. `jobs` maps tiers and `drill` to cron lines, sizes are bytes.

    `keep` is how long sets of a tier are kept, `minimum` how many of them stay whatever their age; `allow_empty` are
    volumes that need not hold a file.
    """

    zone: ZoneInfo
    max_age: timedelta
    jobs: Mapping[str, str]
    keep: Mapping[Tier, timedelta]
    min_size: float = 0
    min_free: float = 0
    minimum: int = 0
    allow_empty: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Facts:
    """What was found besides sets and runs; see Storage, Overview and health.evaluate for the meanings.

    `problem` says why sets or runs could not be read, `unread` that it was the sets. `since`: when the service began.
    """

    free: int | None = None
    total: int | None = None
    undo: int | None = None
    undo_until: datetime | None = None
    pinned: frozenset[str] = frozenset()
    forgotten: Mapping[str, datetime] = field(default_factory=dict)
    scheduler: SchedulerState | None = None
    problem: str = ""
    unread: bool = False
    others: Sequence[Finding] = ()
    slots: Sequence[Slot] = ()
    alerting: Alerting = field(default_factory=Alerting)
    offsite: Clock = NO_OFFSITE
    places: Sequence[Offsite] = ()
    window: Window | None = None
    since: datetime | None = None


def compute_overview(
    sets: Sequence[StoredSet], runs: Sequence[Run], now: datetime, policy: Policy, facts: Facts
) -> Overview:
    """Everything that is told about these sets and runs. A set dated ahead of the clock is listed, and no more."""
    here = present(sets, now)
    limits = _limits(here, now, policy, facts)
    moments = window_findings(facts.window, runs, now, policy.zone, limits.proof_age) if facts.window else ()
    every = policy.jobs.get(Tier.SNAPSHOT)
    snapshots = snapshot_findings(runs, now, facts.since, period(every, now, policy.zone)) if every else ()
    health = evaluate(
        sets,
        runs,
        now,
        max_age=policy.max_age,
        scheduler=facts.scheduler,
        problem=facts.problem,
        free=facts.free,
        others=[*facts.others, *moments, *snapshots],
        limits=limits,
    )
    restored, measured = _restore_time(here, runs)
    return Overview(
        health=health,
        now=now,
        zone=policy.zone,
        clocks=(_good(health, policy), _proven(here, now, limits), facts.offsite),
        tiers=() if facts.unread else tuple(_tier(tier, sets, now, policy, facts) for tier in _tiers(sets, policy)),
        sets=tuple(sorted(sets, key=lambda stored: (stored.time, stored.id), reverse=True)),
        runs=tuple(sorted(runs, key=lambda run: (run.started, run.id), reverse=True)),
        storage=_storage(sets, now, policy, facts, limits),
        slots=tuple(facts.slots),
        alerting=facts.alerting,
        restore_seconds=restored,
        restore_measured=measured,
        offsite=tuple(facts.places),
        window=facts.window,
    )


def _limits(sets: Sequence[StoredSet], now: datetime, policy: Policy, facts: Facts) -> Limits:
    same = forecast.typical(sets)
    grown = max(0.0, forecast.growth(sets) or 0.0)
    return Limits(
        min_size=policy.min_size,
        min_free=policy.min_free,
        next_set=round(same[0].size + grown) if same else None,
        proof=True,
        proof_age=_proof_age(now, policy),
        keep=policy.keep,
        due={tier: _due(tier, sets, now, policy) for tier in policy.keep},
        minimum=policy.minimum,
        pinned=facts.pinned,
        allow_empty=policy.allow_empty,
        forgotten=facts.forgotten,
    )


def _proof_age(now: datetime, policy: Policy) -> timedelta | None:
    """Two drills may fall out before a proof is too old; None when nothing proves by itself."""
    cron = policy.jobs.get(DRILL, "")
    each = period(cron, now, policy.zone) if cron else None
    return max(PROOF_GRACE, 2 * each) if each else None


def _due(tier: Tier, sets: Sequence[StoredSet], now: datetime, policy: Policy) -> int:
    """How many sets the schedule should have made that are still to be there, since the tier's first one."""
    cron, keep = policy.jobs.get(tier, ""), policy.keep[tier]
    first = min((stored.time for stored in sets if stored.tier is tier and not stored.derived), default=now)
    return slots_between(cron, max(first, now - keep), now, policy.zone) if cron and first < now else 0


def _good(health: Health, policy: Policy) -> Clock:
    stored, age = health.newest_good, health.age
    if stored is None or age is None:
        starting = any(reason.level == "starting" for reason in health.reasons)
        return Clock("good", None, None, policy.max_age, "starting" if starting else "fail", "there is none yet")
    return Clock("good", stored, age, policy.max_age, "pass" if -SKEW <= age <= policy.max_age else "fail")


def _proven(sets: Sequence[StoredSet], now: datetime, limits: Limits) -> Clock:
    stored = newest(each for each in sets if each.proven and not each.safety)
    reason = proof_reason(sets, now, limits)
    note = "" if limits.proof_age else "no drill is scheduled"
    if stored is None:
        note = "; ".join(part for part in ("there is none yet", note) if part)
        return Clock("proven", None, None, limits.proof_age, reason.level if reason else "starting", note)
    return Clock("proven", stored, now - stored.time, limits.proof_age, reason.level if reason else "pass", note)


def _tiers(sets: Sequence[StoredSet], policy: Policy) -> Iterator[Tier]:
    """The tiers there are: that of snapshots only where some are made, or were."""
    for tier in Tier:
        if tier is not Tier.SNAPSHOT or policy.jobs.get(tier) or any(stored.snapshot for stored in sets):
            yield tier


def _tier(tier: Tier, sets: Sequence[StoredSet], now: datetime, policy: Policy, facts: Facts) -> TierSummary:
    mine = [stored for stored in sets if stored.tier is tier]
    good = [stored for stored in mine if stored.good and not is_ahead(stored, now)]
    last, keep, cron = newest(good), policy.keep.get(tier), policy.jobs.get(tier, "")
    return TierSummary(
        tier=tier,
        good=len(good),
        proven=sum(stored.proven for stored in good),
        bad=sum(not stored.good and stored.state != "old script" for stored in mine),
        pinned=sum(stored.id in facts.pinned for stored in mine),
        size=sum(stored.size for stored in mine),
        newest=last,
        age=now - last.time if last else None,
        next=next((slot.times[0] for slot in facts.slots if slot.job == tier and slot.times), None),
        keep=keep,
        expected=slots_between(cron, now - keep, now, policy.zone) if keep and cron else None,
    )


def _storage(sets: Sequence[StoredSet], now: datetime, policy: Policy, facts: Facts, limits: Limits) -> Storage:
    here = present(sets, now)
    grows = forecast.growth(here)
    per_day = {
        tier: _DAY / each
        for tier in set(Tier) - NO_BACKUPS
        if (cron := policy.jobs.get(tier, "")) and (each := period(cron, now, policy.zone))
    }
    moments = still_to_come(facts.window, now) if facts.window else 0
    left = (
        None
        if facts.free is None
        else forecast.days_left(
            facts.free - moments, here, now, grows=grows or 0.0, per_day=per_day, keep=policy.keep, pinned=facts.pinned
        )
    )
    return Storage(
        used=sum(stored.size for stored in sets),
        free=facts.free,
        total=facts.total,
        growth=grows,
        days_left=left,
        undo=facts.undo,
        undo_until=facts.undo_until,
        next_set=limits.next_set,
        assumes=_assumes(grows, policy, limits, moments) if left is not None else "",
    )


def _assumes(grows: float | None, policy: Policy, limits: Limits, moments: int) -> str:
    """What the forecast takes for granted. `moments`: bytes of base backups and WAL that are still to come."""
    now = f"sets of {size(limits.next_set or 0)}"
    trend = f"{now}, {size(grows)} more each day" if grows and grows > 0 else f"{now} that do not grow"
    trend = f"{now}, {size(-grows)} less each day" if grows and grows < 0 else trend
    known = "" if grows is not None else " (too few to tell)"
    kept = ", ".join(f"{tier} {keep.days} days" for tier, keep in policy.keep.items())
    wal = f"; {size(moments)} more of base backups and WAL" if moments else ""
    return f"{trend}{known}, made by the schedule and kept {kept}{wal}; nothing else is written to this disk"


def _restore_time(sets: Sequence[StoredSet], runs: Sequence[Run]) -> tuple[float | None, str]:
    """What the newest restore or drill that went well took, and which it was. A restore of one half says little."""
    found = [
        (run.started, (run.ended - run.started).total_seconds(), f"the restore of {run.set}")
        for run in runs
        if run.operation == RESTORE and run.outcome is Outcome.SUCCESS and run.ended and not run.only
    ]
    for stored in sets:
        proof = stored.verdict.proof if stored.verdict else None
        if proof and proof.proven and "total" in proof.seconds:
            found.append((proof.tried, proof.seconds["total"], f"the drill of {stored.id}"))
    _, seconds, which = max(found, default=(None, None, ""), key=lambda each: each[0])
    return seconds, which


def period(cron: str, now: datetime, zone: ZoneInfo) -> timedelta | None:
    """The mean time between the next slots; None for a line without any, or that is off."""
    moments = _next(cron, now, zone, _SAMPLE)
    return (moments[-1] - moments[0]) / (len(moments) - 1) if len(moments) > 1 else None


def slots_between(cron: str, start: datetime, end: datetime, zone: ZoneInfo) -> int:
    """How many slots lie after `start`, up to and with `end`; a thousand at most are counted."""
    each = period(cron, start, zone)
    if each is None or end <= start:
        return 0
    guess = min(_MOST, math.ceil((end - start) / each) + _SAMPLE)
    return sum(moment.timestamp() <= end.timestamp() for moment in _next(cron, start, zone, guess))


def _next(cron: str, now: datetime, zone: ZoneInfo, count: int) -> tuple[datetime, ...]:
    return next((slot.times for slot in upcoming({"": cron}, now, zone, count)), ())
