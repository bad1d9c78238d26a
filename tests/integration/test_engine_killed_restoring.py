"""The Docker engine is killed under a restore, alone or together with the sidecar; see also test_engine_killed.py.

The next command says in what state things are, and ends it.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.breaking import BREAKER, application, boxed, interrupted, running, with_application
from tests.support.database import Server
from tests.support.engine import KILLS, Engine, well
from tests.support.faults import docker, ended, eventually, helpers, under_way
from tests.support.restoring import NEW, OLD, Target
from tests.support.sidecar import Result

# On the same worker, so that there is one engine for both.
pytestmark = pytest.mark.xdist_group("tests/integration/test_engine_killed.py")


@pytest.fixture(scope="module")
def module_target(tmp_path_factory: pytest.TempPathFactory, victim: Server) -> Iterator[Target]:
    made = Target.make(tmp_path_factory.mktemp("target"), victim)
    yield from with_application(made, "--restart=unless-stopped")


@pytest.fixture
def target(module_target: Target, doomed: Engine, victim: Server) -> Iterator[Target]:
    """A set of the old state with the new one live; afterwards it is so again, whatever became of it."""
    yield module_target
    well(doomed, victim)
    module_target.sidecar.run("restore", "--resume")
    if module_target.live() == OLD:
        result = module_target.sidecar.run("undo", "--force")
        assert result.code == 0, result.output
    module_target.sidecar.run("undo", "--discard", "--force")
    module_target.unchanged()


def broken(target: Target, doomed: Engine, step: str, way: str, *, both: bool = False) -> Result:
    """A restore under which the engine is killed at a step of the journal; `both`: the sidecar as well."""

    def harm(process: subprocess.Popen[str]) -> None:
        if both:
            process.kill()
        KILLS[way](doomed)

    words = ("restore", target.stored().id, "--force", "--no-safety")
    return interrupted(target.sidecar, *words, harm=harm, BREAK_STEP=step)


def up(target: Target, doomed: Engine, victim: Server, step: str, way: str) -> None:
    """The engine is there again. What it ended itself is an operator's to start, what we have stopped is ours."""
    well(doomed, victim, way)
    if step in ("loading", "extracting", "ready"):
        docker("start", application(target))


def named(target: Target, result: Result, step: str) -> None:
    """A command names the step and both ways out of it."""
    assert result.code == 51 and "Traceback" not in result.output, result.output
    for word in (step, "--resume", "--rollback", target.stored().id):
        assert word in result.output, f"{word!r} is not in: {result.output}"


def ends(target: Target, step: str, command: str, end: tuple[str, str]) -> None:
    """Nothing else is done before it has ended as it was told to, and the application runs."""
    named(target, target.sidecar.run("create", "daily"), step)
    result = target.sidecar.run("restore", command)
    assert result.code == 0, result.output
    assert not target.journal.exists() and target.live() == end
    eventually(lambda: running(target))


STEPS = [
    ("loading", "engine", "--resume", NEW),
    ("loading", "power", "--rollback", NEW),
    ("extracting", "live", "--rollback", NEW),
    ("ready", "engine", "--resume", NEW),
    ("ready", "live", "--resume", NEW),
    ("stopping", "power", "--rollback", NEW),
    ("swapping database", "engine", "--resume", NEW),
    ("swapping media", "engine", "--rollback", NEW),
    ("swapping media", "live", "--resume", NEW),
    ("swapped", "live", "--resume", OLD),
    ("starting", "engine", "--resume", OLD),
]


@pytest.mark.parametrize(("step", "way", "command", "end"), STEPS)
def test_at_a_step_of_a_restore(
    target: Target, doomed: Engine, victim: Server, step: str, way: str, command: str, end: tuple[str, str]
) -> None:
    result = broken(target, doomed, step, way)
    named(target, result, "stopped at")
    assert target.journal.exists() and target.sidecar.runs()[0].exit_code == 51
    told = target.sidecar.run("status").output
    assert "has been unfinished since" in told and "--rollback" in told, told
    still = target.sidecar.run("restore", command)
    named(target, still, "stopped at")
    up(target, doomed, victim, step, way)
    ends(target, "stopped at", command, end)


@pytest.mark.parametrize(("way", "command"), [("live", "--rollback"), ("engine", "--resume"), ("power", "--rollback")])
def test_while_rows_are_loaded(target: Target, doomed: Engine, victim: Server, way: str, command: str) -> None:
    """The client outlives an engine that is killed: it must not go on when the restore has been ended."""
    words = ("restore", target.stored().id, "--force", "--no-safety")
    with under_way(target.sidecar, *words) as process:
        eventually(lambda: target.journal.exists() and helpers(target.sidecar), 60, 0.005)
        KILLS[way](doomed)
        result = ended(process, 120)
    named(target, result, "the live data are untouched")
    up(target, doomed, victim, "loading", way)
    result = target.sidecar.run("restore", command)
    assert result.code == 0, result.output
    target.unchanged()


BOTH = [
    ("loading", "power", "--resume", NEW),
    ("stopping", "engine", "--resume", NEW),
    ("swapping database", "engine", "--resume", OLD),
    ("swapping database", "power", "--rollback", NEW),
    ("swapping media", "power", "--resume", OLD),
    ("swapping media", "engine", "--rollback", NEW),
    ("swapped", "power", "--rollback", NEW),
    ("starting", "power", "--resume", OLD),
]


@pytest.mark.parametrize(("step", "way", "command", "end"), BOTH)
def test_with_the_sidecar_at_a_step_of_a_restore(
    target: Target, doomed: Engine, victim: Server, step: str, way: str, command: str, end: tuple[str, str]
) -> None:
    result = broken(target, doomed, step, way, both=True)
    assert result.code == -signal.SIGKILL and target.journal.exists(), result.output
    kind = target.sidecar.media / "kind.txt"
    files = kind.read_text()
    named(target, target.sidecar.run("restore", command), f"stopped at `{step}`")
    assert kind.read_text() == files, "whoever writes to them could not be stopped"
    up(target, doomed, victim, step, way)
    ends(target, f"stopped at `{step}`", command, end)


@pytest.mark.parametrize("way", ["live", "engine"])
def test_with_a_sidecar_that_is_a_container(target: Target, doomed: Engine, victim: Server, way: str) -> None:
    """It may not write to the volumes itself: without the engine the files stay as they are, and it says so."""
    inside = boxed(target.sidecar, BREAKER)
    words = ("restore", target.stored().id, "--force", "--no-safety")
    interrupted(inside, *words, harm=lambda _: KILLS[way](doomed), BREAK_STEP="swapping media")
    run = eventually(lambda: next((run for run in target.sidecar.runs()[:1] if run.ended), None), 120)
    assert (run.operation, run.exit_code) == ("restore", 51) and "being rolled back" in run.message, run
    well(doomed, victim, way)
    named(target, inside.run("create", "daily"), "being rolled back")
    result = inside.run("restore", "--rollback")
    assert result.code == 0 and target.live() == NEW, result.output
    eventually(lambda: running(target))
