"""Snapshots of the media between two sets, of real files: what they hold, what they leave alone, and what they cost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup.catalog.thinning import thinned
from backup.cli import base
from backup.errors import LockHeld, MediaFailed, NoSpace, NotFound
from backup.media.volumes import NO_VOLUMES
from backup.model.manifest import Tier
from backup.model.run import Outcome
from backup.operations.create import run
from backup.operations.create.run import Request, create_set
from backup.operations.preemption import GaveWay, ask
from backup.operations.prune import PruneContext, prune_sets, retention_policy
from backup.operations.prune import Request as Cleanup
from backup.operations.verify.run import check_set
from backup.progress import Silent
from backup.storage import lock
from tests.support.awkward_tree import fill
from tests.support.increments import Stack
from tests.support.set_factory import in_memory


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    yield Stack(tmp_path / "stack")


def files(stack: Stack) -> list[str]:
    """All that is stored, but records, notes and logs."""
    folders = ("daily", "snapshot", "packs")
    return sorted(str(path) for each in folders for path in (stack.root / each).glob("**/*") if path.is_file())


def test_what_has_changed_is_a_set_and_what_has_not_is_none(stack: Stack) -> None:
    fill(stack.media, 1 << 18)
    night = stack.night()
    before = files(stack)
    assert stack.snapshot().id == night.id
    assert files(stack) == before
    (stack.media / "new").write_bytes(b"new")
    first = stack.snapshot()
    assert (first.tier, first.state, first.summary.holds_database) == (Tier.SNAPSHOT, "complete", False)
    assert first.verified
    stack.whole(first)
    assert stack.snapshot().id == first.id
    last = stack.app().records.readable()[0]
    assert (last.outcome, last.set, last.message) == (
        Outcome.SUCCESS,
        first.id,
        f"nothing has changed since {first.id}",
    )
    for change in (lambda: (stack.media / "new").chmod(0o600), (stack.media / "new").unlink, (stack.media / "d").mkdir):
        packs = stack.packs()
        change()
        stored = stack.snapshot()
        assert stored.time > first.time and stack.packs() == packs
        stack.whole(stored)
        assert stack.snapshot().id == stored.id


def test_no_set_needs_anything_of_a_snapshot(stack: Stack) -> None:
    """So however snapshots are thinned out, sets lose nothing; and what only they named goes with them."""
    (stack.media / "a").write_bytes(os.urandom(5000))
    stack.night()
    for number in range(3):
        (stack.media / f"b{number}").write_bytes(os.urandom(5000))
        assert len(stack.snapshot().manifest.packs) == number + 2
    night = stack.night()
    assert not any("snapshot" in pack.file for pack in night.manifest.packs)
    # The day after, they go on from the night's set.
    (stack.media / "c").write_bytes(os.urandom(5000))
    assert sum("snapshot" in pack.file for pack in stack.snapshot().manifest.packs) == 1
    assert sum("snapshot" in pack for pack in stack.packs()) == 4
    for stored in stack.app().catalog.sets(Tier.SNAPSHOT):
        assert check_set(stored, Silent()).problems == []
        stack.app().catalog.remove(stored)
    assert stack.app().catalog.remove_unneeded() > 0
    assert not any("snapshot" in pack for pack in stack.packs())
    for stored in stack.app().catalog.sets():
        assert check_set(stored, Silent()).problems == []


def test_one_goes_on_from_a_set_or_is_not_taken(stack: Stack) -> None:
    (stack.media / "a").write_bytes(b"a")
    with pytest.raises(NotFound, match="no whole, verified, incremental set of the volume media"):
        stack.snapshot()
    stack.night("full")
    with pytest.raises(NotFound):
        stack.snapshot()
    night = stack.night()
    (stack.root / "packs" / night.manifest.packs[0].file).unlink()
    with pytest.raises(NotFound):
        stack.snapshot()
    assert not stack.app().catalog.sets(Tier.SNAPSHOT)
    assert stack.app().records.readable()[0].exit_code == NotFound.exit_code
    stack.night()
    (stack.media / "b").write_bytes(b"b")
    stack.whole(stack.snapshot())


def test_it_is_not_the_latest_set(stack: Stack) -> None:
    (stack.media / "a").write_bytes(b"a")
    night = stack.night()
    (stack.media / "b").write_bytes(b"b")
    newer = stack.snapshot()
    assert newer.time > night.time
    assert stack.find("latest").id == night.id
    assert stack.find(newer.id).id == newer.id


def test_packs_that_were_read_before_are_left_to_the_sets(stack: Stack) -> None:
    (stack.media / "a").write_bytes(os.urandom(50_000))
    first = stack.night()
    path = stack.root / "packs" / first.manifest.packs[0].file
    note = path.with_name(f"{path.name}.checked")
    note.write_text(note.read_text().replace(f"{datetime.now(UTC):%Y}", "2001"))
    noted = note.read_text()
    (stack.media / "b").write_bytes(b"b")
    assert stack.snapshot().verified
    assert note.read_text() == noted
    stack.night()
    assert note.read_text() != noted


def test_it_reads_no_share_of_the_day_again(stack: Stack) -> None:
    for number in range(20):
        (stack.media / f"{number}").write_bytes(b"%d" % number)
    night = stack.night()
    stack.now += timedelta(days=30)
    assert stack.snapshot().id == night.id


def test_it_waits_for_nobody_and_asks_nobody_to_end(stack: Stack) -> None:
    (stack.media / "a").write_bytes(b"a")
    stack.night()
    app, began = stack.app(), time.monotonic()
    for name in ("drill daily", "drill daily that gives way"):
        with lock.hold(app.lock, name, "r", wait=0), pytest.raises(LockHeld):
            stack.snapshot()
    # One that is asked to end is given a minute for it.
    assert time.monotonic() - began < 30
    assert not (stack.root / "state" / "restore-first").exists()
    assert not [run for run in app.records.readable() if run.tier == Tier.SNAPSHOT]


def test_it_gives_way(stack: Stack) -> None:
    """Whoever wants the volume asks it to end: nothing of it is left, and the next one holds what it would have."""
    (stack.media / "a").write_bytes(b"a")
    stack.night()
    (stack.media / "b").write_bytes(os.urandom(5000))
    before = files(stack)
    asked = threading.Event()

    class Asking(Silent):
        def phase(self, name: str, total: int | None = None) -> None:
            if name == "reading what is new of media back":
                assert "gives way" in (lock.holder(stack.app().lock) or "")
                ask(stack.root, "create daily")
                asked.wait(30)

    context = stack.app().create_context(Asking())
    with base.signals(), pytest.raises(GaveWay):
        create_set(Request(tier=Tier.SNAPSHOT, only="media"), context)
    run = stack.app().records.readable()[0]
    assert (run.outcome, run.message) == (Outcome.INTERRUPTED, "create daily was to go first")
    stack.now = datetime.now(UTC) + timedelta(seconds=2)
    stored = stack.snapshot()
    stack.whole(stored)
    assert [name for name in before if name not in files(stack)] == []


@pytest.mark.long
def test_a_cleanup_thins_them_out(stack: Stack) -> None:
    """After nine days of three at noon, a quarter of an hour apart, in which files come and go."""
    (stack.media / "a").write_bytes(os.urandom(3000))
    stack.now = datetime.now(UTC).replace(hour=1, minute=0, second=0, microsecond=0) - timedelta(days=9)
    begin = stack.now
    for hour in range(0, 9 * 24, 12):
        for quarter in range(3 if hour % 24 else 1):
            stack.now = begin + timedelta(hours=hour, minutes=15 * quarter)
            (stack.media / "now").write_bytes(os.urandom(2000))
            stack.snapshot() if hour % 24 else stack.night()
    app, now = stack.app(), stack.now + timedelta(minutes=30)
    policy = retention_policy(app.settings)
    context = PruneContext(catalog=app.catalog, records=app.records, lock=app.lock, clock=lambda: now, policy=policy)
    # Without a database no set is ours; the rule itself is what is asked here.
    gone = thinned(app.catalog.sets(), lambda stored: now - stored.time)
    for stored in app.catalog.sets():
        if stored.id in gone:
            assert app.catalog.remove(stored)
    assert stack.app().catalog.remove_unneeded() > 0
    assert "no good set" in prune_sets(Cleanup(), context).words
    left = stack.app().catalog.sets()
    assert sum(stored.tier is Tier.DAILY for stored in left) == 9
    kept = [stored for stored in left if stored.snapshot]
    named = {pack.file for stored in left for pack in stored.manifest.packs}
    assert set(stack.packs()) == named
    for stored in left:
        assert stored.good and check_set(stored, Silent()).problems == [], stored.id
    ages = [now - stored.time for stored in kept]
    assert max(ages) <= timedelta(days=7)
    assert len({f"{stored.time:%d %H}" for stored in kept if now - stored.time > timedelta(days=1)}) == sum(
        age > timedelta(days=1) for age in ages
    )


def test_a_volume_without_content_is_in_nobodys_way(stack: Stack) -> None:
    """A new stack: one volume has empty files alone, so no pack, and nobody has put a file into the other one yet."""
    (stack.media / "keep").touch()
    assert stack.night().manifest.packs == ()
    second = stack.media.with_name("second")
    second.mkdir()
    # A set with a database takes an empty volume of which no set holds a file.
    night = stack.night(allow_empty=("second",))
    assert stack.snapshot().id == night.id
    (second / "first").write_bytes(b"first")
    assert stack.snapshot().summary.volumes[1].files == 1
    # Now it is how a forgotten mount looks.
    (second / "first").unlink()
    with pytest.raises(MediaFailed, match="second is empty"):
        stack.snapshot()


def test_a_damaged_snapshot_is_passed_over(stack: Stack) -> None:
    """It would keep all others from being taken until the night."""
    (stack.media / "a").write_bytes(os.urandom(5000))
    stack.night()
    (stack.media / "b").write_bytes(os.urandom(5000))
    first = stack.snapshot()
    (stack.root / "packs" / f"obcms_media_{first.id}.tar.gz").write_bytes(b"other")
    second = stack.snapshot()
    assert second.verified and second.id != first.id
    assert f"obcms_media_{first.id}.tar.gz" not in {pack.file for pack in second.manifest.packs}
    stack.whole(second)
    assert stack.snapshot().id == second.id


def test_a_set_dated_ahead_of_the_clock_is_not_the_one_before(stack: Stack) -> None:
    (stack.media / "a").write_bytes(b"a")
    now = stack.now
    stack.now += timedelta(days=3)
    ahead = stack.night()
    stack.now = now
    (stack.media / "b").write_bytes(b"b")
    night = stack.night()
    assert {pack.file for pack in night.manifest.packs} > {pack.file for pack in ahead.manifest.packs}
    assert stack.snapshot().id == night.id
    assert stack.night().manifest.packs == night.manifest.packs


def test_it_leaves_the_room_that_the_next_set_takes(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots must not be what keeps the nights from being made, after which nothing is removed any more."""
    (stack.media / "a").write_bytes(b"a")
    stack.night()
    stack.now += timedelta(seconds=1)
    made = in_memory(Tier.DAILY, stack.now, halves="d").manifest
    assert made.database
    part = made.database.model_copy(update={"size": 1 << 30})
    stack.app().catalog.publish(made.model_copy(update={"artifacts": (), "database": part}), [])
    (stack.media / "b").write_bytes(b"b")
    monkeypatch.setattr(run, "free_space", lambda path: 200 << 20)
    with pytest.raises(NoSpace, match="the next set needs about"):
        stack.snapshot()
    monkeypatch.setattr(run, "free_space", lambda path: 2 << 30)
    assert stack.snapshot().snapshot


def test_one_of_no_volume_is_none(stack: Stack) -> None:
    """BACKUP_ALLOW_EMPTY=none lets sets do without; here it would be an empty one each time."""
    stack.media.rmdir()
    with pytest.raises(MediaFailed, match="no volume is mounted"):
        stack.night(tier=Tier.SNAPSHOT, allow_empty=(NO_VOLUMES,))
    assert not stack.app().catalog.sets()
