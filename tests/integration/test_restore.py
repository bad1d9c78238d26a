"""A restore happens wholly or not at all, whatever is killed, full or in the way; what it replaced can be put back."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.database import PASSWORD, USER, Server
from tests.support.faults import eventually, judge, nothing_left, seeded, under_way
from tests.support.sidecar import Result, Sidecar

OLD, NEW = ("old", 100), ("new", 250)
SEED = """
    CREATE TABLE app_case (id int PRIMARY KEY, body text);
    INSERT INTO app_case SELECT i, 'old ' || i FROM generate_series(1, 100) i;
    CREATE TABLE kind (name text); INSERT INTO kind VALUES ('old');
    CREATE INDEX ON app_case (body)
"""
CHANGE = """
    INSERT INTO app_case SELECT i, 'new ' || i FROM generate_series(101, 250) i;
    UPDATE kind SET name = 'new'; CREATE TABLE later (id int)
"""


@pytest.fixture
def target(tmp_path: Path, server: Server) -> Iterator[Sidecar]:
    """A set of the old state, with the new one live."""
    database = server.new_database()
    server.execute(database, SEED)
    server.execute("postgres", f"ALTER DATABASE {database} SET app.colour = 'blue'")
    sidecar = Sidecar.make(tmp_path, server, database)
    (sidecar.media / "kind.txt").write_text("old")
    (sidecar.media / "only-old").mkdir()
    (sidecar.media / "only-old" / "file").write_text("old")
    result = sidecar.run("create", "daily")
    assert result.code == 0, result.output
    server.execute(database, CHANGE)
    (sidecar.media / "kind.txt").write_text("new")
    (sidecar.media / "only-old" / "file").unlink()
    (sidecar.media / "only-old").rmdir()
    (sidecar.media / "only-new").write_text("new")
    yield sidecar
    drop_kept(server, database)


def drop_kept(server: Server, database: str) -> None:
    for name in server.databases():
        if name.startswith(f"{database}__"):
            server.execute("postgres", f'DROP DATABASE "{name}" WITH (FORCE)')


def live(target: Sidecar, server: Server) -> tuple[tuple[str, int], str]:
    """What is live: kind and number of rows, and the kind of the files. Fails for any mixture."""
    name = target.environment["DB_NAME"]
    row = (str(server.value(name, "SELECT name FROM kind")), int(server.value(name, "SELECT count(*) FROM app_case")))
    assert row in (OLD, NEW)
    assert server.value(name, "SELECT to_regclass('later') IS NULL") == (row == OLD)
    kind = (target.media / "kind.txt").read_text()
    names = {path.name for path in target.media.iterdir() if not path.name.startswith(".obcms-restore-")}
    assert names == {"kind.txt", "uploads", "only-old" if kind == "old" else "only-new"}
    return row, kind


def restored(target: Sidecar, *options: str, **environment: str) -> Result:
    return target.run("restore", daily(target), "--force", *options, **environment)


def daily(target: Sidecar) -> str:
    return next(stored.id for stored in target.sets() if stored.tier == "daily")


def clean(target: Sidecar, server: Server, kept: bool = False) -> None:
    """No helper, no scratch database, no files beside the live ones unless they are kept."""
    nothing_left(target, server)
    names = [name for name in server.databases() if name.startswith(f"{target.environment['DB_NAME']}__")]
    assert len(names) == kept, names
    beside = [path for path in target.media.iterdir() if path.name.startswith(".obcms-restore-")]
    assert len(beside) == kept, beside
    assert not (target.root / "state" / "restore.json").exists()


def test_everything_is_put_back_and_can_be_undone(target: Sidecar, server: Server) -> None:
    name = target.environment["DB_NAME"]
    number = f"SELECT oid::int FROM pg_database WHERE datname = '{name}'"
    before = server.value("postgres", number)
    result = restored(target)
    assert result.code == 0, result.output
    assert live(target, server) == (OLD, "old") and "could not be reached for" in result.output
    safety = next(stored for stored in target.sets() if stored.tier == "pre-restore")
    assert safety.good and safety.verdict and not safety.verdict.problems
    assert safety.id not in target.run("restore", "latest", "--dry-run").output
    assert server.value(name, "SHOW app.colour") == "blue"
    assert server.value("postgres", number) != before
    clean(target, server, kept=True)
    asked = target.run("undo")
    assert asked.code == 12 and "what was live until 20" in asked.output and "when the restore of" in asked.output
    assert target.run("undo", "--force").code == 0
    assert live(target, server) == (NEW, "new")
    assert target.run("undo", "--force").code == 0
    assert live(target, server) == (OLD, "old")
    assert "would bring back what was live until 20" in target.run("undo", "--dry-run").output
    assert live(target, server) == (OLD, "old")
    assert target.run("undo", "--discard", "--force").code == 0
    clean(target, server)
    assert target.run("undo", "--force").code == 44
    assert live(target, server) == (OLD, "old")
    judge(target.root)


def test_a_live_database_that_is_half_removed_is_replaced_and_never_comes_back(target: Sidecar, server: Server) -> None:
    name = target.environment["DB_NAME"]
    server.execute("postgres", f"UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{name}'")
    result = restored(target)
    assert result.code == 0 and "half removed" in result.output, result.output
    assert live(target, server) == (OLD, "old")
    assert "is half removed and cannot come back" in target.run("status").output
    for words in (("--dry-run",), ("--force",)):
        refused = target.run("undo", *words)
        assert refused.code == 50 and "is half removed and cannot come back; nothing was touched" in refused.output
        assert "`undo --discard` removes the rest" in refused.output and "Use DROP" not in refused.output
    assert live(target, server) == (OLD, "old")
    assert target.run("undo", "--discard", "--force").code == 0
    clean(target, server)


@pytest.mark.parametrize("half", ["database", "media"])
def test_one_half(target: Sidecar, server: Server, half: str) -> None:
    result = restored(target, "--only", half)
    assert result.code == 0, result.output
    assert live(target, server) == ((OLD, "new") if half == "database" else (NEW, "old"))
    assert target.run("undo", "--force").code == 0
    assert live(target, server) == (NEW, "new")


def test_nobody_is_there_to_be_asked(target: Sidecar, server: Server) -> None:
    before = target.files()
    for command in (("restore", "latest"), ("undo",)):
        result = target.run(*command)
        assert result.code == 12 and "--force" in result.output, result.output
    result = target.run("restore", "latest", "--dry-run")
    assert result.code == 0 and "is replaced" in result.output
    assert live(target, server) == (NEW, "new") and target.files() == before


def test_a_damaged_set_is_refused_before_anything(target: Sidecar, server: Server) -> None:
    stored = target.sets()[0]
    moments = seeded()
    for name in stored.files:
        if name.endswith((".json", ".sha256")):
            continue
        path = stored.directory / name
        whole = path.read_bytes()
        for _ in range(3):
            data = bytearray(whole)
            data[moments.randrange(len(data))] ^= 1 << moments.randrange(8)
            path.write_bytes(data)
            assert restored(target).code == 40
            path.write_bytes(whole[: moments.randrange(len(whole))])
            assert restored(target).code in (40, 44, 50)
        path.write_bytes(whole)
    assert live(target, server) == (NEW, "new") and len(target.runs()) == 1
    assert target.run("verify", stored.id).code == 0
    assert restored(target).code == 0


def test_a_safety_set_that_fails_stops_it(target: Sidecar, server: Server) -> None:
    with server.connect(target.environment["DB_NAME"]) as session, session.transaction():
        session.execute("LOCK TABLE app_case IN ACCESS EXCLUSIVE MODE")
        result = restored(target)
    assert result.code == 50 and "safety set failed" in result.output and "--no-safety" in result.output
    assert live(target, server) == (NEW, "new")
    result = restored(target, "--no-safety")
    assert result.code == 0 and "no safety set is taken" in result.output, result.output
    assert live(target, server) == (OLD, "old")


def test_sessions_that_come_back_in_a_loop(target: Sidecar, server: Server) -> None:
    stop, seen, address = threading.Event(), set(), server.address

    def knock() -> None:
        while not stop.is_set():
            try:
                with psycopg.connect(
                    host=address, user=USER, password=PASSWORD, dbname=target.environment["DB_NAME"], connect_timeout=5
                ) as connection:
                    for _ in range(20):
                        row = connection.execute("SELECT name, (SELECT count(*) FROM app_case) FROM kind").fetchone()
                        seen.add(row)
            except psycopg.Error:
                time.sleep(0.002)

    threads = [threading.Thread(target=knock) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        result = restored(target)
        time.sleep(0.3)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert result.code == 0, result.output
    assert seen == {OLD, NEW}, "each session saw one whole database"


def test_two_at_once(target: Sidecar, server: Server) -> None:
    with under_way(target, "restore", daily(target), "--force") as first:
        second = restored(target)
        output, _ = first.communicate(timeout=60)
    codes = sorted([first.returncode, second.code])
    assert codes in ([0, 11], [0, 50], [0, 0], [0, 51]), (output, second.output)
    assert live(target, server) == (OLD, "old")


KILLER = """
import os, signal, sys
from backup.cli import main
from backup.operations.restore.journal import JournalFile
at, when = int(os.environ["KILL_AT"]), os.environ["KILL_WHEN"]
write, count = JournalFile._write, 0
def killed(self, journal):
    global count
    count += 1
    if count == at and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    done = write(self, journal)
    if count == at and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return done
JournalFile._write = killed
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["restore", "undo"])
@pytest.mark.parametrize("when", ["before", "after"] if os.environ.get("FULL_SWEEP") else ["either"])
@pytest.mark.parametrize("way", ["--resume", "--rollback"])
def test_killed_at_each_step_of_the_journal(target: Sidecar, server: Server, command: str, when: str, way: str) -> None:
    """What is found after each kill is one whole state or is named as half way; either command ends it."""
    killer = target.root.parent / "killer.py"
    killer.write_text(KILLER)
    if command == "undo":
        assert restored(target, "--no-safety").code == 0
    start, goal = ((NEW, "new"), (OLD, "old")) if command == "restore" else ((OLD, "old"), (NEW, "new"))
    words = ("restore", daily(target), "--force", "--no-safety") if command == "restore" else ("undo", "--force")
    table, moments = [], seeded()
    for at in range(1, 20):
        target.program = killer
        moment = moments.choice(["before", "after"]) if when == "either" else when
        result = target.run(*words, KILL_AT=str(at), KILL_WHEN=moment)
        target.program = None
        if result.code == 0:
            break
        assert result.code == -signal.SIGKILL, result.output
        half_way = (target.root / "state" / "restore.json").exists()
        if half_way:
            refused = target.run("create", "daily")
            assert refused.code == 51 and "--resume" in refused.output and "--rollback" in refused.output
            ended = target.run("restore", way)
            assert ended.code == 0, ended.output
        now = live(target, server)
        table.append((at, half_way, now))
        assert now in (start, goal) and (way == "--resume" or now == start), (at, now)
        assert not (target.root / "state" / "restore.json").exists()
        if now == goal:
            assert target.run("undo", "--force").code == 0
        assert live(target, server) == start
    print(command, when, way, *table, sep="\n  ")
    assert len(table) > 4
    assert live(target, server) == goal


def test_killed_at_random_moments(target: Sidecar, server: Server) -> None:
    moments = seeded()
    for _ in range(6):
        with under_way(target, "restore", daily(target), "--force", "--no-safety") as process:
            time.sleep(moments.uniform(0.3, 2.5))
            process.kill()
            process.communicate(timeout=30)
        if (target.root / "state" / "restore.json").exists():
            ended = target.run("restore", moments.choice(["--resume", "--rollback"]))
            assert ended.code == 0, ended.output
        database, files = live(target, server)
        assert database[0] == files
        if files == "old":
            assert target.run("undo", "--force").code == 0
    # As one leaves it that is killed before its journal is there.
    (target.root / "state" / ".restore.reserve.partial").write_bytes(b"reserved")
    assert target.run("create", "daily").code == 0
    nothing_left(target, server)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_rolls_back(target: Sidecar, server: Server, number: signal.Signals) -> None:
    with under_way(target, "restore", daily(target), "--force", "--no-safety") as process:
        eventually(lambda: (target.root / "state" / "restore.json").exists(), pause=0.002)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode in (0, 128 + number), output
    assert live(target, server) == ((OLD, "old") if process.returncode == 0 else (NEW, "new"))
    assert not (target.root / "state" / "restore.json").exists()


TOLD = """
import contextlib, os, signal, sys, time
from backup.cli import main
from backup.operations import runs
undisturbed = runs.undisturbed
@contextlib.contextmanager
def told():
    with undisturbed():
        yield
    runs.undisturbed = undisturbed
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)
runs.undisturbed = told
sys.exit(main(sys.argv[1:]))
"""


def test_told_to_end_as_soon_as_it_has_begun(target: Sidecar, server: Server) -> None:
    target.program = target.root.parent / "told.py"
    target.program.write_text(TOLD)
    result = restored(target, "--no-safety")
    target.program = None
    assert result.code == 128 + signal.SIGTERM, result.output
    assert live(target, server) == (NEW, "new")
    assert not (target.root / "state" / "restore.json").exists()


def test_an_sql_error_in_the_middle_leaves_all_as_it_was(target: Sidecar, server: Server) -> None:
    name = "obcms_backup_daily_2025-10-20_02-00-00.sql.gz"
    database = target.environment["DB_NAME"]
    script = f"pg_dump -h 127.0.0.1 -U {USER} --clean --if-exists --no-owner --no-privileges {database}"
    for middle, code in (("", 0), ("| sed 's/^CREATE TABLE public.kind/BROKEN &/'", 50)):
        command = f"{script} {middle} | gzip -c"
        dump = subprocess.check_output(["docker", "exec", server.container.id, "sh", "-c", command])
        (target.root / "daily" / name).write_bytes(dump)
        result = target.run("restore", name, "--force")
        assert result.code == code, result.output
        if code:
            assert "BROKEN" in result.output and "not touched" in result.output, result.output
    assert live(target, server)[0] == NEW


def test_what_was_replaced_is_kept_for_its_days(target: Sidecar, server: Server) -> None:
    assert restored(target, "--no-safety", BACKUP_UNDO_DAYS="0").code == 0
    result = target.run("create", "daily")
    assert result.code == 0 and "removed what the last restore replaced" in result.output, result.output
    clean(target, server)
    assert live(target, server) == (OLD, "old")


def test_onto_a_server_without_the_database(target: Sidecar, server: Server) -> None:
    """With no database, and the files gone: one command. Killed in the middle of it, it can be taken back whole."""
    name = target.environment["DB_NAME"]
    server.execute("postgres", f"DROP DATABASE {name} WITH (FORCE)")
    for path in target.media.iterdir():
        subprocess.run(["rm", "-r", str(path)], check=True)
    killer = target.root.parent / "killer.py"
    killer.write_text(KILLER)
    target.program = killer
    for at in (6, 7, 8):
        result = restored(target, KILL_AT=str(at), KILL_WHEN="after")
        assert result.code == -signal.SIGKILL, result.output
        target.program = None
        ended = target.run("restore", "--rollback")
        assert ended.code == 0, ended.output
        assert name not in server.databases() and list(target.media.iterdir()) == []
        target.program = killer
    target.program = None
    result = restored(target)
    assert result.code == 0 and "the database is new" in result.output, result.output
    assert live(target, server) == (OLD, "old")
    assert server.value(name, "SHOW app.colour") == "blue"
    clean_of_databases = [each for each in server.databases() if each.startswith(f"{name}__")]
    assert clean_of_databases == []


def test_the_database_itself_cannot_be_among_the_stopped(target: Sidecar, server: Server) -> None:
    result = restored(target, BACKUP_RESTORE_STOP=server.service)
    assert result.code == 10 and "BACKUP_RESTORE_STOP" in result.output, result.output


def test_a_signal_while_the_safety_set_is_made_stops_the_restore(target: Sidecar, server: Server) -> None:
    moments = seeded()
    for _ in range(4):
        with under_way(target, "restore", daily(target), "--force") as process:
            eventually(lambda: any((target.root / "pre-restore").glob(".obcms*")), 20, 0.002)
            time.sleep(moments.uniform(0, 0.8))
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
        row, kind = live(target, server)
        assert row[0] == kind and (process.returncode == 0) == (kind == "old"), output
        if kind == "old":
            assert target.run("undo", "--force").code == 0
        for path in (target.root / "pre-restore").iterdir():
            path.unlink()
