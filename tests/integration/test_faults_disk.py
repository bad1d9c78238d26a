"""The backup volume is full, fills up, or takes nothing: earlier sets stay, the run fails and says so."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.database import Server
from tests.support.faults import (
    ended,
    eventually,
    failed,
    judge,
    nothing_left,
    strace,
    unfinished,
)
from tests.support.sidecar import Sidecar

CREATE = ("create", "daily", "--only", "database")
MEDIA = ("create", "daily", "--only", "media")
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def mounted(path: Path, *options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path)], check=True)


@pytest.fixture
def target(tmp_path: Path, server: Server) -> Iterator[Sidecar]:
    """A sidecar whose backup volume has 20 MB and holds one good set."""
    sidecar = Sidecar.make(tmp_path, server)
    mounted(sidecar.root, "size=20m", "mode=700")
    try:
        result = sidecar.run("create", "daily")
        assert result.code == 0, result.output
        yield sidecar
    finally:
        subprocess.run(["umount", "-l", str(sidecar.root)], check=True)


@pytest.fixture(scope="module")
def noise(servers: Callable[[int], Server]) -> str:
    """A database that is larger as a dump than on disk, and does not pack: 12 MB of random bytes become 24 of hex."""
    server = servers(17)
    database = server.new_database()
    server.execute(
        database,
        "CREATE TABLE noise (b bytea); ALTER TABLE noise ALTER b SET STORAGE EXTERNAL;"
        "INSERT INTO noise SELECT decode(string_agg(md5(random()::text), ''), 'hex')"
        " FROM generate_series(1, 1500000) i GROUP BY i % 300",
    )
    return database


def filled(sidecar: Sidecar, leave: int) -> Path:
    """A file of somebody else's that leaves `leave` bytes free."""
    filler = sidecar.root / "daily" / "somebody's video"
    room = os.statvfs(sidecar.root)
    # Full before its end is full, too: others may write at the same time.
    with contextlib.suppress(OSError):
        filler.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - leave)))
    return filler


def test_what_will_not_fit_is_not_begun(target: Sidecar, server: Server) -> None:
    (target.media / "picture").write_bytes(os.urandom(1_000_000))
    assert target.run(*MEDIA).code == 0
    before = target.files()
    (target.media / "large").write_bytes(os.urandom(25_000_000))
    failed(target, target.run(*MEDIA), 30, "needs about", "MB free", "nothing was started", "prune --make-room")
    assert target.files() == before and unfinished(target.root) == []


def test_a_database_that_packs_worse_than_predicted(target: Sidecar, server: Server, noise: str) -> None:
    before = target.files()
    result = target.run(*CREATE, DB_NAME=noise)
    failed(target, result, 30, "the backup volume is full", "earlier sets are untouched", "prune --make-room")
    assert "backing up the database by" in result.output, "it was begun"
    assert target.files() == before
    nothing_left(target, server)
    assert target.run(*CREATE).code == 0


def test_a_disk_that_fills_up_meanwhile(target: Sidecar) -> None:
    (target.media / "large").write_bytes(os.urandom(15_000_000))
    before = target.files()
    # The sidecar is slowed down at its own writes until the other file is there.
    slow = strace(target.spool.parent / "trace", "-e", "inject=write:delay_enter=100ms")
    with target.start(*MEDIA, prefix=slow) as process:
        eventually(lambda: any(p.stat().st_size > 1 << 20 for p in target.root.glob("daily/.*.tar.gz.partial")))
        filler = filled(target, 0)
        result = ended(process)
    failed(target, result, 30, "the backup volume is full", "earlier sets are untouched")
    filler.unlink()
    assert target.files() == before
    nothing_left(target)
    assert target.run(*MEDIA).code == 0
    assert len(judge(target.root)) == 2


@pytest.mark.parametrize("leave", [0, 1, 4096, 8192, 12_288, 16_384, 20_480, 32_768, 65_536])
def test_a_disk_with_next_to_nothing_left(target: Sidecar, leave: int) -> None:
    """However little there is: refused, said, and not one byte of another file changed."""
    (target.media / "small").write_bytes(os.urandom(100_000))
    filler = filled(target, leave)
    before = target.files()
    result = target.run(*MEDIA)
    assert result.code == 30, result.output
    assert result.output.count("[ERROR]") == 1 and "Traceback" not in result.output, result.output
    assert "full" in result.output or "needs about" in result.output
    assert target.files() == before and unfinished(target.root) == []
    assert target.runs()[0].outcome in ("failed", "success")
    filler.unlink()
    again = target.run(*MEDIA)
    assert again.code == 0, again.output
    assert len(judge(target.root)) == 2


def test_a_full_disk_can_still_be_looked_at(target: Sidecar) -> None:
    filled(target, 0)
    for command in (("list",), ("show", "latest"), ("verify", "latest"), ("list", "--json")):
        result = target.run(*command)
        assert result.code == 0 and "Traceback" not in result.output, result.output


def test_a_volume_in_memory_takes_sets_and_is_red(target: Sidecar) -> None:
    """Better a set in memory than none; but nobody may take it for one that lasts."""
    target.tries = True  # of media nothing is tried, and memory is memory
    made = target.run(*MEDIA)
    assert made.code == 3 and "is complete, but not on a disk" in made.output and "memory (tmpfs)" in made.output, made
    assert len(target.sets()) == 2 and all(each.good for each in target.sets())
    run = target.runs()[0]
    assert (run.outcome, run.exit_code) == ("success", 3) and "memory (tmpfs)" in run.message
    status = target.run("status").output
    assert "CRITICAL: no set is on a disk" in status and "Mount a volume on a disk there" in status, status


def test_a_volume_that_is_read_only(target: Sidecar) -> None:
    before = target.files()
    subprocess.run(["mount", "-o", "remount,ro", str(target.root)], check=True)
    for command in (CREATE, MEDIA):
        result = target.run(*command)
        assert result.code == 30 and "Read-only file system" in result.output, result.output
        assert "read-write" in result.output and "Traceback" not in result.output
    for command in (("list",), ("verify", "latest")):
        assert target.run(*command).code == 0
    health = target.run("status").output
    assert "CRITICAL: no run can be recorded" in health and "Read-only file system" in health, health
    assert target.files() == before and target.spooled() == []


def test_a_volume_that_turns_read_only_mid_write(target: Sidecar) -> None:
    """As a file system does after an I/O error: nothing can be cleaned up, nor recorded."""
    (target.media / "large").write_bytes(os.urandom(15_000_000))
    before = target.files()
    # Files are named by the second they are begun in.
    soon = [datetime.now(UTC) + timedelta(seconds=s) for s in range(60)]
    names = [f".obcms_media_daily_{moment:%Y-%m-%d_%H-%M-%S}.tar.gz.partial" for moment in soon]
    paths = [word for name in names for word in ("-P", str(target.root / "daily" / name))]
    faults = (
        "-e",
        "inject=write:error=EIO:when=3+",
        "-e",
        "inject=unlink:error=EROFS",
        "-e",
        "inject=pwrite64:error=EIO",
    )
    with target.start(*MEDIA, prefix=strace(target.spool.parent / "trace", *paths, *faults)) as process:
        result = ended(process)
    failed(target, result, 30, "Input/output error", "kernel log")
    assert [
        name for name in target.files() if name.endswith(".partial")
    ] != [] and before.items() <= target.files().items()
    again = target.run(*MEDIA)
    assert again.code == 0, again.output
    nothing_left(target)
