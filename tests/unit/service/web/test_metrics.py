"""What Prometheus scrapes: right values, conventional names, and nothing that is not known."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backup import __version__
from backup.model.run import Outcome
from backup.model.wal import WalSlot
from backup.monitoring.overview import Overview
from backup.service.web.metrics import exposition
from tests.support import overviews
from tests.support.overviews import MB, NOW

_UNITS = ("seconds", "bytes", "timestamp_seconds", "bytes_per_second")
_NOT_BASE = {
    "days",
    "hours",
    "minutes",
    "milliseconds",
    "kilobytes",
    "megabytes",
    "percent",
    "total",
    "count",
    "ms",
    "s",
}


def scrape(overview: Overview) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """(name, labels) → value."""
    families = text_string_to_metric_families(exposition(overview).decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(overview: Overview, name: str, **labels: str) -> float | None:
    return scrape(overview).get((f"obcms_backup_{name}", frozenset(labels.items())))


def test_the_values_are_those_of_the_overview() -> None:
    seen = overviews.warning()
    good, proven = seen.clocks[0].stored, seen.clocks[1].stored
    assert good and proven
    daily = next(tier for tier in seen.tiers if tier.tier == "daily")
    expected = [
        (value(seen, "build_info", version=__version__), 1),
        (value(seen, "newest_set_timestamp_seconds", kind="good"), good.time.timestamp()),
        (value(seen, "newest_set_timestamp_seconds", kind="proven"), proven.time.timestamp()),
        (value(seen, "newest_set_age_limit_seconds", kind="good"), 48 * 3600),
        (value(seen, "sets", tier="daily", state="good"), daily.good),
        (value(seen, "sets", tier="daily", state="bad"), 1),
        (value(seen, "proven_sets", tier="daily"), daily.proven),
        (value(seen, "pinned_sets", tier="manual"), 1),
        (value(seen, "stored_bytes", tier="daily"), daily.size),
        (value(seen, "retention_expected_sets", tier="monthly"), 12),
        (value(seen, "retention_seconds", tier="daily"), 30 * 86_400),
        (value(seen, "used_bytes"), seen.storage.used),
        (value(seen, "disk_free_bytes"), 22_000 * MB),
        (value(seen, "disk_size_bytes"), 536_000 * MB),
        (value(seen, "growth_bytes_per_second"), 410 * MB / 86_400),
        (value(seen, "disk_full_seconds"), 22_000 / 410 * 86_400),
        (value(seen, "restore_duration_seconds"), 512),
        (value(seen, "alerts_undelivered"), 2),
        (value(seen, "heartbeat_timestamp_seconds"), (NOW - timedelta(minutes=66)).timestamp()),
        (value(seen, "next_run_timestamp_seconds", job="daily"), seen.slots[0].times[0].timestamp()),
        (value(seen, "health_reasons", severity="warn"), 3),
        (value(seen, "scheduler_state", state="alive"), 1),
        (value(seen, "scheduler_state", state="dead"), 0),
    ]
    assert [(number, got) for number, (got, wanted) in enumerate(expected) if got != pytest.approx(wanted)] == []


def test_the_window_is_measured() -> None:
    seen = overviews.recoverable()
    window = seen.window
    assert window and window.start and window.end and window.base
    expected = [
        (value(seen, "window_start_timestamp_seconds"), window.start.timestamp()),
        (value(seen, "window_end_timestamp_seconds"), (NOW - timedelta(seconds=0.4)).timestamp()),
        (value(seen, "window_breaks"), 1),
        (value(seen, "window_proven_timestamp_seconds"), NOW.timestamp() - 86400),
        (value(seen, "wal_lag_seconds"), 0.4),
        (value(seen, "wal_lag_limit_seconds"), 300),
        (value(seen, "wal_lag_bytes"), 4096),
        (value(seen, "wal_looked_timestamp_seconds"), NOW.timestamp()),
        (value(seen, "wal_stream_state", state="streaming"), 1),
        (value(seen, "wal_stream_state", state="down"), 0),
        (value(seen, "wal_segments"), window.segments),
        (value(seen, "wal_segment_bytes"), window.segment_bytes),
        (value(seen, "base_backups"), 7),
        (value(seen, "newest_base_timestamp_seconds"), window.base.ended.timestamp()),
        (value(seen, "newest_base_age_limit_seconds"), 36 * 3600),
        (value(seen, "newest_base_bytes"), 20_000_000),
        (value(seen, "offsite_window_start_timestamp_seconds", place="s3"), window.start.timestamp()),
        (value(seen, "offsite_window_end_timestamp_seconds", place="s3"), NOW.timestamp() - 40),
        (value(seen, "offsite_window_breaks", place="s3"), 1),
        (value(seen, "offsite_wal_looked_timestamp_seconds", place="s3"), NOW.timestamp()),
        (value(seen, "offsite_wal_age_limit_seconds", place="s3"), 420),
    ]
    assert [(number, got) for number, (got, wanted) in enumerate(expected) if got != pytest.approx(wanted)] == []
    new = {name for name, _ in scrape(seen)} - {name for name, _ in scrape(overviews.healthy())}
    assert len(new) == 20


def test_a_slot_is_measured_where_one_is_wanted() -> None:
    for slot, values in (
        (WalSlot(name="s", held=5, safe=7), [1, 5, 7]),
        (WalSlot(name="s", problem="it is refused"), [0, 0, None]),
    ):
        shown = overviews.with_slot(slot)
        names = ("wal_slot", "wal_slot_held_bytes", "wal_slot_safe_bytes")
        assert [value(shown, name) for name in names] == values
        # Nobody knows while nothing is received.
        assert shown.window and shown.window.stream
        stream = shown.window.stream.model_copy(update={"state": "down"})
        shown = replace(shown, window=replace(shown.window, stream=stream))
        assert [value(shown, name) for name in names] == [None, None, None]


@pytest.mark.parametrize("status", ["pass", "warn", "starting", "fail"])
def test_health_is_an_enumeration(status: str) -> None:
    seen = overviews.healthy()
    seen = replace(seen, health=replace(seen.health, status=status))  # type: ignore[arg-type]
    states = {s: value(seen, "health_status", status=s) for s in ("pass", "warn", "starting", "fail")}
    assert states == {s: float(s == status) for s in states}


def test_the_last_run_of_each_operation_and_tier_counts() -> None:
    seen = overviews.critical()
    last = next(run for run in seen.runs if run.tier == "daily")
    assert last.outcome is Outcome.CRASHED and last.ended
    daily = {"operation": "create", "tier": "daily"}
    assert value(seen, "last_run_start_timestamp_seconds", **daily) == last.started.timestamp()
    assert value(seen, "last_run_end_timestamp_seconds", **daily) == last.ended.timestamp()
    assert value(seen, "last_run_duration_seconds", **daily) == 2
    assert value(seen, "last_run_outcome", outcome="crashed", **daily) == 1
    assert value(seen, "last_run_outcome", outcome="success", **daily) == 0
    assert value(seen, "last_run_set_bytes", **daily) is None
    well = next(run for run in seen.runs if run.tier == "daily" and run.outcome is Outcome.SUCCESS)
    assert well.ended and value(seen, "last_success_timestamp_seconds", **daily) == well.ended.timestamp()
    weekly = next(run for run in seen.runs if run.tier == "weekly")
    size = next(stored.size for stored in seen.sets if stored.id == weekly.set)
    assert value(seen, "last_run_set_bytes", operation="create", tier="weekly") == size
    assert value(seen, "last_run_duration_seconds", operation="drill", tier="") == 512


def test_what_is_not_known_is_absent_and_not_zero() -> None:
    bare = overviews.empty()
    bare = replace(bare, storage=replace(bare.storage, free=None, total=None), tiers=(), slots=())
    names = {name.removeprefix("obcms_backup_") for name, _ in scrape(bare)}
    assert names == {
        *("build_info", "health_status", "health_reasons", "observed_timestamp_seconds"),
        *("newest_set_age_limit_seconds", "used_bytes", "alerts_undelivered"),
    }


def test_a_run_that_has_not_ended_has_no_end() -> None:
    running = {name for name, labels in scrape(overviews.starting()) if ("operation", "create") in labels}
    assert running == {"obcms_backup_last_run_start_timestamp_seconds", "obcms_backup_last_run_outcome"}


def test_names_follow_the_conventions() -> None:
    families = list(text_string_to_metric_families(exposition(overviews.warning()).decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names)) > 25
    for family in families:
        parts = family.name.split("_")
        assert re.fullmatch(r"obcms_backup_[a-z_]+[a-z]", family.name)
        assert (family.type, family.documentation[-1:]) == ("gauge", "."), family.name
        assert not _NOT_BASE & set(parts), family.name
        if {"seconds", "bytes"} & set(parts):
            assert family.name.endswith(_UNITS)
        for sample in family.samples:
            assert set(sample.labels) <= {
                "version",
                "status",
                "severity",
                "state",
                "kind",
                "tier",
                "operation",
                "outcome",
                "job",
                "place",
            }


def test_hostile_names_are_labels_and_nothing_else() -> None:
    text = exposition(overviews.hostile()).decode()
    jobs = [
        dict(labels)["job"]
        for name, labels in scrape(overviews.hostile())
        if name.endswith("next_run_timestamp_seconds")
    ]
    assert any("<script>" in job and r"\x1b" in job for job in jobs)
    assert all(line.startswith(("#", "obcms_backup_")) for line in text.splitlines())
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)
