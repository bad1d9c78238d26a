"""What happens to a stack, not to a command: nobody is there for weeks, a volume leaves, a store refuses niceties."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta

from tests.soak import copies, faults, sets
from tests.soak.checker import Live, listed, parts
from tests.soak.world import DATABASE, World
from tests.support.lying_s3 import lying
from tests.support.receivers import http_server

_CRITICAL = 61
_TROUBLES = 5
_NICETIES = ("checksums", "conditions", "uploads")
_ANSWERS = ("501 NotImplemented", "400 InvalidArgument", "400 names it")


def gap(world: World) -> timedelta:
    """The machine is off for weeks; how long. What that makes old may not go without a person."""
    days = timedelta(days=world.chance.randrange(12, 40))
    # A cleanup under another clock knows nothing of the time before this one.
    if not world.strange:
        world.gaps.append((world.now, world.now + days))
    world.fault("gap", f"nobody is there for {days.days} days")
    return days


def left(world: World) -> None:
    """The second volume leaves the stack."""
    world.run("undo", "--discard", "--force")
    shutil.rmtree(world.other)
    world.fault("volume left", "the volume ocr leaves the stack")


def dated_ahead(world: World) -> None:
    """A set is made by a clock that is years ahead: it stands in nobody's way, and goes when a person says so."""
    sets.created(world, "daily", 0)
    usual, before = _latest(world), set(listed(world.root))
    clock = world.ahead + timedelta(days=365 * world.chance.randrange(1, 6))
    with world.quiet():
        live = Live.read(world.server, DATABASE, world.sidecar.media)
        world.run("create", "manual", SOAK_AHEAD=str(clock.total_seconds()))
    if not (new := set(listed(world.root)) - before):
        return
    ahead = new.pop()
    sets.registered(world, ahead, [live.expectation])
    world.fault("dated ahead", f"{ahead} is dated ahead")
    if (latest := _latest(world)) != usual:
        world.found("false", f"`latest` is {latest}, not {usual}, beside {ahead}")
    if ahead not in world.run("monitor", "--alert").output:
        world.found("false", f"`monitor --alert` does not name {ahead}")
    code = world.run("prune", "--ahead", ahead).code
    gone = (before | {ahead}) - set(listed(world.root))
    if code or gone != {ahead}:
        world.found("lost" if gone - {ahead} else "breaches", f"`prune --ahead {ahead}` ({code}) removed {gone}")
    for each in gone:
        world.intact.pop(each)


def _latest(world: World) -> str:
    shown = world.run("show", "latest", "--json").output
    return str(json.JSONDecoder().raw_decode(shown[shown.index('{"format"') :])[0]["id"])


def refused(world: World) -> None:
    """A store knows fewer calls than Amazon's: a set is sent all the same, byte for byte."""
    newest = max(sets.known(world), key=lambda each: each.partition("_")[2])
    for state in world.root.glob("state/*s3*"):
        state.unlink()
    with lying() as store:
        store.refuses = set(world.chance.sample(_NICETIES, world.chance.randrange(1, 4)))
        store.answer, store.checksums = world.chance.choice(_ANSWERS), "checksums" not in store.refuses
        place = {"AWS_S3_BACKUP_BUCKET": "soak", "AWS_ENDPOINT_URL_S3": store.endpoint, "AWS_REGION": "us-east-1"}
        key = {"AWS_ACCESS_KEY_ID": "soak", "AWS_SECRET_ACCESS_KEY": "canary of a store", "BACKUP_COPY_DIR": ""}
        code = world.run("upload", newest, **place, **key).code
        world.fault("store refuses", f"a store answers {store.answer} to {sorted(store.refuses)}")
        if code:
            world.found("breaches", f"a store that refuses {sorted(store.refuses)} is not used: {code}")
            return
        for path in parts(listed(world.root)[newest]):
            kept = store.objects.get(f"{path.parent.name}/{path.name}", {}).get("data")
            if kept != path.read_bytes():
                world.found("false", f"`upload` ended with 0, and the store has not {path.name} as it is")


def alerted(world: World) -> None:
    """Troubles with copies come one after the other, then the newest set is damaged: that is told, and its end."""
    # One of a clock that was a day ahead is not the newest yet; names are in the time of a zone.
    today = f"{world.now + timedelta(hours=6):%Y-%m-%d_%H-%M-%S}"
    backups = [e for e in listed(world.root) if not e.startswith("pre-") and e.partition("_")[2] <= today]
    newest = max(backups, key=lambda e: e.partition("_")[2])
    if newest not in sets.known(world):  # such as one that was made beside another
        return
    dump = next(path for path in parts(listed(world.root)[newest]) if "_backup_" in path.name)
    with http_server() as calls:

        def told() -> str:
            """What is sent in a quarter of an hour."""
            said = len(calls.requests)
            # What has just begun may be over at the next look.
            for minutes in (14, 1):
                world.ahead += timedelta(minutes=minutes)
                world.run("round", BACKUP_NOTIFY_URLS=f"json://127.0.0.1:{calls.port}")
            return "\n".join(body for _, _, body in calls.requests[said:])

        told()
        for _ in range(_TROUBLES):
            with copies.unmounted(world):
                world.run("upload", "--all")
                told()
        with faults.harmed(world, dump):
            world.run("verify", newest)
            if newest not in (said := told()):
                world.found("false", f"{newest} is damaged and the newest, and no message says so: {said[-500:]}")
            critical = newest in _critical(world)
        world.run("verify", newest)
        if not told() and critical and not _critical(world):
            world.found("false", f"{newest} is whole again, and no message says so")
        world.fault("alerts held back", f"after {_TROUBLES} troubles the newest set was damaged")
    world.run("upload", "--all")


def _critical(world: World) -> str:
    """What is critical, in words."""
    result = world.run("monitor", "--alert")
    return result.output if result.code == _CRITICAL else ""


def due(world: World, now: datetime) -> timedelta:
    """What of these happens on a day, and how long nobody is there."""
    chance = world.chance.random
    if world.other.exists() and now - world.born > timedelta(days=15) and chance() < 0.2:
        left(world)
    for what, often in ((dated_ahead, 0.04), (refused, 0.12), (alerted, 0.06)):
        if chance() < often:
            what(world)
    return gap(world) if world.first and world.tidied and chance() < 0.04 else timedelta()
