"""The Overview as JSON: /api/status and /healthz. Pure.

Times are ISO 8601 in UTC, sizes bytes, spans seconds; what is not known is null. Keys are only ever added to a format.
Names and messages come from databases and archives: they are escaped by `printable`, as everywhere.

    {"format": 1, "service", "version", "time", "zone",
     "health": {"status": pass|warn|starting|fail, "scheduler", "reasons": [{"severity", "text", "hint"}]},
     "clocks": [{"name": good|proven|offsite, "status", "set", "time", "age_seconds", "limit_seconds", "note"}],
     "tiers": [{"tier", "good", "proven", "bad", "pinned", "size_bytes", "newest", "newest_time", "age_seconds",
                "next", "keep_seconds", "expected"}],
     "sets": [{"id", "tier", "time", "state", "good", "proven", "size_bytes", "problem", "verified", "drilled",
               "differences", "database": null|{…}, "volumes": [{…}]}],                               newest first
     "runs": [{"id", "operation", "tier", "trigger", "only", "started", "ended", "seconds", "outcome", "set", "message",
               "hint", "exit_code", "phases": {name: seconds}}],                                       newest first
     "storage": {"used_bytes", "free_bytes", "total_bytes", "growth_bytes_per_day", "days_left", "undo_bytes",
                 "undo_until"},
     "schedule": [{"job", "cron", "next": [time]}],
     "alerts": {"targets", "undelivered", "last_delivered", "last_error", "heartbeat", "last_heartbeat"},
     "restore_seconds", "restore_measured",
     "offsite": [{"place": s3|copy, "name", "sets", "size_bytes", "waiting", "waiting_bytes", "bad", "newest",
                  "newest_time", "looked"}]}
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from backup import __version__
from backup.formatting import printable
from backup.model.backup_set import StoredSet
from backup.model.finding import Finding
from backup.model.manifest import DatabaseSummary, VolumeSummary
from backup.model.run import Run
from backup.monitoring.health import Health
from backup.monitoring.overview import Alerting, Clock, Offsite, Overview, Storage, TierSummary

SERVICE: Final = "obcms-backup"
FORMAT: Final = 1


def status_body(overview: Overview) -> dict[str, Any]:
    """The JSON of /api/status."""
    return {
        "format": FORMAT,
        "service": SERVICE,
        "version": __version__,
        "time": _time(overview.now),
        "zone": overview.zone.key,
        "health": {
            "status": overview.health.status,
            "scheduler": overview.health.scheduler,
            "reasons": _reasons(overview.health.reasons),
        },
        "clocks": [_clock(clock) for clock in overview.clocks],
        "tiers": [_tier(tier) for tier in overview.tiers],
        "sets": [_set(stored) for stored in overview.sets],
        "runs": [_run(run) for run in overview.runs],
        "storage": _storage(overview.storage),
        "schedule": [
            {"job": printable(slot.job), "cron": printable(slot.cron), "next": [_time(moment) for moment in slot.times]}
            for slot in overview.slots
        ],
        "alerts": _alerting(overview.alerting),
        "restore_seconds": overview.restore_seconds,
        "restore_measured": overview.restore_measured,
        "offsite": [_offsite(place) for place in overview.offsite],
    }


def health_body(health: Health) -> dict[str, Any]:
    """The JSON of /healthz."""
    good, age = health.newest_good, health.age
    checks: dict[str, Any] = {}
    if health.scheduler:
        checks["scheduler:state"] = [{"observedValue": health.scheduler}]
    if good is not None and age is not None:
        checks["newest-good-set:age"] = [
            {
                "componentId": printable(good.id),
                "observedValue": round(age.total_seconds()),
                "observedUnit": "s",
                "time": good.time.isoformat(),
            }
        ]
    return plain_body(health.status, health.reasons) | {"time": health.now.isoformat(), "checks": checks}


def plain_body(status: str, reasons: tuple[Finding, ...] = ()) -> dict[str, Any]:
    """What every health answer has."""
    return {"status": status, "service": SERVICE, "version": __version__, "reasons": _reasons(reasons)}


def bare_body(status: str) -> dict[str, Any]:
    """A health answer for somebody who is not logged in."""
    return {"status": status, "service": SERVICE, "reasons": []}


def _reasons(reasons: Iterable[Finding]) -> list[dict[str, str]]:
    return [
        {"severity": reason.level, "text": printable(reason.text), "hint": printable(reason.hint)} for reason in reasons
    ]


def _clock(clock: Clock) -> dict[str, Any]:
    return {
        "name": clock.name,
        "status": clock.status,
        "set": _id(clock.stored),
        "time": _time(clock.stored.time if clock.stored else None),
        "age_seconds": _seconds(clock.age),
        "limit_seconds": _seconds(clock.limit),
        "note": printable(clock.note),
    }


def _offsite(place: Offsite) -> dict[str, Any]:
    return {
        "place": place.place,
        "name": printable(place.name),
        "sets": place.sets,
        "size_bytes": place.size,
        "waiting": place.waiting,
        "waiting_bytes": place.waiting_size,
        "bad": place.bad,
        "newest": printable(place.newest) or None,
        "newest_time": _time(place.newest_time),
        "looked": _time(place.looked),
    }


def _tier(tier: TierSummary) -> dict[str, Any]:
    return {
        "tier": tier.tier,
        "good": tier.good,
        "proven": tier.proven,
        "bad": tier.bad,
        "pinned": tier.pinned,
        "size_bytes": tier.size,
        "newest": _id(tier.newest),
        "newest_time": _time(tier.newest.time if tier.newest else None),
        "age_seconds": _seconds(tier.age),
        "next": _time(tier.next),
        "keep_seconds": _seconds(tier.keep),
        "expected": tier.expected,
    }


def _set(stored: StoredSet) -> dict[str, Any]:
    verdict, manifest = stored.verdict, stored.summary
    proof = verdict.proof if verdict else None
    return {
        "id": printable(stored.id),
        "tier": stored.tier,
        "time": _time(stored.time),
        "state": stored.state,
        "good": stored.good,
        "proven": stored.shown == "proven",
        "size_bytes": stored.size,
        "problem": printable(stored.problem),
        "verified": _time(verdict.checked if verdict else None),
        "drilled": _time(proof.tried if proof else None),
        "differences": len(proof.differences) if proof else None,
        "database": _database(manifest.database) if manifest.database else None,
        "volumes": [_volume(volume) for volume in manifest.volumes],
    }


def _database(part: DatabaseSummary) -> dict[str, Any]:
    return {
        "name": printable(part.name),
        "system_identifier": printable(part.system_identifier),
        "server_version": printable(part.server_version),
        "size_bytes": part.size,
        "tables": part.tables,
        "rows": part.rows,
    }


def _volume(part: VolumeSummary) -> dict[str, Any]:
    return {"name": printable(part.name), "files": part.files, "bytes": part.bytes, "changed": part.changed_total}


def _run(run: Run) -> dict[str, Any]:
    return {
        "id": printable(run.id),
        "operation": printable(run.operation),
        "tier": printable(run.tier),
        "trigger": printable(run.trigger),
        "only": printable(run.only),
        "started": _time(run.started),
        "ended": _time(run.ended),
        "seconds": _seconds(run.ended - run.started) if run.ended else None,
        "outcome": run.outcome,
        "set": printable(run.set),
        "message": printable(run.message),
        "hint": printable(run.hint),
        "exit_code": run.exit_code,
        "phases": {printable(phase): seconds for phase, seconds in run.seconds.items()},
    }


def _storage(storage: Storage) -> dict[str, Any]:
    return {
        "used_bytes": storage.used,
        "free_bytes": storage.free,
        "total_bytes": storage.total,
        "growth_bytes_per_day": storage.growth,
        "days_left": storage.days_left,
        "undo_bytes": storage.undo,
        "undo_until": _time(storage.undo_until),
    }


def _alerting(alerting: Alerting) -> dict[str, Any]:
    return {
        "targets": [printable(target) for target in alerting.targets],
        "undelivered": alerting.undelivered,
        "last_delivered": _time(alerting.last_delivered),
        "last_error": printable(alerting.last_error),
        "heartbeat": alerting.heartbeat,
        "last_heartbeat": _time(alerting.last_heartbeat),
    }


def _id(stored: StoredSet | None) -> str | None:
    return printable(stored.id) if stored else None


def _time(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment else None


def _seconds(span: timedelta | None) -> float | None:
    return round(span.total_seconds(), 3) if span is not None else None
