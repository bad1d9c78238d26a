"""Faults that happen to a command, as courses: prepared before it starts, done while it runs, put right after it.

A fault counts when it really happened to something.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

from tests.soak.checker import says
from tests.soak.world import DATABASE, Course, World
from tests.support.faults import docker, helpers

_CRITICAL = 61
ZONES = ("Asia/Manila", "America/New_York", "Australia/Lord_Howe", "Pacific/Kiritimati", "UTC")


def killed(world: World, command: str) -> Course:
    """The sidecar, without a chance to say anything."""
    process = yield {}
    if world.moment(process, command):
        process.kill()
        world.fault("killed", "the sidecar is killed")
    yield None


def stopped(world: World, command: str) -> Course:
    """The sidecar is asked to end."""
    process = yield {}
    if world.moment(process, command):
        process.terminate()
        world.fault("stopped", "the sidecar is stopped")
    yield None


def backend_killed(world: World, command: str) -> Course:
    """The sessions of its clients, as an administrator or a crash ends them."""
    process = yield {}
    for _ in range(world.chance.choice([1, 1, 3])):
        if not world.moment(process, command):
            break
        with contextlib.suppress(psycopg.Error):
            ended = world.server.value(
                "postgres",
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND application_name LIKE 'obcms-backup%'",
            )
            if ended:
                world.fault("backend killed", f"{ended} of its sessions are ended")
    yield None


def helper_killed(world: World, command: str) -> Course:
    """A helper container dies."""
    process = yield {}
    if each := _helper(world, process, command):
        docker("kill", each, check=False)
        world.fault("helper killed", "a helper is killed")
    yield None


def helper_paused(world: World, command: str) -> Course:
    """A helper container stands still, for longer than is waited for, or not."""
    process = yield {}
    each = _helper(world, process, command)
    if each and not docker("pause", each, check=False) == "":
        world.fault("helper paused", "a helper is paused")
        _wait(process, world.chance.choice([1.0, 3.0, 20.0]))
        docker("unpause", each, check=False)
    yield None


def _helper(world: World, process: subprocess.Popen[str], command: str) -> str:
    """Some helper at some moment; the first that comes after it, if there is none then."""
    world.moment(process, command)
    while process.poll() is None:
        if there := helpers(world.sidecar):
            return world.chance.choice(sorted(there))
        _wait(process, 0.03)
    return ""


def server_paused(world: World, command: str) -> Course:
    """The database stands still for a while."""
    process = yield {}
    if world.moment(process, command):
        docker("pause", world.server.container.id)
        try:
            world.fault("server paused", "the server is paused")
            _wait(process, world.chance.choice([1.0, 4.0, 12.0]))
        finally:
            docker("unpause", world.server.container.id)
    yield None


def server_down(world: World, command: str) -> Course:
    """The database is not there."""
    docker("stop", "-t", "20", world.server.container.id)
    try:
        world.fault("server down", "the server is down")
        yield {}
        yield None
    finally:
        _up(world)


def server_crashed(world: World, command: str) -> Course:
    """The database dies, and is started again at once or later."""
    process = yield {}
    if world.moment(process, command):
        docker("kill", world.server.container.id)
        world.fault("server crashed", "the server is killed")
        _wait(process, world.chance.choice([0.0, 3.0]))
        _up(world)
    yield None


def _up(world: World) -> None:
    docker("start", world.server.container.id)
    world.server.wait()


def disk_full(world: World, command: str) -> Course:
    """Somebody else fills the backup volume, before or meanwhile."""
    filler = world.root / "somebody's video"
    before = world.chance.random() < 0.5
    try:
        if before:
            _fill(world, filler)
        process = yield {}
        if not before and world.moment(process, command):
            _fill(world, filler)
        yield None
    finally:
        filler.unlink(missing_ok=True)


def _fill(world: World, filler: Path) -> None:
    leave = world.chance.choice([0, 1, 4096, 65_536, 500_000])
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as stream:
        while (free := _free(world.root) - leave) > 0:
            if not stream.write(bytes(min(free, 1 << 20))):
                break
    world.fault("disk full", f"the backup volume is full but for {leave} bytes")


def _free(root: Path) -> int:
    done = subprocess.run(["df", "-B1", "--output=avail", str(root)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def at_once(world: World, command: str) -> Course:
    """A second sidecar makes a backup on the same volume at the same time."""
    process = yield {}
    _wait(process, world.chance.uniform(0, 0.5))
    ahead = str(world.ahead.total_seconds())
    wait = ("--wait", "60") * world.chance.randrange(2)
    with world.sidecar.start("create", "manual", *wait, SOAK_AHEAD=ahead) as other:
        world.fault("at once", "another backup is made at the same time")
        output, _ = other.communicate(timeout=120)
    world.tell(f"  create manual → {other.returncode}")
    if other.returncode not in (0, 3, 11, 51):
        world.found("breaches", f"the second of two at once ended with {other.returncode}: {output[-700:]}")
    yield None


def table_locked(world: World, command: str) -> Course:
    """A migration holds a table, for longer than is waited for, or not."""
    with world.server.connect(DATABASE) as session, session.transaction():
        session.execute("LOCK TABLE odd IN ACCESS EXCLUSIVE MODE")
        process = yield {}
        world.fault("table locked", "a table is locked")
        _wait(process, world.chance.choice([1.0, 20.0]))
    yield None


def clock_off(world: World, command: str) -> Course:
    """The clock is wrong for one command. A backup of another year would be the newest for ever: not that."""
    hours = world.chance.choice([87_600.0, 9_000.0, -9_000.0] if command == "prune" else [30.0, -30.0])
    world.fault("clock off", f"the clock is {hours:.0f} hours off")
    yield {"SOAK_AHEAD": str(world.ahead.total_seconds() + 3600 * hours)}
    yield None


def other_zone(world: World, command: str) -> Course:
    """TZ is changed for one command."""
    zone = world.chance.choice(ZONES)
    world.fault("other zone", f"the zone is {zone}")
    yield {"TZ": zone}
    yield None


def volume_empty(world: World, command: str) -> Course:
    """The media are not mounted: an empty directory is there, or none."""
    media, aside = world.sidecar.media, world.base / "aside"
    with world.files.gate:
        media.rename(aside)
        try:
            if world.chance.random() < 0.5:
                media.mkdir()
            world.fault("volume empty", "the media are not mounted")
            yield {}
            yield None
        finally:
            with contextlib.suppress(OSError):
                media.rmdir()
            aside.rename(media)


def read_only(world: World, command: str) -> Course:
    """The backup volume is read-only from some moment on: health says so as long as it is."""
    process = yield {}
    if not world.moment(process, command):
        yield None
        return
    subprocess.run(["mount", "--bind", str(world.root), str(world.root)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(world.root)], check=True)
        world.fault("read only", "the backup volume is read-only")
        yield None
        if (code := world.run("monitor", "--alert").code) != _CRITICAL:
            world.found("false", f"`monitor --alert` ends with {code} while nothing can be written")
        world.unswept = True
    finally:
        subprocess.run(["umount", "-l", str(world.root)], check=True)


def renamed(world: World, command: str) -> Course:
    """Files are renamed from one directory to another, one after the other; not where nobody may write."""
    process, count = (yield {}), 0
    while world.files.window is not None and process.poll() is None:
        with world.files.gate:
            world.files.renamed()
        count += 1
        _wait(process, 0.005)
    if count:
        world.fault("renamed", f"{count} files are renamed meanwhile")
    yield None


def _wait(process: subprocess.Popen[str], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


Fault = Callable[[World, str], Course]
_ANY: tuple[Fault, ...] = (killed, killed, killed, stopped, backend_killed, helper_killed, helper_paused)
_SERVER: tuple[Fault, ...] = (server_paused, server_down, server_crashed)
FAULTS: dict[str, tuple[Fault, ...]] = {
    "create": (
        *_ANY,
        *_SERVER,
        disk_full,
        disk_full,
        at_once,
        table_locked,
        clock_off,
        other_zone,
        volume_empty,
        read_only,
        read_only,
        renamed,
        renamed,
    ),
    "drill": (*_ANY, disk_full, at_once),
    "restore": (*_ANY, *_SERVER, disk_full, at_once, other_zone),
    "undo": (killed, killed, stopped, backend_killed, server_paused, server_crashed),
    # What writes is a helper; to kill the client of a container ends nothing.
    "boxed": (stopped, backend_killed, helper_killed, helper_killed, helper_killed, helper_paused, *_SERVER, disk_full),
    "prune": (killed, killed, killed, stopped, disk_full, clock_off, clock_off, at_once, other_zone),
    "upload": (killed, killed, stopped, at_once),
}


def some(world: World, command: str, share: float, kind: str = "") -> Course | None:
    """A fault for a command, in this share of cases; of those of its `kind`, if that is another one."""
    if world.chance.random() >= share:
        return None
    return world.chance.choice(FAULTS[kind or command])(world, command)


# --- what happens to files that lie there ------------------------------------------------------------------------


@contextlib.contextmanager
def harmed(world: World, path: Path) -> Iterator[str]:
    """A stored file is not what it was, in one of many ways; the bytes are put back at the end of the body.

    `silent`: no sum covers those words of a manifest, which say nothing of its files.
    """
    good = path.read_bytes()
    place, kind = (
        world.chance.randrange(len(good)),
        world.chance.choice(["flip", "flip", "cut", "more", "zero", "gone"]),
    )
    bad = {
        "flip": good[:place] + bytes([good[place] ^ 1 << world.chance.randrange(8)]) + good[place + 1 :],
        "cut": good[:place],
        "more": good + world.chance.randbytes(8),
        "zero": good[: place - place % 64] + bytes(64) + good[place - place % 64 + 64 :],
    }
    if bad.get(kind) == good:  # long runs of zeros are packed as zeros
        kind = "flip"
    mode = path.stat().st_mode & 0o7777
    path.unlink()
    if kind in bad:
        path.write_bytes(bad[kind])
        path.chmod(mode)
    if path.suffix == ".json" and kind in bad and says(bad[kind]) == says(good):
        kind = "silent"
    else:
        world.fault(
            f"a stored file: {kind}", f"{kind} at byte {place} of {len(good)} of {path.parent.name}/{path.name}"
        )
    try:
        yield kind
    finally:
        path.write_bytes(good)
        path.chmod(mode)
