"""Which set has the media of a moment: the first that is not older, else the last before."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier
from backup.model.moment_media import media_then, neighbours
from backup.model.recovered import MediaThen, Missing, Recovered
from backup.model.run import Outcome, Run
from tests.support.facts import NOW, a_run
from tests.support.set_factory import in_memory

MINUTE = timedelta(minutes=1)


def at(minutes: int, tier: Tier = Tier.SNAPSHOT, kind: str = "verified", halves: str = "") -> StoredSet:
    return in_memory(tier, NOW - minutes * MINUTE, kind, halves=halves or ("m" if tier is Tier.SNAPSHOT else "dm"))


def looked(minutes: int, stored: StoredSet, outcome: Outcome = Outcome.SUCCESS) -> Run:
    return a_run(minutes / 60, outcome, tier="snapshot", set=stored.id)


NIGHT, FIRST, SECOND = at(600, Tier.DAILY), at(60), at(30)
SETS = [SECOND, NIGHT, FIRST]


@pytest.mark.parametrize(
    ("minutes", "found"),
    [
        (700, [(NIGHT, 600)]),
        (600, [(NIGHT, 600)]),
        (599, [(FIRST, 60), (NIGHT, 600)]),
        (45, [(SECOND, 30), (FIRST, 60)]),
        (30, [(SECOND, 30), (FIRST, 60)]),
        (10, [(SECOND, 30)]),
    ],
)
def test_the_first_that_is_not_older_and_the_last_that_is(minutes: int, found: list[tuple[StoredSet, int]]) -> None:
    assert neighbours(SETS, [], NOW - minutes * MINUTE, NOW) == [(each, NOW - ago * MINUTE) for each, ago in found]


def test_a_set_that_was_seen_to_hold_all_is_as_old_as_that_look() -> None:
    runs = [looked(15, SECOND), looked(20, SECOND), looked(45, FIRST), looked(5, SECOND, Outcome.FAILED)]

    def then(minutes: int) -> tuple[str, datetime]:
        found = media_then(SETS, runs, NOW - minutes * MINUTE, NOW)
        assert found
        return found.set, found.taken

    # One that was sent, or drilled, may be older than what is there.
    runs += [a_run(1 / 60, operation=each, tier="snapshot", set=FIRST.id) for each in ("upload", "drill")]
    assert then(50) == (FIRST.id, NOW - 45 * MINUTE)
    assert then(40) == (SECOND.id, NOW - 15 * MINUTE)
    assert then(16) == (SECOND.id, NOW - 15 * MINUTE)
    assert then(10) == (SECOND.id, NOW - 15 * MINUTE)


def test_only_good_ones_that_hold_media_of_their_own_time() -> None:
    recovered = at(20, Tier.MANUAL)
    part = recovered.manifest.database
    assert part
    part = part.model_copy(update={"recovered": Recovered(base="b", lsn="0/1", later=0)})
    recovered = replace(recovered, manifest=recovered.manifest.model_copy(update={"database": part}))
    odd = [recovered, at(25, kind="damaged"), at(24, Tier.DAILY, halves="d")]
    for minutes in (45, 26, 21):
        found = media_then([*SETS, *odd], [], NOW - minutes * MINUTE, NOW)
        assert found and found.set == SECOND.id
    assert media_then([], [], NOW, NOW) is None
    assert media_then(odd, [], NOW, NOW) is None


def test_what_a_clock_that_was_ahead_has_dated_tells_of_no_moment() -> None:
    """Neither a set of then, nor a look: the one before would have the media of all moments until then."""
    ahead, moment = at(-600), NOW - 45 * MINUTE
    found = media_then([*SETS, ahead], [looked(-700, NIGHT)], moment, NOW)
    assert found and (found.set, found.taken) == (SECOND.id, SECOND.time)
    found = media_then([*SETS, ahead], [looked(-700, SECOND)], NOW, NOW)
    assert found and (found.set, found.taken) == (SECOND.id, SECOND.time)


def test_a_volume_that_was_empty_for_once_has_the_media_of_no_moment() -> None:
    """As a safety set holds it when somebody has removed all of them, or the mount is gone."""
    both = at(50, halves="mo")
    assert neighbours([both, at(48)], [], NOW - 49 * MINUTE, NOW) == [(both, both.time)]
    empty = emptied(at(40, Tier.PRE_RESTORE))
    assert [each for each, _ in neighbours([*SETS, empty], [], NOW - 45 * MINUTE, NOW)] == [SECOND, FIRST]
    assert [each for each, _ in neighbours([FIRST, empty], [], NOW - 45 * MINUTE, NOW)] == [FIRST]
    # One that is empty for good is in nobody's way.
    later = emptied(SECOND)
    assert [each for each, _ in neighbours([FIRST, empty, later], [], NOW - 35 * MINUTE, NOW)] == [later, empty]
    assert [each for each, _ in neighbours([empty], [], NOW - 45 * MINUTE, NOW)] == [empty]


def emptied(stored: StoredSet) -> StoredSet:
    part = stored.manifest.volumes[0].model_copy(update={"files": 0})
    return replace(stored, manifest=stored.manifest.model_copy(update={"volumes": (part,)}))


def test_it_is_said() -> None:
    then = MediaThen(set="snapshot_x", taken=NOW)
    assert then.words(NOW - 3 * MINUTE) == "snapshot_x has them as they were 3 min 00 s after it"
    assert then.words(NOW + timedelta(hours=2)) == "snapshot_x has them as they were 2 h 00 min before it"
    whole = then.model_copy(update={"files": Missing(columns=("a.b",), referenced=4)})
    assert whole.words(NOW).endswith(" after it, with all 4 files that rows name")
    # No column of the database names files.
    assert then.model_copy(update={"files": Missing()}).words(NOW) == then.words(NOW)
