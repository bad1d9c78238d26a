"""Copies on another disk: sent, spoilt, found spoilt, sent again, removed when their time is over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from tests.soak import faults
from tests.soak.checker import digests, listed, parts, whole
from tests.soak.sets import adopt_others, known
from tests.soak.world import SETTINGS, World

_YOUNG = timedelta(days=int(SETTINGS["BACKUP_OFFSITE_RETENTION_DAILY"]) - 2)


def sent(world: World, share: float) -> None:
    """Copies are sent, spoilt, found spoilt, and sent again."""
    course = faults.some(world, "upload", share)
    code = world.run("upload", "--all", fault=course).code
    adopt_others(world, course)
    compared(world, code)
    there = sorted(listed(world.copies))
    if not there or world.chance.random() > share:
        return
    if world.chance.random() < 0.2:
        with unmounted(world):
            for words in (("offsite", "verify"), ("upload", "--all")):
                if world.run(*words).code == 0:
                    world.found("false", f"`{' '.join(words)}` is content with a folder for copies that is not mounted")
        return
    # What is over its time there is not sent again.
    here = [each for each in there if each in known(world) and world.now - _made(each) < _YOUNG] or there
    manifest = listed(world.copies)[world.chance.choice(here)]
    path = world.chance.choice(parts(manifest))
    with faults.harmed(world, path) as kind:
        if kind == "silent":
            return
        if world.run("offsite", "verify", "--download").code == 0:
            world.found("false", f"`offsite verify --download` passes over {kind} in the copy of {path.name}")
        if world.run("upload", "--all").code == 0 and here is not there:
            compared(world, 0)
    world.run("offsite", "verify", "--download")


def compared(world: World, code: int) -> None:
    """No copy under a final name is other than its set; after an upload that went well the newest is there."""
    there = listed(world.copies)
    for each, manifest in there.items():
        if each in world.intact and digests(manifest) != world.intact[each] and (problem := whole(manifest)):
            world.found("false", f"the copy of {each}: {problem}")
    newest = max(
        (each for each in known(world) if not each.startswith("pre-")), key=lambda e: e.partition("_")[2], default=""
    )
    if code == 0 and newest and newest not in there:
        world.found("false", f"`upload --all` ended with 0, but {newest} is not there")


def _made(identifier: str) -> datetime:
    """When a set was made, by its name: to the day."""
    return datetime.strptime(identifier.partition("_")[2][:10], "%Y-%m-%d").replace(tzinfo=UTC)


@contextlib.contextmanager
def unmounted(world: World) -> Iterator[None]:
    aside = world.base / "copies aside"
    world.copies.rename(aside)
    world.copies.mkdir()
    world.fault("copies not mounted", "the folder for copies is not mounted")
    try:
        yield
    finally:
        for path in sorted(world.copies.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        world.copies.rmdir()
        aside.rename(world.copies)


def removed(world: World) -> None:
    """Copies whose time is over go, and no others."""
    before, code = listed(world.copies), world.run("offsite", "prune").code
    after = listed(world.copies)
    if gone := [e for e in before if e not in after and world.lived(_made(e), world.tidied) < _YOUNG]:
        world.found("lost", f"`offsite prune` ended with {code} and removed {gone}")
    if code in (0, 4):
        world.tidied = world.tidied or world.now
