"""Which sets may be removed, and why or why not. Pure; `now` is an argument.

A set is *counted* when it is of this database, good, verified, and not dated ahead of the clock. The newest counted
sets of each tier stay whatever their age, those with the database and those with files each for themselves, because a
set of files alone does not bring the application back. Nothing else ever takes their place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from backup.manifest import Tier, parse_file_name
from backup.sets import StoredSet
from backup.text import age, plural

_SAFETY_COUNT: Final = 10
_SAFETY_AGE: Final = timedelta(days=7)
# Clocks of two machines differ by seconds; more than this is a clock that was set.
_SKEW: Final = timedelta(minutes=5)
_HALVES: Final = {"database": "the database", "media": "files"}


@dataclass(frozen=True)
class Policy:
    """How long sets are kept: `ages` of the tiers, others for ever; `minimum` good sets of a tier stay in any case.

    `share` is how many per cent of a tier one run may remove, or as many sets as were made since the last one. Nothing
    is removed while the newest good set of the database is older than `fresh`.
    """

    ages: Mapping[Tier, timedelta]
    minimum: int
    share: int
    fresh: timedelta


@dataclass(frozen=True)
class Identity:
    """Which database a set is of."""

    system: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} on server {self.system}"


@dataclass(frozen=True)
class Decision:
    """What becomes of a set. `waits`: it would go, but for the share that one run may remove."""

    stored: StoredSet
    keep: bool
    reason: str
    waits: bool = False


def decide(
    sets: Sequence[StoredSet],
    policy: Policy,
    now: datetime,
    *,
    identity: Identity | None = None,
    hold: str = "",
    force: bool = False,
    spent: bool = False,
    since: datetime | None = None,
) -> list[Decision]:
    """A decision on each set, in their order. `identity`: this database; None: that of the newest good set.

    `hold` says why nothing goes at all. `force` lifts the share, and nothing else; `spent`: a run before this one
    used it up and nobody has looked since, so a tier with more to go than that loses none. `since` is when the last
    cleanup was: as many sets as were made after it may go where that is more than the share.
    """
    judge = _Judge(sets, policy, now, identity)
    decisions = [Decision(stored, *judge.judge(stored)) for stored in sets]
    if hold:
        return [d if d.keep else Decision(d.stored, keep=True, reason=f"{d.reason}; {hold}") for d in decisions]
    return decisions if force else _bounded(decisions, judge, policy.share, spent, since)


def stale(sets: Iterable[StoredSet], policy: Policy, now: datetime) -> str:
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


def old_safety_sets(sets: Iterable[StoredSet], now: datetime) -> list[StoredSet]:
    """Safety sets beyond the newest ten verified ones and older than a week, newest first; no pinned ones.

    One that is not good, or has no manifest, stays: a person should look at it.
    """
    safety = [stored for stored in sets if stored.safety and stored.good and stored.manifest]
    newest_first = sorted(safety, key=_order, reverse=True)
    counted = [stored for stored in newest_first if stored.verified and stored.time <= now + _SKEW][:_SAFETY_COUNT]
    if len(counted) < _SAFETY_COUNT:
        return []
    beyond = [stored for stored in newest_first if _order(stored) < _order(counted[-1])]
    return [stored for stored in beyond if now - stored.time > _SAFETY_AGE and not stored.pin]


def identity_of(stored: StoredSet) -> Identity | None:
    """Which database a set is of; None for files alone, and for what has no manifest."""
    database = stored.manifest.database if stored.manifest else None
    return Identity(database.system_identifier, database.name) if database else None


class _Judge:
    """The rules, in their order. What is asked of all sets at once is asked once."""

    def __init__(self, sets: Sequence[StoredSet], policy: Policy, now: datetime, identity: Identity | None) -> None:
        self._policy, self._now = policy, now
        newest = _newest_good(sets, now)
        self._identity = identity or (identity_of(newest) if newest else None)
        known = {identity_of(stored) for stored in sets} - {None}
        self._alone = known <= {self._identity}
        self._counted = [s for s in sets if s.verified and self._dated(s) and self.ours(s)]
        self._protected = dict(self._protect(sets))
        self._old_safety = {stored.id for stored in old_safety_sets(filter(self.ours, sets), now)}

    def ours(self, stored: StoredSet) -> bool:
        """Whether a set is of this database. What does not say so is, while all here that does is."""
        of = identity_of(stored)
        return self._identity is not None and (self._alone if of is None else of == self._identity)

    def judge(self, stored: StoredSet) -> tuple[bool, str]:
        """Whether a set is kept, and why."""
        for reason in self._reasons(stored):
            return True, reason
        old = age(self._now - stored.time)
        what = "" if stored.verified else f"{_unfit(stored)}, "
        if stored.safety:
            return False, f"{what}{old} old, and ten newer safety sets are there"
        return False, f"{what}{old} old; the limit is {plural(self._policy.ages[stored.tier].days, 'day')}"

    def come(self, tier: Tier, since: datetime | None) -> int:
        """How many verified sets were made since, and are young: a clock that jumped ahead makes them old, too."""
        limit = self._policy.ages.get(tier)
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
        if not self._dated(stored):
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
        limit = self._policy.ages.get(stored.tier)
        if limit is None:
            yield f"{stored.tier} sets are kept until you remove them"
        elif self._now - stored.time <= limit:
            yield f"{age(self._now - stored.time)} old; the limit is {plural(limit.days, 'day')}"

    def _needed(self, stored: StoredSet) -> Iterator[str]:
        """A set that is not counted goes only when counted ones have come after it. Damage needs one, doubt more."""
        if stored.verified:
            return
        wanted = 1 if stored.state == "damaged" else self._policy.minimum
        for half in _halves(stored):
            newer = [s for s in self._of(stored.tier, half) if _order(s) > _order(stored)]
            if len(newer) < wanted:
                there = f"{len(newer) or 'no'} newer verified {stored.tier} sets hold {_HALVES[half]}"
                yield f"{_unfit(stored)}, but {there}; {wanted} should"

    def _foreign(self, stored: StoredSet) -> str:
        of = identity_of(stored)
        if self._identity is None:
            return "no good set says which database is ours"
        if of is None:
            return "does not say of which database it is, and sets of several are here"
        return f"of another database: {of}, not {self._identity}"

    def _dated(self, stored: StoredSet) -> bool:
        return stored.time <= self._now + _SKEW

    def _of(self, tier: Tier, half: str) -> list[StoredSet]:
        """The counted sets of a tier that hold this half, newest first."""
        return _newest_first(s for s in self._counted if s.tier is tier and half in _halves(s))

    def _protect(self, sets: Iterable[StoredSet]) -> Iterator[tuple[str, str]]:
        """(id, reason) of the sets that no age removes; a later reason is the better one."""
        present = [stored for stored in sets if stored.good and self._dated(stored) and self.ours(stored)]
        for tier in Tier:
            for half, words in _HALVES.items():
                minimum = self._of(tier, half)[: self._policy.minimum]
                for stored in minimum:
                    yield stored.id, f"one of the newest {len(minimum)} verified {tier} sets with {words}"
            proven = _newest_first(s for s in present if s.tier is tier and s.proven)
            for half, words in _HALVES.items():
                good = _newest_first(s for s in present if s.tier is tier and half in _halves(s))
                for stored in good[:1]:
                    yield stored.id, f"the newest good {tier} set with {words}"
            for stored in proven[:1]:
                yield stored.id, f"the newest proven {tier} set"


def _bounded(
    decisions: Iterable[Decision], judge: _Judge, share: int, spent: bool, since: datetime | None
) -> list[Decision]:
    """Let no more go than the share of each tier, or than has come to it; the oldest first."""
    found = list(decisions)
    waiting: set[str] = set()
    for tier in Tier:
        here = [d for d in found if d.stored.tier is tier and judge.ours(d.stored)]
        going = sorted((d.stored for d in here if not d.keep), key=_order)
        allowed = max(1, len(here) * share // 100, judge.come(tier, since))
        if len(going) > allowed:
            waiting |= {stored.id for stored in going[0 if spent else allowed :]}
    more = f"; waits for a person: one run removes at most {share} % of a tier, or as many as were made since the last"
    return [replace(d, keep=True, reason=d.reason + more, waits=True) if d.stored.id in waiting else d for d in found]


def _doubts(stored: StoredSet) -> Iterator[str]:
    """What only a person can judge."""
    manifest = stored.manifest
    if stored.state == "unreadable":
        yield f"unreadable: {stored.problem}"
    elif manifest and (manifest.id != stored.id or manifest.tier is not stored.tier):
        yield "its manifest is that of another set"
    elif manifest and (lost := [a.file for a in manifest.artifacts if a.file not in stored.files]):
        yield f"incomplete: {lost[0]} is missing"


def _unfit(stored: StoredSet) -> str:
    return stored.state if not stored.good else "never verified"


def _halves(stored: StoredSet) -> Collection[str]:
    """What a set holds: of `database` and `media`. Files without a manifest are judged by their names."""
    if stored.manifest:
        found = {"database": stored.manifest.database is not None, "media": bool(stored.manifest.volumes)}
        return [half for half, there in found.items() if there]
    parsed = [parsed for name in stored.files if (parsed := parse_file_name(name))]
    return {"database" if part.content == "sql.gz" else "media" for part in parsed}


def _newest_good(sets: Iterable[StoredSet], now: datetime) -> StoredSet | None:
    """The newest good set of the database that is not dated ahead of the clock."""
    return next(iter(_newest_first(s for s in sets if s.good and identity_of(s) and s.time <= now + _SKEW)), None)


def _newest_first(sets: Iterable[StoredSet]) -> list[StoredSet]:
    return sorted(sets, key=_order, reverse=True)


def _order(stored: StoredSet) -> tuple[datetime, str]:
    return stored.time, stored.id
