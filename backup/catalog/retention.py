"""Which sets may be removed, and why or why not. Pure; `now` is an argument.

A set is *counted* when it is of this database, good, verified, and not dated ahead of the clock. The newest counted
sets of each tier stay whatever their age, for each *component* by itself: the database, and each volume by its name. So
the last sets that hold a volume stay when it has left the stack, until a person says that it may be forgotten.

What is past its time because time passed in good order goes without a person, a bounded share of a tier at a time.
What is past it for another cause waits for one: a clock that jumped shows as time of which nothing is known (a *gap*),
a policy that shrank by what the cleanups before have seen set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice, pairwise
from typing import Final

from pydantic import AwareDatetime

from backup.catalog.thinning import HOURLY, thinned
from backup.formatting import age, plural
from backup.model.backup_set import (
    SKEW,
    StoredSet,
    by_time,
    holds_database,
    is_ahead,
    newest_first,
    present,
    volumes_of,
)
from backup.model.frozen import Frozen
from backup.model.manifest import Tier

_SAFETY_COUNT: Final = 10
_SAFETY_AGE: Final = timedelta(days=7)
DATABASE: Final = "the database"


@dataclass(frozen=True)
class RetentionPolicy:
    """How long sets are kept: `ages` of the tiers, others for ever; `minimum` good sets of a tier stay in any case.

    `share` is how many per cent of a tier one run may remove, or as many sets as were made since the last one. Nothing
    is removed while the newest good set of the database is older than `fresh`. `forgotten` are volumes that protect no
    set made until the time beside them: if one comes back, its new sets count as those of any other.
    """

    ages: Mapping[Tier, timedelta]
    minimum: int
    share: int
    fresh: timedelta
    forgotten: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True)
class DatabaseIdentity:
    """Which database a set is of."""

    system: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} on server {self.system}"


class Gap(Frozen):
    """Time of which nothing is known: nobody was there, or the clock jumped."""

    since: AwareDatetime
    until: AwareDatetime


class CleanupMemory(Frozen):
    """What one cleanup leaves to the next.

    `seen` is when it was, `furthest` the latest time that any record or set bore then. `ages` and `minimum` are the
    longest and the most that were set since a person agreed to what is set; None: nothing is known. `forgotten` are
    volumes that protect no set made until then.
    """

    seen: AwareDatetime | None = None
    furthest: AwareDatetime | None = None
    gaps: tuple[Gap, ...] = ()
    ages: Mapping[Tier, timedelta] | None = None
    minimum: int = 0
    forgotten: Mapping[str, AwareDatetime] = {}


@dataclass(frozen=True)
class Decision:
    """What becomes of a set. It would go, but `waits` for a person, or goes `later`, beyond the share of this run."""

    stored: StoredSet
    keep: bool
    reason: str
    waits: bool = False
    later: bool = False

    @property
    def action(self) -> str:
        """In one word: wait for a person, later by itself."""
        return "wait" if self.waits else "later" if self.later else "keep" if self.keep else "remove"


def decide(
    sets: Sequence[StoredSet],
    policy: RetentionPolicy,
    now: datetime,
    *,
    identity: DatabaseIdentity | None = None,
    hold: str = "",
    force: bool = False,
    since: datetime | None = None,
    memory: CleanupMemory | None = None,
) -> list[Decision]:
    """A decision on each set, in their order. `identity`: this database; None: that of the newest good set.

    `hold` says why nothing goes at all. `force` lifts the share and lets nothing wait. What is beyond the share goes
    later by itself. `since` is when the last cleanup was: as many sets as were made after it may go where that is more
    than the share. By `memory` what is past its time by a gap or a policy that shrank waits for a person.
    """
    judge = _Judge(sets, policy, now, identity)
    decisions = [Decision(stored, *judge.judge(stored)) for stored in sets]
    if hold:
        return [d if d.keep else Decision(d.stored, keep=True, reason=f"{d.reason}; {hold}") for d in decisions]
    if force:
        return decisions
    if memory:
        careful = _Judge(sets, _agreed(policy, memory), now, identity, memory.gaps)
        decisions = [decision if decision.keep else _surprising(decision, careful) for decision in decisions]
    return _bounded(decisions, judge, policy.share, since)


def advanced(
    memory: CleanupMemory,
    policy: RetentionPolicy,
    sets: Sequence[StoredSet],
    times: Iterable[datetime],
    now: datetime,
    *,
    agreed: bool,
) -> CleanupMemory:
    """What a cleanup now leaves to the next; `times` are those of all records, `agreed`: a person wants all of it.

    Time counts as seen where records or sets follow each other within `policy.fresh`. After a clock that was ahead
    they prove nothing: they may be of then.
    """
    known = [*times, *(stored.time for stored in sets)]
    kept = [gap for gap in memory.gaps if gap.until <= now + SKEW and any(stored.time < gap.until for stored in sets)]
    if memory.seen and memory.seen < now:
        doubtful = memory.furthest is not None and memory.furthest > memory.seen + SKEW
        between = [] if doubtful else sorted(time for time in known if memory.seen < time < now)
        steps = pairwise([memory.seen, *between, now])
        kept += [Gap(since=since, until=until) for since, until in steps if until - since > policy.fresh]
    longest = policy if agreed else _agreed(policy, memory)
    return CleanupMemory(
        seen=now,
        furthest=max([now, *known]),
        gaps=() if agreed else tuple(kept),
        ages=longest.ages,
        minimum=longest.minimum,
        forgotten=memory.forgotten,
    )


def stale(sets: Iterable[StoredSet], policy: RetentionPolicy, now: datetime) -> str:
    """Why nothing may go when there is no fresh good set of the database; nothing when there is one.

    Only a newer set makes an older one superfluous, and a clock that is far ahead makes every set look old.
    """
    # A safety set holds what was to be replaced: it makes no backup superfluous.
    newest = _newest_good((s for s in sets if not s.safety), now)
    if newest is None:
        return "there is no good set of the database"
    if now - newest.time > policy.fresh:
        return f"the newest good set, {newest.id}, is {age(now - newest.time)} old: backups fail, or the clock jumped"
    return ""


def old_safety_sets(sets: Iterable[StoredSet], now: datetime, gaps: Sequence[Gap] = ()) -> list[StoredSet]:
    """Safety sets beyond the newest ten verified ones and older than a week, newest first; no pinned ones.

    One that is not good stays: a person should look at it.
    """
    safety = [stored for stored in sets if stored.safety and stored.good]
    ordered = newest_first(safety)
    counted = [stored for stored in ordered if stored.verified and not is_ahead(stored, now)][:_SAFETY_COUNT]
    if len(counted) < _SAFETY_COUNT:
        return []
    beyond = [stored for stored in ordered if by_time(stored) < by_time(counted[-1])]
    return [stored for stored in beyond if _lived(stored, now, gaps) > _SAFETY_AGE and not stored.pin]


def held_by_newer(safety: StoredSet, sets: Iterable[StoredSet]) -> bool:
    """Whether newer verified safety sets hold each component of this one: this very database, and each volume."""
    newer = [s for s in sets if s.safety and s.verified and by_time(s) > by_time(safety)]
    return _components(safety) <= {name for stored in newer for name in _components(stored)}


def _components(stored: StoredSet) -> set[str | DatabaseIdentity]:
    return {*volumes_of(stored), *filter(None, [identity_of(stored)])}


def identity_of(stored: StoredSet) -> DatabaseIdentity | None:
    """Which database a set is of; None for files alone, and for what has no manifest."""
    database = stored.summary.database
    return DatabaseIdentity(database.system_identifier, database.name) if database else None


class _Judge:
    """The rules, in their order. What is asked of all sets at once is asked once."""

    def __init__(
        self,
        sets: Sequence[StoredSet],
        policy: RetentionPolicy,
        now: datetime,
        identity: DatabaseIdentity | None,
        gaps: Sequence[Gap] = (),
    ) -> None:
        self._policy, self._now, self._gaps = policy, now, gaps
        newest = _newest_good(sets, now)
        self._identity = identity or (identity_of(newest) if newest else None)
        known = {identity_of(stored) for stored in sets} - {None}
        self._alone = known <= {self._identity}
        self._counted = newest_first(s for s in sets if s.verified and self.dated(s) and self.ours(s))
        self._protected = dict(self._protect(sets))
        self._old_safety = {stored.id for stored in old_safety_sets(filter(self.ours, sets), now, gaps)}
        self._thinned = thinned(filter(self.dated, sets), lambda stored: _lived(stored, now, gaps))

    def ours(self, stored: StoredSet) -> bool:
        """Whether a set is of this database. What does not say so is, while all here that does is; snapshots are."""
        of = identity_of(stored)
        return self._identity is not None and (stored.snapshot or self._alone if of is None else of == self._identity)

    def judge(self, stored: StoredSet) -> tuple[bool, str]:
        """Whether a set is kept, and why."""
        for reason in self._reasons(stored):
            return True, reason
        old = age(self._now - stored.time)
        what = "" if stored.verified else f"{_unfit(stored)}, "
        if stored.safety:
            return False, f"{what}{old} old, and ten newer safety sets exist"
        if stored.snapshot:
            return False, f"{what}{old} old; {self._thinned[stored.id]}"
        return False, f"{what}{old} old; the limit is {plural(self._policy.ages[stored.tier].days, 'day')}"

    def come(self, tier: Tier, since: datetime | None) -> int:
        """How many verified sets were made since, and are young: a clock that jumped ahead makes them old, too."""
        limit = HOURLY if tier is Tier.SNAPSHOT else self._policy.ages.get(tier)
        if since is None or limit is None:
            return 0
        return sum(s.tier is tier and since < s.time and self._now - s.time <= limit for s in self._counted)

    def _reasons(self, stored: StoredSet) -> Iterator[str]:
        """Why it is kept."""
        if stored.pin:
            yield f"pinned: {stored.pin.reason}" if stored.pin.reason else "pinned"
        yield from _doubts(stored)
        if not self.ours(stored):
            yield self._foreign(stored)
        if not self.dated(stored):
            yield f"dated {age(self._now - stored.time)} of the clock"
        if stored.id in self._protected:
            yield self._protected[stored.id]
        yield from self._young(stored)
        yield from self._needed(stored)

    def _young(self, stored: StoredSet) -> Iterator[str]:
        if stored.safety:
            if stored.id not in self._old_safety:
                yield "a safety set: the newest ten are kept, and all of the last week"
            return
        if stored.snapshot:
            yield from () if stored.id in self._thinned else ["a snapshot whose time is not over"]
            return
        limit = self._policy.ages.get(stored.tier)
        if limit is None:
            yield f"{stored.tier} sets are kept until you remove them"
        elif (lived := _lived(stored, self._now, self._gaps)) <= limit:
            yield f"{age(lived)} old; the limit is {plural(limit.days, 'day')}"

    def _needed(self, stored: StoredSet) -> Iterator[str]:
        """A set that is not counted goes only when counted ones have come after it. Damage needs one, doubt more."""
        if stored.verified:
            return
        wanted = 1 if stored.state == "damaged" else self._policy.minimum
        for component in self._components(stored):
            newer = [s for s in self._of(stored.tier, component) if by_time(s) > by_time(stored)]
            if len(newer) < wanted:
                kind = f"newer verified {stored.tier} set"
                there = f"{plural(len(newer), f'{kind} holds', f'{kind}s hold')} {component}"
                yield f"{_unfit(stored)}, but {there}; {wanted} must"

    def _foreign(self, stored: StoredSet) -> str:
        of = identity_of(stored)
        if self._identity is None:
            return "no good set names our database"
        if of is None:
            return "does not name its database, and sets of several are here"
        return f"of another database: {of}, not {self._identity}"

    def dated(self, stored: StoredSet) -> bool:
        """Whether it is not ahead of the clock."""
        return not is_ahead(stored, self._now)

    def _of(self, tier: Tier, component: str) -> list[StoredSet]:
        """The counted sets of a tier that hold this component, newest first; for a snapshot, any can take its place."""
        return [s for s in self._counted if _may_replace(s, tier) and component in self._components(s)]

    def _components(self, stored: StoredSet) -> list[str]:
        """What a set is kept for: the database and each volume, without those that were forgotten after it."""
        forgotten = {name for name, since in self._policy.forgotten.items() if stored.time <= since}
        held = [DATABASE] if holds_database(stored) else []
        return held + [f"the volume {name}" for name in volumes_of(stored) if name not in forgotten]

    def _protect(self, sets: Iterable[StoredSet]) -> Iterator[tuple[str, str]]:
        """(id, reason) of the sets that no age removes; a later reason is the better one."""
        here = [stored for stored in newest_first(sets) if self.dated(stored) and self.ours(stored)]
        present = [(stored, self._components(stored)) for stored in here if stored.good]
        components = sorted({component for _, held in present for component in held})
        for tier in {stored.tier for stored in here}:
            for component in components:
                minimum = self._of(tier, component)[: self._policy.minimum]
                for stored in (each for each in minimum if each.tier is tier):
                    yield stored.id, f"one of the newest {len(minimum)} verified {tier} sets with {component}"
            for component in components:
                good = (stored for stored, held in present if _may_replace(stored, tier) and component in held)
                for stored in (each for each in islice(good, 1) if each.tier is tier):
                    yield stored.id, f"the newest good {tier} set with {component}"
            for stored in [stored for stored, _ in present if stored.tier is tier and stored.proven][:1]:
                yield stored.id, f"the newest proven {tier} set"


def _may_replace(stored: StoredSet, tier: Tier) -> bool:
    """Whether a set makes older ones of a tier superfluous: one of that tier, or any in place of a snapshot."""
    return stored.tier is tier or tier is Tier.SNAPSHOT


def _bounded(decisions: Iterable[Decision], judge: _Judge, share: int, since: datetime | None) -> list[Decision]:
    """Let no more go than the share of each tier, or than has come to it; the oldest first."""
    found = list(decisions)
    later: set[str] = set()
    for tier in Tier:
        here = [d for d in found if d.stored.tier is tier and judge.ours(d.stored) and judge.dated(d.stored)]
        going = sorted((d.stored for d in here if not d.keep), key=by_time)
        allowed = max(1, len(here) * share // 100, judge.come(tier, since))
        if len(going) > allowed:
            later |= {stored.id for stored in going[allowed:]}
    more = f"; removed later: one run removes at most {share} % of a tier, or as many as were made since the last run"
    return [replace(d, keep=True, reason=d.reason + more, later=True) if d.stored.id in later else d for d in found]


def _agreed(policy: RetentionPolicy, memory: CleanupMemory) -> RetentionPolicy:
    """The policy without what shrank since a person agreed; a tier that was kept for ever still is."""
    if memory.ages is None:
        return policy
    ages = {tier: max(limit, policy.ages[tier]) for tier, limit in memory.ages.items() if tier in policy.ages}
    return replace(policy, ages=ages, minimum=max(policy.minimum, memory.minimum))


def _surprising(decision: Decision, careful: _Judge) -> Decision:
    """It waits if it would stay by what was set before, and by time seen to pass; nobody is asked of a snapshot."""
    keep, reason = careful.judge(decision.stored)
    if not keep:
        return decision
    why = f"; needs `--force`: without the clock jump, and by the earlier settings, {reason}"
    return replace(decision, keep=True, waits=not decision.stored.snapshot, reason=decision.reason + why)


def _lived(stored: StoredSet, now: datetime, gaps: Iterable[Gap]) -> timedelta:
    """The age of a set, without what of it lies in gaps."""
    unseen = (min(now, gap.until) - max(stored.time, gap.since) for gap in gaps)
    return now - stored.time - sum((max(each, timedelta()) for each in unseen), timedelta())


def _doubts(stored: StoredSet) -> Iterator[str]:
    """What only a person can judge."""
    manifest = stored.summary
    if stored.state == "unreadable":
        yield f"unreadable: {stored.problem}"
    elif manifest.id != stored.id or manifest.tier is not stored.tier:
        yield "its manifest is that of another set"
    elif lost := [a.file for a in manifest.artifacts if a.file not in stored.files]:
        yield f"incomplete: {lost[0]} is missing"


def _unfit(stored: StoredSet) -> str:
    return stored.state if not stored.good else "never verified"


def _newest_good(sets: Iterable[StoredSet], now: datetime) -> StoredSet | None:
    """The newest good set of the database that is not dated ahead of the clock."""
    return next(iter(newest_first(s for s in present(sets, now) if s.good and identity_of(s))), None)
