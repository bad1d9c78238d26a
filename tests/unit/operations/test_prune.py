"""A cleanup on a real volume: what it removes, leaves alone and records, and a life of it with all mishaps."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from backup.catalog.catalog import Catalog
from backup.catalog.delete import mark_name
from backup.catalog.retention import RetentionPolicy
from backup.catalog.run_records import Records
from backup.config.loader import Settings
from backup.errors import LockHeld, NotFound, RestoreUnfinished, StoreError
from backup.model.backup_set import manifest_name, pin_name, verdict_name
from backup.model.finding import Finding
from backup.model.manifest import Tier, file_name
from backup.model.run import Outcome, Run
from backup.operations.drill.run import newest_of_each_tier
from backup.operations.prune import PRUNE, WAITS, PruneContext, Report, Request, plan, prune_sets, retention_policy
from backup.operations.restore.journal import Journal, JournalFile
from backup.operations.status import overview, status
from backup.storage import lock
from backup.storage.directory import LocalStore
from backup.storage.filesystem import store_error
from tests.support.examples import examples
from tests.support.set_factory import on_disk

NOW = datetime(2026, 3, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)
AGES = {Tier.DAILY: 30 * DAY, Tier.WEEKLY: 90 * DAY, Tier.MONTHLY: 365 * DAY}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def shelf(root: Path, now: datetime = NOW, share: int = 30, minimum: int = 3, zone: str = "UTC") -> PruneContext:
    rules = RetentionPolicy(AGES, minimum, share, timedelta(hours=48))
    return PruneContext(
        catalog=Catalog(root, ZoneInfo(zone)),
        records=Records(root / "state/runs"),
        lock=root / "state/lock",
        policy=rules,
        clock=lambda: now,
    )


def fill(root: Path, days: Iterator[float] | range | list[float], kind: str = "verified", **facts: Any) -> list[str]:
    return [on_disk(root, Tier.DAILY, NOW - timedelta(days=n), kind, **facts) for n in days]


def created(root: Path, outcome: Outcome, hours: float = 1, only: str = "") -> None:
    started = NOW - timedelta(hours=hours)
    facts = {"only": only, "outcome": outcome, "ended": started}
    run = Run(id=f"{started:%Y%m%dT%H%M%S}Z", operation="create", tier="daily", started=started)
    Records(root / "state/runs").end(run.model_copy(update=facts))


def files(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for tier in Tier for p in (root / tier).glob("*") if p.is_file()}


def warned(root: Path) -> list[Finding]:
    one = shelf(root)
    return [
        r for r in status(Settings(), one.catalog, one.records, NOW).reasons if r.text.startswith("the last cleanup")
    ]


# --- what it does ------------------------------------------------------------------------------------------------


def test_what_is_over_its_time_goes_and_the_rest_is_as_it_was(root: Path) -> None:
    kept, gone = fill(root, range(30)), fill(root, [31, 32])
    before = files(root)
    report = prune_sets(Request(trigger="schedule"), shelf(root))
    assert [s.id for s in report.removed] == gone[::-1] and report.exit_code == 0
    assert files(root) == {name: data for name, data in before.items() if not any(i in name for i in gone)}
    assert {s.id for s in shelf(root).catalog.sets()} == set(kept)
    (run,) = shelf(root).records.all()
    assert (run.operation, run.trigger, run.outcome, run.exit_code) == (PRUNE, "schedule", Outcome.SUCCESS, 0)
    assert run.message.startswith("removed 2 sets, ") and warned(root) == []


def test_it_looks_at_no_time_but_the_manifests(root: Path) -> None:
    fill(root, range(5))
    (gone,) = fill(root, [31])
    for path in (root / "daily").iterdir():
        old = "2020" in path.name
        os.utime(path, (0, 0) if not old and gone not in path.name else None)
    assert [s.id for s in prune_sets(Request(), shelf(root)).removed] == [gone]


@pytest.mark.long
def test_after_a_gap_a_share_goes_each_night_without_a_person(root: Path) -> None:
    """Sixty nights of failures, with cleanups that remove nothing; then good ones."""
    old = fill(root, range(60, 80))
    for night in range(60, 0, -1):
        created(root, Outcome.FAILED, hours=24 * night)
        if night % 3 == 1:
            assert not prune_sets(Request(), shelf(root, NOW - night * DAY)).removed
    left: list[int] = []
    for night in range(6):
        now = NOW + night * DAY
        on_disk(root, Tier.DAILY, now - DAY / 24)
        created(root, Outcome.SUCCESS, hours=1 - 24 * night)
        report = prune_sets(Request(), shelf(root, now))
        assert report.exit_code == 0 and ("the next runs remove the rest" in report.words) == (report.later > 0)
        left.append(sum(s.id in old for s in shelf(root, now).catalog.sets()))
    assert left == [14, 10, 7, 4, 2, 0], "30 % of what is there, the oldest first; three until there are newer ones"
    assert warned(root) == []


def nights(root: Path, first: float, count: int, **options: Any) -> list[Report]:
    """A good backup and a cleanup each night by this clock."""
    reports = []
    for night in range(count):
        now = NOW + (first + night) * DAY
        on_disk(root, Tier.DAILY, now - DAY / 24)
        rules = RetentionPolicy({**AGES, **options.get("ages", {})}, 3, 30, timedelta(hours=48))
        reports.append(prune_sets(Request(), replace(shelf(root, now), policy=rules)))
    return reports


@pytest.mark.parametrize("jump", [20, 3652])
@pytest.mark.long
def test_a_clock_that_jumped_waits_for_a_person_from_the_first_night_on(root: Path, jump: int) -> None:
    fill(root, range(31))
    assert [len(report.removed) for report in nights(root, 1, 4)] == [1, 1, 1, 1]
    reports = nights(root, 5 + jump, 5)
    assert [len(report.removed) for report in reports] == [1, 1, 1, 1, 1], "as if it had not jumped"
    assert {report.exit_code for report in reports} == {WAITS}
    now = NOW + (10 + jump) * DAY
    (reason,) = [
        r
        for r in status(Settings(), shelf(root).catalog, shelf(root).records, now).reasons
        if "the clock jumped" in r.text
    ]
    assert reason.level == "warn" and "prune --force" in reason.hint
    assert nights(root, 10, 1)[0].exit_code == 0, "it is right again"
    assert len(nights(root, 10 + jump, 1)[0].removed) <= 1
    assert len(prune_sets(Request(force=True), shelf(root, now)).removed) > 15
    assert nights(root, 11 + jump, 1)[0].exit_code == 0, "a person has agreed"


def test_a_single_set_that_a_person_removes_hides_nothing_that_waits(root: Path) -> None:
    fill(root, range(30))
    nights(root, 1, 1)
    (report,) = nights(root, 2, 1, ages={Tier.DAILY: 3 * DAY})
    now = NOW + 2 * DAY
    ahead = on_disk(root, Tier.DAILY, now + 900 * DAY)
    assert [s.id for s in prune_sets(Request(ahead=ahead), shelf(root, now + DAY / 24)).removed] == [ahead]
    one = shelf(root, now + DAY / 12)
    told = [r.text for r in status(Settings(), one.catalog, one.records, now + DAY / 12).reasons]
    assert any(f"{report.waiting} more sets are past retention" in text for text in told)


def test_a_policy_that_shrank_by_a_typo_waits_for_a_person_from_the_first_night_on(root: Path) -> None:
    fill(root, range(30))
    nights(root, 1, 2)
    report, second = nights(root, 3, 2, ages={Tier.DAILY: 3 * DAY})
    assert (len(report.removed), len(second.removed), report.exit_code) == (1, 1, WAITS) and report.waiting > 20
    assert "a setting was shortened" in report.words
    (after,) = nights(root, 5, 1)
    assert (len(after.removed), after.exit_code) == (1, 0), "put right"


def test_the_sets_of_a_server_that_is_gone(root: Path) -> None:
    """They stay until a person says which; then the same rules hold for them, and the present ones are not touched."""
    ours, old = fill(root, range(5)), fill(root, range(40, 52), server="8")
    one = shelf(root)
    assert prune_sets(Request(), one).removed == []
    told = [r for r in judged(root) if "8" in r.text and "another database server" in r.text]
    assert [r.level for r in told] == ["warn"] and "prune --server 8 --dry-run" in told[0].hint
    with pytest.raises(NotFound, match="on the server 9"):
        prune_sets(Request(server="9"), one)
    assert plan(Request(server="8", force=True), one, NOW).going and len(one.catalog.sets()) == 17
    report = prune_sets(Request(server="8"), one)
    assert {s.id for s in report.removed} == set(old[:-4:-1]) and report.later == 6, "a share, as ever"
    assert {s.id for s in prune_sets(Request(server="8", force=True), one).removed} == set(old[3:-3])
    assert {s.id for s in one.catalog.sets()} == {*ours, *old[:3]}, "the newest three of them stay"
    assert not [r for r in judged(root) if "another database server" in r.text and "older" in r.text]


@pytest.mark.long
def test_the_last_sets_of_a_volume_that_left_the_stack(root: Path) -> None:
    """They stay through sixty nights and twenty cleanups, and status says so, until a person says that they may go."""
    ocr = fill(root, range(20, 40), halves="dmo")
    for night in range(60):
        now = NOW + (night - 19) * DAY
        on_disk(root, Tier.DAILY, now, "verified")
        if night % 3 == 2:
            prune_sets(Request(force=True), shelf(root, now))
    now = NOW + 40 * DAY
    one = shelf(root, now)
    assert [s.id for s in one.catalog.sets() if "obcms_ocr_" in str(s.files)] == ocr[:3]
    told = [r for r in status(Settings(), one.catalog, one.records, now).reasons if "volume ocr" in r.text]
    assert [r.level for r in told] == ["warn"] and "prune --forget-volume ocr --dry-run" in told[0].hint
    for name, words in (("media", "has not left the stack"), ("ocr'; --", "no set holds a volume")):
        with pytest.raises(NotFound, match=words):
            prune_sets(Request(forget_volume=name), one)
    assert len(plan(Request(forget_volume="ocr"), one, now).going) == 3
    assert not plan(Request(), one, now).going, "asking for the plan has forgotten nothing"
    assert {s.id for s in prune_sets(Request(forget_volume="ocr"), one).removed} == set(ocr[:3])
    assert "hold volume ocr" not in str(status(Settings(), one.catalog, one.records, now).reasons)
    old = on_disk(root, Tier.DAILY, now - 70 * DAY, "verified", halves="dmo")
    assert old in {s.id for s in prune_sets(Request(), one).removed}, "forgotten once, forgotten for all that is older"
    back = on_disk(root, Tier.DAILY, now - 49 * DAY, "verified", halves="dmo")
    prune_sets(Request(force=True), one)
    assert back in {s.id for s in one.catalog.sets()}, "what is newer counts again"
    (root / "state/retention.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        prune_sets(Request(force=True), one)
    assert "retention.json is damaged" in str(status(Settings(), one.catalog, one.records, now).reasons)


@pytest.mark.parametrize("kind", ["old script", "damaged"])
def test_what_stays_for_a_volume_that_left_is_told_whatever_its_state(root: Path, kind: str) -> None:
    """Files of the old scripts, which called it otherwise, among them: no other word would be said of those."""
    old, _ = fill(root, [100, 101], kind), fill(root, range(10), halves="do")
    assert not prune_sets(Request(force=True), shelf(root)).removed
    (told,) = [r for r in judged(root) if "does not hold volume media, but 2 older ones" in r.text]
    assert old[0] in told.text and "prune --forget-volume media --dry-run" in told.hint
    assert len(prune_sets(Request(forget_volume="media", force=True), shelf(root)).removed) == 2
    on_disk(root, Tier.DAILY, NOW + timedelta(minutes=1), "damaged", halves="dmo")
    assert not [r for r in judged(root) if "does not hold volume" in r.text], "one that came is none that left"


def test_a_set_dated_ahead_stands_in_nobodys_way(root: Path) -> None:
    """One of 2031 beside thirty right ones, and a clock that is set back while somebody wants to remove it."""
    right = fill(root, range(3, 33))
    ahead = on_disk(root, Tier.DAILY, NOW + 1800 * DAY, "proven")
    one = Catalog(root, ZoneInfo("UTC"), clock=lambda: NOW)
    assert one.find("latest").id == right[0]
    assert [s.id for s in newest_of_each_tier(one.sets(), NOW)] == [right[0]]
    told = [r for r in judged(root) if ahead in r.text]
    assert [r.level for r in told] == ["warn"] and f"prune --ahead {ahead}" in told[0].hint
    assert any("the newest good set, " + right[0] in r.text for r in judged(root)), "what is wrong besides is told"
    seen = overview(Settings(), one, shelf(root).records, NOW)
    assert seen.health.newest_good and seen.health.newest_good.id == right[0] and seen.clocks[1].stored is None
    assert next(t.newest for t in seen.tiers if t.tier is Tier.DAILY) == one.find(right[0])
    report = prune_sets(Request(ahead=ahead), shelf(root))
    assert not report.removed and "backups fail, or the clock jumped" in report.words
    fresh = on_disk(root, Tier.DAILY, NOW - DAY / 2)
    with pytest.raises(NotFound, match="not dated ahead"):
        prune_sets(Request(ahead=fresh), shelf(root))
    one.pin(one.find(ahead), "", NOW)
    report = prune_sets(Request(ahead=ahead), shelf(root))
    assert not report.removed and f"{ahead} is pinned" in report.words, "never without a word"
    one.unpin(one.find(ahead))
    assert [s.id for s in prune_sets(Request(ahead=ahead), shelf(root)).removed] == [ahead]
    assert {s.id for s in one.sets()} == {fresh, *right}, "and nothing else goes by it"
    assert not [r for r in judged(root) if ahead in r.text]


def judged(root: Path) -> list[Finding]:
    one = shelf(root)
    return list(status(Settings(), one.catalog, one.records, NOW).reasons)


@pytest.mark.long
def test_many_sets_between_two_cleanups_wait_for_nobody(root: Path) -> None:
    """Forty come and forty go in a fortnight, of eighty: more than the share, and daily life all the same."""
    one = shelf(root, share=10)
    fill(root, [n * 0.35 for n in range(120)])
    assert prune_sets(Request(), one).later, "the first cleanup knows nothing of what came"
    assert prune_sets(Request(force=True), one).exit_code == 0
    for week in (1, 2, 3):
        now = NOW + 14 * week * DAY
        for n in range(40):
            on_disk(root, Tier.DAILY, now - n * 0.35 * DAY, "verified")
        report = prune_sets(Request(), shelf(root, now, share=10))
        assert report.exit_code == 0 and len(report.removed) == 40, week
    ahead = Run(id="20991231T000000Z", operation=PRUNE, started=NOW + 9999 * DAY, outcome=Outcome.SUCCESS)
    Records(root / "state/runs").end(ahead)
    for n in range(40):
        on_disk(root, Tier.DAILY, NOW + (56 - n * 0.35) * DAY, "verified")
    report = prune_sets(Request(), shelf(root, NOW + 56 * DAY, share=10))
    assert (len(report.removed), report.later) == (12, 28), "a cleanup while the clock was ahead had its part"


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CRASHED, Outcome.RUNNING])
@pytest.mark.parametrize("only", ["", "database", "media"])
@pytest.mark.long
def test_nothing_goes_after_a_backup_that_failed(root: Path, outcome: Outcome, only: str) -> None:
    """F12, also when only one half of it failed, and a later success was of the other half."""
    fill(root, range(40))
    created(root, outcome, only=only)
    before = files(root)
    if only:
        created(root, Outcome.SUCCESS, 0.5, "media" if only == "database" else "database")
    created(root, Outcome.INTERRUPTED, 0.2)
    assert not plan(Request(), shelf(root), NOW).going, "a dry run says what comes, also of a run that nobody has swept"
    for request in (Request(), Request(force=True)):
        report = prune_sets(request, shelf(root))
        assert not report.removed and "the last daily backup" in report.words and "--make-room" in report.hint
    assert files(root) == before
    assert shelf(root).records.all()[0].message.startswith("nothing was removed; the last daily backup")
    created(root, Outcome.SUCCESS, 0.1)
    assert prune_sets(Request(), shelf(root)).removed


def test_a_record_from_the_future_stands_for_nothing(root: Path) -> None:
    fill(root, range(35))
    created(root, Outcome.SUCCESS, hours=-90_000)
    created(root, Outcome.FAILED)
    assert not prune_sets(Request(), shelf(root)).removed
    created(root, Outcome.SUCCESS, 0.5)
    created(root, Outcome.FAILED, hours=-90_001)
    assert prune_sets(Request(), shelf(root)).removed


def test_what_is_left_of_a_removal_does_not_keep_the_others(root: Path) -> None:
    fill(root, range(20))
    stuck, old = fill(root, [41, 40])
    path = root / "daily" / manifest_name(stuck)
    path.rename(path.with_name(mark_name(stuck))).write_text("{")
    with pytest.raises(StoreError, match="what is left of a removed set"):
        prune_sets(Request(), shelf(root))
    assert old not in {s.id for s in shelf(root).catalog.sets()} and len(warned(root)) == 1


def test_room_can_be_made_after_a_backup_that_failed(root: Path) -> None:
    fill(root, range(35))
    created(root, Outcome.FAILED)
    assert len(prune_sets(Request(make_room=True), shelf(root)).removed) == 4
    assert len(prune_sets(Request(make_room=True, force=True), shelf(root, NOW + 1000 * DAY)).removed) == 28


def test_nothing_goes_while_the_newest_good_set_is_old(root: Path) -> None:
    fill(root, range(3, 40))
    report = prune_sets(Request(force=True), shelf(root))
    assert not report.removed and "backups fail, or the clock jumped" in report.words


def test_neighbours(root: Path) -> None:
    """F3, C12: other databases, other names, links, directories and pipes."""
    fill(root, range(4))
    for number, name in enumerate(("app-test", "a*b", "ap", "[a]pp", "app'; --")):
        fill(root, [100 + number], name=name)
    (gone,) = fill(root, [90])
    folder = root / "daily"
    odd = f"daily_{NOW - 200 * DAY:%Y-%m-%d_%H-%M-%S}"
    (folder / manifest_name(odd)).symlink_to(folder / manifest_name(gone))
    os.mkfifo(folder / file_name("backup", odd, "sql.gz"))
    (folder / file_name("media", odd, "tar.gz")).mkdir()
    for name in (f"{gone}.sql.gz", f"obcms_backup_{gone}.sql.gz.bak", f".obcms_backup_{gone}.sql.gz", "notes.txt"):
        (folder / name).write_text("mine")
    (folder / "empty").mkdir()
    before = sorted(p.name for p in folder.iterdir())
    assert [s.id for s in prune_sets(Request(), shelf(root)).removed] == [gone]
    left = {file_name(*part) for part in (("backup", gone, "sql.gz"), ("media", gone, "tar.gz"))}
    left |= {file_name("set", gone, "sha256"), verdict_name(gone), manifest_name(gone)}
    assert sorted(p.name for p in folder.iterdir()) == [name for name in before if name not in left]


def test_files_of_the_old_scripts_go_by_their_names(root: Path) -> None:
    fill(root, range(4))
    young, old = fill(root, [29, 31], "old script", zone=ZoneInfo("Asia/Manila"))
    report = prune_sets(Request(), shelf(root, zone="Asia/Manila"))
    assert [s.id for s in report.removed] == [old] and any(young in name for name in files(root))


def test_a_set_that_lost_its_manifest_or_a_file_is_left(root: Path) -> None:
    """F6."""
    fill(root, range(4))
    lost, incomplete = fill(root, [100, 101])
    (root / "daily" / manifest_name(lost)).unlink()
    (root / "daily" / file_name("backup", incomplete, "sql.gz")).unlink()
    before = files(root)
    assert not prune_sets(Request(force=True), shelf(root)).removed and files(root) == before


def test_a_dry_run_touches_nothing_and_needs_no_lock(root: Path) -> None:
    fill(root, range(40))
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    with lock.hold(root.parent / f"{root.name}.lock", "create", "r"):
        report = plan(Request(), shelf(root), NOW)
    (root.parent / f"{root.name}.lock").unlink()
    assert len(report.going) == 9 and {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_it_waits_for_the_lock_or_says_who_has_it(root: Path) -> None:
    fill(root, range(40))
    with lock.hold(root / "state/lock", "create daily", "r"), pytest.raises(LockHeld, match="create daily"):
        prune_sets(Request(), shelf(root))
    assert len(shelf(root).catalog.sets()) == 40


def test_nothing_goes_while_a_restore_stands_half_way(root: Path) -> None:
    fill(root, range(40))
    JournalFile(root).begin(Journal(id="1", run="r", set="x", started=NOW))
    with pytest.raises(RestoreUnfinished):
        prune_sets(Request(force=True), shelf(root))
    assert len(shelf(root).catalog.sets()) == 40 and warned(root)


def test_a_record_that_cannot_be_read_stops_it(root: Path) -> None:
    """It may be the one of a backup that failed."""
    fill(root, range(40))
    created(root, Outcome.SUCCESS)
    next((root / "state/runs").iterdir()).write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        prune_sets(Request(force=True), shelf(root))
    assert len(shelf(root).catalog.sets()) == 40


def test_a_full_disk_can_be_made_emptier(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No byte can be written until something has gone."""
    fill(root, range(35))

    def full(store: LocalStore, name: str) -> None:
        raise store_error(OSError(errno.ENOSPC, "No space left on device"), store.directory / name)

    monkeypatch.setattr(LocalStore, "stage", full)
    assert len(prune_sets(Request(), shelf(root)).removed) == 4
    assert shelf(root).records.all()[0].outcome is Outcome.SUCCESS


def test_one_that_cannot_be_removed_does_not_keep_the_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root, range(20))
    old = fill(root, [40, 41, 42])
    real = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if old[1] in path.name:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(StoreError, match="not permitted"):
        prune_sets(Request(), shelf(root))
    assert {s.id for s in shelf(root).catalog.sets() if s.good and s.time < NOW - 30 * DAY} == {old[1]}
    assert shelf(root).records.all()[0].outcome is Outcome.FAILED and "not permitted" in warned(root)[0].text


def test_a_set_that_is_pinned_at_the_last_moment_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root, range(20))
    (old,) = fill(root, [40])
    before, catalog = files(root), Catalog(root, ZoneInfo("UTC"))
    real = Path.rename

    def pinned_first(path: Path, target: Path) -> Path:
        if old in path.name:
            monkeypatch.setattr(Path, "rename", real)
            catalog.pin(catalog.find(old), "", NOW)
        return real(path, target)

    monkeypatch.setattr(Path, "rename", pinned_first)
    assert not prune_sets(Request(), shelf(root)).removed
    after = files(root)
    assert after.pop(pin_name(old)) and after == before


def test_the_settings_become_the_policy() -> None:
    made = retention_policy(Settings(BACKUP_RETENTION_WEEKLY=0, BACKUP_RETENTION_MANUAL=5, BACKUP_MAX_AGE_HOURS=30))  # type: ignore[call-arg]
    assert made.ages == {Tier.DAILY: 30 * DAY, Tier.MONTHLY: 365 * DAY, Tier.MANUAL: 5 * DAY}
    assert (made.minimum, made.share, made.fresh) == (3, 30, timedelta(hours=30))


# --- a life of it ------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL."""


@contextlib.contextmanager
def killed_at(step: int) -> Iterator[None]:
    """The call number `step` that changes a file, and every later one, does not happen."""
    left, opened = iter(range(step)), os.open

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            reads = real is opened and not arguments[1] & os.O_CREAT
            if not reads and next(left, None) is None:
                raise Killed
            return real(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (Path, "rename"),
            (Path, "unlink"),
            (os, "fsync"),
            (os, "open"),
            (os, "pwrite"),
            (os, "ftruncate"),
        ):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        yield


class Life(RuleBasedStateMachine):
    """A volume, and beside it what a bystander knows of each set: when, of what, what was found, whether pinned."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir="/dev/shm"))
        self.now, self.skew = NOW, timedelta()
        self.share, self.minimum, self.days, self.zone = 30, 2, 30, "UTC"
        self.known: dict[str, dict[str, Any]] = {}
        self.foreign: dict[Path, bytes] = {}
        # When backups ended, and how; when the last cleanup was that may have removed something. By the clock of then.
        self.backups: list[tuple[datetime, Outcome]] = []
        self.cleaned: datetime | None = None
        # Until when sets were made that need not be kept for the volume ocr.
        self.forgotten: datetime | None = None
        # Sets made by a clock that was right; the longest age and largest minimum since a person agreed to one.
        self.right: set[str] = set()
        self.agreed: tuple[int, int] | None = None
        # How often the clock was set since the last cleanup: what happens between two is seen of one change alone.
        self.set, self.confused = 0, False

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @property
    def clock(self) -> datetime:
        return self.now + self.skew

    def shelf(self) -> PruneContext:
        rules = RetentionPolicy({**AGES, Tier.DAILY: self.days * DAY}, self.minimum, self.share, timedelta(hours=48))
        return replace(shelf(self.root, self.clock, zone=self.zone), policy=rules)

    def made(self, time: datetime, kind: str, tier: Tier = Tier.DAILY, name: str = "app", halves: str = "dm") -> None:
        identifier = on_disk(self.root, tier, time, kind, name=name, halves=halves)
        folder = self.root / tier
        paths = [p for p in folder.iterdir() if identifier in p.name]
        stamped = datetime.strptime(identifier.partition("_")[2], "%Y-%m-%d_%H-%M-%S").replace(tzinfo=UTC)
        self.right |= {identifier} if not self.skew else set()
        self.known[identifier] = {
            "tier": tier, "time": stamped, "kind": kind, "name": name, "halves": halves, "pin": False, "paths": paths,
        }  # fmt: skip

    def run(self, outcome: Outcome) -> None:
        self.backups.append((self.clock, outcome))
        Records(self.root / "state/runs").end(
            Run(id=f"{self.now:%Y%m%dT%H%M%S}Z", operation="create", tier="daily", started=self.clock,
                ended=self.clock, outcome=outcome)
        )  # fmt: skip

    @initialize(days=st.sampled_from([0, 20, 40]), halves=st.sampled_from(["dm", "dmo", "d"]))
    def history(self, days: int, halves: str) -> None:
        for n in range(0, days, 2):
            self.made(self.now - n * DAY, "proven" if n % 10 == 4 else "verified", halves=halves)

    @rule(
        kind=st.sampled_from(["verified", "verified", "proven", "unverified", "damaged"]),
        tier=st.sampled_from([Tier.DAILY, Tier.DAILY, Tier.WEEKLY, Tier.MANUAL]),
        halves=st.sampled_from(["dm", "dmo", "m", "mo"]),
    )
    def a_day_passes(self, kind: str, tier: Tier, halves: str) -> None:
        self.now += DAY
        self.made(self.clock, kind, tier, halves=halves)
        self.run(Outcome.SUCCESS)

    @rule(days=st.sampled_from([1, 7, 60]))
    def days_of_failures(self, days: int) -> None:
        self.now += days * DAY
        self.run(Outcome.FAILED)

    @rule(name=st.sampled_from(["app-test", "a*b"]), days=st.integers(1, 100))
    def a_neighbour(self, name: str, days: int) -> None:
        self.made(self.now - days * DAY, "verified", name=name)

    @rule(days=st.integers(1, 100))
    def an_old_script(self, days: int) -> None:
        self.made(self.now - days * DAY - timedelta(seconds=7), "old script")

    @rule(data=st.data(), how=st.sampled_from(["damaged", "incomplete", "lost", "gone", "pin", "unpin", "unreadable"]))
    def something_happens_to_a_set(self, data: st.DataObject, how: str) -> None:
        ours = [i for i, facts in self.known.items() if facts["kind"] in ("verified", "proven", "unverified")]
        if not ours:
            return
        identifier = data.draw(st.sampled_from(sorted(ours)))
        facts, catalog = self.known[identifier], self.shelf().catalog
        folder = self.root / facts["tier"]
        if how in ("pin", "unpin"):
            facts["pin"] = how == "pin"
            stored = catalog.find(identifier)
            catalog.pin(stored, "", self.clock) if facts["pin"] else catalog.unpin(stored)
        elif how == "damaged":
            on_disk_verdict = folder / verdict_name(identifier)
            on_disk_verdict.write_text('{"checked": "2026-01-01T00:00:00Z", "problems": ["rot"]}')
            facts["kind"] = how
        elif how == "unreadable":
            (folder / manifest_name(identifier)).write_text("{")
            facts["kind"] = how
        else:
            doomed = {"incomplete": [p for p in facts["paths"] if p.suffix == ".gz"][:1], "gone": facts["paths"]}
            for path in doomed.get(how, [folder / manifest_name(identifier)]):
                path.unlink(missing_ok=True)
            facts["kind"] = how
            if how == "gone":
                (folder / pin_name(identifier)).unlink(missing_ok=True)
                del self.known[identifier]

    @rule(name=st.sampled_from(["notes", "obcms_backup_daily_2020-01-01_00-00-00.sql.gz.bak", ".obcms_x.removing"]))
    def a_foreign_file(self, name: str) -> None:
        path = self.root / "daily" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        self.foreign[path] = b"mine"

    @rule(days=st.sampled_from([0, 0, 3652, -3652, 20, -20]))
    def the_clock_is_set(self, days: int) -> None:
        self.set += days * DAY != self.skew
        self.skew = days * DAY

    @rule(
        share=st.sampled_from([1, 30, 100]), minimum=st.integers(1, 4), days=st.sampled_from([1, 7, 30]),
        zone=st.sampled_from(["UTC", "Asia/Manila", "America/Sao_Paulo"]),
    )  # fmt: skip
    def the_settings_change(self, share: int, minimum: int, days: int, zone: str) -> None:
        self.share, self.minimum, self.days, self.zone = share, minimum, days, zone

    @rule(force=st.booleans(), step=st.one_of(st.none(), st.integers(2, 40)))
    def the_next_morning(self, force: bool, step: int | None) -> None:
        """An ordinary one: a good backup by a clock that is right, then the cleanup."""
        self.the_clock_is_set(0)
        self.a_day_passes("verified", Tier.DAILY, "dm")
        self.prune(force, step)

    @rule()
    def a_person_forgets_a_volume(self) -> None:
        """Refused while the newest sets hold it; before it, nobody's minimum changes."""
        here = [f for f in self.known.values() if self.dated(f["time"]) and "o" in f["halves"]]
        with contextlib.suppress(NotFound):
            plan(Request(forget_volume="ocr"), self.shelf(), self.clock)
            assert here
            self.forgotten = max(f["time"] for f in here)
            self.prune(False, None, forget="ocr")

    @rule(force=st.booleans(), step=st.one_of(st.none(), st.integers(0, 40)))
    def prune(self, force: bool, step: int | None, forget: str = "") -> None:
        before = {i: f for i, f in self.known.items() if any(p.exists() for p in f["paths"])}
        report: Report | None = None
        if step is None:
            report = prune_sets(Request(force=force, forget_volume=forget), self.shelf())
        else:
            with contextlib.suppress(Killed), killed_at(step):
                prune_sets(Request(force=force), self.shelf())
            states = {s.id: s.state for s in self.shelf().catalog.sets()}
            assert all(states[i] != "unreadable" for i in states if i in before and before[i]["kind"] in GOOD)
            self.shelf().catalog.sweep()
            self.shelf().records.mark_crashed(self.clock)
        gone = self.gone(before, killed=report is None)
        assert report is None or {s.id for s in report.removed} == gone
        self.judge(before, gone, force)
        self.judge_surprise(before, gone, force, report)
        self.known = {i: f for i, f in self.known.items() if i not in gone} | self.halves_left(before, gone)
        if gone or report:
            self.cleaned = max(self.cleaned or self.clock, self.clock)

    def gone(self, before: dict[str, dict[str, Any]], killed: bool) -> set[str]:
        """What a cleanup removed: whole sets, but that no note says what else is to go of those without a manifest."""
        gone = {
            i for i, facts in before.items() if not all(p.exists() for p in facts["paths"] if facts["kind"] in SAFE)
        }
        gone |= {i for i, facts in before.items() if not any(p.exists() for p in facts["paths"])}
        pieces = {i for i in gone if any(p.exists() for p in before[i]["paths"])}
        assert all(killed and before[i]["kind"] == "old script" for i in pieces), "a set was left in pieces"
        return gone

    def halves_left(self, before: dict[str, dict[str, Any]], gone: set[str]) -> dict[str, dict[str, Any]]:
        """What a kill left of sets without a manifest: sets like them, of one file."""
        left = {i: [p for p in before[i]["paths"] if p.exists()] for i in gone}
        letters = {"backup": "d", "media": "m", "ocr": "o"}
        halves = {i: "".join(letters[p.name.split("_")[1]] for p in paths) for i, paths in left.items()}
        return {i: before[i] | {"paths": left[i], "halves": halves[i]} for i in gone if left[i]}

    def judge(self, before: dict[str, dict[str, Any]], gone: set[str], force: bool) -> None:
        """P7, P8 and P9, by what the bystander knows alone."""
        here = {i: f for i, f in before.items() if self.dated(f["time"])}
        for i in gone:
            facts = before[i]
            assert i in here and not facts["pin"] and facts["kind"] not in ("incomplete", "lost", "unreadable"), facts
            assert facts["tier"] in AGES and not self.young(facts)
        ended = [(time, outcome) for time, outcome in self.backups if self.dated(time)]
        last = {outcome for time, outcome in ended if time == max(ended)[0]}
        assert not gone or last != {Outcome.FAILED}, "after a run that failed"
        good = [i for i, f in here.items() if f["kind"] in GOOD and "d" in f["halves"]]
        newest = here[max(good, key=lambda i: (here[i]["time"], i))] if good else None
        assert not gone or (newest and self.clock - newest["time"] <= timedelta(hours=48))
        ours = self.ours(before, newest["name"]) if newest else {}
        assert gone <= ours.keys()
        for tier in AGES:
            mine = {i: f for i, f in ours.items() if f["tier"] is tier and i in here}
            self.judge_what_stays(mine, gone, self.minimum if force else max(self.minimum, (self.agreed or (0, 0))[1]))
            total = sum(f["tier"] is tier for f in ours.values())
            removed = sum(before[i]["tier"] is tier for i in gone)
            total -= sum(f["tier"] is tier and not self.dated(f["time"]) for f in ours.values())
            assert force or removed <= max(1, total * self.share // 100, self.come(mine))

    def judge_surprise(
        self, before: dict[str, dict[str, Any]], gone: set[str], force: bool, report: Report | None
    ) -> None:
        """P9: what goes without a person has really lived as long as any setting since one agreed to what is set."""
        longest, most = self.agreed or (0, 0)
        longest, most = max(longest, self.days), max(most, self.minimum)
        self.confused |= self.set > 1
        for i in gone if not force and not self.confused else ():
            limit = longest * DAY if before[i]["tier"] is Tier.DAILY else AGES[before[i]["tier"]]
            assert i not in self.right or self.now - before[i]["time"] > limit, before[i]
        if report or gone:
            self.agreed, self.set = (longest, most), 0
        if force and report and not report.hold:
            self.agreed, self.confused = (self.days, self.minimum), False
            # By a clock that is wrong, a person has called them as old as it says.
            self.right = set() if self.skew else self.right
        if force and report is None:
            # Whether it was killed before or after the agreement was written, a person has agreed.
            self.agreed, self.confused = (self.days, self.minimum), True

    def ours(self, before: dict[str, dict[str, Any]], name: str) -> dict[str, dict[str, Any]]:
        """The sets of a database. Those that do not say of which they are belong to it when it is the only one."""
        databases = {f["name"] for f in before.values() if "d" in f["halves"] and f["kind"] in (*GOOD, "damaged")}
        vague = {i for i, f in before.items() if "d" not in f["halves"] or f["kind"] in VAGUE}
        return {i: f for i, f in before.items() if (databases <= {name} if i in vague else f["name"] == name)}

    def judge_what_stays(self, mine: dict[str, dict[str, Any]], gone: set[str], minimum: int) -> None:
        """The newest of a tier, whatever their age, of each component by itself (P35)."""
        for half in "dmo":
            holding = {i: f for i, f in mine.items() if half in f["halves"] and (half != "o" or self.kept(f))}
            counted = [i for i, f in holding.items() if f["kind"] in VERIFIED]
            assert len(set(counted) - gone) >= min(minimum, len(counted))
            good = [i for i, f in holding.items() if f["kind"] in GOOD]
            assert not good or max(good, key=lambda i: (mine[i]["time"], i)) not in gone
        proven = [i for i, f in mine.items() if f["kind"] == "proven"]
        assert not proven or max(proven, key=lambda i: (mine[i]["time"], i)) not in gone

    def kept(self, facts: dict[str, Any]) -> bool:
        """Whether nobody has said that the volume ocr need not be kept for this set's sake."""
        return self.forgotten is None or facts["time"] > self.forgotten

    def come(self, mine: dict[str, dict[str, Any]]) -> int:
        """How many verified young sets have come to a tier since the last cleanup: as many may go."""
        return sum(
            f["kind"] in VERIFIED and self.young(f) and self.cleaned is not None and f["time"] > self.cleaned
            for f in mine.values()
        )

    def dated(self, time: datetime) -> bool:
        """Whether it is not ahead of the clock."""
        return time <= self.clock + timedelta(minutes=5)

    def young(self, facts: dict[str, Any]) -> bool:
        """Whether a set is not over the age of its tier."""
        limit = self.days * DAY if facts["tier"] is Tier.DAILY else AGES.get(facts["tier"])
        return limit is not None and self.clock - facts["time"] <= limit

    @invariant()
    def what_is_not_ours_is_as_it_was(self) -> None:
        assert all(path.read_bytes() == data for path, data in self.foreign.items())

    @invariant()
    def nothing_is_half_removed(self) -> None:
        assert not any(path.name.endswith(".json.removing") for path in self.root.glob("daily/.obcms_set_*"))
        assert not any((self.root / f["tier"] / mark_name(i)).exists() for i, f in self.known.items())


VERIFIED = ("verified", "proven")
GOOD = (*VERIFIED, "unverified")
VAGUE = ("old script", "lost", "unreadable")
SAFE = (*GOOD, "damaged", "old script")


@pytest.mark.long
@pytest.mark.search
def test_a_life_with_all_mishaps() -> None:
    run_state_machine_as_test(Life, settings=examples(20))
