"""Databases full of extensions, some of which their server has to load when it starts: backup, proof, restore."""

from __future__ import annotations

import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from backup.catalog.restore_page import PAGE, restore_page
from backup.errors import EngineError
from backup.operations.drill.run import drill_set
from backup.progress import Silent
from tests.e2e.test_restore_page import follow
from tests.support.breaking import BREAKER
from tests.support.database import USER, Server, start_server
from tests.support.sidecar import Sidecar
from tests.support.versions import MAJORS

DATABASE: Final = "obcms_prod"
# Each with a table, and rows or an index, that would not be there without it. docs/databases.md has no other ones.
TRIED: Final = {
    "hll": "CREATE TABLE t_hll (a hll); INSERT INTO t_hll SELECT hll_add(hll_empty(), hll_hash_integer(7))",
    "ip4r": "CREATE TABLE t_ip (a ip4r); CREATE INDEX ON t_ip USING gist (a); INSERT INTO t_ip VALUES ('10.0.0.0/8')",
    "pg_cron": "SELECT cron.schedule('nightly', '0 3 * * *', 'DELETE FROM hyper');"
    " GRANT USAGE ON SCHEMA cron TO pg_monitor;"
    " INSERT INTO cron.job_run_details (jobid, command) VALUES (1, 'é\n\\.\n')",
    "pg_partman": "CREATE TABLE parted (id int, at timestamptz NOT NULL) PARTITION BY RANGE (at);"
    " SELECT create_parent('public.parted', 'at', {partman}'1 month', p_premake := 1);"
    " INSERT INTO parted VALUES (1, now())",
    "pg_repack": "",
    "pg_similarity": "",
    "pg_trgm": "CREATE TABLE t_trgm (a text); CREATE INDEX ON t_trgm USING gin (a gin_trgm_ops)",
    "pgaudit": "",
    "pgcrypto": "CREATE TABLE t_crypt (a bytea); INSERT INTO t_crypt VALUES (digest('a', 'sha256'))",
    "prefix": "CREATE TABLE t_prefix (a prefix_range); INSERT INTO t_prefix VALUES ('123')",
    "rum": "CREATE TABLE t_rum (a tsvector); CREATE INDEX ON t_rum USING rum (a rum_tsvector_ops)",
    "semver": "CREATE TABLE t_semver (a semver); INSERT INTO t_semver VALUES ('1.2.3')",
    "timescaledb": "CREATE TABLE hyper (at timestamptz NOT NULL, value float8);"
    " SELECT create_hypertable('hyper', 'at');"
    " INSERT INTO hyper SELECT '2026-01-01'::timestamptz + i * interval '1 hour', i FROM generate_series(1, 2000) i",
    "unaccent": "",
    "vector": "CREATE TABLE t_vector (a vector(3)); CREATE INDEX ON t_vector USING hnsw (a vector_l2_ops);"
    " INSERT INTO t_vector VALUES ('[1,2,3]')",
}
# No load makes this at the first attempt.
BY_PATH: Final = """
    CREATE FUNCTION slug(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN lower(unaccent(v)); END$$;
    CREATE TABLE page (title text, slug text GENERATED ALWAYS AS (slug(title)) STORED);
    INSERT INTO page VALUES ('Élan');
"""
LIBRARIES: Final = ("pg_cron", "pgaudit", "timescaledb")


def started(major: int, service: str, *settings: str) -> Server:
    words = [word for setting in settings for word in ("-c", setting)]
    image = f"obcms-test/extensions:{major}"
    return start_server(major, service, image=image, in_memory=True, command=["postgres", *words])


def libraries(major: int) -> str:
    return ",".join(name for name in LIBRARIES if major > 15 or name != "timescaledb")


@pytest.fixture(scope="module")
def loaded() -> Iterator[Callable[[int], Server]]:
    """A server for each version that has loaded the libraries, made when it is asked for."""
    running: dict[int, Server] = {}

    def get(major: int) -> Server:
        if major not in running:
            preload = (f"shared_preload_libraries={libraries(major)}", f"cron.database_name={DATABASE}")
            more = (
                "pgaudit.log=ddl",
                "max_worker_processes=20",
                "wal_level=logical",
                "timescaledb.telemetry_level=off",
            )
            running[major] = started(major, f"extensions{major}", *preload, *more)
            running[major].execute(DATABASE, filled(running[major]))
        return running[major]

    yield get
    for server in running.values():
        server.remove()


def filled(server: Server) -> str:
    """A script that makes every extension that there is, with what is made of it."""
    with server.connect(DATABASE) as connection:
        there = {name for (name,) in connection.execute("SELECT name FROM pg_available_extensions")}
    # pg_partman has no kinds of partitioning but one since 5.
    partman = "'native', " if server.major == 15 else ""
    wanted = {name: script.replace("{partman}", partman) for name, script in TRIED.items() if name in there}
    assert set(TRIED) - set(wanted) <= ({"timescaledb", "vector"} if server.major == 15 else set())
    return "\n".join(f"CREATE EXTENSION {name}; {script};" for name, script in wanted.items())


def content(server: Server, database: str = DATABASE) -> dict[str, object]:
    """What has to be the same again."""
    jobs = "SELECT json_agg(json_build_array(jobid, jobname, schedule, command, database, active) ORDER BY jobid)::text"
    queries = {
        "extensions": "SELECT string_agg(extname || ' ' || extversion, ', ' ORDER BY extname) FROM pg_extension",
        "jobs": f"{jobs} FROM cron.job",
        "runs": "SELECT json_agg(command)::text FROM cron.job_run_details",
        "next job": "SELECT last_value::text || is_called FROM cron.jobid_seq",
        "grant": "SELECT has_schema_privilege('pg_monitor', 'cron', 'USAGE')",
        "parted": "SELECT count(*) FROM parted",
        "partman": "SELECT string_agg(parent_table || partition_interval, ',') FROM part_config",
        "left": "SELECT to_regnamespace('obcms_backup_deferred')::text",
    }
    if server.major > 15:
        queries["hyper"] = "SELECT count(*) || ' ' || sum(value) FROM hyper"
        queries["chunks"] = "SELECT count(*) FROM timescaledb_information.chunks"
        queries["one chunk"] = "SELECT count(*) FROM hyper WHERE at < '2026-01-02'"
    return {name: server.value(database, query) for name, query in queries.items()}


@pytest.mark.parametrize("major", MAJORS)
def test_a_database_full_of_extensions_is_proven_and_restored(
    tmp_path: Path, loaded: Callable[[int], Server], major: int
) -> None:
    server = loaded(major)
    before = content(server)
    sidecar = Sidecar.make(tmp_path, server, DATABASE)
    made = sidecar.run("create", "daily")
    assert made.code == 0 and "WARNING" not in made.output, made.output
    manifest = sidecar.sets()[0].manifest
    assert manifest and manifest.database
    shown = sidecar.run("show", "latest").output
    assert "preloaded" in shown and re.search(r"extensions +hll [0-9.]+", shown), shown
    preload = manifest.database.preload
    assert preload.libraries == tuple(libraries(major).split(",")) and preload.settings["pgaudit.log"] == "ddl"
    drilled = sidecar.run("drill", "latest", "--json")
    assert drilled.code == 0 and drilled.json["proof"]["differences"] == [], drilled.output
    server.execute(DATABASE, "SELECT cron.unschedule('nightly'); DELETE FROM parted; DROP TABLE t_hll")
    restored = sidecar.run("restore", "latest", "--force", "--no-safety")
    assert restored.code == 0, restored.output
    # TimescaleDB's own part in a RENAME waits for its launcher, which waits for the list of databases.
    assert ("logins are not held back, because what the server has loaded" in restored.output) is (major > 15)
    assert content(server) == before
    # The extension knows of what was put in: the next job has a number of its own, and can be taken away again.
    assert server.value(DATABASE, "SELECT cron.schedule('another', '0 4 * * *', 'SELECT 1')") == 2
    server.execute(DATABASE, "SELECT cron.unschedule('another'); SELECT setval('cron.jobid_seq', 1)")
    for jobs in (0, 1) if major == 17 else ():
        undone = sidecar.run("undo", "--force")
        assert undone.code == 0 and server.value(DATABASE, "SELECT count(*) FROM cron.job") == jobs, undone.output
    assert sidecar.run("undo", "--discard", "--force").code == 0
    assert content(server) == before


@pytest.fixture
def filled_17(tmp_path: Path, loaded: Callable[[int], Server]) -> Sidecar:
    """A set of the database full of extensions, on 17."""
    sidecar = Sidecar.make(tmp_path, loaded(17), DATABASE)
    made = sidecar.run("create", "daily", "--only", "database")
    assert made.code == 0, made.output
    return sidecar


def test_jobs_come_back_when_a_restore_is_killed_before_they_did(
    filled_17: Sidecar, loaded: Callable[[int], Server], tmp_path: Path
) -> None:
    server, before = loaded(17), content(loaded(17))
    program, filled_17.program = filled_17.program, tmp_path / "breaker.py"
    filled_17.program.write_text(BREAKER)
    killed = filled_17.run("restore", "latest", "--force", "--no-safety", BREAK_STEP="swapping media")
    assert killed.code in (-9, 137), killed.output
    assert server.value(DATABASE, "SELECT to_regclass('cron.job')::text") is None
    filled_17.program = program
    resumed = filled_17.run("restore", "--resume")
    assert resumed.code == 0, resumed.output
    assert content(server) == before
    assert filled_17.run("undo", "--discard", "--force").code == 0


def test_a_second_attempt_has_the_extensions_too_and_puts_nothing_aside_twice(
    filled_17: Sidecar, loaded: Callable[[int], Server]
) -> None:
    server = loaded(17)
    server.execute(DATABASE, BY_PATH)
    try:
        before = content(server)
        made = filled_17.run("create", "weekly", "--only", "database")
        assert made.code == 0 and "public.slug" in made.output, made.output
        for command in (("drill", "latest"), ("restore", "latest", "--force", "--no-safety")):
            tried = filled_17.run(*command)
            assert tried.code == 0 and "a second attempt, with search_path" in tried.output, tried.output
        assert content(server) == before
        assert server.value(DATABASE, "SELECT slug FROM page") == "elan"
    finally:
        server.execute(DATABASE, "DROP TABLE page; DROP FUNCTION slug")
        filled_17.run("undo", "--discard", "--force")


def test_in_another_database_it_comes_back_without_what_can_be_in_one_only(
    filled_17: Sidecar, loaded: Callable[[int], Server]
) -> None:
    server = loaded(17)
    filled_17.environment["DB_NAME"] = other = server.new_database()
    restored = filled_17.run("restore", "latest", "--force", "--no-safety")
    assert restored.code == 0, restored.output
    # In the plan, and at the end.
    told = f"pg_cron works in one database only, on this server in {DATABASE}: its jobs are not restored"
    assert restored.output.count(told) == 2, restored.output
    assert server.value(other, "SELECT count(*) FROM hyper") == 2000
    assert server.value(other, "SELECT to_regclass('cron.job')::text") is None
    assert filled_17.run("undo", "--discard", "--force").code == 0


def test_on_a_server_without_the_libraries_the_plan_refuses(filled_17: Sidecar, tmp_path: Path) -> None:
    bare = started(17, "bare")
    try:
        (tmp_path / "bare").mkdir()
        there = Sidecar.make(tmp_path / "bare", bare, DATABASE)
        refused = there.run("restore", str(filled_17.sets()[0].directory), "--force")
        assert refused.code == 50 and "nothing was touched" in refused.output, refused.output
        assert "does not preload pg_cron, pgaudit, timescaledb" in refused.output, refused.output
        assert "shared_preload_libraries=pg_cron,pgaudit,timescaledb" in refused.output
    finally:
        bare.remove()


def test_what_is_built_on_it_is_named_when_the_set_is_made_and_by_the_doctor(
    filled_17: Sidecar, loaded: Callable[[int], Server]
) -> None:
    server = loaded(17)
    server.execute(DATABASE, "CREATE VIEW my_jobs AS SELECT * FROM cron.job")
    try:
        made = filled_17.run("create", "daily", "--only", "database")
        assert made.code == 0 and "view public.my_jobs cannot be restored while pg_cron" in made.output, made.output
        assert "view public.my_jobs" in filled_17.run("doctor").output
        server.execute("postgres", "CREATE ROLE onlooker LOGIN PASSWORD 'x'; GRANT pg_read_all_data TO onlooker")
        doctor = filled_17.run("doctor", DB_USER="onlooker", DB_PASSWORD="x")
        assert "onlooker may not see which libraries the server preloads" in doctor.output, doctor.output
    finally:
        server.execute(DATABASE, "DROP VIEW my_jobs")
        server.execute("postgres", "DROP ROLE IF EXISTS onlooker")


def test_slots_and_subscriptions_stay_behind_and_are_named(filled_17: Sidecar, loaded: Callable[[int], Server]) -> None:
    server = loaded(17)
    filled_17.environment["DB_NAME"] = other = server.new_database()
    server.execute(other, "CREATE TABLE t (a int); CREATE PUBLICATION p FOR TABLE t")
    server.execute(other, "SELECT pg_create_logical_replication_slot('reader', 'pgoutput')")
    server.execute(other, "CREATE SUBSCRIPTION feed CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false)")
    assert filled_17.run("create", "weekly", "--only", "database").code == 0
    restored = filled_17.run("restore", "latest", "--force", "--no-safety")
    assert restored.code == 0, restored.output
    # In the plan, and at the end.
    assert restored.output.count("logical slots reader stay with what is replaced") == 2, restored.output
    assert restored.output.count("subscriptions feed stay with what is replaced") == 2, restored.output
    assert restored.output.count("pg_drop_replication_slot('…')") == 2
    server.execute("postgres", "SELECT pg_drop_replication_slot('reader')")
    kept = next(name for name in server.databases() if name.startswith(f"{other}__before"))
    server.execute("postgres", f'ALTER DATABASE "{kept}" ALLOW_CONNECTIONS true')
    for name in (other, kept):
        server.execute(name, "ALTER SUBSCRIPTION feed SET (slot_name = NONE)")
        server.execute(name, "DROP SUBSCRIPTION feed")
    assert filled_17.run("undo", "--discard", "--force").code == 0


def test_by_hand_as_the_page_beside_the_set_says(
    filled_17: Sidecar, loaded: Callable[[int], Server], tmp_path: Path
) -> None:
    stored, container = filled_17.sets()[0], f"obcms-page-{uuid.uuid4().hex[:8]}"
    assert stored.manifest
    (stored.directory / PAGE).write_text(restore_page(stored.manifest))
    query = "SELECT (SELECT count(*) FROM hyper) || ' ' || (SELECT string_agg(jobname, ',') FROM cron.job)"
    command = ["docker", "exec", container, "psql", "-U", USER, "-d", DATABASE, "-XAtc", query]
    try:
        follow(stored, "3b", tmp_path / "files", CONTAINER=container)
        assert subprocess.check_output(command, text=True).strip() == "2000 nightly"
    finally:
        subprocess.run(["docker", "rm", "-fv", container], capture_output=True, check=False)
        subprocess.run(["docker", "volume", "rm", "-f", f"{container}_data"], capture_output=True, check=False)


def test_without_an_engine_the_rest_is_tried_and_what_was_not_is_said(
    filled_17: Sidecar, loaded: Callable[[int], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers = filled_17.app().source().clients
    monkeypatch.setattr("backup.app.composition.NetworkClients", lambda login, *_: helpers.named(login.name))
    monkeypatch.setattr("backup.app.composition.Engine", gone)
    app = filled_17.network(loaded(17)).app()
    proof = drill_set(filled_17.sets()[0], app.drill_context(Silent())).proof
    assert proof and proof.proven and "pg_cron was not tried: it works in one database only" in proof.notes, proof


def gone() -> None:
    raise EngineError("there is no engine here")


def test_the_page_of_databases_names_what_is_tried_here_and_nothing_else() -> None:
    page = (Path(__file__).parents[2] / "docs" / "databases.md").read_text()
    table = page.partition("## Extensions")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
    assert sorted(named) == sorted(TRIED)
