"""The Overview as Prometheus metrics. Home of prometheus_client.

Absent is not zero: what is not known has no sample, so that an alert rule uses absent() and no rule mistakes "we
cannot tell" for an empty disk or the year 1970. All are gauges, because the truth is on disk and not in this process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backup import __version__
from backup.formatting import printable
from backup.model.backup_set import StoredSet
from backup.model.finding import Level
from backup.model.run import Outcome, Run
from backup.monitoring.health import SchedulerState
from backup.monitoring.overview import Overview

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX: Final = "obcms_backup_"
_DONE: Final = (Outcome.SUCCESS, Outcome.CHANGED)
_DAY: Final = 86_400
_STREAM: Final = ("streaming", "starting", "down", "stale")
Sample = tuple[dict[str, str], float | int | datetime | timedelta | None]


def exposition(overview: Overview) -> bytes:
    """The answer to one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Overview(overview))
    return generate_latest(registry)


class _Overview(Collector):
    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def collect(self) -> Iterator[Metric]:
        for part in (_state, _clocks, _tiers, _runs, _storage, _offsite, _window, _offsite_windows, _others):
            for family in part(self._overview):
                if family.samples:
                    yield family


def _gauge(name: str, text: str, samples: Iterable[Sample]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text)
    for labels, value in samples:
        if value is not None:
            family.add_sample(_PREFIX + name, {key: printable(label) for key, label in labels.items()}, _number(value))
    return family


def _one(name: str, text: str, value: float | int | datetime | timedelta | None) -> Metric:
    return _gauge(name, text, [({}, value)])


def _number(value: float | int | datetime | timedelta) -> float:
    if isinstance(value, datetime):
        return value.timestamp()
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def _state(overview: Overview) -> Iterator[Metric]:
    health = overview.health
    yield _gauge("build_info", "Version of the product.", [({"version": __version__}, 1)])
    yield _gauge(
        "health_status",
        "1 for the current health, 0 for the others.",
        [({"status": name}, name == health.status) for name in get_args(Level)],
    )
    yield _gauge(
        "health_reasons",
        "Reasons for the health, by severity.",
        [
            ({"severity": name}, sum(reason.level == name for reason in health.reasons))
            for name in get_args(Level)
            if name != "pass"
        ],
    )
    if health.scheduler:
        yield _gauge(
            "scheduler_state",
            "1 for the current state of the scheduler, 0 for the others.",
            [({"state": name}, name == health.scheduler) for name in get_args(SchedulerState)],
        )
    yield _one("observed_timestamp_seconds", "When these values were read.", overview.now)


def _clocks(overview: Overview) -> Iterator[Metric]:
    clocks = overview.clocks
    yield _gauge(
        "newest_set_timestamp_seconds",
        "Start of the newest set that is good, proven by a drill, or stored offsite.",
        [({"kind": clock.name}, clock.stored.time if clock.stored else None) for clock in clocks],
    )
    yield _gauge(
        "newest_set_age_limit_seconds",
        "Age of that set above which health is no longer `pass`.",
        [({"kind": clock.name}, clock.limit) for clock in clocks],
    )


def _tiers(overview: Overview) -> Iterator[Metric]:
    tiers = [({"tier": str(tier.tier)}, tier) for tier in overview.tiers]
    counts = [(labels | {"state": state}, n) for labels, t in tiers for state, n in (("good", t.good), ("bad", t.bad))]
    yield _gauge("sets", "Sets in a tier: good (published and not found damaged) or bad.", counts)
    yield _gauge("proven_sets", "Good sets in a tier that a drill has restored.", [(n, t.proven) for n, t in tiers])
    yield _gauge("pinned_sets", "Pinned sets in a tier.", [(n, t.pinned) for n, t in tiers])
    yield _gauge("stored_bytes", "Bytes on disk of a tier's sets.", [(n, t.size) for n, t in tiers])
    yield _gauge(
        "tier_newest_set_timestamp_seconds",
        "Start of a tier's newest good set.",
        [(n, t.newest.time if t.newest else None) for n, t in tiers],
    )
    yield _gauge(
        "tier_newest_set_bytes",
        "Bytes on disk of a tier's newest good set.",
        [(n, t.newest.size if t.newest else None) for n, t in tiers],
    )
    yield _gauge("retention_seconds", "How long a tier's sets are kept.", [(n, t.keep) for n, t in tiers])
    yield _gauge(
        "retention_expected_sets", "Sets that the schedule keeps in a full tier.", [(n, t.expected) for n, t in tiers]
    )


def _runs(overview: Overview) -> Iterator[Metric]:
    last = _last(overview.runs)
    sizes = {stored.id: stored for stored in overview.sets}
    yield _gauge("last_run_start_timestamp_seconds", "Start of the last run.", [(n, r.started) for n, r in last])
    yield _gauge("last_run_end_timestamp_seconds", "End of the last run; none while it runs.", _ends(last))
    yield _gauge(
        "last_run_duration_seconds",
        "Duration of the last run; none while it runs.",
        [(n, r.duration) for n, r in last],
    )
    yield _gauge(
        "last_run_outcome",
        "1 for the outcome of the last run, 0 for the others.",
        [(n | {"outcome": outcome}, outcome is r.outcome) for n, r in last for outcome in Outcome],
    )
    yield _gauge(
        "last_run_set_bytes", "Bytes of the set that the last run made.", [(n, _size(r, sizes)) for n, r in last]
    )
    well = _last(run for run in overview.runs if run.outcome in _DONE)
    yield _gauge("last_success_timestamp_seconds", "End of the last successful run.", _ends(well))


def _last(runs: Iterable[Run]) -> list[tuple[dict[str, str], Run]]:
    """The newest run of each operation and tier."""
    newest: dict[tuple[str, str], Run] = {}
    for run in runs:
        key = (run.operation, run.tier)
        if key not in newest or run.started > newest[key].started:
            newest[key] = run
    return [({"operation": key[0], "tier": key[1]}, run) for key, run in sorted(newest.items())]


def _ends(runs: Iterable[tuple[dict[str, str], Run]]) -> list[Sample]:
    return [(labels, run.ended) for labels, run in runs]


def _size(run: Run, sets: dict[str, StoredSet]) -> int | None:
    return sets[run.set].size if run.operation == "create" and run.set in sets else None


def _storage(overview: Overview) -> Iterator[Metric]:
    storage = overview.storage
    left = storage.days_left * _DAY if storage.days_left is not None else None
    growth = storage.growth / _DAY if storage.growth is not None else None
    yield _one("used_bytes", "Bytes on disk of all sets.", storage.used)
    yield _one("disk_free_bytes", "Free bytes of the backup volume's disk.", storage.free)
    yield _one("disk_size_bytes", "Size of the backup volume's disk.", storage.total)
    yield _one("growth_bytes_per_second", "Growth of the sets.", growth)
    yield _one("disk_full_seconds", "Seconds until the disk is full at this growth.", left)
    yield _one("undo_bytes", "Bytes that the last restore replaced and that are still kept.", storage.undo)


def _offsite(overview: Overview) -> Iterator[Metric]:
    places = [({"place": place.place}, place) for place in overview.offsite]
    yield _gauge("offsite_sets", "Sets that are confirmed offsite.", [(n, p.sets) for n, p in places])
    yield _gauge("offsite_bytes", "Bytes of the sets that are confirmed offsite.", [(n, p.size) for n, p in places])
    yield _gauge(
        "offsite_waiting_sets", "Sets that belong offsite and are not there.", [(n, p.waiting) for n, p in places]
    )
    yield _gauge("offsite_waiting_bytes", "Bytes of the sets that wait.", [(n, p.waiting_size) for n, p in places])
    yield _gauge("offsite_bad_sets", "Offsite sets that differ from what was sent.", [(n, p.bad) for n, p in places])
    yield _gauge(
        "offsite_newest_set_timestamp_seconds",
        "Start of the newest set that is confirmed offsite.",
        [(n, p.newest_time) for n, p in places],
    )
    yield _gauge(
        "offsite_looked_timestamp_seconds", "When the place was last listed.", [(n, p.looked) for n, p in places]
    )


def _window(overview: Overview) -> Iterator[Metric]:
    window = overview.window
    if window is None:
        return
    stream, base, proof = window.stream, window.base, window.proof
    yield _one("window_start_timestamp_seconds", "Oldest moment that can be brought back.", window.start)
    yield _one("window_end_timestamp_seconds", "Newest moment that can be brought back.", window.end)
    yield _one(
        "window_breaks", "Times of which WAL is missing, with one that goes on.", len(window.breaks(overview.now))
    )
    yield _one(
        "window_proven_timestamp_seconds",
        "When a drill last recovered a moment of it.",
        proof.tried if proof and not proof.problem else None,
    )
    yield _one("wal_lag_seconds", "Time of which nothing can be brought back yet.", window.lag(overview.now))
    yield _one("wal_lag_limit_seconds", "Lag above which health is `fail`.", window.max_lag)
    yield _one("wal_lag_bytes", "Bytes of WAL that are on the server alone.", stream.behind if stream else None)
    yield _one("wal_looked_timestamp_seconds", "When the stream was last looked at.", stream.looked if stream else None)
    yield _gauge(
        "wal_stream_state",
        "1 for the state of the stream, 0 for the others.",
        [({"state": name}, name == stream.state) for name in _STREAM] if stream else [],
    )
    if stream and stream.up and (slot := stream.slot):
        yield _one("wal_slot", "1 where the server keeps WAL for us by a slot, 0 where it does not.", not slot.problem)
        yield _one("wal_slot_held_bytes", "Bytes of WAL that it keeps.", slot.held)
        yield _one("wal_slot_safe_bytes", "Bytes that may still be written until it gives the slot up.", slot.safe)
    yield _one("wal_segments", "WAL segments that are here.", window.segments)
    yield _one("wal_segment_bytes", "Bytes on disk of those segments.", window.segment_bytes)
    yield _one("base_backups", "Base backups.", len(window.bases))
    yield _one("newest_base_timestamp_seconds", "End of the newest base backup.", base.ended if base else None)
    yield _one("newest_base_age_limit_seconds", "Age of it above which health warns.", window.base_age)
    yield _one("newest_base_bytes", "Bytes on disk of it.", base.artifact.stored_size if base else None)


def _offsite_windows(overview: Overview) -> Iterator[Metric]:
    there = [({"place": each.place}, each) for each in (overview.window.offsite if overview.window else ())]
    if not there:
        return
    yield _gauge(
        "offsite_window_start_timestamp_seconds",
        "Oldest moment that the place alone brings back.",
        [(place, each.start) for place, each in there],
    )
    yield _gauge(
        "offsite_window_end_timestamp_seconds",
        "Newest moment that it does.",
        [(place, each.end) for place, each in there],
    )
    yield _gauge(
        "offsite_window_breaks",
        "Times of which WAL is missing there.",
        [(place, len(each.breaks(overview.now))) for place, each in there],
    )
    yield _gauge(
        "offsite_wal_looked_timestamp_seconds",
        "When all that was to be sent was last there.",
        [(place, each.stream.looked if each.stream else None) for place, each in there],
    )
    yield _gauge(
        "offsite_wal_age_limit_seconds",
        "Time since then above which health warns.",
        [(place, each.max_lag) for place, each in there],
    )


def _others(overview: Overview) -> Iterator[Metric]:
    alerting = overview.alerting
    yield _gauge(
        "next_run_timestamp_seconds",
        "When a scheduled job runs next.",
        [({"job": slot.job}, slot.times[0] if slot.times else None) for slot in overview.slots],
    )
    yield _one("restore_duration_seconds", "How long the newest restore or drill took.", overview.restore_seconds)
    yield _one("alerts_undelivered", "Alerts that still wait to be delivered.", alerting.undelivered)
    yield _one("alerts_delivered_timestamp_seconds", "When an alert was last delivered.", alerting.last_delivered)
    yield _one("heartbeat_timestamp_seconds", "When the heartbeat was last sent.", alerting.last_heartbeat)
