"""Snapshots of the media are thinned out: as soon or as late as one looks, the same ones are left."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from backup.catalog.thinning import ALL, HOURLY, thinned
from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier
from tests.support.examples import examples
from tests.support.set_factory import in_memory

NOW = datetime(2026, 3, 1, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def snapshot(minutes: int, kind: str = "verified") -> StoredSet:
    return in_memory(Tier.SNAPSHOT, NOW - minutes * MINUTE, kind, halves="m")


def left(sets: list[StoredSet], now: datetime) -> list[StoredSet]:
    gone = thinned(sets, lambda stored: now - stored.time)
    return [stored for stored in sets if stored.id not in gone]


def test_a_week_of_quarters() -> None:
    made = [snapshot(15 * n + 7) for n in range(4 * 24 * 9)]
    kept = left(made, NOW)
    young = [each for each in kept if NOW - each.time <= ALL]
    assert young == [each for each in made if NOW - each.time <= ALL] and len(young) == 96
    older = [each.time for each in kept if NOW - each.time > ALL]
    assert len(older) == 6 * 24 and {time.minute for time in older} == {8}
    assert NOW - min(older) <= HOURLY


def test_the_one_that_stays_of_an_hour_was_verified() -> None:
    hour = [
        snapshot(40 * 60 + 5 + 10 * n, kind) for n, kind in enumerate(["verified", "verified", "damaged", "unverified"])
    ]
    assert left(hour, NOW) == [hour[1]]


def test_other_tiers_are_not_touched() -> None:
    assert (
        thinned([in_memory(Tier.DAILY, NOW - timedelta(days=500), "verified")], lambda stored: NOW - stored.time) == {}
    )


MINUTES = st.sets(st.integers(0, 9 * 24 * 60), max_size=60)
KINDS = st.sampled_from(["verified", "verified", "verified", "unverified", "damaged"])


@examples(100)
@given(
    MINUTES.flatmap(lambda ages: st.fixed_dictionaries({each: KINDS for each in ages})),
    st.lists(st.integers(0, 9 * 1440)),
)
def test_a_cleanup_more_or_less_leaves_the_same(kinds: dict[int, str], looks: list[int]) -> None:
    """A cleanup that came before kept whatever this one wants; and in each hour of the week there is one."""
    made = [snapshot(each, kind) for each, kind in sorted(kinds.items())]
    kept = left(made, NOW)
    after = made
    for look in sorted(looks, reverse=True):
        then = NOW - look * MINUTE
        seen = [each for each in after if each.time <= then]
        after = [each for each in after if each not in seen or each in left(seen, then)]
    assert left(after, NOW) == kept
    for each in made:
        old = NOW - each.time
        assert old > ALL or each in kept
        if ALL < old <= HOURLY and each.verified:
            assert any(f"{other.time:%d %H}" == f"{each.time:%d %H}" and other.verified for other in kept)
