"""The overview: one value from sets, runs and facts, and the same value from a volume that lies about all of them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.app.composition import App
from backup.catalog.scheduler_state import ScheduleFile, ScheduleState
from backup.cli.render import monitor
from backup.config.loader import load_settings
from backup.documents.status import STATUS
from backup.errors import NoSpace
from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier
from backup.model.run import Outcome, Run
from backup.model.schedule import upcoming
from backup.monitoring.forecast import HORIZON, days_left, growth
from backup.monitoring.health import WORDS
from backup.monitoring.overview import Overview, telling
from backup.monitoring.overview.compute import Facts, Policy, compute_overview, period, slots_between
from backup.operations import status
from backup.operations.restore.journal import KEPT
from backup.storage import filesystem
from backup.storage.filesystem import store_error
from tests.support.examples import examples
from tests.support.facts import MB, NOW, UTC_ZONE, a_run, a_set, on_disk
from tests.support.schemas import checked
from tests.support.set_factory import in_memory
from tests.support.windows import a_base, a_stream, a_window
from tests.unit.monitoring.health.test_rules import run_lists, set_lists

DAY = 24.0
JOBS = {"daily": "0 2 * * *", "weekly": "0 3 * * 0", "monthly": "0 4 1 * *", "drill": "0 6 * * 0"}
POLICY = Policy(
    zone=UTC_ZONE,
    max_age=timedelta(hours=48),
    jobs=JOBS,
    keep={Tier.DAILY: timedelta(days=30), Tier.WEEKLY: timedelta(days=90), Tier.MONTHLY: timedelta(days=365)},
)
FACTS = Facts(free=10**10, total=10**11, slots=upcoming(JOBS, NOW, UTC_ZONE))


def see(sets: list[StoredSet], runs: list[Run] | None = None, **facts: object) -> Overview:
    return compute_overview(sets, runs or [], NOW, POLICY, replace(FACTS, **facts))  # type: ignore[arg-type]


def test_everything_is_in_it() -> None:
    sets = [a_set(10, proof="proven"), a_set(34), a_set(40, "damaged"), a_set(50, tier=Tier.WEEKLY, proof="proven")]
    seen = see(sets[::-1], [a_run(50), a_run(10)], pinned=frozenset({sets[1].id}))
    assert seen.sets == tuple(sets) and [run.started.day for run in seen.runs] == [20, 18]
    good, proven, offsite = seen.clocks
    assert (good.stored, good.age, good.status) == (sets[0], timedelta(hours=10), "pass")
    assert (proven.stored, proven.limit, proven.status) == (sets[0], timedelta(days=14), "pass")
    assert offsite.stored is None and offsite.limit is None and "not set up" in offsite.note
    daily = seen.tiers[0]
    assert (daily.good, daily.proven, daily.bad, daily.pinned, daily.size) == (2, 1, 1, 1, 30 * MB)
    assert (daily.expected, daily.next) == (30, datetime(2025, 10, 21, 2, tzinfo=UTC))
    assert seen.storage.used == 40 * MB and seen.restore_seconds == 12.5


def test_the_forecast_counts_wal_and_bases_that_are_still_to_come() -> None:
    sets = [a_set(10 + 24 * n) for n in range(4)]
    # 20 MB of each base, 30 MB of WAL a day: 350 MB once it is all here, of which there are 20 + 60.
    start = NOW - timedelta(days=2)
    window = a_window(NOW, [a_base(1, start)], {n: NOW for n in range(1, 21)}, stream=a_stream(21, NOW, NOW), kept=8)
    alone, beside = see(sets, free=10 * MB + 290_000_000), see(sets, free=10 * MB + 290_000_000, window=window)
    assert (alone.storage.days_left or 0) > 20 and beside.storage.days_left == 1
    assert "290.0 MB more of base backups and WAL" in beside.storage.assumes
    assert "WAL" not in alone.storage.assumes


def test_the_newest_restore_or_drill_tells_how_long_one_takes() -> None:
    def restored(hours: float, **changed: object) -> Run:
        run = a_run(hours, operation="restore", set="daily_x")
        return run.model_copy(update={"ended": run.started + timedelta(seconds=90), **changed})

    sets = [a_set(10, proof="proven")]
    assert see(sets).restore_measured == f"the drill of {sets[0].id}"
    seen = see(sets, [restored(1), restored(2)])
    assert (seen.restore_seconds, seen.restore_measured) == (90, "the restore of daily_x")
    halves = [restored(1, only="media"), restored(2, outcome=Outcome.FAILED), restored(3, ended=None), restored(99)]
    assert see(sets, halves).restore_seconds == 12.5


def test_snapshots_are_shown_where_there_are_any_and_weigh_nothing() -> None:
    """Off means off: not even an empty tier. On, 96 a day say nothing of the backups, or of how long the disk lasts."""
    sets = [a_set(24 * day + 10, proof="proven") for day in range(9)]
    well = [a_run(10)]
    off = see(sets, well)
    assert [each.tier for each in off.tiers] == [each for each in Tier if each is not Tier.SNAPSHOT]
    snapshots = [in_memory(Tier.SNAPSHOT, NOW - timedelta(minutes=15 * n), halves="m") for n in range(1, 40)]
    runs = [a_run(n / 4, tier="snapshot") for n in range(3)]
    jobs = {**JOBS, "snapshot": "7-59/15 * * * *"}
    on = compute_overview([*sets, *snapshots], [*runs, *well], NOW, replace(POLICY, jobs=jobs), FACTS)
    assert [each.tier for each in on.tiers] == list(Tier) and on.tiers[-1].good == 39
    assert (on.health, on.clocks) == (off.health, off.clocks)
    assert replace(on.storage, used=off.storage.used) == off.storage
    assert telling(on.runs) == well
    facts = replace(FACTS, slots=upcoming(jobs, NOW, UTC_ZONE))
    soon = compute_overview(sets, well, NOW, replace(POLICY, jobs=jobs), facts)
    assert soon.slots[0].job == "snapshot"
    (section,) = monitor.status_sections(soon)
    assert [row.text for row in section.rows if row.label == "next run"] == ["daily, Tue 2025-10-21 02:00"]
    sent = a_run(0.1, operation="upload", tier="snapshot")
    assert telling([sent, *on.runs]) == [sent, *well]
    # A file that is written all the time is told by each of them.
    assert telling([*(a_run(n / 4, Outcome.CHANGED, "1 file", tier="snapshot") for n in range(20)), *well]) == well
    failed = [a_run(n / 4, Outcome.FAILED, "why", tier="snapshot") for n in range(3)]
    told = compute_overview([*sets, *snapshots], [*failed, *well], NOW, replace(POLICY, jobs=jobs), FACTS)
    assert [each.level for each in told.health.reasons] == ["warn"] and telling(told.runs) == [*failed, *well]
    assert see(sets, [*failed, *well]).health == off.health
    assert [each.tier for each in see([*sets, snapshots[0]], well).tiers] == list(Tier)


def test_the_next_set_is_not_told_from_a_safety_set() -> None:
    sets = [a_set(10), a_set(34)]
    safety = a_set(1, tier=Tier.PRE_RESTORE, dump=40 * MB, volumes={})
    assert see([safety, *sets]).storage.next_set == see(sets).storage.next_set


def test_nothing_is_not_health() -> None:
    seen = see([])
    assert seen.health.status == "fail"
    assert [clock.status for clock in seen.clocks[:2]] == ["fail", "starting"]
    assert seen.storage.days_left is None and seen.storage.next_set is None and seen.restore_seconds is None
    assert see([], [a_run(0, Outcome.RUNNING)]).clocks[0].status == "starting"
    assert see([], unread=True, problem="no").tiers == ()


@pytest.mark.parametrize(
    ("hours", "status"), [(1.0, "pass"), (47.9, "pass"), (48.1, "fail"), (-0.05, "pass"), (-1.0, "fail")]
)
def test_the_good_clock_and_the_verdict_agree(hours: float, status: str) -> None:
    seen = see([a_set(hours, proof="proven")])
    assert (seen.clocks[0].status, seen.health.status) == (status, status)


def test_a_rarer_drill_is_given_more_time() -> None:
    monthly = replace(POLICY, jobs=JOBS | {"drill": "0 6 1 * *"})
    sets = [a_set(1), a_set(20 * DAY, proof="proven")]
    assert compute_overview(sets, [], NOW, POLICY, FACTS).clocks[1].status == "warn"
    assert compute_overview(sets, [], NOW, monthly, FACTS).clocks[1].status == "pass"
    off = compute_overview(sets, [], NOW, replace(POLICY, jobs=JOBS | {"drill": ""}), FACTS).clocks[1]
    assert (off.status, off.limit, off.note) == ("pass", None, "no drill is scheduled")


def test_a_schedule_that_made_too_few_is_told() -> None:
    many, few = [a_set(10 + DAY * n, proof="proven") for n in range(20)], [a_set(10, proof="proven"), a_set(19 * DAY)]
    assert see(many).health.status == "pass"
    assert "its schedule makes 19" in see(few).health.reasons[0].text


# --- rates and forecasts ----------------------------------------------------------------------------------------------


def test_slots_are_counted() -> None:
    assert slots_between("0 2 * * *", NOW - timedelta(days=30), NOW, UTC_ZONE) == 30
    assert slots_between("0 2 * * *", NOW - timedelta(hours=10), NOW, UTC_ZONE) == 0
    assert slots_between("0 2 * * *", NOW - timedelta(hours=10, seconds=1), NOW, UTC_ZONE) == 1
    assert slots_between("0 2 * * *", NOW, NOW - timedelta(days=1), UTC_ZONE) == 0
    assert slots_between("* * * * *", NOW - timedelta(days=365), NOW, UTC_ZONE) == 1000
    assert period("0 3 * * 0", NOW, UTC_ZONE) == timedelta(days=7)
    assert period("", NOW, UTC_ZONE) is None


def grown(*sizes: int) -> list[StoredSet]:
    """Daily sets of these sizes, the newest first."""
    return [a_set(1 + DAY * n, size=size) for n, size in enumerate(sizes)]


def test_growth_is_told_from_enough_sets() -> None:
    assert growth([]) is growth(grown(5)) is growth(grown(5, 4)) is growth(grown(5, 4)[:1] * 1) is None
    assert growth(grown(30 * MB, 20 * MB, 10 * MB)) == 10 * MB
    assert growth(grown(*[7 * MB] * 10)) == 0
    assert growth(grown(5 * MB, 6 * MB, 7 * MB)) == -MB
    same_hour = [a_set(n / 60, size=n * MB) for n in range(10)]
    assert growth(same_hour) is None


def test_one_odd_set_changes_little() -> None:
    sizes = [20 * MB - n * MB for n in range(15)]
    sizes[4] = 900 * MB
    assert growth(grown(*sizes)) == pytest.approx(MB, rel=0.05)
    halves = [*grown(*sizes[:4]), *(a_set(2 + DAY * n, size=1, volumes={}) for n in range(1, 9))]
    assert growth(halves) == pytest.approx(MB)


def test_a_set_dated_ahead_is_no_part_of_the_forecast() -> None:
    """Nor is one of the end of the calendar, beyond which nothing can be counted."""
    here = [a_set(1 + DAY * n, size=10 * MB) for n in range(30)]
    known = compute_overview(here, [], NOW, POLICY, Facts(free=10**9)).storage
    for hours in (DAY * 60, (datetime(9999, 12, 31, tzinfo=UTC) - NOW) / timedelta(hours=1)):
        ahead = a_set(-hours, size=900 * MB)
        assert compute_overview([ahead, *here], [], NOW, POLICY, Facts(free=10**9)).storage == replace(
            known, used=known.used + 900 * MB
        )


def lasts(free: int, sets: list[StoredSet], grows: float = 0.0, keep: int | None = 30) -> float | None:
    kept = {Tier.DAILY: timedelta(days=keep)} if keep else {}
    return days_left(free, sets, NOW, grows=grows, per_day={Tier.DAILY: 1.0}, keep=kept)


def test_the_disk_lasts_as_long_as_retention_lets_it() -> None:
    full = [a_set(1 + DAY * n, size=10 * MB) for n in range(30)]
    # Each new set takes the place of one that is removed.
    assert lasts(25 * MB, full) == HORIZON
    assert lasts(5 * MB, full) == 1
    assert lasts(25 * MB, full, keep=None) == 2
    assert lasts(300 * MB, full[:1]) == HORIZON
    assert lasts(100 * MB, full[:1]) == 10
    grows = lasts(100 * MB, full, MB)
    assert grows is not None and 3 <= grows < 30
    assert lasts(10**9, []) is None


@given(st.integers(0, 10**9), st.integers(0, 10**8), st.integers(1, 10**7))
@examples(20)
def test_more_room_never_lasts_shorter(free: int, more: int, each: int) -> None:
    sets = [a_set(1 + DAY * n, size=each) for n in range(5)]
    assert (lasts(free + more, sets, 1000.0) or 0) >= (lasts(free, sets, 1000.0) or 0)


# --- the same for other programs and for people -----------------------------------------------------------------------

texts = st.text(max_size=20)


@examples(20)
@given(set_lists, run_lists, st.one_of(st.none(), st.integers(0, 10**12)), texts)
@pytest.mark.long
def test_json_round_trips_and_every_line_is_harmless(
    sets: list[StoredSet], runs: list[Run], free: int | None, text: str
) -> None:
    runs = [run.model_copy(update={"set": text, "operation": text, "message": text}) for run in runs]
    seen = see(sets, runs, free=free, problem=text)
    told = checked(STATUS.of(seen).encode())
    assert [one["id"] for one in told["sets"]] == [stored.id for stored in seen.sets]
    for sections in (monitor.status_sections(seen), monitor.report_sections(seen) + monitor.detail_sections(seen)):
        lines = monitor.draw_lines(seen, sections, boxed=True)
        assert f"Health Status: {WORDS[told['health']['status']]}" in lines
        assert not any(set(line) & set("\n\r\x1b\u202e") for line in lines)


def test_the_report_begins_as_the_seeds_did() -> None:
    sets = [a_set(12, proof="proven"), a_set(168, tier=Tier.WEEKLY), a_set(720, tier=Tier.MONTHLY)]
    seen = see(sets)
    text = "\n".join(monitor.draw_lines(seen, monitor.report_sections(seen), boxed=True))
    assert text.startswith(
        "╔══════════════════════════════════════════════════════════════╗\n"
        "║           OBCMS Backup Monitoring Report                     ║\n"
        "╚══════════════════════════════════════════════════════════════╝\n\n"
        "Generated: 2025-10-20 12:00:00\nHealth Status: HEALTHY\n"
    )
    assert "Backup Age (hours since last backup):\n  Daily:    12\n  Weekly:   168\n  Monthly:  720\n" in text
    assert "\nBackup Counts:\n  Daily:    1 backup" in text and "\nStorage:\n  Total Used:" in text


# --- from a volume ----------------------------------------------------------------------------------------------------


def volume(root: Path, **environ: str) -> Overview:
    app = App(load_settings({"BACKUP_DIR": str(root), **environ}))
    return status.overview(app.settings, app.catalog, app.records, datetime.now(UTC))


def test_a_volume_is_seen(tmp_path: Path) -> None:
    on_disk(tmp_path, 1, 25, proven=True)
    seen = volume(tmp_path)
    assert seen.health.status == "pass", seen.health.reasons
    assert len(seen.sets) == 2 and seen.tiers[0].proven == 2
    assert seen.storage.free and seen.storage.total and seen.storage.total >= seen.storage.free
    assert "daily" in [slot.job for slot in seen.slots]
    assert volume(tmp_path, AWS_S3_BACKUP_BUCKET="bucket").clocks[2].status == "starting"


def test_snapshots_that_do_not_come_are_missed_from_the_begin_of_the_service_on(tmp_path: Path) -> None:
    on_disk(tmp_path, 1, 25, proven=True)
    on = {"BACKUP_MEDIA": "incremental", "BACKUP_MEDIA_EVERY": "15m"}
    for hours, told in ((7, True), (5, False)):
        ScheduleFile(tmp_path).write(ScheduleState(since=datetime.now(UTC) - timedelta(hours=hours)))
        found = [each for each in volume(tmp_path, **on).health.reasons if "no snapshot of the media" in each.text]
        assert len(found) == told
    assert volume(tmp_path).health.status == "pass"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize(
    ("option", "cause"), [("remount,ro", "Read-only file system"), ("remount,nr_inodes=9", "no inodes are left")]
)
def test_a_volume_that_takes_no_record_is_red_by_the_name_of_its_cause(tmp_path: Path, option: str, cause: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m,mode=700", "tmpfs", tmp_path], check=True)
    try:
        on_disk(tmp_path, 1, 25, proven=True)
        assert volume(tmp_path).health.status == "warn"  # there is little room
        used = os.statvfs(tmp_path)
        option = option.replace("=9", f"={used.f_files - used.f_ffree}")
        subprocess.run(["mount", "-o", option, tmp_path], check=True)
        health = volume(tmp_path).health
        assert health.status == "fail" and cause in health.reasons[0].text, health.reasons
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.mark.parametrize("below", ["", "a/folder"])
def test_a_volume_in_memory_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    root = tmp_path / below
    root.mkdir(0o700, parents=True, exist_ok=True)
    on_disk(root, 1, 25, proven=True)
    assert volume(root, BACKUP_MIN_FREE_GB="0").health.status == "pass"  # as all other tests take it
    monkeypatch.setattr(filesystem, "MEMORY", frozenset({"tmpfs"}))
    health = volume(root, BACKUP_MIN_FREE_GB="0").health
    assert health.status == "fail" and f"no set is on a disk: {root} is memory (tmpfs)" in health.reasons[0].text


def test_what_is_memory_is_told_by_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "MEMORY", frozenset({"tmpfs"}))
    assert "tmpfs" in filesystem.in_memory(tmp_path) and filesystem.in_memory(Path("/dev/shm"))  # noqa: S108
    assert not filesystem.in_memory(Path("/proc")) and not filesystem.in_memory(tmp_path / "not there")


def test_a_quota_that_is_used_up_is_named(tmp_path: Path) -> None:
    error = store_error(OSError(errno.EDQUOT, "Disk quota exceeded"), tmp_path / "x")
    assert isinstance(error, NoSpace) and "its quota is used up" in error.message


def test_a_run_whose_end_is_not_recorded_is_told(tmp_path: Path) -> None:
    on_disk(tmp_path, 1, 25, proven=True)
    app, lost = (
        App(load_settings({"BACKUP_DIR": str(tmp_path)})),
        a_run(0, Outcome.CRASHED, "no record", now=datetime.now(UTC)),
    )
    seen = status.overview(app.settings, app.catalog, app.records, datetime.now(UTC), lost=[lost])
    assert seen.health.status == "fail" and "no record" in seen.health.reasons[0].text
    app.records.end(a_run(1, operation="prune", now=datetime.now(UTC)))
    lost = lost.model_copy(update={"operation": "prune", "message": "no record of it"})
    seen = status.overview(app.settings, app.catalog, app.records, datetime.now(UTC), lost=[lost])
    assert any("the last cleanup: crashed: no record of it" in reason.text for reason in seen.health.reasons)


KEPT_NOW = {"id": "u", "set": "daily_x", "replaced": "2025-10-20T12:00:00Z", "days": 7,
            "volumes": [{"name": "media", "stamp": "1", "bytes": 5000}]}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "size", "until", "text"),
    [
        (KEPT_NOW, 5000, "2025-10-27", ""),
        (KEPT_NOW | {"days": None}, 5000, "", ""),
        (KEPT_NOW | {"replaced": "9999-12-31T00:00:00Z"}, 5000, "", ""),
        ("{", None, "", "cannot be read"),
        (KEPT_NOW | {"days": "x"}, None, "", "cannot be read"),
        ("", None, "", "cannot be read"),
        (None, None, "", ""),
    ],
)
def test_what_is_kept_for_undo_is_told(
    tmp_path: Path, content: object, size: int | None, until: str, text: str
) -> None:
    on_disk(tmp_path, 1, proven=True)
    (tmp_path / "state").mkdir(exist_ok=True)
    if content is not None:
        (tmp_path / "state" / KEPT).write_text(content if isinstance(content, str) else json.dumps(content))
    seen = volume(tmp_path)
    assert seen.storage.undo == size
    assert f"{seen.storage.undo_until or ''}".startswith(until)
    assert text in "".join(reason.text for reason in seen.health.reasons)
    assert seen.health.status == ("warn" if text else "pass")


def test_a_damaged_record_hides_no_set(tmp_path: Path) -> None:
    on_disk(tmp_path, 1)
    (tmp_path / "state" / "runs").mkdir(parents=True)
    (tmp_path / "state" / "runs" / "x.json").write_text("{")
    seen = volume(tmp_path)
    assert seen.health.status == "fail" and len(seen.sets) == 1 and seen.tiers


def test_a_volume_that_is_not_there_is_red_and_counts_nothing(tmp_path: Path) -> None:
    seen = volume(tmp_path / "none")
    assert seen.health.status == "fail" and seen.tiers == () and seen.storage.free is None
    os.mkfifo(tmp_path / "daily")
    assert volume(tmp_path).health.status == "fail"


def test_a_verdict_from_the_future_or_damaged_is_no_proof(tmp_path: Path) -> None:
    (identifier,) = on_disk(tmp_path, 1, proven=True)
    note = tmp_path / "daily" / f"obcms_set_{identifier}.verdict"
    note.write_text(note.read_text().replace("20", "90", 1))
    assert volume(tmp_path).health.status in ("pass", "warn")
    note.write_text("{")
    seen = volume(tmp_path)
    assert seen.health.status == "fail" and seen.clocks[1].stored is None
