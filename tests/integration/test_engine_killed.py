"""The Docker engine is killed under a backup, a drill or a restore, alone or together with the sidecar.

Not the engine that all other tests share: one of this module's own. What it has in it is gone with it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.breaking import running, with_application
from tests.support.database import Server, start_server
from tests.support.engine import Engine, engine
from tests.support.faults import dumping, ended, eventually, failed, fill_big, judge, nothing_left, under_way
from tests.support.restoring import Target
from tests.support.sidecar import Result, Sidecar

IMAGES = ("obcms-test/postgres:17", "obcms-test/app:latest")
OLD, NEW = ("old", "old"), ("new", "new")
CREATE = ("create", "daily", "--only", "database")
LARGE = "CREATE TABLE large AS SELECT i, md5(i::text) AS body FROM generate_series(1, 300000) i"
# `live`: with --live-restore, containers go on while it is away. Else it ends them when it is started again.
KILLS: Final[dict[str, Callable[[Engine], None]]] = {
    "engine": Engine.kill,
    "live": Engine.kill,
    "containerd": Engine.kill_containerd,
    "power": Engine.power_cut,
}


@pytest.fixture(scope="module")
def doomed() -> Iterator[Engine]:
    """An engine to be killed. All that this module asks of Docker, it asks of this one."""
    with engine(*IMAGES) as made, pytest.MonkeyPatch.context() as patch:
        for name, value in made.env.items():
            patch.setenv(name, value)
        yield made


@pytest.fixture(scope="module")
def victim(doomed: Engine) -> Server:
    """The database in it."""
    return start_server(17, "doomed", restart_policy={"Name": "unless-stopped"})


def well(doomed: Engine, victim: Server, way: str = "") -> None:
    """The engine is there again, and what an operator looks to first: the database."""
    if doomed.process is None:
        doomed.start(live_restore=way == "live")
    eventually(lambda: doomed.docker("start", victim.container.id, check=False), 60)
    victim.wait()


# --- backup -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def big(victim: Server) -> str:
    """A database whose dump takes seconds."""
    name = victim.new_database()
    fill_big(victim, name)
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


# --- restore ------------------------------------------------------------------------------------------------------


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
    here, done = (target.sidecar.root.parent / name for name in ("here", "done"))
    wait = f"[ -e {done} ] || {{ touch {here}; while [ ! -e {done} ]; do sleep 0.02; done; }}"
    words = ("restore", target.stored().id, "--force", "--no-safety")
    try:
        with under_way(target.sidecar, *words, BREAK_STEP=step, BREAK_COMMAND=wait) as process:
            eventually(lambda: here.exists() or process.poll() is not None, 60)
            if both:
                process.kill()
            KILLS[way](doomed)
            done.touch()
            return ended(process, 120)
    finally:
        here.unlink(missing_ok=True)
        done.unlink(missing_ok=True)


def named(target: Target, result: Result, step: str) -> None:
    """A command names the step and both ways out of it."""
    assert result.code == 51 and "Traceback" not in result.output, result.output
    for word in (step, "--resume", "--rollback", target.stored().id):
        assert word in result.output, f"{word!r} is not in: {result.output}"


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
    print(result.output)
    named(target, result, "stopped at")
    assert target.journal.exists() and target.sidecar.runs()[0].exit_code == 51
    print(target.sidecar.run("status").output)
    still = target.sidecar.run("restore", command)
    print(still.output)
    named(target, still, "stopped at")
    well(doomed, victim, way)
    named(target, target.sidecar.run("create", "daily"), "stopped at")
    result = target.sidecar.run("restore", command)
    print(result.output)
    assert result.code == 0, result.output
    assert not target.journal.exists() and target.live() == end
    eventually(lambda: running(target))


BOTH = [
    ("loading", "power", "--resume", NEW),
    ("stopping", "engine", "--resume", NEW),
    ("swapping database", "engine", "--resume", OLD),
    ("swapping database", "power", "--rollback", NEW),
    ("swapping media", "power", "--resume", OLD),
    ("swapping media", "engine", "--rollback", NEW),
    ("starting", "power", "--resume", OLD),
]


@pytest.mark.parametrize(("step", "way", "command", "end"), BOTH)
def test_with_the_sidecar_at_a_step_of_a_restore(
    target: Target, doomed: Engine, victim: Server, step: str, way: str, command: str, end: tuple[str, str]
) -> None:
    result = broken(target, doomed, step, way, both=True)
    assert result.code == -signal.SIGKILL and target.journal.exists(), result.output
    well(doomed, victim, way)
    named(target, target.sidecar.run("create", "daily"), f"stopped at `{step}`")
    result = target.sidecar.run("restore", command)
    assert result.code == 0, result.output
    assert not target.journal.exists() and target.live() == end
    eventually(lambda: running(target))
