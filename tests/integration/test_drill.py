"""A set is proven by restoring it: what is equal is called proven, what is not is named, and nothing is left behind."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backup.logging import logger
from backup.model.backup_set import manifest_name, verdict_name
from backup.model.run import new_run_id
from backup.operations.media_references import look_up
from backup.postgres.process_io import is_statement_refused
from backup.postgres.scratch_server import Scratch, WantedDatabase
from tests.support import sample_schema
from tests.support.database import LABEL, PROJECT, USER, Server
from tests.support.faults import docker, ended, eventually, helpers, judge, nothing_left, under_way
from tests.support.sidecar import IMAGE, Sidecar

STACK = Path(__file__).resolve().parents[1] / "stack"


@pytest.fixture
def target(tmp_path: Path, server: Server) -> Sidecar:
    """A sidecar whose database is a small OBCMS."""
    database = server.new_database()
    server.load(database, obcms(database))
    return Sidecar.make(tmp_path, server, database)


def obcms(database: str) -> bytes:
    """The sample application's tables; its roles belong to the whole server, which tests share."""
    script = (STACK / "seed.sql").read_text()
    start = script.index("CREATE ROLE obcms_staff")
    end = script.index("SELECT format('ALTER DATABASE")
    roles = "".join(f"{line}\n" for line in script[start:end].splitlines())
    guarded = f"DO $guard$ BEGIN {roles} EXCEPTION WHEN duplicate_object THEN NULL; END $guard$;\n"
    return (script[:start] + guarded + script[end:]).encode()


def media(sidecar: Sidecar, but: int = 0) -> None:
    """The 300 files that rows of the sample name, but for one."""
    for number in range(1, 301):
        path = sidecar.media / f"ai_documents/pdf/2025/{1 + number % 12:02d}/report_{number:04d}.pdf"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number != but:
            path.write_text(f"report {number}")


def created(sidecar: Sidecar) -> None:
    result = sidecar.run("create", "daily")
    assert result.code == 0, result.output


def drilled(sidecar: Sidecar, *options: str) -> dict[str, object]:
    result = sidecar.run("drill", "latest", "--json", *options)
    assert result.code == 0, result.output
    return dict(result.json["proof"])


def test_files_that_rows_name_and_the_media_lack_are_listed(target: Sidecar, server: Server) -> None:
    """Also in folders of names that patterns take for something else."""
    media(target, but=7)
    name = target.environment["DB_NAME"]
    server.execute(name, "CREATE TABLE letters (file varchar(100))")
    places = ("2025.01", "R&D", "a(b)+c", "case files")
    for place in places:
        (target.media / place).mkdir()
        (target.media / place / "here.pdf").write_text("here")
        server.execute(name, f"INSERT INTO letters VALUES ('{place}/here.pdf'), ('{place}/gone.pdf')")
    created(target)
    files = drilled(target)["files"]
    assert isinstance(files, dict) and files["columns"] == ["documents.file", "letters.file"], files
    lacking = "documents.file: ai_documents/pdf/2025/08/report_0007.pdf"
    assert (files["referenced"], files["missing"]) == (308, 5), files
    assert sorted(files["listed"]) == [lacking, *(f"letters.file: {place}/gone.pdf" for place in places)]
    result = target.run("drill", "latest", "--json", BACKUP_FILE_COLUMNS="documents.file")
    assert result.code == 0, result.output
    files = result.json["proof"]["files"]
    assert (files["columns"], files["listed"]) == (["documents.file"], [lacking])
    result = target.run("drill", "latest", BACKUP_FILE_COLUMNS="documents.nothing")
    assert result.code == 41 and "BACKUP_FILE_COLUMNS" in result.output, result.output


def test_a_set_is_proven_where_nobody_can_reach_it(target: Sidecar, server: Server) -> None:
    media(target)
    created(target)
    with under_way(target, "drill", "latest", "--json") as process:
        container = eventually(lambda: throw_away(target))
        facts = json.loads(subprocess.check_output(["docker", "inspect", container]))[0]
        result = ended(process, 120)
    assert result.code == 0, result.output
    proof = result.json["proof"]
    assert proof["differences"] == []
    assert {"columns": ["documents.file"], "referenced": 300, "missing": 0, "listed": []} == proof["files"]
    run = target.runs()[0]
    assert (run.operation, run.outcome, run.exit_code) == ("drill", "success", 0) and run.seconds["load"] > 0
    assert "0 of 300 referenced files missing" in run.message
    took = dict(proof["phase_seconds"])
    # Indexes are a part of the load, and are not counted twice.
    assert 0 < took.pop("indexes") < took["load"]
    assert took.pop("total") == pytest.approx(sum(took.values()), abs=0.01)
    nothing_left(target, server)
    without_a_way_in(facts)
    a_later_verification_keeps_the_proof_and_damage_ends_it(target)


def without_a_way_in(facts: dict[str, Any]) -> None:
    """What the engine said of the throw-away server; its data are gone."""
    assert facts["HostConfig"]["NetworkMode"] == "none" and not facts["HostConfig"]["PortBindings"]
    assert [mount["Type"] for mount in facts["Mounts"]] == ["volume"]
    assert "PASSWORD" not in json.dumps(facts["Config"]["Env"])
    volume = facts["Mounts"][0]["Name"]
    assert subprocess.run(["docker", "volume", "inspect", volume], capture_output=True, check=False).returncode


def a_later_verification_keeps_the_proof_and_damage_ends_it(target: Sidecar) -> None:
    assert target.run("verify", "latest").code == 0
    stored = target.sets()[0]
    assert stored.proven
    dump = stored.directory / next(name for name in stored.files if name.endswith(".sql.gz"))
    data = bytearray(dump.read_bytes())
    data[len(data) // 2] ^= 1
    dump.write_bytes(data)
    result = target.run("verify", stored.id, "--test-restore")
    assert result.code == 40 and "damaged" in result.output, result.output
    assert not target.sets()[0].good and not target.sets()[0].proven
    nothing_left(target)


def test_a_drill_proves_nothing_that_verify_calls_damaged(target: Sidecar) -> None:
    """Other rows than were dumped, packed again, with all sums of what is stored made to fit."""
    created(target)
    stored = target.sets()[0]
    path = stored.directory / manifest_name(stored.id)
    manifest = json.loads(path.read_text())
    entry = next(each for each in manifest["artifacts"] if each["kind"] == "database")
    dump = stored.directory / entry["file"]
    other = gzip.compress(gzip.decompress(dump.read_bytes()).replace(b"report_0007.pdf", b"report_0OO7.pdf"))
    dump.write_bytes(other)
    entry.update(stored_size=len(other), stored_sha256=hashlib.sha256(other).hexdigest())
    path.write_text(json.dumps(manifest))
    sums = "".join(f"{each['stored_sha256']}  {each['file']}\n" for each in manifest["artifacts"])
    path.with_suffix(".sha256").write_text(sums)
    for command in ("verify", "drill"):
        result = target.run(command, "latest" if command == "verify" else stored.id)
        assert result.code == 40 and "does not unpack to what was packed" in result.output, result.output
        assert not target.sets()[0].good


# Equal in meaning is proven; the rest is named, so that nobody takes it for proven. By the name of a relation of each.
NAMED = {
    "an unnamed constant in BEGIN ATOMIC": ".f",
    "a column added to a parent after the child's own": ".c",
}
REFUSED = "a refresh under forced row security"


def test_what_postgresql_writes_otherwise_after_a_restore_is_proven_or_named(server: Server, tmp_path: Path) -> None:
    """So is what a strict load would refuse. Each case has a schema of its own; one that does not load is alone."""
    cases = sample_schema.UNSTABLE | {name: text for name, text in sample_schema.REFUSED.items() if name != REFUSED}
    for named in (False, True):
        database = server.new_database()
        chosen = [name for name in cases if (name in NAMED) is named]
        for number, what in enumerate(chosen):
            # Some name a schema themselves.
            text = cases[what].replace(" s.", f" case{number}.").replace("CREATE SCHEMA s;", "")
            server.execute(database, f"CREATE SCHEMA case{number}; SET search_path = case{number}; {text}")
        target = Sidecar.make(tmp_path, server, database)
        created(target)
        result = target.run("drill", "latest")
        assert result.code == (41 if named else 0), result.output
        for number, what in enumerate(chosen):
            assert (f"case{number}{NAMED.get(what)}" in result.output) is named, f"{what}: {result.output}"


def test_what_a_strict_load_into_an_empty_database_refuses(server: Server, tmp_path: Path) -> None:
    database = server.new_database()
    server.execute(database, sample_schema.REFUSED[REFUSED])
    target = Sidecar.make(tmp_path, server, database)
    created(target)
    result = target.run("drill", "latest")
    assert result.code == 0 and "left empty" not in result.output, result.output


DAMAGED = {
    "a row": ("DELETE FROM public.django_migrations WHERE id = 7", "public.django_migrations: 47 rows instead of 48"),
    "a value": (
        "UPDATE public.communities SET households = households + 1 WHERE id = 9",
        "public.communities: same number",
    ),
    "an index": ("DROP INDEX public.communities_name", "public.communities_name is missing"),
    "a grant": ("REVOKE SELECT ON public.communities FROM obcms_staff", "TABLE communities"),
    "a sequence": ("SELECT nextval('public.receipt_number')", "public.receipt_number differs"),
    "a large object": ("SELECT lo_unlink(max(oid)) FROM pg_largeobject_metadata", "large object"),
}


def test_differences_are_found_and_named(target: Sidecar, server: Server) -> None:
    """Somebody changes the throw-away copy between its load and its dump."""
    created(target)
    with meddling(target, "; ".join(statement for statement, _ in DAMAGED.values())):
        result = target.run("drill", "latest")
    assert result.code == 41 and "differs from the dump" in result.output, result.output
    stored = target.sets()[0]
    assert stored.good and not stored.proven and stored.verdict and stored.verdict.proof
    for what, (_, words) in DAMAGED.items():
        assert words in result.output, f"{what}: {result.output}"
        assert any(words in line for line in stored.verdict.proof.differences), what
    nothing_left(target, server)


@contextlib.contextmanager
def meddling(target: Sidecar, statement: str) -> Iterator[None]:
    """The product's own command line, with one statement run in the copy before it is dumped again."""
    script = (
        "from backup.operations.drill import run as drill\n"
        "from backup.postgres import scratch_server as places\n"
        "from backup.cli import main\n"
        "import sys\n"
        "dump = drill._Drill._dumped\n"
        "def changed(self, place, *rest):\n"
        "    drill._Drill._dumped = dump\n"
        f"    places.script(place.clients, [{statement + ';'!r}], self.run)\n"
        "    return dump(self, place, *rest)\n"
        "drill._Drill._dumped = changed\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    path = target.root.parent / "meddling.py"
    path.write_text(script)
    target.program = path
    try:
        yield
    finally:
        target.program = None


WANTING = """
import subprocess, sys
from backup.cli import main
from backup.operations.drill import run as drill
load = drill._Drill._load
def wanting(self, place):
    find = ["docker", "ps", "-q", "--filter", "label=obcms.backup.role=server", "--filter"]
    find += [f"label=obcms.backup.run={self.run}"]
    subprocess.run(["docker", "kill", *subprocess.check_output(find, text=True).split()], check=True)
    return load(self, place)
drill._Drill._load = wanting
sys.exit(main(sys.argv[1:]))
"""


def test_a_drill_that_fails_for_want_of_a_server_says_nothing_of_the_set(target: Sidecar, server: Server) -> None:
    created(target)
    before = target.sets()[0].verdict
    target.program = target.root.parent / "wanting.py"
    target.program.write_text(WANTING)
    result = target.run("drill", "latest")
    target.program = None
    assert result.code not in (0, 41), result.output
    assert "differs from the dump" not in result.output
    assert target.sets()[0].verdict == before and target.sets()[0].good
    assert target.runs()[0].outcome == "failed"
    nothing_left(target, server)


@pytest.mark.parametrize(
    ("code", "said", "of_the_set"),
    [
        (3, 'ERROR:  relation "x" does not exist', True),
        (3, "ERROR:  could not create unique index\nDETAIL:  Key (id)=(1) is duplicated.", True),
        (3, 'ERROR:  could not extend file "base/5/16384": No space left on device', False),
        (3, "ERROR:  out of memory\nDETAIL:  Failed on request of size 1 in memory context", False),
        (3, "ERROR:  out of shared memory\nHINT:  You might need to increase max_locks_per_transaction", False),
        (3, "FATAL:  terminating connection due to administrator command", False),
        (2, "psql: error: connection to server was lost", False),
        (137, "", False),
        (1, "psql: error: could not read from input file: Input/output error", False),
        (None, "", False),
    ],
)
def test_what_a_load_says_against_the_set(code: int | None, said: str, of_the_set: bool) -> None:
    assert is_statement_refused(code, said) is of_the_set


def throw_away(target: Sidecar) -> str:
    command = ["docker", "ps", "-q", "--filter", "label=obcms.backup.role=server", "--filter"]
    instance = (target.root / "state/instance").read_text()
    return subprocess.check_output([*command, f"label=obcms.backup.instance={instance}"], text=True).strip()


def test_a_drill_that_is_ended_leaves_nothing_after_the_next(target: Sidecar, server: Server) -> None:
    created(target)
    before, verdict = target.files(), target.sets()[0].verdict
    for number, delay in itertools.product((signal.SIGKILL, signal.SIGTERM), (0.5, 1.5, 2.5)):
        # The server of one that was killed runs on until the next drill removes it.
        left = set(throw_away(target).split())
        with under_way(target, "drill", "latest") as process:
            eventually(lambda left=left: set(throw_away(target).split()) - left)
            time.sleep(delay)
            process.send_signal(number)
            process.communicate(timeout=60)
        if number == signal.SIGTERM:
            eventually(lambda: not helpers(target), 90)
    judge(target.root)
    (stored,) = target.sets()
    # The last may have been done before it was ended: then its proof is there, and whole.
    assert stored.proven or stored.verdict == verdict
    after = target.files()
    assert {name for name in before if before[name] != after.get(name)} <= {verdict_name(stored.id)}
    drilled(target)
    nothing_left(target, server)
    assert "running" not in {run.outcome for run in target.runs()}


def test_an_old_scripts_dump_is_restored_too(target: Sidecar, server: Server) -> None:
    name = "obcms_backup_daily_2025-10-20_02-00-00.sql.gz"
    words = "--clean --if-exists --no-owner --no-privileges --format=plain"
    command = f"pg_dump -h 127.0.0.1 -U obcms_user {words} {target.environment['DB_NAME']} | gzip -c"
    dump = subprocess.check_output(["docker", "exec", server.container.id, "sh", "-c", command])
    (target.root / "daily").mkdir(mode=0o700)
    (target.root / "daily" / name).write_bytes(dump)
    result = target.run("drill", name)
    assert result.code == 0 and "values were not compared" in result.output, result.output
    assert "no manifest to compare with" in result.output
    cut = dump[: len(dump) - 200]
    (target.root / "daily" / name).write_bytes(cut)
    result = target.run("drill", name)
    assert result.code == 40, result.output
    assert helpers(target) == [] and target.spooled() == []


OWNED = """
    CREATE ROLE "lone ""owner"; CREATE ROLE lone_boss SUPERUSER; CREATE ROLE lone_reader; CREATE ROLE lone_maker;
    CREATE TABLE owned (id int PRIMARY KEY, body text); INSERT INTO owned SELECT i, 'x' FROM generate_series(1, 50) i;
    ALTER TABLE owned OWNER TO "lone ""owner"; ALTER TABLE owned ENABLE ROW LEVEL SECURITY;
    CREATE POLICY seen ON owned TO lone_reader USING (id < 9); GRANT SELECT (id) ON owned TO lone_reader;
    ALTER DEFAULT PRIVILEGES FOR ROLE lone_maker GRANT SELECT ON TABLES TO lone_reader;
    CREATE FUNCTION quiet() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
    CREATE EVENT TRIGGER late ON ddl_command_end EXECUTE FUNCTION quiet(); ALTER EVENT TRIGGER late OWNER TO lone_boss
"""


def test_lone_dumps_are_drilled_with_the_roles_that_they_name(target: Sidecar, server: Server, tmp_path: Path) -> None:
    """Plain or custom, whatever they are called; the live server's roles are not asked."""
    database = target.environment["DB_NAME"]
    server.execute(database, OWNED)
    command = ["docker", "exec", server.container.id, "pg_dump", "-h", "127.0.0.1", "-U", "obcms_user", database]
    custom = subprocess.check_output([*command, "-Fc"])
    for name, data in (
        ("plain", subprocess.check_output(command)),
        ("custom.sql.gz", gzip.compress(custom)),
        ("cut", custom[:-100]),
    ):
        (tmp_path / name).write_bytes(data)
        result = target.run("verify", "--test-restore", str(tmp_path / name))
        if name == "cut":
            assert result.code == 40 and "cannot be read by pg_restore" in result.output, result.output
        else:
            assert result.code == 0 and "is proven" in result.output, result.output
            assert "only a restore can tell" not in result.output
            assert "throw-away server of obcms-test/postgres:17 without" in result.output, "and no digest"
    server.execute(database, 'DROP OWNED BY "lone ""owner", lone_boss, lone_reader, lone_maker CASCADE')
    server.execute(database, 'DROP ROLE "lone ""owner", lone_boss, lone_reader, lone_maker')
    nothing_left(target, server)


def test_without_a_number_the_newest_of_each_tier_is_proven(target: Sidecar) -> None:
    result = target.run("drill")
    assert result.code == 44 and "no good set to drill" in result.output
    for tier in ("daily", "daily", "manual"):
        assert target.run("create", tier, "--only", "database").code == 0
    result = target.run("drill")
    assert result.code == 0, result.output
    assert [stored.tier for stored in target.sets() if stored.proven] == ["manual", "daily"]
    assert [stored.proven for stored in target.sets()] == [True, True, False]


def test_media_alone_cannot_be_drilled(target: Sidecar) -> None:
    assert target.run("create", "daily", "--only", "media").code == 0
    result = target.run("drill", "latest")
    assert result.code == 41 and "holds no database" in result.output


def test_an_image_that_is_not_here(target: Sidecar) -> None:
    created(target)
    result = target.run("drill", "latest", "--image", "obcms-test/none:1")
    assert result.code == 20 and "is not here" in result.output and "--image" in result.output, result.output


def test_over_the_network_a_scratch_database_is_used(target: Sidecar, server: Server) -> None:
    media(target)
    far = target.network(server)
    created(far)
    before = set(server.databases())
    proof = drilled(far)
    assert proof["differences"] == [] and proof["files"]["missing"] == 0  # type: ignore[index]
    assert set(server.databases()) == before
    with under_way(far, "drill", "latest") as process:
        eventually(lambda: set(server.databases()) - before)
        process.kill()
        process.wait()
        running = subprocess.check_output(["docker", "ps", "-q", "--filter", f"label={LABEL}={PROJECT}"], text=True)
        for container in set(running.split()) - {server.container.id[:12]}:
            if IMAGE in subprocess.check_output(["docker", "inspect", "-f", "{{.Config.Image}}", container], text=True):
                docker("kill", container)
    left = set(server.databases()) - before
    assert left, "the drill was killed too late"
    created(far)
    assert set(server.databases()) == before, "the next run sweeps, whatever it is"
    server.execute("postgres", 'CREATE DATABASE "obcms_drill_of_somebody_else"')
    try:
        drilled(far)
        assert set(server.databases()) == before | {"obcms_drill_of_somebody_else"}
    finally:
        server.execute("postgres", 'DROP DATABASE "obcms_drill_of_somebody_else"')


def test_a_login_that_is_no_superuser_looks_files_up(target: Sidecar, server: Server) -> None:
    """As on a managed server, where the scratch database is its own."""
    name = target.environment["DB_NAME"]
    owner = f"owner_of_{name}"
    server.execute("postgres", f"CREATE ROLE {owner} LOGIN PASSWORD 'x'; ALTER DATABASE {name} OWNER TO {owner}")
    server.execute(name, f"SET ROLE {owner}; CREATE SCHEMA s CREATE TABLE letters (file varchar(100))")
    server.execute(name, "INSERT INTO s.letters VALUES ('a/here.pdf'), ('a/gone.pdf')")
    app = replace(target, environment=target.environment | {"DB_USER": owner, "DB_PASSWORD": "x"}).app()
    found = look_up(app.source().clients, [b"a/here.pdf"], ["s.letters.file"], new_run_id(datetime.now(UTC)))
    server.execute(name, f"REASSIGN OWNED BY {owner} TO {USER}; DROP ROLE {owner}")
    assert found.listed == ("letters.file: a/gone.pdf",) and found.referenced == 2


@pytest.fixture
def scratch(target: Sidecar, server: Server, monkeypatch: pytest.MonkeyPatch) -> Scratch:
    """As where there is no engine, but with the clients of helpers: this machine may have none of its own."""
    helpers = target.app().source().clients
    monkeypatch.setattr("backup.app.composition.NetworkClients", lambda login, *_: helpers.named(login.name))
    app = Sidecar.network(target, server).app()
    return app._scratch()


def test_what_a_sweep_leaves_that_is_killed_is_swept(
    target: Sidecar, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", lambda *_, **__: None)
        scratch.sweep()
    assert len(target.spooled()) == 2
    created(target)
    assert not target.spooled()
    scratch.sweep()


def test_a_scratch_database_that_somebody_looks_into_is_removed(server: Server, scratch: Scratch) -> None:
    before, run = set(server.databases()), new_run_id(datetime.now(UTC))
    with contextlib.ExitStack() as stack:
        with scratch.prepare(WantedDatabase("x", None, 0, "", ""), run):
            (made,) = set(server.databases()) - before
            stack.enter_context(contextlib.closing(server.connect(made)))
        assert set(server.databases()) == before


def test_a_scratch_database_that_cannot_be_removed_is_named_and_swept_later(server: Server, scratch: Scratch) -> None:
    before, run = set(server.databases()), new_run_id(datetime.now(UTC))
    warned: list[str] = []
    handler = logger.add(lambda message: warned.append(str(message)), level="WARNING")
    try:
        with (
            server.standing_backup() as called,
            replace(scratch, patience=1).prepare(WantedDatabase("x", None, 0, "", ""), run),
        ):
            (made,) = set(server.databases()) - before
    finally:
        logger.remove(handler)
    assert any(made in line and "could not be removed" in line and called in line for line in warned), warned
    assert scratch.sweep() == 1 and set(server.databases()) == before


def test_a_scheduled_drill_waits_for_a_backup(target: Sidecar, servers: Callable[[int], Server]) -> None:
    created(target)
    with under_way(target, "create", "daily"), under_way(target, "drill", "--scheduled") as second:
        output, _ = second.communicate(timeout=120)
    assert second.returncode == 0, output
    assert target.runs()[0].operation == "drill" and target.runs()[0].trigger == "schedule"


def test_a_database_of_very_many_tables_is_proven(sidecar: Sidecar, server: Server) -> None:
    """A load in one transaction holds locks of all of them: more than a server as it comes has room for."""
    made = "".join(f"CREATE TABLE t{number} (id serial PRIMARY KEY, name text);\n" for number in range(1200))
    server.load(sidecar.environment["DB_NAME"], made.encode())
    created(sidecar)
    assert drilled(sidecar)["differences"] == []
