"""Copies go by the rules of local sets, where the place lets them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from backup.catalog.retention import RetentionPolicy
from backup.errors import RemoteFailed
from backup.model.manifest import Tier
from backup.model.run import Outcome
from backup.operations.offsite import copy_status
from backup.operations.offsite import prune as pruning
from tests.unit.operations.offsite.conftest import Stack

NIGHTLY = RetentionPolicy({Tier.DAILY: timedelta(days=8)}, minimum=3, share=30, fresh=timedelta(hours=48))
POLICY = RetentionPolicy({Tier.DAILY: timedelta(days=30)}, minimum=3, share=100, fresh=timedelta(days=35))


def prune(stack: Stack, policy: RetentionPolicy = POLICY, **changes: bool) -> pruning.Report:
    return pruning.prune_copies(pruning.Request(**changes), stack.context(), policy)


def aged(stack: Stack, count: int = 6) -> list[str]:
    """As many daily copies, half of them over their time."""
    made = [stack.make(5 * number) for number in range(count)]
    stack.upload()
    stack.now += timedelta(days=20)
    return made


def test_what_is_over_its_time_goes_and_the_newest_stay(stack: Stack) -> None:
    made = aged(stack)
    local = sorted(path.name for path in (stack.root / "daily").iterdir())
    planned = pruning.plan(pruning.Request(), stack.context(), POLICY)
    assert [stored.id for stored in planned.going] == made[:2:-1] and stack.keys(made[5])
    report = prune(stack)
    assert report.ends == dict.fromkeys(made[3:], "removed")
    assert not any(stack.keys(gone) for gone in made[3:]) and all(len(stack.keys(kept)) == 5 for kept in made[:3])
    assert set(stack.context().book.read().copies) == set(made[:3]) and stack.context().book.read().leaving == {}
    assert sorted(path.name for path in (stack.root / "daily").iterdir()) == local
    assert stack.records.all()[0].operation == "offsite-prune" and "removed 3 sets" in report.words


def test_nothing_goes_by_a_listing_that_is_not_whole(stack: Stack) -> None:
    aged(stack)
    before = dict(stack.place.objects)
    stack.place.truncated = True
    with pytest.raises(RemoteFailed):
        prune(stack)
    assert stack.place.objects == before


@pytest.mark.parametrize(("end", "words"), [("denied", "the key may not delete"), ("retained", "still retains them")])
def test_a_place_that_keeps_its_objects_is_no_failure(stack: Stack, end: str, words: str) -> None:
    made = aged(stack)
    before = dict(stack.place.objects)
    if end == "denied":
        stack.place.deny = frozenset({"delete"})
    else:
        stack.place.removal = "retained"
    report = prune(stack)
    assert report.ends == dict.fromkeys(made[3:], end) and words in report.words and report.exit_code == 0
    assert stack.place.objects == before and set(stack.context().book.read().copies) == set(made)
    assert stack.records.all()[0].outcome is Outcome.SUCCESS


def test_the_manifest_goes_first_and_a_cut_is_finished(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    made = aged(stack)
    order: list[str] = []

    def remove(key: str) -> str:
        order.append(key)
        if len(order) == 3:
            raise RemoteFailed("cut")
        stack.place.objects.pop(key)
        stack.place.facts.pop(key)
        return "removed"

    with monkeypatch.context() as patched:
        patched.setattr(stack.place, "remove", remove)
        with pytest.raises(RemoteFailed):
            prune(stack)
    assert order[0] == f"daily/obcms_set_{made[5]}.json" and len(stack.keys(made[5])) == 3
    prune(stack)
    assert stack.keys(made[5]) == [] and stack.context().book.read().leaving == {}


def test_pinned_unknown_and_foreign_copies_stay(stack: Stack) -> None:
    made = aged(stack)
    (stack.root / "daily" / f"obcms_set_{made[5]}.pin").write_text("{}")
    stack.place.lay(f"daily/obcms_set_{made[4]}.json", b"{")
    stack.place.lay("daily/notes.txt", b"mine")
    report = prune(stack)
    reasons = {d.stored.id: d.reason for d in report.decisions}
    assert list(report.ends) == [made[3]] and "daily/notes.txt" in stack.place.objects
    assert "pinned" in reasons[made[5]] and "unreadable" in reasons[made[4]]


def nights(stack: Stack, count: int, policy: RetentionPolicy = NIGHTLY) -> list[pruning.Report]:
    """A backup, an upload and a cleanup each night."""
    reports = []
    for _ in range(count):
        stack.now += timedelta(days=1)
        stack.make()
        stack.upload(ages=policy.ages)
        reports.append(prune(stack, policy))
    return reports


def filled(stack: Stack, days: int) -> None:
    """A copy of each of these days."""
    for day in range(days):
        stack.make(day)
    stack.upload(ages={})


def said(stack: Stack) -> list[str]:
    """What health says of the last cleanup."""
    seen = copy_status.Seen("s3", "the place", stack.context().book.read(), [], timedelta(days=9999))
    return [
        f"{r.text} {r.hint}"
        for r in copy_status.copy_findings(seen, stack.records.all(), stack.now)
        if "cleanup" in r.text
    ]


@pytest.mark.long
def test_after_weeks_without_a_cleanup_a_share_goes_each_night_without_a_person(stack: Stack) -> None:
    filled(stack, 20)
    reports = nights(stack, 5)
    assert [len(report.ends) for report in reports] == [6, 4, 3, 3, 1], "30 % of what is there, then what came"
    assert reports[0].later == 7 and "the next runs remove the rest" in reports[0].words
    assert not any(report.exit_code for report in reports) and said(stack) == []


@pytest.mark.parametrize("jump", [25, 3652])
@pytest.mark.long
def test_after_a_clock_that_jumped_copies_wait_for_a_person(stack: Stack, jump: int) -> None:
    filled(stack, 8)
    assert [len(report.ends) for report in nights(stack, 2)] == [1, 1]
    stack.now += timedelta(days=jump)
    reports = nights(stack, 3)
    assert [len(report.ends) for report in reports] == [0, 1, 1] and {report.exit_code for report in reports} == {4}
    (words,) = said(stack)
    assert "the clock jumped" in words and "offsite prune --force" in words
    assert len(prune(stack, NIGHTLY, force=True).ends) > 5
    assert nights(stack, 1)[0].exit_code == 0 and said(stack) == [], "a person has agreed"


def test_after_a_setting_that_shrank_copies_wait_for_a_person(stack: Stack) -> None:
    filled(stack, 8)
    nights(stack, 1)
    typo = replace(NIGHTLY, ages={Tier.DAILY: timedelta(days=2)})
    reports = nights(stack, 2, typo)
    assert [len(report.ends) for report in reports] == [1, 1] and reports[0].waiting > 4
    assert reports[0].exit_code == 4 and "a setting was shortened" in reports[0].words
    assert [(len(r.ends), r.exit_code) for r in nights(stack, 1)] == [(1, 0)], "put right"


def test_nothing_goes_while_the_newest_copy_is_old(stack: Stack) -> None:
    aged(stack)
    stack.now += timedelta(days=20)
    report = prune(stack)
    assert report.ends == {} and "old: backups fail" in report.hold


def test_what_no_upload_will_end_goes_by_its_age(stack: Stack) -> None:
    stack.make()
    stack.upload()
    key = "daily/obcms_backup_daily_2025-01-01_02-00-00.sql.gz"
    stack.place.lay(key, b"half")
    prune(stack)
    assert key in stack.place.objects
    stack.now += timedelta(days=33)
    prune(stack)
    assert key not in stack.place.objects
