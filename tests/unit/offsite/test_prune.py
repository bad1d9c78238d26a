"""Copies go by the rules of local sets, where the place lets them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backup.errors import RemoteFailed
from backup.manifest import Tier
from backup.operations.offsite import prune as pruning
from backup.records import Outcome
from backup.retention import Policy
from tests.unit.offsite.conftest import Stack

POLICY = Policy({Tier.DAILY: timedelta(days=30)}, minimum=3, share=100, fresh=timedelta(days=35))


def prune(stack: Stack, policy: Policy = POLICY, **changes: bool) -> pruning.Report:
    return pruning.prune(pruning.Request(**changes), stack.shop(), policy)


def aged(stack: Stack, count: int = 6) -> list[str]:
    """As many daily copies, half of them over their time."""
    made = [stack.make(5 * number) for number in range(count)]
    stack.upload()
    stack.now += timedelta(days=20)
    return made


def test_what_is_over_its_time_goes_and_the_newest_stay(stack: Stack) -> None:
    made = aged(stack)
    local = sorted(path.name for path in (stack.root / "daily").iterdir())
    planned = pruning.plan(pruning.Request(), stack.shop(), POLICY)
    assert [stored.id for stored in planned.going] == made[:2:-1] and stack.keys(made[5])
    report = prune(stack)
    assert report.ends == dict.fromkeys(made[3:], "removed")
    assert not any(stack.keys(gone) for gone in made[3:]) and all(len(stack.keys(kept)) == 5 for kept in made[:3])
    assert set(stack.shop().book.read().copies) == set(made[:3]) and stack.shop().book.read().leaving == {}
    assert sorted(path.name for path in (stack.root / "daily").iterdir()) == local
    assert stack.records.all()[0].operation == "offsite-prune" and "removed 3 sets" in report.words


def test_nothing_goes_by_a_listing_that_is_not_whole(stack: Stack) -> None:
    aged(stack)
    before = dict(stack.place.objects)
    stack.place.truncated = True
    with pytest.raises(RemoteFailed):
        prune(stack)
    assert stack.place.objects == before


@pytest.mark.parametrize(("end", "words"), [("denied", "the key may not delete"), ("retained", "retains them for now")])
def test_a_place_that_keeps_its_objects_is_no_failure(stack: Stack, end: str, words: str) -> None:
    made = aged(stack)
    before = dict(stack.place.objects)
    if end == "denied":
        stack.place.deny = frozenset({"delete"})
    else:
        stack.place.removal = "retained"
    report = prune(stack)
    assert report.ends == dict.fromkeys(made[3:], end) and words in report.words and report.exit_code == 0
    assert stack.place.objects == before and set(stack.shop().book.read().copies) == set(made)
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
    assert stack.keys(made[5]) == [] and stack.shop().book.read().leaving == {}


def test_pinned_unknown_and_foreign_copies_stay(stack: Stack) -> None:
    made = aged(stack)
    (stack.root / "daily" / f"obcms_set_{made[5]}.pin").write_text("{}")
    stack.place.lay(f"daily/obcms_set_{made[4]}.json", b"{")
    stack.place.lay("daily/notes.txt", b"mine")
    report = prune(stack)
    reasons = {d.stored.id: d.reason for d in report.decisions}
    assert list(report.ends) == [made[3]] and "daily/notes.txt" in stack.place.objects
    assert "pinned" in reasons[made[5]] and "unreadable" in reasons[made[4]]


def test_a_share_waits_for_a_person(stack: Stack) -> None:
    made = aged(stack)
    few = Policy(POLICY.ages, 3, 20, POLICY.fresh)
    report = prune(stack, few)
    assert list(report.ends) == [made[5]] and report.waiting == 2 and report.exit_code == 4
    assert list(prune(stack, few).ends) == []
    assert list(prune(stack, few, force=True).ends) == [made[4], made[3]]


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
