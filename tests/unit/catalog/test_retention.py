"""What goes and what stays: each rule, and all of them against a slow model that shares no code with them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.catalog.retention import (
    CleanupMemory,
    DatabaseIdentity,
    Decision,
    RetentionPolicy,
    advanced,
    decide,
    held_by_newer,
    identity_of,
    old_safety_sets,
    stale,
)
from backup.model.backup_set import StoredSet
from backup.model.manifest import STAMP, Manifest, Tier, stamp_time
from tests.support.examples import examples, thinned
from tests.support.set_factory import in_memory

NOW = datetime(2026, 3, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)
TIERS = (Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY)
POLICY = RetentionPolicy(
    {Tier.DAILY: 30 * DAY, Tier.WEEKLY: 90 * DAY, Tier.MONTHLY: 365 * DAY}, 3, 30, timedelta(hours=48)
)
KINDS = ["verified", "proven", "damaged", "unverified", "incomplete", "mixed up", "unreadable", "old script"]


def ago(days: float, kind: str = "verified", tier: Tier = Tier.DAILY, **facts: Any) -> StoredSet:
    return in_memory(tier, NOW - timedelta(days=days), kind, **facts)


def going(decisions: Sequence[Decision]) -> list[str]:
    return [d.stored.id for d in decisions if not d.keep]


def fate(sets: Sequence[StoredSet], which: StoredSet, **options: Any) -> str:
    """`gone` or `waits`, or why it is kept."""
    (found,) = (d for d in decide(sets, POLICY, NOW, **options) if d.stored is which)
    return "waits" if found.waits else found.reason if found.keep else "gone"


FRESH = [ago(0.1), ago(1), ago(2), ago(3)]


# --- each rule ---------------------------------------------------------------------------------------------------


def test_the_seeds_ages() -> None:
    for tier, days in ((Tier.DAILY, 30), (Tier.WEEKLY, 90), (Tier.MONTHLY, 365)):
        newer = [ago(n, tier=tier) for n in range(4)]
        young, old = ago(days, tier=tier), ago(days + 0.001, tier=tier)
        assert fate([*newer, young, old], young) == f"{days} d 00 h old; the limit is {days} days"
        assert fate([*newer, young, old], old) == "gone"


@pytest.mark.parametrize("kind", KINDS)
def test_bad_sets_never_take_the_place_of_good_ones(kind: str) -> None:
    """F1: the newest are unverified or bad, and the good ones are long over their time."""
    good = [ago(100 + n) for n in range(5)]
    newest = [ago(n, kind) for n in range(1, 8)]
    decisions = decide([*newest, *good], POLICY, NOW, force=True, identity=DatabaseIdentity("7", "app"))
    counts = kind in ("verified", "proven")
    assert going(decisions) == [s.id for s in (good if counts else good[3:])]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("unreadable", "unreadable"),
        ("incomplete", "is missing"),
        ("mixed up", "that of another set"),
    ],
)
def test_what_only_a_person_can_judge_stays(kind: str, words: str) -> None:
    """F6."""
    odd = ago(1000, kind)
    assert words in fate([*FRESH, odd], odd, force=True)


@pytest.mark.parametrize(("kind", "wanted"), [("damaged", 1), ("unverified", 3), ("old script", 3)])
def test_what_is_not_counted_goes_when_verified_ones_have_come_after_it(kind: str, wanted: int) -> None:
    odd = ago(100, kind)
    for newer in range(5):
        kept = fate([*(ago(n) for n in range(newer)), ago(0.01, tier=Tier.WEEKLY), odd], odd)
        assert (kept == "gone") == (newer >= wanted), (newer, kept)
    young = ago(20, kind)
    assert "the limit is 30 days" in fate([*FRESH, young], young)


def test_the_newest_proven_set_stays() -> None:
    proven, older = ago(200, "proven"), ago(300, "proven")
    assert fate([*FRESH, proven, older], proven) == "the newest proven daily set"
    assert fate([*FRESH, proven, older], older) == "gone"


def test_a_pinned_set_stays_and_counts_for_what_it_is() -> None:
    pinned = ago(400, pin=True)
    assert fate([*FRESH, pinned], pinned, force=True) == "pinned: because"


def test_files_alone_do_not_stand_for_the_database() -> None:
    database = [ago(100 + n, halves="d") for n in range(4)]
    media = [ago(n, halves="m") for n in range(6)]
    decisions = decide([*media, *database], POLICY, NOW, force=True)
    assert going(decisions) == [database[3].id]
    files = [ago(100 + n, halves="m") for n in range(4)]
    assert going(decide([*(ago(n, halves="d") for n in range(6)), *files], POLICY, NOW, force=True)) == [files[3].id]


def test_each_volume_is_a_component_of_its_own() -> None:
    """A volume that left the stack: its last sets stay until a person forgets it, and count again when it is back."""
    ocr = [ago(100 + n, halves="dmo") for n in range(6)]
    sets = [*(ago(n) for n in range(9)), *ocr]
    assert going(decide(sets, POLICY, NOW, force=True)) == [s.id for s in ocr[3:]]
    assert fate(sets, ocr[2], force=True) == "one of the newest 3 verified daily sets with the volume ocr"
    forgotten = replace(POLICY, forgotten={"ocr": ocr[0].time})
    assert going(decide(sets, forgotten, NOW, force=True)) == [s.id for s in ocr]
    back = [ago(40 + n, halves="dmo") for n in range(4)]
    assert going(decide([*sets, *back], forgotten, NOW, force=True)) == [*(s.id for s in ocr), back[3].id]


@pytest.mark.parametrize(
    "other", [("app-test", "7"), ("ap", "7"), ("a*b", "7"), ("APP", "7"), ("app", "8"), ("a%p", "7"), ("a_p", "7")]
)
def test_sets_of_other_databases_stay(other: tuple[str, str]) -> None:
    """F3: the scope is exact."""
    name, server = other
    theirs = [ago(50 + n, name=name, server=server) for n in range(9)]
    ours = [ago(60 + n) for n in range(9)]
    decisions = decide([*FRESH, *theirs, *ours], POLICY, NOW, force=True)
    assert set(going(decisions)) == {s.id for s in ours}
    assert all("of another database" in d.reason for d in decisions if d.stored in theirs)
    # And the other way round, when the newest good set is theirs.
    decisions = decide([ago(0.01, name=name, server=server), *FRESH, *theirs, *ours], POLICY, NOW, force=True)
    assert set(going(decisions)) <= {s.id for s in theirs}
    assert set(
        going(decide([*theirs, *FRESH, *ours], POLICY, NOW, identity=DatabaseIdentity(server, name), force=True))
    ) <= {s.id for s in theirs}


@pytest.mark.parametrize("kind", ["files", "old script"])
def test_what_does_not_say_whose_it_is_stays_beside_another_database(kind: str) -> None:
    odd = ago(100, halves="m") if kind == "files" else ago(100, "old script", halves="m")
    assert fate([*FRESH, odd], odd) == "gone"
    assert "sets of several are here" in fate([*FRESH, ago(500, "damaged", name="app-test"), odd], odd)


def test_manual_sets_stay_unless_a_setting_says_otherwise() -> None:
    manual = [ago(1000 + n, tier=Tier.MANUAL) for n in range(5)]
    assert fate([*FRESH, *manual], manual[4]) == "manual sets are kept until you remove them"
    policy = RetentionPolicy({**POLICY.ages, Tier.MANUAL: 10 * DAY}, 3, 100, POLICY.fresh)
    assert going(decide([*FRESH, *manual], policy, NOW)) == [manual[3].id, manual[4].id]


def test_nothing_goes_while_there_is_no_fresh_good_set() -> None:
    assert stale([], POLICY, NOW) == stale([ago(1, "damaged"), ago(1, halves="m")], POLICY, NOW)
    assert "no good set of the database" in stale([ago(-1)], POLICY, NOW)
    assert "or the clock jumped" in stale([ago(2.01)], POLICY, NOW) and not stale([ago(1.9)], POLICY, NOW)
    assert "or the clock jumped" in stale([ago(0, tier=Tier.PRE_RESTORE), ago(3)], POLICY, NOW), "a safety set is none"
    decisions = decide([*FRESH, *(ago(50 + n) for n in range(9))], POLICY, NOW, hold="the last backup failed")
    assert not going(decisions)
    assert sum(d.reason.endswith("old; the limit is 30 days; the last backup failed") for d in decisions) == 9


def test_one_run_removes_a_share_the_oldest_first() -> None:
    """P9."""
    old = [ago(50 + n) for n in range(16)]
    decisions = decide([*FRESH, *old], POLICY, NOW)
    assert going(decisions) == [s.id for s in old[-6:]]
    assert [d.stored for d in decisions if d.later] == old[:-6] and all(
        "removed later" in d.reason for d in decisions[4:14]
    )
    assert len(going(decide([*FRESH, *old], POLICY, NOW, force=True))) == 16


def test_what_was_made_since_the_last_cleanup_may_go_whatever_the_share() -> None:
    """Hourly sets kept for a day: each cleanup has to let go of as many as came."""
    policy = RetentionPolicy({Tier.DAILY: DAY}, 3, 30, POLICY.fresh)
    hourly = [ago(n / 24 + 0.001) for n in range(48)]
    assert len(going(decide(hourly, policy, NOW))) == 14, "no cleanup is known: the share alone"
    assert len(going(decide(hourly, policy, NOW, since=NOW - DAY))) == 24
    assert len(going(decide(hourly, policy, NOW, since=NOW - DAY / 2))) == 14, "twelve came: the share is more"
    bad = [ago(n / 24 + 0.001, "unverified") for n in range(24)]
    old = [ago(1.1 + n / 24) for n in range(48)]
    assert len(going(decide([*bad, *old], policy, NOW, since=NOW - DAY))) == 21, "what is not verified replaces nothing"


def test_a_policy_that_shrank_waits_for_a_person_and_the_old_one_goes_on() -> None:
    """30 → 3 by a typo, 3 → 1 of the minimum, a tier that was kept for ever."""
    sets = [ago(n + 0.1) for n in range(32)]
    memory = advanced(CleanupMemory(), POLICY, sets, [], NOW, agreed=False)
    short = replace(POLICY, ages={**POLICY.ages, Tier.DAILY: 3 * DAY}, minimum=1)
    decisions = decide(sets, short, NOW, memory=memory)
    assert going(decisions) == [s.id for s in sets[30:]]
    assert [d.stored for d in decisions if d.waits] == sets[3:30] and "limit is 30 days" in decisions[5].reason
    assert advanced(memory, short, sets, [], NOW, agreed=False).ages == POLICY.ages, "nobody has agreed"
    agreed = advanced(memory, short, sets, [], NOW, agreed=True)
    assert not any(d.waits for d in decide(sets, short, NOW, memory=agreed))
    few = [ago(50 + n) for n in range(3)]
    assert not going(decide(few, short, NOW, memory=memory)) and len(going(decide(few, short, NOW, memory=agreed))) == 1
    for_ever = replace(POLICY, ages={Tier.WEEKLY: 90 * DAY})
    memory = advanced(CleanupMemory(), for_ever, sets, [], NOW, agreed=False)
    assert not going(decide(sets, POLICY, NOW, memory=memory)), "it was kept for ever"


@given(
    steps=st.lists(st.sampled_from([0.1, 1, 1.9, 3, 20, 400]), min_size=1, max_size=12),
    seen=st.integers(0, 11),
    born=st.floats(0, 450),
)
def test_only_time_that_was_seen_to_pass_ages_a_set(steps: list[float], seen: int, born: float) -> None:
    """Against a count of the days, one record after the other, from the last cleanup on."""
    days = [sum(steps[:n]) for n in range(len(steps) + 1)]
    start, now = days[min(seen, len(steps) - 1)], NOW + days[-1] * DAY
    memory = CleanupMemory(seen=NOW + start * DAY, furthest=NOW + start * DAY)
    stored = in_memory(Tier.DAILY, NOW + born * DAY)
    if stored.time > now or any(abs(born - day) < 0.01 for day in days):
        return
    made = sorted([*days, born])
    lived = sum(
        (until - since) for since, until in pairwise(made) if since >= born and (until <= start or until - since <= 2)
    )
    lived += sum(start - max(a, born) for a, b in pairwise(made) if a < start < b and max(a, born) < start)
    memory = advanced(memory, POLICY, [stored], [NOW + day * DAY for day in days], now, agreed=False)
    decisions = decide([stored], replace(POLICY, minimum=0, ages={Tier.DAILY: 10 * DAY}), now, memory=memory)
    unseen = [gap.until - max(gap.since, stored.time) for gap in memory.gaps if gap.until > stored.time]
    assert abs((now - stored.time - sum(unseen, timedelta())) / DAY - lived) < 0.001
    assert decisions[0].keep, "the newest good one"


@given(
    made=st.lists(st.integers(0, 60), min_size=1, max_size=60, unique=True),
    cleaned=st.integers(0, 60),
    jump=st.sampled_from([-30, -1, 1, 29, 31, 400, 3650]),
    share=st.integers(1, 100),
)
def test_a_jump_of_the_clock_widens_nothing(made: list[int], cleaned: int, jump: int, share: int) -> None:
    """No more goes than the share, or than the sets that were really made after the cleanup."""
    policy = RetentionPolicy(POLICY.ages, 3, share, POLICY.fresh)
    sets = [ago(days) for days in made]
    real = sum(days < cleaned for days in made)
    gone = going(decide(sets, policy, NOW + jump * DAY, since=NOW - cleaned * DAY))
    young = sum(days < cleaned and days + jump <= 30 for days in made)
    assert len(gone) <= max(1, len(sets) * share // 100, min(real, young))


def test_a_clock_ten_years_ahead() -> None:
    """E1: nothing goes beyond the bound, and not even that while the newest set is as old as the jump."""
    history = list(year(NOW))
    ahead = NOW + timedelta(days=3652)
    assert stale(history, POLICY, ahead)
    jumped = [in_memory(Tier.DAILY, ahead - timedelta(hours=3)), *history]
    assert not stale(jumped, POLICY, ahead)
    gone = going(decide(jumped, POLICY, ahead))
    for tier in TIERS:
        before = [s for s in jumped if s.tier is tier]
        assert 0 < sum(i.startswith(tier) for i in gone) <= 0.3 * len(before)
    # The clock is right again: the set from the future neither goes nor takes anybody's place.
    assert going(decide(jumped, POLICY, NOW)) == going(decide(history, POLICY, NOW))
    assert "ahead of the clock" in fate(jumped, jumped[0])


def test_sixty_days_of_failures_then_one_success() -> None:
    """F2: the older good ones are kept to the minimum, and the share goes first."""
    before = [ago(60 + n, kind) for n in range(30) for kind in ["proven" if n == 20 else "verified"]]
    sets = [ago(0.1), *before]
    assert not stale(sets, POLICY, NOW)
    assert len(going(decide(sets, POLICY, NOW))) == 9
    left = [d.stored for d in decide(sets, POLICY, NOW, force=True) if d.keep]
    assert left == [sets[0], before[0], before[1], before[20]]


@given(st.lists(st.tuples(st.integers(0, 2000), st.sampled_from(list(Tier)), st.sampled_from(["verified", "damaged"]))))
def test_only_old_good_safety_sets_beyond_ten_go(histories: list[tuple[int, Tier, str]]) -> None:
    sets = [ago(hours / 24, kind, tier) for hours, tier, kind in histories]
    gone = old_safety_sets(sets, NOW)
    good = sorted((s for s in sets if s.tier is Tier.PRE_RESTORE and s.good), key=lambda s: s.time, reverse=True)
    assert all(s.tier is Tier.PRE_RESTORE and s.good and NOW - s.time > timedelta(days=7) for s in gone)
    kept = [s for s in good if s not in gone]
    assert len(kept) >= min(10, len(good))
    assert all(g.time <= k.time for g in gone for k in kept if NOW - k.time > timedelta(days=7))


def test_a_pinned_or_unverified_safety_set() -> None:
    newest = [ago(8 + n, tier=Tier.PRE_RESTORE) for n in range(10)]
    pinned, old = ago(90, tier=Tier.PRE_RESTORE, pin=True), ago(91, tier=Tier.PRE_RESTORE)
    assert old_safety_sets([*newest, pinned, old], NOW) == [old]
    assert old_safety_sets([*newest[:9], ago(7.5, "unverified", Tier.PRE_RESTORE), old], NOW) == []
    assert fate([*FRESH, *newest, pinned, old], old) == "gone"


# --- snapshots of the media ---------------------------------------------------------------------------------------


def snapshot(days: float, kind: str = "verified") -> StoredSet:
    return ago(days, kind, Tier.SNAPSHOT, halves="m")


def test_a_snapshot_goes_by_itself_and_keeps_nothing() -> None:
    sets = [*FRESH, snapshot(0.01), snapshot(8), snapshot(9), ago(31)]
    gone = going(decide(sets, POLICY, NOW, force=True))
    assert gone == [sets[-3].id, sets[-2].id, sets[-1].id]
    assert fate([*FRESH[:2], sets[-1], *(snapshot(n / 100) for n in range(9))], sets[-1]).startswith(
        "one of the newest"
    )


def test_the_newest_snapshots_stay_until_sets_have_come_after_them() -> None:
    old = [snapshot(20 + n) for n in range(4)]
    before = [ago(25 + n) for n in range(3)]
    stays = {d.stored.id for d in decide([*old, *before], POLICY, NOW, force=True) if d.keep}
    assert stays >= {old[0].id, old[1].id, old[2].id} and old[3].id not in stays
    assert fate([*FRESH, *old, *before], old[0], force=True) == "gone"


def test_snapshots_are_those_of_any_server() -> None:
    """The stack came back on another one: what is kept for ever of the old one must not grow by 96 a day."""
    other = ago(3, server="8")
    old = snapshot(8)
    assert fate([*FRESH, other, old], old, force=True) == "gone"


@pytest.mark.long
def test_frequent_snapshots_never_meet_the_share() -> None:
    """One in five minutes, which is more than the share of a day; cleaned once a day."""
    sets: list[StoredSet] = []
    for day in range(12):
        now = NOW + day * DAY
        sets += [in_memory(Tier.SNAPSHOT, now - n * DAY / 288, halves="m") for n in range(288)]
        sets.append(in_memory(Tier.DAILY, now - DAY / 1000))
        decisions = decide(sets, POLICY, now, since=now - DAY)
        assert not any(d.waits or d.later for d in decisions), day
        sets = [d.stored for d in decisions if d.keep]
    assert sum(stored.snapshot for stored in sets) <= 288 + 1 + 6 * 24


def test_no_snapshot_waits_for_a_person() -> None:
    """The machine was off from Friday to Monday: each of that week would be a warning, of which no setting decides."""
    sets = [snapshot(n / 96 + 3.5) for n in range(4 * 96)] + [snapshot(0.1), ago(0.1), ago(3.6)]
    memory = advanced(
        CleanupMemory(seen=NOW - 3.5 * DAY, furthest=NOW - 3.5 * DAY), POLICY, sets, [], NOW, agreed=False
    )
    assert memory.gaps
    decisions = decide(sets, POLICY, NOW, since=NOW - 3.5 * DAY, memory=memory)
    assert not any(d.waits for d in decisions)
    # By the time that was seen to pass, the last day's are not over yet.
    assert all(d.keep for d in decisions[:80]) and len(going(decisions)) > 96


# --- all rules against a slow model ------------------------------------------------------------------------------


def components(manifest: Manifest) -> list[str]:
    return ["database"] * bool(manifest.database) + [volume.name for volume in manifest.volumes]


def model(
    sets: Sequence[StoredSet], policy: RetentionPolicy, now: datetime, identity: DatabaseIdentity | None
) -> set[str]:
    """The ids that may go but for the share; each set is judged alone, by counting those that came after it."""
    known = [s for s in sets if s.manifest and s.manifest.database]
    gone = policy.forgotten.get("ocr", datetime.min.replace(tzinfo=UTC))
    if identity is None:
        candidates = [s for s in known if s.good and (s.time - now).total_seconds() <= 300]
        if not candidates:
            return set()
        identity = identity_of(max(candidates, key=lambda s: (s.time, s.id)))

    def holds(s: StoredSet) -> str:
        named = ["media", "ocr"] if s.time > gone else ["media"]
        if s.derived:
            found = "d" * any(f.endswith("sql.gz") for f in s.files)
            return found + "".join(name[0] for name in named if any(f"_{name}_" in f for f in s.files))
        held = "".join(volume.name[0] for volume in s.manifest.volumes if volume.name in named)
        return "d" * (s.manifest.database is not None) + held

    def ours(s: StoredSet) -> bool:
        if s.tier is Tier.SNAPSHOT and s not in known:
            return True
        return identity_of(s) == identity if s in known else all(identity_of(k) == identity for k in known)

    def here(s: StoredSet) -> bool:
        return ours(s) and (s.time - now).total_seconds() <= 300

    def after(s: StoredSet, half: str) -> list[StoredSet]:
        return [
            o
            for o in sets
            if (o.tier == s.tier or s.tier is Tier.SNAPSHOT)
            and (o.time, o.id) > (s.time, s.id)
            and half in holds(o)
            and here(o)
        ]

    def may_go(s: StoredSet) -> bool:
        if s.pin or not here(s) or s.state == "unreadable":
            return False
        if s.manifest and (s.manifest.id != s.id or {a.file for a in s.manifest.artifacts} - set(s.files)):
            return False
        seconds = (now - s.time).total_seconds()
        if s.tier is Tier.PRE_RESTORE:
            newer = [o for o in sets if o.tier is s.tier and here(o) and o.verified and (o.time, o.id) > (s.time, s.id)]
            if not (s.good and seconds > 7 * 86400 and len(newer) >= 10):
                return False
        elif s.tier is Tier.SNAPSHOT:
            same = [o for o in sets if o.tier is s.tier and o.verified and f"{o.time:%F %H}" == f"{s.time:%F %H}"]
            first = min(same, key=lambda o: (o.time, o.id), default=None)
            if seconds <= 86400 or (s is first and seconds <= 7 * 86400):
                return False
        elif s.tier not in policy.ages or seconds <= policy.ages[s.tier].total_seconds():
            return False
        for half in holds(s):
            newer = after(s, half)
            counted = sum(o.verified for o in newer)
            if s.good and not any(o.good for o in newer):
                return False
            if counted < (1 if s.state == "damaged" else policy.minimum):
                return False
        in_tier = [o for o in sets if o.tier is s.tier and here(o) and o.proven and (o.time, o.id) > (s.time, s.id)]
        return not s.proven or bool(in_tier)

    return {s.id for s in sets if may_go(s)}


@st.composite
def histories(draw: st.DrawFn) -> list[StoredSet]:
    made: dict[str, StoredSet] = {}
    for _ in range(draw(st.integers(0, 40))):
        stored = ago(
            draw(st.sampled_from([-4000, -0.1, 0, 0.5, 1, 2, 7, 7.1, 29, 30, 30.01, 31, 60, 89, 91, 364, 366, 3000]))
            + draw(st.integers(0, 9)) / 1000,
            draw(st.sampled_from(["verified"] * 6 + KINDS)),
            draw(st.sampled_from([*Tier, Tier.DAILY, Tier.DAILY, *[Tier.PRE_RESTORE] * 2, *[Tier.SNAPSHOT] * 2])),
            halves=draw(st.sampled_from(["dm", "dm", "dmo", "d", "m", "mo", "o"])),
            name=draw(st.sampled_from(["app"] * 30 + ["app-test", "a*b"])),
            pin=draw(st.integers(0, 15)) == 0,
        )
        made[stored.id] = stored
    return draw(st.permutations(list(made.values())))


@examples(60)
@given(
    histories(),
    st.integers(1, 4),
    st.integers(1, 100),
    st.sampled_from([None, DatabaseIdentity("7", "app")]),
    st.booleans(),
    st.sampled_from([None, 0.6, 7, 31, 400]),
    st.sampled_from([None, -0.1, 7.05, 60]),
)
@pytest.mark.long
def test_the_rules_are_those_of_the_model(
    sets: list[StoredSet],
    minimum: int,
    share: int,
    identity: DatabaseIdentity | None,
    force: bool,
    days: float | None,
    forgotten: float | None,
) -> None:
    since = None if days is None else NOW - days * DAY
    gone_volumes = {} if forgotten is None else {"ocr": NOW - forgotten * DAY}
    policy = RetentionPolicy(POLICY.ages, minimum, share, POLICY.fresh, gone_volumes)
    decisions = decide(sets, policy, NOW, identity=identity, force=force, since=since)
    assert [d.stored for d in decisions] == sets and all(d.reason for d in decisions)
    may = model(sets, policy, NOW, identity)
    gone = set(going(decisions))
    assert gone | {d.stored.id for d in decisions if d.waits or d.later} == may
    assert not force or gone == may
    for tier in Tier:
        total, wanted = (
            sum(s.tier is tier and s.time <= NOW + DAY / 288 for s in sets),
            {i for i in may if i.startswith(f"{tier}_")},
        )
        here = gone & wanted
        come = sum(since is not None and s.tier is tier and s.verified and s.time > since for s in sets)
        assert force or len(here) <= max(1, total * share // 100, come)
        oldest = sorted((s.time, s.id) for s in sets if s.id in wanted)
        assert here == {name for _, name in oldest[: len(here)]}
    # The same again when what goes has gone: what is left never falls below the promises.
    left = [s for s in sets if s.id not in gone]
    for tier in set(Tier) - {Tier.SNAPSHOT}:
        for component in ("database", "media", "ocr"):
            was = [s for s in sets if s.tier is tier and not s.derived and component in components(s.manifest)]
            was = [s for s in was if s.time > gone_volumes.get(component, NOW - 9999 * DAY)]
            held = [s for s in was if s.id not in gone]
            assert sum(s.verified for s in held) >= min(minimum, sum(s.verified for s in was))
            assert any(s.good for s in held) or not any(s.good for s in was)
        assert any(s.proven for s in left if s.tier is tier) or not any(s.proven for s in sets if s.tier is tier)


# --- the calendar ------------------------------------------------------------------------------------------------

ZONES = [ZoneInfo(name) for name in ("Asia/Manila", "Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo")]


def slots(now: datetime, zone: ZoneInfo, days: int) -> Iterator[tuple[Tier, datetime]]:
    """(tier, UTC) of what ran in the last `days` days: daily 02:00, Sundays 03:00, the first of a month 04:00."""
    today = now.astimezone(zone).date()
    for back in range(days):
        day = today - timedelta(days=back)
        wanted = [(Tier.DAILY, 2)] * (back < 45) + [(Tier.WEEKLY, 3)] * (day.weekday() == 6 and back < 120)
        for tier, hour in [*wanted, *[(Tier.MONTHLY, 4)] * (day.day == 1)]:
            moment = datetime(day.year, day.month, day.day, hour, tzinfo=zone).astimezone(UTC)
            if moment <= now:
                yield tier, moment


def year(now: datetime, zone: ZoneInfo = ZONES[0]) -> Iterator[StoredSet]:
    """A year of daily life, newest first, as a cleanup that never missed a day has left it."""
    limits = {Tier.DAILY: 30, Tier.WEEKLY: 90, Tier.MONTHLY: 365}
    for tier, moment in slots(now, zone, 400):
        if now - moment <= (limits[tier] + 1) * DAY:
            yield in_memory(tier, moment, zone=zone)


def epoch(stamp: str, zone: ZoneInfo) -> int | None:
    """The first second since 1970 at which a clock in `zone` shows this, by trying; None if it never does."""
    wanted = datetime.strptime(stamp, STAMP)  # noqa: DTZ007
    naive = int((wanted - datetime(1970, 1, 1)).total_seconds())  # noqa: DTZ001
    for second in range(naive - 14 * 3600, naive + 14 * 3600, 900):
        shown = datetime.fromtimestamp(second, zone)
        if shown.replace(tzinfo=None) == wanted:
            return second
    return None


@pytest.mark.long
@pytest.mark.search
def test_every_years_odd_days() -> None:
    """E8, P10: leap days, the turn of the year, week 53, the days that are 23 or 25 hours long, from 1970 to 2100."""
    first = datetime(1970, 1, 1, tzinfo=UTC)
    made = functools.cache(in_memory)
    tried = functools.cache(epoch)
    for number, of in enumerate(thinned(range(1971, 2101), 8)):
        # Four years in a row of one zone: one of them is a leap year.
        zone = ZONES[number // 4 % len(ZONES)]
        for month, day in ((1, 1), (1, 4), (2, 28), (3, 1), (3, 31), (4, 1), (10, 31), (12, 29), (12, 31)):
            now = datetime(of, month, day, 5, tzinfo=zone).astimezone(UTC)
            sets, expected = [], set()
            seconds = int((now - first).total_seconds())
            for tier, moment in slots(now, zone, 400):
                kind = "old script" if moment.day % 3 == 0 else "verified"
                stamp = moment.astimezone(zone).strftime(STAMP)
                stored = made(tier, stamp_time(stamp, zone), kind, zone=zone)
                sets.append(stored)
                known = tried(stamp, zone) if kind == "old script" else int((moment - first).total_seconds())
                limit = {Tier.DAILY: 30, Tier.WEEKLY: 90, Tier.MONTHLY: 365}[tier] * 86400
                if known is not None and seconds - known > limit:
                    expected.add(stored.id)
            decisions = decide(sets, POLICY, now, force=True)
            assert set(going(decisions)) == expected, (now, zone)


@pytest.mark.long
@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_daily_life_never_meets_the_share(zone: ZoneInfo) -> None:
    """More than a year, day by day, cleaned at 05:00, with a week off and a day of each kind of change of the clock."""
    start = date(2023, 12, 20)
    sets = list(year(datetime(2023, 12, 20, 1, tzinfo=zone).astimezone(UTC), zone))
    for number in range(400):
        day = start + timedelta(days=number)
        now = datetime(day.year, day.month, day.day, 5, tzinfo=zone).astimezone(UTC)
        if 300 <= number < 307:
            continue  # switched off
        if number == 307:
            sets.append(in_memory(Tier.DAILY, now - timedelta(minutes=5), zone=zone))
        sets += [in_memory(t, m, zone=zone) for t, m in slots(now, zone, 1) if not any(s.time == m for s in sets)]
        assert not stale(sets, POLICY, now)
        decisions = decide(sets, POLICY, now)
        assert not any(d.waits or d.later for d in decisions), (day, [d.stored.id for d in decisions if d.later])
        sets = [d.stored for d in decisions if d.keep]
    counts = {tier: sum(s.tier is tier for s in sets) for tier in TIERS}
    assert 29 <= counts[Tier.DAILY] <= 31 and 12 <= counts[Tier.WEEKLY] <= 13 and 12 <= counts[Tier.MONTHLY] <= 13


def test_a_safety_set_of_the_database_is_not_held_by_newer_ones_of_files() -> None:
    whole = in_memory(Tier.PRE_RESTORE, NOW - timedelta(days=20))
    files = [in_memory(Tier.PRE_RESTORE, NOW - timedelta(days=n), halves="m") for n in range(1, 12)]
    assert old_safety_sets([whole, *files], NOW) and not held_by_newer(whole, [whole, *files])
    assert held_by_newer(whole, [whole, *files, in_memory(Tier.PRE_RESTORE, NOW)])
    for other in ({"server": "8"}, {"name": "app2"}):
        newer = [in_memory(Tier.PRE_RESTORE, NOW - timedelta(days=n), **other) for n in range(1, 12)]  # type: ignore[arg-type]
        assert old_safety_sets([whole, *newer], NOW) and not held_by_newer(whole, [whole, *newer])
