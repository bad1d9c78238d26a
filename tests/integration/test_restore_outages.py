"""A restore whose surroundings fail it: what is live stays whole, and the application runs again."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backup.app.restore import restore_context
from backup.operations.restore.plan_inputs import gather
from backup.progress import Silent
from backup.storage.filesystem import free_space
from tests.support.breaking import interrupted, running, with_application
from tests.support.database import PROJECT, Server, start_server
from tests.support.faults import docker, eventually, helpers, under_way
from tests.support.restoring import NEW, OLD, Target
from tests.support.sidecar import Result, Sidecar

LARGE = "CREATE TABLE large AS SELECT i, md5(i::text) AS body FROM generate_series(1, 300000) i"


@pytest.fixture
def target(tmp_path: Path, server: Server) -> Iterator[Target]:
    """A set of the old state, the new one live, and an application that has the files open."""
    yield from with_application(Target.make(tmp_path, server))


def ended_by(target: Target, *words: str) -> Result:
    result = target.sidecar.run(*words)
    assert not target.journal.exists(), result.output
    return result


# --- the safety set -----------------------------------------------------------------------------------------------


def test_no_room_for_the_safety_set(target: Target, tmp_path: Path) -> None:
    small = tmp_path / "small"
    (small / "backups").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(small / "backups")], check=True)
    try:
        full = target.copy(small)
        target.server.execute(target.database, LARGE)
        full.refused(full.restore(), 50, "safety set failed", "nothing was touched", "--no-safety")
        run = full.sidecar.runs()[0]
        assert (run.operation, run.tier, run.outcome) == ("create", "pre-restore", "failed")
    finally:
        subprocess.run(["umount", "-l", str(small / "backups")], check=True)


def test_a_safety_set_that_is_damaged_as_it_is_written(target: Target) -> None:
    said = target.refused(target.restore(BREAK_DUMP="1"), 50, "safety set failed", "damaged", "nothing was touched")
    assert "--no-safety" in said and target.stored("pre-restore").state == "damaged"


def test_killed_while_the_safety_set_is_made(target: Target) -> None:
    target.server.execute(target.database, LARGE)
    with under_way(target.sidecar, "restore", target.stored().id, "--force") as process:
        eventually(lambda: any((target.sidecar.root / "pre-restore").glob(".obcms_backup*")), 60, 0.005)
        process.kill()
        process.communicate(timeout=30)
    assert target.live() == NEW and running(target) and not target.journal.exists()
    result = target.restore()
    assert result.code == 0 and target.live() == OLD, result.output


# --- the database server ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of our own on a small disk, to be killed and filled up."""
    disk = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=360m", "tmpfs", str(disk)], check=True)
    try:
        made = start_server(17, "fragile", volumes=[f"{disk}:/var/lib/postgresql/data"])
        yield made
        made.remove()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def back_again(server: Server) -> None:
    docker("start", server.container.id)
    server.wait()


@pytest.mark.parametrize(
    ("step", "way", "end"),
    [("loading", "--resume", NEW), ("swapping media", "--resume", None)],
)
def test_the_database_is_killed(
    tmp_path: Path, fragile: Server, step: str, way: str, end: tuple[str, str] | None
) -> None:
    """It says how far it came, and with the server back either command ends it."""
    for target in with_application(Target.make(tmp_path, fragile)):
        kill = f"docker kill {fragile.container.id}"
        result = target.restore("--no-safety", BREAK_STEP=step, BREAK_COMMAND=kill)
        assert result.code in (50, 51, 52) and "Traceback" not in result.output, result.output
        back_again(fragile)
        if result.code == 51:
            assert target.journal.exists() and way in result.output, result.output
            assert target.sidecar.runs()[0].exit_code == 51
            ended = ended_by(target, "restore", way)
            assert ended.code == 0, ended.output
        assert target.live() == (end or target.live()) and target.live() in (OLD, NEW)
        if target.live() == NEW:
            target.nothing_beside()


def lose_the_exchange(target: Target) -> None:
    """What a server loses in a crash that had answered before its disk knew."""
    swap = json.loads(target.journal.read_text())["database"]
    for old, new in ((swap["live"], swap["new"]), (swap["kept"], swap["live"])):
        target.server.execute("postgres", f'ALTER DATABASE "{old}" RENAME TO "{new}"')
    target.server.execute("postgres", f'ALTER DATABASE "{swap["live"]}" ALLOW_CONNECTIONS true')


@pytest.mark.parametrize("killed", [True, False])
def test_the_exchange_of_the_databases_is_lost_again(target: Target, killed: bool) -> None:
    """Whatever the journal says: never the old database with the new files."""
    if killed:
        result = target.restore("--no-safety", BREAK_STEP="swapping media")
        assert result.code == -signal.SIGKILL, result.output
        lose_the_exchange(target)
        result = ended_by(target, "restore", "--resume")
    else:
        words = ("restore", target.stored().id, "--force", "--no-safety")
        result = interrupted(
            target.sidecar, *words, harm=lambda _: lose_the_exchange(target), BREAK_STEP="swapping media"
        )
    assert result.code == 0 and target.live() == OLD, result.output
    assert target.sidecar.run("undo", "--force").code == 0
    assert target.live() == NEW and running(target)


def test_the_disk_of_the_server_is_known(tmp_path: Path, fragile: Server) -> None:
    """Where it is that of the sets and the files too, a plan counts all of them together; as a rule it is."""
    shared, usual = set(), start_server(17, "usual")
    try:
        for each in (usual, fragile):
            shared.add(known(tmp_path, each))
    finally:
        usual.remove()
    assert False in shared


def known(tmp_path: Path, each: Server) -> bool:
    """Whether its disk is that of the sets; what a plan knows of it."""
    (tmp_path / each.service).mkdir()
    target = Target.make(tmp_path / each.service, each)
    facts = gather(restore_context(target.sidecar.app(), Silent()), target.stored(), "", True)
    data = Path(docker("inspect", "-f", "{{(index .Mounts 0).Source}}", each.container.id))
    same = data.stat().st_dev == target.sidecar.root.stat().st_dev
    assert facts.server and facts.server.disk == (facts.backup_disk if same else "")
    assert facts.server.free and facts.server.free == pytest.approx(free_space(data), rel=0.01)
    return same


def test_the_disk_of_the_server_fills_up(tmp_path: Path, fragile: Server) -> None:
    for target in with_application(Target.make(tmp_path, fragile)):
        fragile.execute(target.database, LARGE)
        target.create("daily")
        fragile.execute(target.database, "DROP TABLE large; CHECKPOINT")
        inside = "/var/lib/postgresql/data/filler"
        fill = f"docker exec {fragile.container.id} sh -c 'head -c 1G /dev/zero > {inside}; true'"
        result = target.restore("--no-safety", BREAK_STEP="loading", BREAK_COMMAND=fill)
        assert result.code in (50, 51), result.output
        if result.code == 51:
            docker("exec", fragile.container.id, "rm", inside)
            fragile.wait()
            assert ended_by(target, "restore", "--rollback").code == 0
        else:
            assert "full" in result.output, result.output
        target.unchanged()
        docker("exec", fragile.container.id, "rm", "-f", inside)


def test_a_setting_of_the_database_that_only_a_superuser_may_set(target: Target) -> None:
    """It is known before hours of loading, and before the application stands still."""
    clerk, name = f"clerk_{target.database}", target.database
    owned = f"ALTER TABLE app_case OWNER TO {clerk}; ALTER TABLE kind OWNER TO {clerk};"
    target.server.execute(
        name, f"CREATE ROLE {clerk} LOGIN CREATEDB PASSWORD 'x'; {owned} ALTER DATABASE {name} OWNER TO {clerk}"
    )
    target.create("daily")
    target.server.execute("postgres", f"ALTER DATABASE {name} SET log_statement TO 'mod'")
    try:
        result = target.restore("--no-safety", DB_USER=clerk, DB_PASSWORD="x")
        said = target.refused(result, 50, "log_statement")
        assert "stopping" not in said
    finally:
        target.server.execute("postgres", f"ALTER DATABASE {name} RESET log_statement")
    assert target.restore("--no-safety", DB_USER=clerk, DB_PASSWORD="x").code == 0


def test_a_server_with_few_cores_is_given_few_sessions(tmp_path: Path) -> None:
    server = start_server(17, "limited", in_memory=True, nano_cpus=500_000_000)
    try:
        sidecar = Sidecar.make(tmp_path, server, server.new_database())
        app = sidecar.app()
        assert restore_context(app, Silent()).jobs() == 1
        settings = app.settings.model_copy(update={"load_jobs": 7})
        assert restore_context(replace(app, settings=settings), Silent()).jobs() == 7
    finally:
        server.remove()


def at_work(sidecar: Sidecar) -> list[str]:
    """Its helpers that have been started."""
    running = "{{if .State.Running}}{{.Id}}{{end}}"
    found = helpers(sidecar)
    return docker("inspect", "--format", running, *found, check=False).split() if found else []


def test_the_loading_client_is_killed(target: Target) -> None:
    target.server.execute(target.database, LARGE)
    target.create("daily")
    target.server.execute(target.database, "DROP TABLE large")
    with under_way(target.sidecar, "restore", target.stored().id, "--force", "--no-safety") as process:
        eventually(target.journal.exists, 60, 0.005)
        # One that has been given nothing yet would be done without.
        found = eventually(lambda: len(each := at_work(target.sidecar)) > 1 and each, 60, 0.005)
        docker("kill", *found, check=False)
        output, _ = process.communicate(timeout=60)
    target.refused(Result(process.returncode, output), 50, "137", "not touched")


# --- the files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "code"), [("extract", 50), ("exchange", 50), ("kept", 51)])
def test_whoever_changes_the_files_is_killed(target: Target, verb: str, code: int) -> None:
    result = target.restore("--no-safety", BREAK_VERB=verb)
    if code == 50:
        target.refused(result, code, "all is as")
        return
    assert result.code == code and "--resume" in result.output, result.output
    assert running(target) and target.live() == OLD
    assert ended_by(target, "restore", "--resume").code == 0
    assert target.live() == OLD
    assert target.sidecar.run("undo", "--force").code == 0
    assert target.live() == NEW


# --- others -------------------------------------------------------------------------------------------------------


def test_two_restores_at_once(target: Target) -> None:
    """The one that comes second has agreed to a plan that no longer holds."""
    words = ("restore", target.stored().id, "--force")
    with under_way(target.sidecar, *words) as first, under_way(target.sidecar, *words) as second:
        outputs = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert sorted([first.returncode, second.returncode]) == [0, 11], outputs
    refused = outputs[first.returncode == 0]
    assert "nothing was done" in refused and "check what is live" in refused, refused
    assert target.live() == OLD
    with under_way(target.sidecar, "undo", "--force") as first, under_way(target.sidecar, "undo", "--force") as second:
        outputs = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert sorted([first.returncode, second.returncode]) == [0, 11], outputs
    assert target.live() == NEW


SLOW_DRILL = """
import sys, time
from backup.cli import main
from backup.operations.drill import run as drill
dump = drill._Drill._dumped
drill._Drill._dumped = lambda self, *rest: (time.sleep(300), dump(self, *rest))[1]
sys.exit(main(sys.argv[1:]))
"""


def test_a_drill_ends_for_a_restore(target: Target, tmp_path: Path) -> None:
    """It would take hours, and touches nothing live."""
    program = tmp_path / "slow.py"
    program.write_text(SLOW_DRILL)
    slow = replace(target.sidecar, program=program)
    with under_way(slow, "drill", target.stored().id) as drilling:
        eventually(lambda: any(run.operation == "drill" for run in slow.runs()), 60)
        eventually(lambda: docker("ps", "-q", "--filter", "label=obcms.backup.role=server"), 60)
        began = time.monotonic()
        result = target.restore()
        assert time.monotonic() - began < 200
        said, _ = drilling.communicate(timeout=60)
    assert result.code == 0 and "stopping the drill" in result.output, result.output
    assert drilling.returncode == 143 and "a restore was to go first" in said, said
    (run,) = [run for run in slow.runs() if run.operation == "drill"]
    assert run.outcome == "interrupted" and "a restore was to go first" in run.message
    assert target.live() == OLD and target.stored().verdict
    assert target.sidecar.run("drill", target.stored().id).code == 0, "asked once, not for ever"


def test_sessions_that_come_back_in_a_loop(target: Target) -> None:
    """Each of six clients makes a new connection for each query, and begins anew when it is turned away."""
    stop, name = f"/tmp/stop-{target.database}", target.server.container.id
    bench = f"pgbench -n -C -c 6 -j 2 -T 60 -h 127.0.0.1 -U obcms_user -f /tmp/q {target.database}"
    loop = f"echo 'SELECT count(*) FROM app_case' > /tmp/q; until [ -e {stop} ]; do timeout 3 {bench}; done"
    docker("exec", "-d", name, "sh", "-c", f"PATH=$PATH:/usr/lib/postgresql/17/bin; ({loop}) >/tmp/bench 2>&1")
    try:
        eventually(lambda: "pgbench" in target.server.sessions(), 30)
        result = target.restore("--no-safety")
        window = re.search(r"could not be reached for (\d+) ms", result.output)
        assert result.code == 0 and window and int(window[1]) < 20000, result.output
        eventually(lambda: "pgbench" in target.server.sessions(), 30)
        assert target.live() == OLD
    finally:
        docker("exec", name, "sh", "-c", f"touch {stop}")


# --- what belongs after it ----------------------------------------------------------------------------------------


def after(target: Target, *words: str) -> None:
    """It is restored, and record and message say what went wrong after it."""
    run = target.sidecar.runs()[0]
    assert all(word in run.message for word in words), run.message
    assert target.live() == OLD and running(target) and not target.journal.exists()


def processes(target: Target) -> str:
    return docker("top", f"{PROJECT}-web1-{target.database}", "-o", "pid,args")


def test_a_command_that_does_not_end(target: Target) -> None:
    """Nor when it is asked to; what it has started is ended with it, and the next one is run all the same.

    Of what that writes the line that matters is shown; the log file has all of it.
    """
    trace = r"printf 'begun\nTraceback (most recent call last):\n  File a.py\ndb.Error: no\n\n'"
    commands = f"web1: trap '' TERM; sleep 3601 & sleep 3602\nweb1: touch /tmp/next; {trace}"
    result = target.restore("--no-safety", BACKUP_POST_RESTORE=commands, BACKUP_POST_RESTORE_TIMEOUT="4")
    assert result.code == 52 and "was ended after 4.0 s (BACKUP_POST_RESTORE_TIMEOUT)" in result.output, result.output
    assert "360" not in processes(target)
    after(target, "is restored, but", "was ended after")
    assert "]   db.Error: no\n" in result.output and "\n  File a.py" not in result.output, result.output
    written = "".join(path.read_text() for path in (target.sidecar.root / "logs").glob("restore-*.log"))
    assert "\nbegun\nTraceback (most recent call last):\n  File a.py\ndb.Error: no\n[" in written
    docker("exec", f"{PROJECT}-web1-{target.database}", "test", "-e", "/tmp/next")


@pytest.mark.parametrize("step", ["swapped", "starting"])
def test_killed_after_the_exchange_what_failed_is_still_told(target: Target, step: str) -> None:
    commands = {"BACKUP_POST_RESTORE": "web1: exit 7\nnone: true"}
    result = target.restore("--no-safety", BREAK_STEP=step, **commands)
    assert result.code == -signal.SIGKILL and target.journal.exists(), result.output
    later = commands if step == "swapped" else {"BACKUP_POST_RESTORE": ""}
    result = target.sidecar.run("restore", "--resume", **later)
    told = ("`exit 7` in web1 ended with exit code 7", "`true` in none was not run")
    assert result.code == 52 and all(words in result.output for words in told), result.output
    after(target, *told)


def test_told_to_end_while_a_command_runs(target: Target) -> None:
    commands = "web1: touch /media/begun; sleep 3603\nweb1: true"
    words = ("restore", target.stored().id, "--force", "--no-safety")
    with under_way(target.sidecar, *words, BACKUP_POST_RESTORE=commands) as process:
        eventually((target.sidecar.media / "begun").exists, 60)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "sleep 3603" not in processes(target)
    (target.sidecar.media / "begun").unlink()
    after(target, "is restored", "how it ended is unknown", "`true` in web1 was not run")
