"""Restores and what takes them back: at every end, what is live is wholly one thing or wholly the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.soak import faults
from tests.soak.checker import Expectation, Live, halves, listed, volumes
from tests.soak.sets import known, registered
from tests.soak.world import DATABASE, World

_UNTOUCHED, _UNFINISHED, _AFTER = 50, 51, 52


@dataclass(frozen=True)
class Ends:
    """The two states that may be live after a command, and how they are called."""

    old: Expectation
    new: Expectation

    def of(self, live: Live) -> tuple[list[str], list[str]]:
        """What is wrong with it as the old state, and as the new one."""
        return list(_wrong(self.old, live)), list(_wrong(self.new, live))


def _wrong(expected: Expectation, live: Live) -> Iterator[str]:
    yield from expected.database(live.data)
    yield from expected.tree(live.files)


def restored(world: World, share: float) -> None:
    """A set is restored, perhaps with faults and kills; it may be taken back. Then the writers go on from there."""
    identifier = world.chance.choice([each for each in known(world) if _can(world, each)])
    only = world.chance.choice(["", "", "", "database", "media"])
    manifest = listed(world.root)[identifier]
    if len(there := halves(manifest)) == 1:
        (only,) = there
    elif "ocr" in volumes(manifest) and not world.other.exists():
        only = "database"
    with world.quiet():
        before = _live(world)
        target, old = world.expected[identifier], before.expectation
        new = {
            "": target,
            "database": replace(target, files=old.files, changed=frozenset(), kept=frozenset()),
            "media": replace(old, files=target.files, changed=target.changed, kept=target.kept),
        }[only]
        words = ("restore", identifier, "--force", *(("--only", only) if only else ()))
        done = _done(world, words, Ends(old, new), share)
        if done and world.chance.random() < 0.15:
            _half_dropped(world)
        elif done and world.chance.random() < 0.6:
            after = _live(world).expectation
            if _done(world, ("undo", "--force"), Ends(after, old), share) and world.chance.random() < 0.4:
                _done(world, ("undo", "--force"), Ends(old, after), share)
        if world.chance.random() < 0.4:
            world.run("undo", "--discard", "--force")
        _beside(world)
        world.rows.adopt(world.server)
        world.files.adopt()


def _can(world: World, identifier: str) -> bool:
    """Whether any of it has a place: files of a volume that has left the stack have none."""
    manifest = listed(world.root)[identifier]
    return world.other.exists() or "ocr" not in volumes(manifest) or "database" in halves(manifest)


def _live(world: World) -> Live:
    return Live.read(world.server, DATABASE, world.sidecar.media)


def _done(world: World, words: tuple[str, ...], ends: Ends, share: float) -> bool:
    """Do it, end what a fault left unfinished, and compare; whether the new state is live."""
    command = words[0]
    boxed = world.chance.random() < 0.35
    course = faults.some(world, command, share, "boxed" if boxed else "")
    code = world.run(*words, fault=course, boxed=boxed).code
    _safety(world, ends)
    if code == 0:
        _planted(world)
    elif not course:
        world.found("breaches", f"`{' '.join(words)}` ended with {code}, without a fault")
    database = _live(world).data
    if list(ends.old.database(database)) and list(ends.new.database(database)):
        world.found("lost", f"after `{' '.join(words)}` ({code}) the database is neither as before nor restored")
    code = _finished(world, code, share, boxed)
    live = _live(world)
    old, new = ends.of(live)
    _judged(world, " ".join(words), code, old, new)
    world.left(f"`{' '.join(words)}`", code)
    return not new


def _finished(world: World, code: int, share: float, boxed: bool) -> int:
    """Resume or roll back until nothing is unfinished; the code of the command if there was nothing to end."""
    for attempt in range(6):
        if not world.unfinished:
            return code
        way = world.chance.choice(["--resume", "--rollback"])
        course = faults.some(world, "undo", share if attempt < 3 else 0, "boxed" if boxed else "")
        ended = world.run("restore", way, fault=course, boxed=boxed).code
        code = -1  # either end is right now
        if attempt > 3 and ended:
            world.found("breaches", f"`restore {way}` ended with {ended}, without a fault")
    world.found("breaches", "a restore could not be ended by six tries")
    return code


def _judged(world: World, words: str, code: int, old: list[str], new: list[str]) -> None:
    """What is live is what the exit code says."""
    if old and new:
        kind = "false" if code == 0 else "lost"
        world.found(
            kind, f"`{words}` ({code}): not restored: {'; '.join(new[:3])}; nor as before: {'; '.join(old[:3])}"
        )
    elif code in (0, _AFTER) and new:
        world.found("false", f"`{words}` ended with {code}, but {'; '.join(new[:3])}")
    elif code == _UNTOUCHED and old:
        world.found("false", f"`{words}` says that all is as before, but {'; '.join(old[:3])}")


def _safety(world: World, ends: Ends) -> None:
    """The safety set, and what another backup made meanwhile, hold the one state or the other."""
    for each in set(listed(world.root)) - set(world.expected):
        registered(world, each, [ends.old, ends.new])


def _half_dropped(world: World) -> None:
    """A DROP of what the restore replaced was interrupted: there is no way back, and nothing live is touched."""
    kept = [name for name in world.server.databases() if name.startswith(f"{DATABASE}__before_")]
    if not kept:
        return
    world.server.execute("postgres", f"UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{kept[0]}'")
    world.fault("half dropped", f"{kept[0]} is half dropped")
    before, result = _live(world), world.run("undo", "--force")
    if result.code == 0:
        world.found("false", "`undo` is content with a database that is half dropped")
    if _live(world) != before:
        world.found("lost", f"`undo` ({result.code}) with a database that is half dropped changed what is live")
    if re.search(rf'DROP DATABASE "?{DATABASE}\b(?!__)', result.output):
        world.found("breaches", f"`undo` names the live database to be dropped: {result.output[-500:]}")
    code = world.run("undo", "--discard", "--force").code
    if code or kept[0] in world.server.databases():
        world.found("breaches", f"`undo --discard` ({code}) leaves a database that is half dropped")


def _beside(world: World) -> None:
    """At most one database is kept beside the live one, and files only where there is something to take back."""
    beside = [name for name in world.server.databases() if name.startswith(f"{DATABASE}__")]
    kept = (world.root / "state/undo.json").exists()
    folders = [path.name for path in world.sidecar.media.glob(".obcms-restore-*")]
    if len(beside) > kept or len(folders) > kept:
        world.found("breaches", f"beside the live data are {beside} and {folders}; something to undo: {kept}")


def _planted(world: World) -> None:
    """What `--plant` does behind everybody's back, for the checker to see."""
    if world.plant == "row":
        world.server.execute(DATABASE, "UPDATE odd SET b = 'other' WHERE id = 2")
    elif world.plant == "file":
        next(path for path in sorted(world.sidecar.media.rglob("*")) if path.is_file()).unlink()
