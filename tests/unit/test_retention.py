"""Safety sets: the newest ten stay, and all that are younger than a week."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from backup.manifest import Tier
from backup.retention import old_safety_sets
from backup.sets import StoredSet

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def stored(hours: int, tier: Tier = Tier.PRE_RESTORE, state: str = "complete") -> StoredSet:
    folder = Path("/backups") / tier
    identifier = f"{tier}_{hours}"
    return StoredSet(folder, identifier, tier, NOW - timedelta(hours=hours), state, (), 0, manifest=MANIFEST)  # type: ignore[arg-type]


MANIFEST = object()


@given(st.lists(st.tuples(st.integers(0, 2000), st.sampled_from(list(Tier)), st.sampled_from(["complete", "damaged"]))))
def test_only_old_good_safety_sets_beyond_ten_go(histories: list[tuple[int, Tier, str]]) -> None:
    sets = [stored(*history) for history in histories]
    gone = old_safety_sets(sets, NOW)
    good = sorted((s for s in sets if s.tier is Tier.PRE_RESTORE and s.good), key=lambda s: s.time, reverse=True)
    assert all(s.tier is Tier.PRE_RESTORE and s.good and NOW - s.time > timedelta(days=7) for s in gone)
    kept = [s for s in good if s not in gone]
    assert len(kept) >= min(10, len(good))
    assert all(g.time <= k.time for g in gone for k in kept if NOW - k.time > timedelta(days=7))
    assert len(gone) == len([s for s in good[10:] if NOW - s.time > timedelta(days=7)])
