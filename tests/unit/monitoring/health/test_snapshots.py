"""Snapshots of the media make health no better, and worse only when they fail again and again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier
from backup.model.recovered import Recovered
from backup.model.run import Outcome, Run
from backup.monitoring.health import evaluate, failed_backup
from backup.monitoring.health.snapshots import snapshot_findings
from tests.support.facts import NOW, a_run
from tests.support.set_factory import in_memory

OUTCOMES = {"s": Outcome.SUCCESS, "c": Outcome.CHANGED, "f": Outcome.FAILED, "x": Outcome.CRASHED}
QUARTER = timedelta(minutes=15)
OUTCOMES |= {"i": Outcome.INTERRUPTED, "r": Outcome.RUNNING}


def runs(story: str) -> list[Run]:
    """Snapshots that ended so, the newest first."""
    return [
        a_run(number / 4, OUTCOMES[each], f"why {number}", operation="create", tier="snapshot", hint="")
        for number, each in enumerate(story)
    ]


def at(hours: float, tier: Tier, kind: str = "verified") -> StoredSet:
    return in_memory(tier, NOW - timedelta(hours=hours), kind, halves="m" if tier is Tier.SNAPSHOT else "dm")


@pytest.mark.parametrize("story", ["", "s", "f", "fx", "ffs", "ifs", "rffs", "cfff", "r"])
def test_one_may_fail(story: str) -> None:
    assert list(snapshot_findings(runs(story), NOW, None, QUARTER)) == []


@pytest.mark.parametrize(("story", "count"), [("fff", 3), ("rfxis", 3), ("iiii", 4), ("ffffffs", 6)])
def test_a_row_of_failures_is_told(story: str, count: int) -> None:
    (found,) = snapshot_findings(runs(story), NOW, None, QUARTER)
    newest = 1 if story[0] == "r" else 0
    assert found.level == "warn"
    assert found.text == f"none of the last {count} snapshots of the media came to its end: why {newest}"


@pytest.mark.parametrize(
    ("hours", "only", "since", "period", "told"),
    [
        (5.9, "media", None, QUARTER, False),
        (6.1, "media", None, QUARTER, True),
        (6.1, "", None, QUARTER, True),
        (0.1, "database", None, QUARTER, True),
        # The service has just begun, as after a night in which the machine was off.
        (6.1, "media", 0.1, QUARTER, False),
        (9, "media", 6.1, QUARTER, True),
        # The clock was ahead then.
        (9, "media", -100, QUARTER, True),
        (-100, "media", None, QUARTER, True),
        (30, "media", None, 48 * QUARTER, False),
        (37, "media", None, 48 * QUARTER, True),
        (37, "media", None, None, False),
    ],
)
def test_that_none_comes_is_told(
    hours: float, only: str, since: float | None, period: timedelta | None, told: bool
) -> None:
    """Those that find another run at work leave no record."""
    last = [a_run(hours, Outcome.SUCCESS, operation="create", tier="snapshot", only=only), *old_runs()]
    began = None if since is None else NOW - timedelta(hours=since)
    found = list(snapshot_findings(last, NOW, began, period))
    assert [each.level for each in found] == ["warn"] * told
    assert all("what was uploaded since then is in no set" in each.text for each in found)


def test_what_else_is_done_with_snapshots_is_none() -> None:
    failed = [a_run(n / 4, Outcome.FAILED, operation="upload", tier="snapshot", set="x") for n in range(4)]
    assert list(snapshot_findings(failed, NOW, None, QUARTER)) == []


def old_runs() -> list[Run]:
    """One that has just failed, and one of the media of long ago."""
    failed = a_run(0.05, Outcome.FAILED, operation="create", tier="snapshot", only="media")
    return [failed, a_run(200, Outcome.SUCCESS, operation="create", tier="daily")]


def test_they_do_not_stand_for_a_backup() -> None:
    old, fresh = at(60, Tier.DAILY), at(0.1, Tier.SNAPSHOT)
    limit = timedelta(hours=48)
    for sets in ([old], [old, fresh]):
        health = evaluate(sets, [], NOW, max_age=limit, scheduler=None)
        assert (health.status, health.newest_good) == ("fail", old)
    media = in_memory(Tier.DAILY, NOW - timedelta(hours=1), halves="d")
    told = [each.text for each in evaluate([media, old, fresh], [], NOW, max_age=limit, scheduler=None).reasons]
    assert any("good set that holds media" in text for text in told)


def test_their_runs_say_nothing_of_the_backups() -> None:
    well = a_run(5, Outcome.SUCCESS, "", operation="create", tier="daily")
    bad = a_run(5, Outcome.FAILED, "", operation="create", tier="daily")
    assert failed_backup([*runs("fff"), well]) is None
    assert failed_backup([*runs("sss"), bad]) == bad


def test_a_damaged_one_takes_no_backups_place() -> None:
    sets = [at(0.1, Tier.SNAPSHOT), at(0.4, Tier.SNAPSHOT, "damaged"), at(5, Tier.DAILY)]
    health = evaluate(sets, [], NOW, max_age=timedelta(hours=48), scheduler=None)
    assert health.status == "warn"
    sets = [at(0.1, Tier.SNAPSHOT), at(5, Tier.DAILY, "damaged"), at(29, Tier.DAILY)]
    told = evaluate(sets, [], NOW, max_age=timedelta(hours=48), scheduler=None).reasons
    assert any("the newest set of the database" in each.text for each in told)


def test_a_set_of_a_moment_makes_the_media_no_younger() -> None:
    """It may hold those of the last set that had any."""
    old, fresh = at(60, Tier.DAILY), in_memory(Tier.DAILY, NOW - timedelta(hours=2), halves="d")
    made = at(1, Tier.MANUAL)
    part = made.manifest.database
    assert part
    part = part.model_copy(update={"recovered": Recovered(base="b", lsn="0/1")})
    made = replace(made, manifest=made.manifest.model_copy(update={"database": part}))
    told = evaluate([made, fresh, old], [], NOW, max_age=timedelta(hours=48), scheduler=None).reasons
    assert [each.level for each in told if "good set that holds media" in each.text and old.id in each.text] == ["fail"]
