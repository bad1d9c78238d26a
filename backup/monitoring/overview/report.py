"""The overview for other programs: what `status --json` and `monitor --json` print. Pure."""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from backup.formatting import printable
from backup.model.backup_set import StoredSet
from backup.monitoring.health import WORDS
from backup.monitoring.overview import Clock, Overview, TierSummary


def to_json(overview: Overview) -> dict[str, Any]:
    """Times are ISO 8601, spans seconds, sizes bytes; what is not known is null, never 0."""
    health = overview.health
    return {
        "status": health.status,
        "word": WORDS[health.status],
        "reasons": [asdict(reason) for reason in health.reasons],
        "time": overview.now.isoformat(),
        "zone": overview.zone.key,
        "scheduler": health.scheduler,
        "clocks": {clock.name: _clock(clock) for clock in overview.clocks},
        "tiers": {str(tier.tier): _tier(tier) for tier in overview.tiers},
        "sets": [set_summary(stored) for stored in overview.sets],
        "runs": [run.model_dump(mode="json") for run in overview.runs],
        "storage": {name: _value(value) for name, value in vars(overview.storage).items()},
        "schedule": [{"job": s.job, "cron": s.cron, "next": [_value(t) for t in s.times]} for s in overview.slots],
        "alerting": {name: _value(value) for name, value in vars(overview.alerting).items()},
        "restore_seconds": _value(overview.restore_seconds),
        "restore_measured": overview.restore_measured,
        "offsite": [{name: _value(value) for name, value in vars(place).items()} for place in overview.offsite],
    }


def set_summary(stored: StoredSet) -> dict[str, Any]:
    """One set in a list; `show --json` has all of it."""
    verdict = stored.verdict
    return {
        "id": stored.id,
        "tier": str(stored.tier),
        "time": _value(stored.time),
        "state": stored.state,
        "good": stored.good,
        "loads": stored.loads,
        "proven": stored.shown == "proven",
        "encrypted": stored.encrypted,
        "unopened": stored.unopened,
        "size": stored.size,
        "problem": printable(stored.problem),
        "verified": _value(verdict.checked) if verdict else None,
        "drilled": _value(verdict.proof.tried) if verdict and verdict.proof else None,
    }


def _clock(clock: Clock) -> dict[str, Any]:
    named = {name: _value(value) for name, value in vars(clock).items() if name not in ("name", "stored")}
    return {"set": clock.stored.id if clock.stored else None, **named}


def _tier(tier: TierSummary) -> dict[str, Any]:
    named = {name: _value(value) for name, value in vars(tier).items() if name not in ("tier", "newest")}
    return {"newest": tier.newest.id if tier.newest else None, **named}


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else printable(value) if isinstance(value, str) else value
