"""A run is killed, or told by the kernel that the disk fails, at every system call that changes a file.

A plain trace says how many calls of each kind the main thread makes; then one run per call is broken there. The
compressing threads write too: the nth call of any thread counts, so long as it comes before the main thread's nth.
A sample by default, every point with FULL_SWEEP=1; SEED repeats a sample.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.database import Server
from tests.support.faults import ended, helpers, judge, main_calls, nothing_left, seeded, strace, unfinished
from tests.support.sidecar import Sidecar

MEDIA = ("create", "daily", "--only", "media")
DATABASE = ("create", "daily", "--only", "database")
FULL = bool(os.environ.get("FULL_SWEEP"))
# These say what was done and who is at work, or try a folder for temporary files; a disk without them stops nobody.
# Without the note of when a pack was read, it is read again.
OPTIONAL = ("/logs/", "/state/lock>", "pipe:", "/dev/null", ".tar.gz.checked")
TRIED = re.compile(r"</tmp/[a-z0-9_]{8}>")


@dataclass(frozen=True)
class Point:
    """The nth `call` of the main thread; `what` are its arguments in a run without faults."""

    call: str
    nth: int
    what: str

    def __str__(self) -> str:
        return f"{self.call} {self.nth} ({self.what[:100]})"


@dataclass
class Sweep:
    """Points to break, and a volume with one good set from which each broken run starts."""

    base: Path
    origin: Sidecar
    command: tuple[str, ...]
    points: list[Point]

    @classmethod
    def plan(cls, base: Path, origin: Sidecar, command: tuple[str, ...]) -> Sweep:
        for number in range(2):  # the first makes what a new volume lacks, the second is traced
            log = base / f"trace{number}"
            with origin.start(*command, prefix=strace(log), PYTHONDONTWRITEBYTECODE="1") as process:
                result = ended(process)
            assert result.code == 0, result.output
        counted: Counter[str] = Counter()
        points = []
        for call, what in main_calls(log):
            counted[call] += 1
            points.append(Point(call, counted[call], what))
        assert len(judge(origin.root)) == 2 and {"write", "fsync", "rename", "renameat2", "unlink", "ftruncate"} <= set(
            counted
        )
        return cls(base, origin, command, points)

    def only(self, calls: tuple[str, ...], share: float) -> list[Point]:
        """Points of these calls: a sample, or all of them."""
        chosen = [point for point in self.points if point.call in calls]
        if FULL:
            return chosen
        return sorted(seeded().sample(chosen, max(1, round(len(chosen) * share))), key=self.points.index)

    def break_at(self, point: Point, fault: str) -> None:
        """One broken run on a copy of the volume, the judge, and one clean run after it."""
        place = self.base / f"{fault.replace('=', '-')}-{point.call}-{point.nth}"
        sidecar = self._copy(place)
        before = sidecar.files()
        injected = strace(place / "trace", "-e", f"inject={point.call}:{fault}:when={point.nth}")
        with sidecar.start(*self.command, prefix=injected, PYTHONDONTWRITEBYTECODE="1") as process:
            result = ended(process)
        sets = judge(sidecar.root)
        assert before.items() <= sidecar.files().items(), "an earlier set was touched"
        assert "Traceback" not in result.output, result.output
        if fault.startswith("signal"):
            assert result.code == -9, result.output
        elif not any(name in point.what for name in OPTIONAL) and not TRIED.search(point.what):
            # A compressing thread may have met the fault instead of the main one; then it is the other's to fail.
            assert result.code == 30, f"{result.code}: {result.output}"
            assert "[ERROR]" in result.output, result.output
            self._told(sidecar, sets, result.output)
        self._clean_run(sidecar, sets, result.code)
        shutil.rmtree(place)

    def _copy(self, place: Path) -> Sidecar:
        shutil.copytree(self.origin.root, place / "backups", symlinks=True)
        (place / "spool").mkdir(mode=0o700)
        if (instance := place / "backups/state/instance").exists():
            instance.write_text(secrets.token_hex(6))  # a volume of its own: copies run side by side
        paths = {"BACKUP_DIR": str(place / "backups"), "BACKUP_SPOOL_DIR": str(place / "spool")}
        return Sidecar(place / "backups", place / "spool", self.origin.volumes, self.origin.environment | paths)

    def _told(self, sidecar: Sidecar, sets: list[str], output: str) -> None:
        """A run that failed has published nothing, unless all that failed was to record or to report it."""
        newest = sidecar.runs()[0]
        if len(sets) > 2:
            assert newest.set in sets or newest.outcome in ("running", "success"), output
        else:
            assert newest.outcome in ("failed", "running", "success"), newest
        assert helpers(sidecar) == [] and sidecar.spooled() == []

    def _clean_run(self, sidecar: Sidecar, sets: list[str], code: int) -> None:
        with sidecar.start(*self.command, PYTHONDONTWRITEBYTECODE="1") as process:
            result = ended(process)
        assert result.code == 0, result.output
        assert len(judge(sidecar.root)) == len(sets) + 1
        nothing_left(sidecar)
        outcomes = [run.outcome for run in sidecar.runs()]
        assert outcomes[0] == "success" and "running" not in outcomes
        assert code != -9 or len(sets) > 2 or outcomes[1] in ("crashed", "success")


def breaks(sweep: Sweep, points: list[Point], fault: str) -> None:
    """All points, two at a time; every failure is listed."""

    def one(point: Point) -> str:
        try:
            sweep.break_at(point, fault)
        except Exception as error:  # noqa: BLE001 - collected, so that one point does not hide the others
            return f"{fault} at {point}: {error}"
        return ""

    with ThreadPoolExecutor(2) as pool:
        wrong = [found for found in pool.map(one, points) if found]
    assert not wrong, f"{len(wrong)} of {len(points)} points:\n" + "\n".join(wrong)


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A run of a volume alone: no containers, so every point is cheap."""
    base = tmp_path_factory.mktemp("media")
    sidecar = Sidecar.make(base, None)
    (sidecar.media / "noise").write_bytes(os.urandom(7 << 19))
    return Sweep.plan(base, sidecar, MEDIA)


@pytest.fixture(scope="module")
def increments(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """The same where a set packs what is new: of each run, a file that the run before did not find."""
    base = tmp_path_factory.mktemp("increments")
    sidecar = Sidecar.make(base, None, BACKUP_MEDIA="incremental")
    (sidecar.media / "noise").write_bytes(os.urandom(7 << 18))
    sweep = Sweep.plan(base, sidecar, (*MEDIA, "--full"))
    # The last sync there is that of the note of when the pack was read.
    sweep.points.remove([each for each in sweep.points if each.call == "fsync" and "/packs>" in each.what][-1])
    return sweep


@pytest.mark.parametrize("call", ["rename", "renameat2", "unlink", "fsync", "pwrite64"])
def test_an_increment_killed_at_every_call(increments: Sweep, call: str) -> None:
    breaks(increments, increments.only((call,), 0.4), "signal=KILL")


class _Snapshots(Sweep):
    """Of a snapshot: a volume with one set, and a file that it does not hold."""

    @classmethod
    def of(cls, base: Path, origin: Sidecar) -> Sweep:
        with origin.start(*MEDIA) as process:
            assert ended(process).code == 0
        (origin.media / "upload").write_bytes(os.urandom(7 << 10))
        sweep = cls(base, origin, ("create", "snapshot"), [])
        traced = sweep._copy(base / "traced")
        with traced.start(*sweep.command, prefix=strace(base / "trace"), PYTHONDONTWRITEBYTECODE="1") as process:
            assert ended(process).code == 0
        counted: Counter[str] = Counter()
        for call, what in main_calls(base / "trace"):
            counted[call] += 1
            sweep.points.append(Point(call, counted[call], what))
        return sweep

    def _clean_run(self, sidecar: Sidecar, sets: list[str], code: int) -> None:
        """The next one makes the set, unless the killed one has published it and it was verified."""
        with sidecar.start(*self.command, PYTHONDONTWRITEBYTECODE="1") as process:
            result = ended(process)
        assert result.code == 0, result.output
        found = judge(sidecar.root)
        assert len([each for each in found if each.startswith("snapshot_")]) in (1, 2)
        newest = sidecar.runs()[0]
        assert newest.set in found and newest.outcome == "success"
        assert sidecar.catalog.find(newest.set).verified
        nothing_left(sidecar)


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    base = tmp_path_factory.mktemp("snapshots")
    sidecar = Sidecar.make(base, None, BACKUP_MEDIA="incremental")
    (sidecar.media / "noise").write_bytes(os.urandom(7 << 10))
    return _Snapshots.of(base, sidecar)


@pytest.mark.parametrize("call", ["rename", "renameat2", "unlink", "fsync", "pwrite64"])
def test_a_snapshot_killed_at_every_call(snapshots: Sweep, call: str) -> None:
    breaks(snapshots, snapshots.only((call,), 0.4), "signal=KILL")


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_every_call_of_an_increment_fails(increments: Sweep, error: str) -> None:
    breaks(increments, increments.only(("write", "fsync", "rename", "renameat2"), 0.1), f"error={error}")


@pytest.mark.parametrize(
    ("call", "share"),
    [
        ("rename", 1),
        ("renameat2", 1),
        ("unlink", 1),
        ("fsync", 0.5),
        ("ftruncate", 0.5),
        ("pwrite64", 0.5),
        ("mkdir", 0.3),
        ("write", 0.3),
    ],
)
def test_killed_at_every_call(media: Sweep, call: str, share: float) -> None:
    breaks(media, media.only((call,), share), "signal=KILL")


@pytest.mark.parametrize(
    ("call", "share"), [("write", 0.35), ("fsync", 0.4), ("rename", 0.4), ("renameat2", 0.4), ("pwrite64", 1)]
)
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_every_call_fails(media: Sweep, call: str, share: float, error: str) -> None:
    breaks(media, media.only((call,), share), f"error={error}")


def test_killed_with_a_database(tmp_path: Path, server: Server) -> None:
    database = server.new_database()
    server.execute(database, "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i")
    sweep = Sweep.plan(tmp_path, Sidecar.make(tmp_path, server, database), DATABASE)
    # What the engine and the server are told goes through sockets, by other calls.
    points = [
        p for p in sweep.only(("fsync", "rename", "renameat2", "unlink", "write"), 0.2) if "socket:" not in p.what
    ]
    breaks(sweep, points, "signal=KILL")
    assert unfinished(sweep.origin.root) == []
