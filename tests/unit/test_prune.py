"""A cleanup on a real volume: what it removes, leaves alone and records, and a life of it with all mishaps."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from backup import lock
from backup.catalog import Catalog
from backup.config import Settings
from backup.errors import LockHeld, NotFound, RestoreUnfinished, StoreError
from backup.health import Reason
from backup.journal import Journal, JournalFile
from backup.manifest import Tier, file_name
from backup.operations.prune import PRUNE, WAITS, Report, Request, Shelf, plan, policy, prune
from backup.operations.status import status
from backup.records import Outcome, Records, Run
from backup.retention import Policy
from backup.sets import manifest_name, pin_name, verdict_name
from backup.stores.disk import translated
from backup.stores.local import LocalStore
from backup.stores.removing import mark_name
from tests.support.shelf import on_disk

NOW = datetime(2026, 3, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)
AGES = {Tier.DAILY: 30 * DAY, Tier.WEEKLY: 90 * DAY, Tier.MONTHLY: 365 * DAY}


@pytest.fixture
def root() -> Iterator[Path]:
    """In memory: what a disk does is tried elsewhere, here it is about many histories."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


def shelf(root: Path, now: datetime = NOW, share: int = 30, minimum: int = 3, zone: str = "UTC") -> Shelf:
    rules = Policy(AGES, minimum, share, timedelta(hours=48))
    return Shelf(
        Catalog(root, ZoneInfo(zone)), Records(root / "state/runs"), root / "state/lock", rules, clock=lambda: now
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


def warned(root: Path) -> list[Reason]:
    one = shelf(root)
    return [
        r for r in status(Settings(), one.catalog, one.records, NOW).reasons if r.text.startswith("the last cleanup")
    ]


# --- what it does ------------------------------------------------------------------------------------------------


def test_what_is_over_its_time_goes_and_the_rest_is_as_it_was(root: Path) -> None:
    kept, gone = fill(root, range(30)), fill(root, [31, 32])
    before = files(root)
    report = prune(Request(trigger="schedule"), shelf(root))
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
    assert [s.id for s in prune(Request(), shelf(root)).removed] == [gone]


def test_more_than_a_share_waits_for_a_person(root: Path) -> None:
    fill(root, range(4))
    old = fill(root, range(50, 66))
    report = prune(Request(), shelf(root))
    assert [s.id for s in report.removed] == old[:-7:-1] and (report.waiting, report.exit_code) == (10, WAITS)
    (reason,) = warned(root)
    assert reason.severity == "warn" and "10 more sets" in reason.text and "prune --force" in reason.hint
    again = prune(Request(), shelf(root, NOW + DAY))
    assert not again.removed and again.waiting == 10, "nobody has looked yet"
    assert prune(Request(force=True), shelf(root, NOW + 1.1 * DAY)).exit_code == 0
    assert warned(root) == [] and len(shelf(root).catalog.sets()) == 4


def test_the_sets_of_a_server_that_is_gone(root: Path) -> None:
    """They stay until a person says which; then the same rules hold for them, and the present ones are not touched."""
    ours, old = fill(root, range(5)), fill(root, range(40, 52), server="8")
    one = shelf(root)
    assert prune(Request(), one).removed == []
    told = [r for r in judged(root) if "8" in r.text and "another database server" in r.text]
    assert [r.severity for r in told] == ["warn"] and "prune --server 8 --dry-run" in told[0].hint
    with pytest.raises(NotFound, match="on the server 9"):
        prune(Request(server="9"), one)
    assert plan(Request(server="8", force=True), one, NOW).going and len(one.catalog.sets()) == 17
    report = prune(Request(server="8"), one)
    assert {s.id for s in report.removed} == set(old[:-4:-1]) and report.exit_code == WAITS, "a share, as ever"
    assert {s.id for s in prune(Request(server="8", force=True), one).removed} == set(old[3:-3])
    assert {s.id for s in one.catalog.sets()} == {*ours, *old[:3]}, "the newest three of them stay"
    assert not [r for r in judged(root) if "another database server" in r.text and "older" in r.text]


def judged(root: Path) -> list[Reason]:
    one = shelf(root)
    return list(status(Settings(), one.catalog, one.records, NOW).reasons)


def test_many_sets_between_two_cleanups_wait_for_nobody(root: Path) -> None:
    """Forty come and forty go in a fortnight, of eighty: more than the share, and daily life all the same."""
    one = shelf(root, share=10)
    fill(root, [n * 0.35 for n in range(120)])
    assert prune(Request(), one).exit_code == WAITS, "the first cleanup knows nothing of what came"
    assert prune(Request(force=True), one).exit_code == 0
    for week in (1, 2, 3):
        now = NOW + 14 * week * DAY
        for n in range(40):
            on_disk(root, Tier.DAILY, now - n * 0.35 * DAY, "verified")
        report = prune(Request(), shelf(root, now, share=10))
        assert report.exit_code == 0 and len(report.removed) == 40, week
    ahead = Run(id="20991231T000000Z", operation=PRUNE, started=NOW + 9999 * DAY, outcome=Outcome.SUCCESS)
    Records(root / "state/runs").end(ahead)
    for n in range(40):
        on_disk(root, Tier.DAILY, NOW + (56 - n * 0.35) * DAY, "verified")
    report = prune(Request(), shelf(root, NOW + 56 * DAY, share=10))
    assert report.exit_code == WAITS, "a cleanup while the clock was ahead had its part"


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CRASHED, Outcome.RUNNING])
@pytest.mark.parametrize("only", ["", "database", "media"])
def test_nothing_goes_after_a_backup_that_failed(root: Path, outcome: Outcome, only: str) -> None:
    """F12, also when only one half of it failed, and a later success was of the other half."""
    fill(root, range(40))
    created(root, outcome, only=only)
    before = files(root)
    if only:
        created(root, Outcome.SUCCESS, 0.5, "media" if only == "database" else "database")
    created(root, Outcome.INTERRUPTED, 0.2)
    for request in (Request(), Request(force=True)):
        report = prune(request, shelf(root))
        assert not report.removed and "the last daily backup" in report.words
    assert files(root) == before
    assert shelf(root).records.all()[0].message.startswith("nothing was removed; the last daily backup")
    created(root, Outcome.SUCCESS, 0.1)
    assert prune(Request(), shelf(root)).removed


def test_a_record_from_the_future_stands_for_nothing(root: Path) -> None:
    fill(root, range(35))
    created(root, Outcome.SUCCESS, hours=-90_000)
    created(root, Outcome.FAILED)
    assert not prune(Request(), shelf(root)).removed
    created(root, Outcome.SUCCESS, 0.5)
    created(root, Outcome.FAILED, hours=-90_001)
    assert prune(Request(), shelf(root)).removed


def test_what_is_left_of_a_removal_does_not_keep_the_others(root: Path) -> None:
    fill(root, range(20))
    stuck, old = fill(root, [41, 40])
    path = root / "daily" / manifest_name(stuck)
    path.rename(path.with_name(mark_name(stuck))).write_text("{")
    with pytest.raises(StoreError, match="what is left of a removed set"):
        prune(Request(), shelf(root))
    assert old not in {s.id for s in shelf(root).catalog.sets()} and len(warned(root)) == 1


def test_room_can_be_made_after_a_backup_that_failed(root: Path) -> None:
    fill(root, range(35))
    created(root, Outcome.FAILED)
    assert len(prune(Request(make_room=True), shelf(root)).removed) == 4
    assert len(prune(Request(make_room=True, force=True), shelf(root, NOW + 1000 * DAY)).removed) == 28


def test_nothing_goes_while_the_newest_good_set_is_old(root: Path) -> None:
    fill(root, range(3, 40))
    report = prune(Request(force=True), shelf(root))
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
    assert [s.id for s in prune(Request(), shelf(root)).removed] == [gone]
    left = {file_name(*part) for part in (("backup", gone, "sql.gz"), ("media", gone, "tar.gz"))}
    left |= {file_name("set", gone, "sha256"), verdict_name(gone), manifest_name(gone)}
    assert sorted(p.name for p in folder.iterdir()) == [name for name in before if name not in left]


def test_files_of_the_old_scripts_go_by_their_names(root: Path) -> None:
    fill(root, range(4))
    young, old = fill(root, [29, 31], "old script", zone=ZoneInfo("Asia/Manila"))
    report = prune(Request(), shelf(root, zone="Asia/Manila"))
    assert [s.id for s in report.removed] == [old] and any(young in name for name in files(root))


def test_a_set_that_lost_its_manifest_or_a_file_is_left(root: Path) -> None:
    """F6."""
    fill(root, range(4))
    lost, incomplete = fill(root, [100, 101])
    (root / "daily" / manifest_name(lost)).unlink()
    (root / "daily" / file_name("backup", incomplete, "sql.gz")).unlink()
    before = files(root)
    assert not prune(Request(force=True), shelf(root)).removed and files(root) == before


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
        prune(Request(), shelf(root))
    assert len(shelf(root).catalog.sets()) == 40


def test_nothing_goes_while_a_restore_stands_half_way(root: Path) -> None:
    fill(root, range(40))
    JournalFile(root).begin(Journal(id="1", run="r", set="x", started=NOW))
    with pytest.raises(RestoreUnfinished):
        prune(Request(force=True), shelf(root))
    assert len(shelf(root).catalog.sets()) == 40 and warned(root)


def test_a_record_that_cannot_be_read_stops_it(root: Path) -> None:
    """It may be the one of a backup that failed."""
    fill(root, range(40))
    created(root, Outcome.SUCCESS)
    next((root / "state/runs").iterdir()).write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        prune(Request(force=True), shelf(root))
    assert len(shelf(root).catalog.sets()) == 40


def test_a_full_disk_can_be_made_emptier(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No byte can be written until something has gone."""
    fill(root, range(35))

    def full(store: LocalStore, name: str) -> None:
        raise translated(OSError(errno.ENOSPC, "No space left on device"), store.directory / name)

    monkeypatch.setattr(LocalStore, "stage", full)
    assert len(prune(Request(), shelf(root)).removed) == 4
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
        prune(Request(), shelf(root))
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
    assert not prune(Request(), shelf(root)).removed
    after = files(root)
    assert after.pop(pin_name(old)) and after == before


def test_the_settings_become_the_policy() -> None:
    made = policy(Settings(BACKUP_RETENTION_WEEKLY=0, BACKUP_RETENTION_MANUAL=5, BACKUP_MAX_AGE_HOURS=30))  # type: ignore[call-arg]
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
        self.sane = True

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @property
    def clock(self) -> datetime:
        return self.now + self.skew

    def shelf(self) -> Shelf:
        rules = Policy({**AGES, Tier.DAILY: self.days * DAY}, self.minimum, self.share, timedelta(hours=48))
        one = shelf(self.root, self.clock, zone=self.zone)
        return Shelf(one.catalog, one.records, one.lock, rules, one.clock)

    def made(self, time: datetime, kind: str, tier: Tier = Tier.DAILY, name: str = "app", halves: str = "dm") -> None:
        identifier = on_disk(self.root, tier, time, kind, name=name, halves=halves)
        folder = self.root / tier
        paths = [p for p in folder.iterdir() if identifier in p.name]
        self.known[identifier] = {
            "tier": tier, "time": time.replace(microsecond=0), "kind": kind, "name": name, "halves": halves,
            "pin": False, "paths": paths,
        }  # fmt: skip

    def run(self, outcome: Outcome) -> None:
        Records(self.root / "state/runs").end(
            Run(id=f"{self.now:%Y%m%dT%H%M%S}Z", operation="create", tier="daily", started=self.clock,
                ended=self.clock, outcome=outcome)
        )  # fmt: skip

    @initialize(days=st.sampled_from([0, 20, 40]), halves=st.sampled_from(["dm", "d"]))
    def history(self, days: int, halves: str) -> None:
        for n in range(0, days, 2):
            self.made(self.now - n * DAY, "proven" if n % 10 == 4 else "verified", halves=halves)

    @rule(
        kind=st.sampled_from(["verified", "verified", "proven", "unverified", "damaged"]),
        tier=st.sampled_from([Tier.DAILY, Tier.DAILY, Tier.WEEKLY, Tier.MANUAL]),
        halves=st.sampled_from(["dm", "dm", "m"]),
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
        self.skew = timedelta()
        self.a_day_passes("verified", Tier.DAILY, "dm")
        self.prune(force, step)

    @rule(force=st.booleans(), step=st.one_of(st.none(), st.integers(0, 40)))
    def prune(self, force: bool, step: int | None) -> None:
        before = {i: f for i, f in self.known.items() if any(p.exists() for p in f["paths"])}
        failed = self.shelf().records.all()
        report: Report | None = None
        if step is None:
            report = prune(Request(force=force), self.shelf())
        else:
            with contextlib.suppress(Killed), killed_at(step):
                prune(Request(force=force), self.shelf())
            states = {s.id: s.state for s in self.shelf().catalog.sets()}
            assert all(states[i] != "unreadable" for i in states if i in before and before[i]["kind"] in GOOD)
            self.shelf().catalog.sweep()
            self.shelf().records.mark_crashed(self.clock)
        self.judge(before, force, any(r.operation == "create" for r in failed), report)

    def judge(self, before: dict[str, dict[str, Any]], force: bool, ran: bool, report: Report | None) -> None:
        """P7, P8 and P9, by what the bystander knows alone."""
        gone = {
            i for i, facts in before.items() if not all(p.exists() for p in facts["paths"] if facts["kind"] in SAFE)
        }
        gone |= {i for i, facts in before.items() if not any(p.exists() for p in facts["paths"])}
        assert all(not any(p.exists() for p in before[i]["paths"]) for i in gone), "a set was left in pieces"
        assert report is None or {s.id for s in report.removed} == gone
        here = {i: f for i, f in before.items() if f["time"] <= self.clock + timedelta(minutes=5)}
        for i in gone:
            facts = before[i]
            assert i in here and not facts["pin"] and facts["kind"] not in ("incomplete", "lost", "unreadable"), facts
            assert facts["tier"] in AGES and self.clock - facts["time"] > (
                self.days * DAY if facts["tier"] is Tier.DAILY else AGES[facts["tier"]]
            )
        past = [r for r in Records(self.root / "state/runs").all() if r.started <= self.clock + timedelta(minutes=5)]
        creates = [r for r in past if r.operation == "create"]
        if creates and creates[0].outcome is Outcome.FAILED:
            assert not gone, "after a run that failed"
        newest = max(
            (f for f in here.values() if f["kind"] in GOOD and "d" in f["halves"]),
            key=lambda f: f["time"],
            default=None,
        )
        assert not gone or (newest and self.clock - newest["time"] <= timedelta(hours=48))
        databases = {f["name"] for f in before.values() if "d" in f["halves"] and f["kind"] in (*GOOD, "damaged")}
        for i in gone:
            vague = "d" not in before[i]["halves"] or before[i]["kind"] == "old script"
            assert newest and (before[i]["name"] == newest["name"] if not vague else databases <= {newest["name"]})
        for tier in AGES:
            mine = {i: f for i, f in here.items() if f["tier"] is tier and newest and f["name"] == newest["name"]}
            for half in "dm":
                counted = [i for i, f in mine.items() if f["kind"] in ("verified", "proven") and half in f["halves"]]
                assert len(set(counted) - gone) >= min(self.minimum, len(counted))
                good = [i for i, f in mine.items() if f["kind"] in GOOD and half in f["halves"]]
                assert not good or max(good, key=lambda i: (before[i]["time"], i)) not in gone
            proven = [i for i, f in mine.items() if f["kind"] == "proven"]
            assert not proven or max(proven, key=lambda i: (before[i]["time"], i)) not in gone
            total = sum(f["tier"] is tier for f in before.values())
            assert force or len([i for i in gone if before[i]["tier"] is tier]) <= max(1, total * self.share // 100)
        self.known = {i: f for i, f in self.known.items() if i not in gone}

    @invariant()
    def what_is_not_ours_is_as_it_was(self) -> None:
        assert all(path.read_bytes() == data for path, data in self.foreign.items())

    @invariant()
    def nothing_is_half_removed(self) -> None:
        assert not any(path.name.endswith(".json.removing") for path in self.root.glob("daily/.obcms_set_*"))
        assert not any((self.root / f["tier"] / mark_name(i)).exists() for i, f in self.known.items())


GOOD = ("verified", "proven", "unverified")
SAFE = (*GOOD, "damaged", "old script")


def test_a_life_with_all_mishaps() -> None:
    run_state_machine_as_test(Life, settings=settings(max_examples=80, stateful_step_count=25, deadline=None))
