"""As much WAL is read as it takes to know the last commit of a moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest

from backup.catalog.wal_archive import StreamFile, WalArchive
from backup.model.manifest import Preload
from backup.model.moment import Commit, Wanted
from backup.model.recovered import Recovered
from backup.model.wal import Received, WindowProof, lsn
from backup.operations.pitr import recover
from backup.operations.pitr.base_choice import Cluster
from backup.progress import Silent
from tests.support.facts import NOW
from tests.support.windows import a_stream
from tests.unit.model.test_wal import SIZE, at, base, whole

ZONE = ZoneInfo("UTC")


class Work:
    """Recovery that has this many commits in each segment, and unpacks nothing."""

    def __init__(self, commits: dict[int, datetime]) -> None:
        self.all, self.unpacked = commits, [0]
        self.room: list[int] = []

    def require_space(self, needed: int) -> None:
        self.room.append(needed)

    def unpack(self, _tar: Iterable[bytes], *, into_wal: bool) -> None:
        assert into_wal

    def commits(self, _start: str, _timeline: int, _size: int, until: int) -> Iterator[Commit]:
        self.unpacked.append(until // SIZE)
        yield from (Commit(number * SIZE + 500, time) for number, time in self.all.items() if number * SIZE < until)


def asked(wanted: Wanted, last: int, root: Path) -> recover.Moment:
    received = Received(whole(range(2, last + 1)))
    return recover.Moment(wanted, WalArchive(root, "1"), base(2, 2), received, "d", Preload(), None, ZONE)


def look(moment: recover.Moment, commits: dict[int, datetime]) -> tuple[Any, list[int]]:
    work = Work(commits)
    found = recover.look(moment, cast(Any, work), Silent(), replay=False)
    assert sum(work.room) == work.unpacked[-1] * SIZE - 2 * SIZE, "there was to be room for each segment"
    return found, work.unpacked[1:]


def test_there_is_room_for_the_base_and_for_what_its_wal_adds_to_it(tmp_path: Path) -> None:
    work, moment = Work({5: at(5), 200: at(200)}), asked(Wanted(at(10.5)), 500, tmp_path)
    size = 10**9
    moment = replace(moment, base=moment.base.model_copy(update={"bytes": size}))
    recover.look(moment, cast(Any, work), Silent(), replay=True)
    # Of each batch: its own segments, and what all of them so far add.
    assert work.room == [size * 11 // 10 + count * SIZE for count in (73 + 73, 64 + 137, 64 + 201)]


def test_a_base_that_builds_on_others_is_there_twice_while_it_is_put_together(tmp_path: Path) -> None:
    full, moment = base(1, 1), asked(Wanted(at(9)), 9, tmp_path)
    size = 10**9
    full = full.model_copy(update={"bytes": size})
    step = moment.base.model_copy(update={"bytes": size // 10, "parent": full.id})
    alone = replace(moment, base=full)
    moment = replace(moment, base=step, links=[full, step])
    assert (alone.bytes, alone.room, moment.bytes) == (size, size * 11 // 10, size * 11 // 10)
    assert moment.room == 2 * (moment.bytes * 11 // 10)
    assert recover.space_for(moment) - recover.space_for(replace(moment, links=[])) == moment.room - size * 11 // 100
    found, _ = look(moment, {4: at(4)})
    shown = dict(recover.outlook(moment, found))
    assert f"with {full.id}, which it builds on; 2.4 GB to put them together" in shown["base backup"]


def test_the_bases_that_one_builds_on_are_found_with_it(tmp_path: Path) -> None:
    full, step = base(2, 2), base(3, 3).model_copy(update={"parent": "b2"})
    there = [(WalArchive(tmp_path, "1"), Cluster([full, step], Received(whole(range(2, 9)))))]
    found = recover.find_moment(there, Wanted(at(5)), "d", Preload(), None, ZONE)
    assert (found.base, list(found.links)) == (step, [full, step])
    found = recover.find_moment(there, Wanted(at(2.5)), "d", Preload(), None, ZONE)
    assert (found.base, list(found.links)) == (full, [full])


def test_wal_far_behind_the_moment_is_not_unpacked(tmp_path: Path) -> None:
    moment = asked(Wanted(at(10.5)), 500, tmp_path)
    found, unpacked = look(moment, {number: at(number) for number in range(2, 501)})
    assert found.last == Commit(10 * SIZE + 500, at(10)) and not found.complete
    # Up to segment 10 was received by then; of each further one its commit counts.
    assert unpacked == [11 + 64] and found.later == 64
    assert (
        "not brought back",
        "at least 64 later commits, of up to 2026-12-01 02:00:00.000000 UTC",
    ) in recover.outlook(moment, found)


def test_more_is_unpacked_until_a_later_commit_is_seen(tmp_path: Path) -> None:
    moment = asked(Wanted(at(10.5)), 500, tmp_path)
    found, unpacked = look(moment, {5: at(5), 200: at(200)})
    assert found.last == Commit(5 * SIZE + 500, at(5)) and found.later == 1
    assert unpacked == [75, 139, 203]


def test_all_is_unpacked_where_nothing_follows(tmp_path: Path) -> None:
    moment = asked(Wanted(at(9)), 9, tmp_path)
    found, unpacked = look(moment, {4: at(4)})
    assert found.last and found.complete and unpacked == [10]
    assert ("not brought back", "nothing that was received is left out") in recover.outlook(moment, found)


def test_it_takes_as_long_as_the_last_drill_did_for_as_much(tmp_path: Path) -> None:
    moment = asked(Wanted(at(9)), 9, tmp_path)
    found, _ = look(moment, {4: at(4)})
    assert "takes" not in dict(recover.outlook(moment, found))
    moment.archive.prepare()
    size = moment.base.bytes + 4 * SIZE + 500 - lsn(moment.base.start)
    moment.archive.keep_proof(WindowProof(tried=at(9), base="b", moment=at(9), bytes=size // 2, seconds=20))
    assert dict(recover.outlook(moment, found))["takes"].startswith("about 40.0 s, as the last drill")


def test_a_place_needs_the_wal_up_to_it(tmp_path: Path) -> None:
    found, unpacked = look(asked(Wanted(place=6 * SIZE + 500), 500, tmp_path), {n: at(n) for n in range(2, 501)})
    assert found.last == Commit(6 * SIZE + 500, at(6)) and unpacked == [7 + 64]


@pytest.mark.parametrize(
    ("recovered", "said"),
    [
        (
            Recovered(base="b", moment=at(16), lsn="0/1", last_commit=at(16) - timedelta(seconds=1.887), later=3),
            "as of 2026-11-28 16:00:00 UTC, last commit 15:59:58.113, from base backup b; 3 later commits not in it",
        ),
        (Recovered(base="b", lsn="0/1"), "up to 0/1, nothing committed since its base backup, from base backup b"),
    ],
)
def test_a_set_says_what_it_was_recovered_from(recovered: Recovered, said: str) -> None:
    assert recovered.words(ZONE) == said


@pytest.mark.parametrize(
    ("ago", "state", "seconds"),
    [(1, "streaming", 1), (-1, "streaming", 0), (9, "streaming", 0), (1, "down", 0), (1, "starting", 0)],
    ids=["on its way", "to come", "here", "down", "starting"],
)
def test_wal_that_is_on_its_way_is_waited_for(ago: float, state: str, seconds: float, tmp_path: Path) -> None:
    """Each look, a second apart, finds all that was there two seconds before."""
    file, now = StreamFile(tmp_path), [NOW]
    (tmp_path / "state").mkdir()

    def look(passed: float) -> None:
        now[0] += timedelta(seconds=passed)
        file.write(a_stream(5, now[0] - timedelta(seconds=2), now[0], state=state))

    look(0)
    recover.await_wal(tmp_path, NOW - timedelta(seconds=ago), lambda: now[0], look)
    assert (now[0] - NOW).total_seconds() == pytest.approx(seconds, abs=0.21)


def test_wal_that_does_not_come_is_waited_for_in_vain(tmp_path: Path) -> None:
    file, now = StreamFile(tmp_path), [NOW]
    (tmp_path / "state").mkdir()

    def look(passed: float) -> None:
        now[0] += timedelta(seconds=passed)
        file.write(a_stream(5, NOW - timedelta(seconds=5), now[0]))

    look(0)
    recover.await_wal(tmp_path, NOW, lambda: now[0], look)
    assert 30 <= (now[0] - NOW).total_seconds() < 31
    recover.await_wal(tmp_path / "no stream here", NOW, lambda: now[0], look)
