"""The Docker engine is killed under a backup or a drill, alone or together with the sidecar.

Not the engine that all other tests share: one of this module's own. What it has in it is gone with it.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.breaking import interrupted
from tests.support.database import Server
from tests.support.engine import KILLS, Engine, well
from tests.support.faults import docker, dumping, ended, failed, fill_big, judge, nothing_left, under_way
from tests.support.sidecar import Sidecar

CREATE = ("create", "daily", "--only", "database")


@pytest.fixture(scope="module")
def big(victim: Server) -> str:
    """A database whose dump takes seconds."""
    name = victim.new_database()
    fill_big(victim, name, 700)
    return name


@pytest.fixture
def backing(tmp_path: Path, doomed: Engine, victim: Server, big: str) -> Iterator[Sidecar]:
    """A sidecar for it, with one good set that no fault may touch."""
    sidecar = Sidecar.make(tmp_path, victim, big)
    small(sidecar)
    before = sidecar.files()
    yield sidecar
    well(doomed, victim)
    assert before.items() <= sidecar.files().items()
    nothing_left(sidecar, victim)


def small(sidecar: Sidecar) -> None:
    result = sidecar.run(*CREATE, DB_NAME="obcms_prod")
    assert result.code == 0, result.output


@pytest.mark.parametrize("way", KILLS)
def test_in_the_middle_of_a_backup(backing: Sidecar, doomed: Engine, victim: Server, way: str) -> None:
    before = backing.files()
    with under_way(backing, BACKUP_STALL_TIMEOUT="15") as process:
        dumping(backing, process, victim)
        KILLS[way](doomed)
        result = ended(process, 120)
    if way == "containerd":
        # The engine lives, and may never learn that the client has ended: then our own patience is over some time.
        words = ("pg_dump", "othing was published") if result.code else ()
    else:
        words = ("pg_dump", "the Docker engine does not answer", "Nothing was published", "run this again")
    if words:
        failed(backing, result, 20, *words)
        assert backing.files() == before
    assert backing.spooled() == []
    well(doomed, victim, way)
    small(backing)


@pytest.mark.parametrize("way", ["engine", "power"])
def test_with_the_sidecar_in_the_middle_of_a_backup(backing: Sidecar, doomed: Engine, victim: Server, way: str) -> None:
    with under_way(backing) as process:
        dumping(backing, process, victim)
        process.kill()
        KILLS[way](doomed)
        ended(process)
    assert len(judge(backing.root)) == 1
    well(doomed, victim, way)
    small(backing)
    assert backing.runs()[1].outcome == "crashed"
    assert len(judge(backing.root)) == 2


def test_a_backup_without_an_engine(backing: Sidecar, doomed: Engine, victim: Server) -> None:
    before = backing.files()
    doomed.kill()
    failed(backing, backing.run(*CREATE), 10, "Docker engine", "does not answer")
    assert backing.files() == before


# --- drill --------------------------------------------------------------------------------------------------------

# Stands still where a drill would load the set, or dump what it has loaded.
WAITING = """
import os, subprocess, sys
from backup.cli import main
from backup.operations.drill import run as drill
method = os.environ.get("BREAK_AT")
if method:
    do = getattr(drill._Drill, method)
    def waiting(self, *rest):
        subprocess.run(os.environ["BREAK_COMMAND"], shell=True, check=True)
        return do(self, *rest)
    setattr(drill._Drill, method, waiting)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def drilled(tmp_path: Path, doomed: Engine, victim: Server) -> Iterator[Sidecar]:
    """A sidecar with one good set. In the end it is proven, and nothing is left of any drill."""
    program = tmp_path / "waiting.py"
    program.write_text(WAITING)
    sidecar = replace(Sidecar.make(tmp_path, victim), program=program)
    small(sidecar)
    before, there = sidecar.files(), volumes()
    yield sidecar
    well(doomed, victim)
    assert before.items() <= sidecar.files().items()
    result = sidecar.run("drill", "latest")
    assert result.code == 0 and "is proven" in result.output, result.output
    nothing_left(sidecar, victim)
    assert volumes() == there, "the data of a throw-away server are left"


def volumes() -> list[str]:
    return sorted(docker("volume", "ls", "-q").split())


@pytest.mark.parametrize(
    ("at", "way", "both"),
    [("_load", "engine", False), ("_load", "power", True), ("_dumped", "live", False), ("_dumped", "engine", True)],
)
def test_in_the_middle_of_a_drill(
    drilled: Sidecar, doomed: Engine, victim: Server, at: str, way: str, both: bool
) -> None:
    """It says nothing of the set: neither that it is proven, nor that it is not."""

    def harm(process: subprocess.Popen[str]) -> None:
        if both:
            process.kill()
        KILLS[way](doomed)

    before = drilled.sets()[0]
    result = interrupted(drilled, "drill", before.id, harm=harm, BREAK_AT=at)
    assert drilled.sets()[0].verdict == before.verdict and before.state == drilled.sets()[0].state
    if both:
        assert result.code == -signal.SIGKILL, result.output
    else:
        failed(drilled, result, 20, "the Docker engine does not answer", "run this again")
    assert drilled.spooled() == [] or both
    well(doomed, victim, way)
    small(drilled)
    nothing_left(drilled, victim)
    assert drilled.runs()[1].outcome == ("crashed" if both else "failed")
