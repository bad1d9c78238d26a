"""Sets are made, proven, harmed, sent and removed; after each the checker looks."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from tests.soak import faults
from tests.soak.checker import (
    Data,
    Expectation,
    Live,
    changed,
    digests,
    halves,
    listed,
    parts,
    stored,
    volumes,
    whole,
)
from tests.soak.world import DATABASE, SETTINGS, Course, World
from tests.soak.writers import linked

DONE = (0, 3)
_AGES = {
    tier: timedelta(days=int(SETTINGS[f"BACKUP_RETENTION_{tier.upper()}"]))
    for tier in ("daily", "weekly", "monthly", "manual")
}
_WAITS = 4
_SHARE, _MINIMUM = 0.3, int(SETTINGS["BACKUP_RETENTION_MINIMUM"])


def known(world: World) -> list[str]:
    """The sets that are there and good, as far as the checker knows."""
    return sorted(each for each in listed(world.root) if each in world.expected and each not in world.damaged)


def created(world: World, tier: str, share: float) -> None:
    """A backup, perhaps with a fault; after one that failed, another that must not."""
    course = faults.some(world, "create", share)
    name = course.gi_code.co_name if course else ""
    recorded = _records(world)
    code = _create(world, tier, course)
    if code not in DONE:
        # Whose end could not be written looks as if it had been killed.
        red = (60, 61) if code > 128 or name == "read_only" else (61,)
        # A second backup may have gone well meanwhile; one from a clock that was ahead is still the newest run.
        # One that was stopped before it had begun, and so before its record, has nothing to be red about.
        # So has one that found no byte free for its record: whoever called it has its code, and its slot is missed.
        unrecorded = (code > 128 or name == "disk_full") and not _records(world) - recorded
        judged = name not in ("clock_off", "at_once") and code > 0 and not unrecorded
        if judged and world.run("monitor", "--alert").code not in red:
            world.found("false", f"the backup failed by `{name}` ({code}), and `monitor --alert` is content")
        if _create(world, tier, None) not in DONE:
            world.found("breaches", f"no backup could be made after `{name}` was over")


def _records(world: World) -> set[str]:
    return {path.name for path in world.root.glob("state/runs/*.json")}


def _create(world: World, tier: str, course: Course | None) -> int:
    before, name = set(listed(world.root)), course.gi_code.co_name if course else ""
    expected, code = _expected(world, tier, course)
    new = sorted(set(listed(world.root)) - before)
    if code in DONE and not any(each.startswith(tier) for each in new):
        world.found("false", f"`create {tier}` ended with {code} and made no set")
    if code in DONE and name == "volume_empty":
        world.found("false", "`create` was content with media that are not mounted")
    for each in new:
        if world.plant == "byte":
            _flip(listed(world.root)[each])
        marks = registered(world, each, [expected])
        if code == 0 and marks and len(new) == 1:
            world.found("false", f"`create` ended with 0 although files changed: {sorted(marks)[:3]}")
    world.left(f"`create {tier}`", code)
    return code


def _expected(world: World, tier: str, course: Course | None) -> tuple[Expectation, int]:
    """Make a set, and say what it must hold: with nobody at work exactly one thing, else something in between."""
    if world.chance.random() < 0.4:
        with world.quiet():
            live = Live.read(world.server, DATABASE, world.sidecar.media)
            return live.expectation, world.run("create", tier, fault=course).code
    rest = Data.read(world.server, DATABASE).rest
    with world.files.watched() as allowed:
        with world.rows.gate:
            low = len(world.rows.links) - 1
        code = world.run("create", tier, fault=course).code
        with world.rows.gate:
            links = world.rows.links[low:]
            if world.rows.doubtful:
                links.append(linked(links[-1], world.rows.doubtful))
        kept = frozenset(world.files.kept.values())
    return Expectation(low, links, rest, allowed, kept=kept), code


def registered(world: World, identifier: str, candidates: list[Expectation]) -> frozenset[str]:
    """A set that has appeared is whole and holds one of these; returns the files that it does not vouch for."""
    manifest = listed(world.root)[identifier]
    problem, marks = whole(manifest), changed(manifest) if not whole(manifest) else frozenset()
    told = [problem]
    for each in candidates if not problem else []:
        world.expected[identifier] = replace(each, changed=marks)
        if not (told := list(stored(manifest, world.expected[identifier]))):
            break
    if any(told):
        world.found("false", f"{identifier} is listed as a set, but: {'; '.join(told[:4])}")
        world.damaged.add(identifier)
    world.expected.setdefault(identifier, candidates[0])
    world.intact[identifier] = digests(manifest)
    return marks


def _good(world: World, identifier: str) -> bool:
    """Whether the product lists the set as a good one."""
    output = world.run("list", "--json").output
    sets = json.JSONDecoder().raw_decode(output[output.index('{"format"') :])[0]["sets"]
    return any(each["good"] for each in sets if each["id"] == identifier)


def _flip(manifest: Path) -> None:
    """What `--plant byte` does behind everybody's back, as soon as a set is there."""
    path = next(each for each in parts(manifest) if "_backup_" in each.name or "_media_" in each.name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def drilled(world: World, share: float) -> None:
    """A set is proven, perhaps with a fault; a safety set may hold files alone."""
    there = listed(world.root)
    each = world.chance.choice([each for each in known(world) if "database" in halves(there[each])])
    code = world.run("drill", each, fault=(course := faults.some(world, "drill", share))).code
    if code in (40, 41):
        world.found("breaches", f"a drill says {code} of {each}, which is good")
    if not course and code:
        world.found("breaches", f"a drill of {each}, which is good, ended with {code}")
    adopt_others(world, course)
    world.left("a drill", code)


def adopt_others(world: World, course: Course | None) -> None:
    """What another backup made meanwhile: nobody has watched the writers, so only that it is whole is known."""
    for each in set(listed(world.root)) - set(world.expected) if course else ():
        manifest = listed(world.root)[each]
        if problem := whole(manifest):
            world.found("false", f"{each} is listed as a set, but: {problem}")
        world.damaged.add(each)  # that is: not one to compare with
        world.unwatched.add(each)
        world.expected[each], world.intact[each] = Expectation(0, [b""], {}, {}), digests(manifest)


def harmed(world: World) -> None:
    """A file of a set is spoilt: every look must say so, and no restore may begin. Sometimes for good."""
    identifier = world.chance.choice(known(world))
    manifest = listed(world.root)[identifier]
    path = world.chance.choice(parts(manifest))
    with faults.harmed(world, path) as kind:
        if kind == "silent":
            return
        if world.run("verify", identifier).code == 0:
            world.found("false", f"`verify` passes over {kind} in {path.name}")
        if _good(world, identifier):
            world.found("false", f"`list` calls {identifier} good with {kind} in {path.name}")
        if world.chance.random() < 0.5:
            refused(world, identifier, f"{kind} in {path.name}")
    if world.run("verify", identifier).code:
        world.found("breaches", f"{identifier} is as it was made again, and `verify` does not say so")
    if world.chance.random() < 0.25 and len(known(world)) > 3:
        _flip(manifest)
        world.damaged.add(identifier)
        world.fault("a stored file: for good", f"{identifier} is spoilt for good")
        if world.run("verify", identifier).code == 0 or _good(world, identifier):
            world.found("false", f"`verify` passes over a flipped bit in the dump of {identifier}")
        _pulled(world, identifier)


def _pulled(world: World, identifier: str) -> None:
    """The good copy is fetched in the place of a damaged set."""
    copy = listed(world.copies).get(identifier)
    if copy is None or digests(copy) != world.intact[identifier]:
        return
    code = world.run("offsite", "pull", identifier).code
    if digests(listed(world.root)[identifier]) != world.intact[identifier]:
        world.found("false" if code == 0 else "breaches", f"`offsite pull` ({code}) did not bring {identifier} back")
        return
    if code or not _good(world, identifier):
        world.found("breaches", f"`offsite pull` ({code}) brought {identifier}, which is not called good")
    world.damaged.discard(identifier)


def refused(world: World, identifier: str, why: str) -> None:
    """A restore of this is refused, and nothing is touched."""
    with world.quiet():
        before = Live.read(world.server, DATABASE, world.sidecar.media)
        code = world.run("restore", identifier, "--force").code
        after = Live.read(world.server, DATABASE, world.sidecar.media)
        if code == 0:
            world.found("false", f"`restore` passes over {why}")
        if after != before:
            world.found("lost", f"a restore that was refused ({code}) changed what is live; {why}")
        for each in set(listed(world.root)) - set(world.expected):
            registered(world, each, [before.expectation])


# --- removal -----------------------------------------------------------------------------------------------------


def removed(world: World, share: float) -> None:
    """A cleanup, perhaps with a fault: what goes is old, and never the last that is good."""
    before = {each: _facts(path) for each, path in listed(world.root).items()}
    good, now = [*known(world), *(world.unwatched & set(before))], world.now
    course = faults.some(world, "prune", share)
    wrong = course is not None and course.gi_code.co_name == "clock_off"
    code = world.run("prune", fault=course).code
    adopt_others(world, course)
    after = set(listed(world.root))
    gone = sorted(set(before) - after)
    for words in _unfit(world, before, gone, good, now):
        world.found("lost", f"`prune` ended with {code}: {words}")
    if wrong and gone:
        world.found("lost", f"with a clock that is a year or ten off `prune` removed {gone}")
    if gone:
        world.tell(f"  gone: {', '.join(gone)}")
    if code in (0, 4) and wrong:
        # A cleanup under another clock takes a gap that no right one has seen yet for a part of its own jump.
        world.gaps[:] = [(begin, end) for begin, end in world.gaps if world.pruned and end < world.pruned]
    if code in (0, 4):
        world.pruned, world.strange = now if not wrong else world.pruned, wrong
        world.first = world.first or now
    for each in gone:
        world.intact.pop(each)
    room = shutil.disk_usage(world.root)
    if room.free < room.total // 4:
        _agreed(world, "--make-room")
    elif code == _WAITS and not wrong and world.chance.random() < 0.3:
        _agreed(world)


def _agreed(world: World, *more: str) -> None:
    """A person has looked, and lets all go that is past its time; the more so when the disk is nearly full."""
    world.gaps.clear()
    before = {each: _facts(path) for each, path in listed(world.root).items()}
    good, now = [*known(world), *(world.unwatched & set(before))], world.now
    code = world.run("prune", "--force", *more).code
    gone = sorted(set(before) - set(listed(world.root)))
    for words in _unfit(world, before, gone, good, now, bounded=False):
        world.found("lost", f"`prune --force` ended with {code}: {words}")
    for each in gone:
        world.intact.pop(each)
    world.pruned = now if code == 0 else world.pruned


class _Fact(NamedTuple):
    tier: str
    made: datetime
    volumes: frozenset[str]


def _facts(manifest: Path) -> _Fact:
    made = datetime.max.replace(tzinfo=datetime.now().astimezone().tzinfo)
    with contextlib.suppress(ValueError, KeyError):
        made = datetime.fromisoformat(json.loads(manifest.read_bytes())["started"])
    return _Fact(manifest.parent.name, made, volumes(manifest))


def _unfit(
    world: World,
    before: Mapping[str, _Fact],
    gone: list[str],
    good: list[str],
    now: datetime,
    *,
    bounded: bool = True,
) -> Iterator[str]:
    """What of this must not have gone."""
    left = [each for each in good if each not in gone]
    for each in gone:
        tier, made = before[each][:2]
        if each in world.pinned:
            yield f"{each} was pinned"
        if world.lived(made, world.first) <= _AGES.get(tier, timedelta(days=7)):
            yield f"{each} was not old yet"
    for tier in {tier for tier, *_ in before.values()}:
        was = [each for each in good if before[each][0] == tier]
        still = [each for each in left if before[each][0] == tier]
        mine = [each for each in gone if before[each][0] == tier]
        come = sum(world.pruned is None or made > world.pruned for t, made, _ in before.values() if t == tier)
        if len(still) < min(_MINIMUM, len(was)):
            yield f"of {len(was)} good {tier} sets {len(still)} are left"
        for volume in {name for each in was for name in before[each].volumes}:
            held, stay = ([e for e in some if volume in before[e].volumes] for some in (was, still))
            if len(stay) < min(_MINIMUM, len(held)):
                yield f"of {len(held)} good {tier} sets with the volume {volume} {len(stay)} are left"
        if was and max(was, key=lambda e: before[e][1]) not in still:
            yield f"the newest good {tier} set is gone"
        if bounded and len(mine) > max(1, come, int(_SHARE * sum(t == tier for t, *_ in before.values()))):
            yield f"{len(mine)} {tier} sets went at once"
