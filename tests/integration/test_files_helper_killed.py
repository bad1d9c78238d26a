"""The helper that alone writes to the volumes is killed in the middle of a restore by the shipped image.

The sidecar is a container, as it is in a stack: it cannot write to the volumes itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.support.breaking import application, boxed, running, with_application
from tests.support.database import Server
from tests.support.faults import ended, eventually, helpers, under_way
from tests.support.restoring import NEW, OLD, Target
from tests.support.sidecar import Result, Sidecar

# Enough renames in an exchange, and enough files to unpack, that a kill falls between them.
MANY = 3000
# Kills the helpers of these verbs: at once, when files are being written, or when they are being exchanged.
KILLER = """
import os, sys, time
from pathlib import Path
from backup.docker import engine
from backup.cli import main
wanted = dict(each.split("=") for each in os.environ["KILL"].split(","))
media = Path(os.environ["BACKUP_VOLUMES_DIR"]) / "media"
begin = engine.Engine.start_alone
def reached(moment):
    folders = list(media.glob(".obcms-restore-*"))
    if moment == "writing":
        return any(len(os.listdir(folder / "new")) > 9 for folder in folders if (folder / "new").exists())
    if moment == "moving":
        return any(b'"step": "settled"' not in path.read_bytes() for path in media.glob(".obcms-restore-*/state"))
    if moment == "placing":
        return bool(folders)
    return True
def started(self, image, command, *rest):
    helper = begin(self, image, command, *rest)
    moment = wanted.get(command[3])
    if moment:
        inspect = lambda: self.api.inspect_container(helper.id)["State"]["Running"]
        while not reached(moment) and inspect():
            pass
        print("KILLED", command[3], inspect(), flush=True)
        helper.kill()
    return helper
def client(self, beside, program, arguments, *rest):
    if program not in wanted:
        return beside_it(self, beside, program, arguments, *rest)
    # One that sleeps, because a dump of so little may have ended by the time it is killed.
    helper = beside_it(self, beside, "sleep", ["60"], *rest)
    helper.kill()
    return helper
beside_it, engine.Engine.start_helper = engine.Engine.start_helper, client
engine.Engine.start_alone = started
sys.exit(main(sys.argv[1:]))
"""

# Lets the helper that unpacks stand still until it may go on.
HOLDER = """
import contextlib, os, sys, time
from pathlib import Path
from backup.docker import engine
from backup.cli import main
spool = Path(os.environ["BACKUP_SPOOL_DIR"])
begin = engine.Engine.start_alone
def started(self, image, command, *rest):
    helper = begin(self, image, command, *rest)
    if command[3] == "extract":
        for _ in range(100):
            with contextlib.suppress(Exception):
                self.api.pause(helper.id)
                break
            time.sleep(0.1)
        (spool / "here").touch()
        while not (spool / "go").exists():
            time.sleep(0.02)
        with contextlib.suppress(Exception):
            self.api.unpause(helper.id)
    return helper
engine.Engine.start_alone = started
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def module_target(tmp_path_factory: pytest.TempPathFactory, servers: Callable[[int], Server]) -> Iterator[Target]:
    yield from with_application(Target.make(tmp_path_factory.mktemp("target"), servers(17), more=MANY))


@pytest.fixture
def target(module_target: Target) -> Iterator[Target]:
    """A set of the old state with the new one live; afterwards it is so again, whatever became of it."""
    yield module_target
    if module_target.journal.exists():
        module_target.sidecar.run("restore", "--rollback")
    if module_target.live() == OLD:
        assert module_target.sidecar.run("undo", "--force").code == 0
    module_target.sidecar.run("undo", "--discard", "--force")
    module_target.unchanged()


@pytest.fixture
def inside(target: Target) -> Sidecar:
    """The same sidecar in a container."""
    return boxed(target.sidecar, KILLER)


def restored(inside: Sidecar, target: Target, kill: str) -> Result:
    """A restore during which these helpers are killed; each of them was."""
    result = inside.run("restore", target.stored().id, "--force", "--no-safety", KILL=kill)
    for each in kill.split(","):
        assert f"KILLED {each.partition('=')[0]} True" in result.output, result.output
    assert result.output.count("[ERROR]") == 1 and "Traceback" not in result.output, result.output
    # An application that must not see files between two states stands still, and is named.
    assert running(target) or (result.code == 51 and f"{application(target)} may be stopped" in result.output)
    assert helpers(target.sidecar) == []
    run = target.sidecar.runs()[0]
    assert (run.operation, run.outcome, run.exit_code) == ("restore", "failed", result.code), run
    return result


@pytest.mark.parametrize(
    ("kill", "why"),
    [
        ("extract=now", "`extract` ended with exit code 137"),
        ("extract=writing", "`extract` ended with exit code 137"),
        ("exchange=now", "`exchange` ended with exit code 137"),
        ("exchange=moving", "`exchange` ended with exit code 137"),
    ],
)
def test_all_is_as_before(target: Target, inside: Sidecar, kill: str, why: str) -> None:
    result = restored(inside, target, kill)
    target.refused(result, 50, why, "all is as before")


@pytest.mark.parametrize("way", ["--resume", "--rollback"])
def test_what_would_put_the_files_back_is_killed_too(target: Target, inside: Sidecar, way: str) -> None:
    """The files are between two states until the next command, and every message says so."""
    result = restored(inside, target, "exchange=moving,roll-back=now")
    assert result.code == 51 and target.journal.exists(), result.output
    for words in ("being rolled back", "`exchange` ended with exit code 137", "`roll-back` ended with", way):
        assert words in result.output, f"{words!r} is not in: {result.output}"
    for command in (("create", "daily"), ("restore", target.stored().id, "--force"), ("undo", "--force")):
        refused = target.sidecar.run(*command)
        assert refused.code in (50, 51) and way in refused.output, refused.output
    ended = inside.run("restore", way, KILL="none=now")
    assert ended.code == 0 and "rolled back: all is as it was before" in ended.output, ended.output
    target.unchanged()


def test_after_the_exchange(target: Target, inside: Sidecar) -> None:
    """All is restored and the application runs; what is missing is named, and `--resume` adds it."""
    result = restored(inside, target, "kept=now")
    assert result.code == 51 and "the restored data are live" in result.output, result.output
    assert target.live() == OLD and target.journal.exists()
    ended = inside.run("restore", "--resume", KILL="none=now")
    assert ended.code == 0 and not target.journal.exists(), ended.output
    assert target.live() == OLD
    assert inside.run("undo", "--force", KILL="none=now").code == 0
    assert target.live() == NEW


def test_while_an_undo_exchanges_the_files(target: Target, inside: Sidecar) -> None:
    assert inside.run("restore", target.stored().id, "--force", "--no-safety", KILL="none=now").code == 0
    result = inside.run("undo", "--force", KILL="roll-back=moving")
    assert result.code in (50, 51), result.output
    if result.code == 51:
        ended = inside.run("restore", "--resume", KILL="none=now")
        assert ended.code == 0, ended.output
    assert target.live() == OLD and running(target) and helpers(target.sidecar) == []


def test_the_client_that_dumps_the_safety_set(target: Target, inside: Sidecar) -> None:
    """A backup reads volumes itself, so the only helper of a safety set is the database's client."""
    result = inside.run("restore", target.stored().id, "--force", KILL="pg_dump=now")
    target.refused(result, 50, "the safety set failed", "pg_dump ended with exit code 137", "nothing was touched")
    assert running(target)


@pytest.mark.parametrize("moment", ["now", "placing"])
def test_while_one_path_is_put_back(target: Target, inside: Sidecar, moment: str) -> None:
    words = ("restore", target.stored().id, "--only", "media", "--path", "kind.txt", "--force")
    result = inside.run(*words, KILL=f"put={moment}")
    assert "KILLED put" in result.output, result.output
    if result.code:
        assert result.code == 20 and "is whole: as it was, or put back" in result.output, result.output
    assert target.live() in (NEW, ("new", "old")) and helpers(target.sidecar) == [] and running(target)
    again = inside.run(*words, KILL="none=now")
    assert again.code == 0 and target.live() == ("new", "old"), again.output
    # What was replaced is kept for days; this is not what is tried here.
    for left in target.sidecar.media.glob(".obcms-restore-*"):
        shutil.rmtree(left)
    (target.sidecar.media / "kind.txt").write_text("new")


def test_a_plan_beside_a_restore_leaves_its_helper_alone(target: Target) -> None:
    """It is asked for while files are being unpacked, and touches nothing."""
    inside = boxed(target.sidecar, HOLDER)
    here, go = (target.sidecar.spool / name for name in ("here", "go"))
    identifier = target.stored().id
    try:
        with under_way(inside, "restore", identifier, "--force", "--no-safety") as process:
            eventually(here.exists, 60)
            there = helpers(target.sidecar)
            planned = inside.run("restore", identifier, "--dry-run")
            assert "`extracting`" in planned.output and "is replaced" in planned.output, planned.output
            assert f"the restore of {identifier} is running" in planned.output, planned.output
            assert planned.code == 11 and "--rollback" not in planned.output, planned.output
            assert there and helpers(target.sidecar) == there
            go.touch()
            result = ended(process, 120)
    finally:
        here.unlink(missing_ok=True)
        go.unlink(missing_ok=True)
    assert result.code == 0 and target.live() == OLD, result.output
    assert running(target) and helpers(target.sidecar) == []
