"""A set is good when it loads: its definitions are tried when it is made, once for all that have the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backup.docker.engine import Engine, spool_mount
from backup.errors import EngineError
from backup.model.backup_set import LoadTest
from backup.model.manifest import Tier
from backup.model.run import Run
from backup.operations.create.run import Request, create_set
from backup.postgres.clients import HelperClients
from backup.postgres.session import Login
from backup.progress import Silent
from tests.integration.test_drill import throw_away
from tests.support.database import Server
from tests.support.faults import eventually, nothing_left, under_way
from tests.support.keys import key_pair
from tests.support.sidecar import Result, Sidecar

TRYING = "load test of"
# A function that another one calls goes, which PostgreSQL does not notice: the index on it can never be built again.
FIRST = """
    CREATE FUNCTION helper(v text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower(v)';
    CREATE TABLE page (title text);
"""
INLINED = """
    CREATE FUNCTION slug(v text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT public.helper(v)';
    CREATE INDEX page_slug ON page (public.slug(title)); DROP FUNCTION helper
"""
# The same, but it is called for each row, and so for none when there is none.
CALLED = """
    CREATE FUNCTION slug(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN public.helper(v); END$$;
    INSERT INTO page VALUES ('A Title');
    CREATE INDEX page_slug ON page (public.slug(title)); DROP FUNCTION helper
"""


def database(tmp_path: Path, server: Server, statements: str = "", **settings: str) -> Sidecar:
    name = server.new_database()
    server.execute(name, FIRST + statements)
    target = Sidecar.make(tmp_path, server, name, BACKUP_MIN_SIZE_KB="0", **settings)
    target.tries = True
    return target


def change(sidecar: Sidecar, server: Server, statements: str) -> None:
    server.execute(sidecar.environment["DB_NAME"], statements)


def made(sidecar: Sidecar, code: int = 0, tier: str = "daily") -> Result:
    result = sidecar.run("create", tier)
    assert result.code == code, result.output
    return result


def test_of(sidecar: Sidecar) -> LoadTest:
    verdict = sidecar.sets()[0].verdict
    assert verdict and verdict.load_test
    return verdict.load_test


test_of.__test__ = False  # type: ignore[attr-defined]


def health(sidecar: Sidecar) -> str:
    told = sidecar.run("status", "--json").json
    health = told["health"]
    reasons = (f"{each['level']} {each['text']} {each['hint']}" for each in health["reasons"])
    return "\n".join([health["status"], *reasons])


@pytest.mark.one_version
def test_a_set_is_tried_unless_one_with_the_same_definitions_was(any_server: Server, tmp_path: Path) -> None:
    target = database(tmp_path, any_server, "INSERT INTO page VALUES ('a'); SELECT lo_create(0)")
    first = made(target)
    assert TRYING in first.output and "is complete, loads: " in first.output, first.output
    tried = test_of(target)
    assert tried.loads and not tried.alike and tried.server_version.startswith(f"{any_server.major}.")
    nothing_left(target, any_server)
    change(target, any_server, "INSERT INTO page SELECT 'b'; SELECT lo_create(0), lo_create(0)")
    second = made(target, tier="manual")
    assert TRYING not in second.output and "is complete, loads: " in second.output, second.output
    assert test_of(target) == tried.model_copy(update={"alike": target.sets()[1].id})
    assert health(target) == "pass"
    change(target, any_server, f"ALTER DATABASE {target.environment['DB_NAME']} SET work_mem = '5MB'; {INLINED}")
    refused = made(target, 41)
    assert TRYING in refused.output and "is complete, but does not load" in refused.output
    assert "ERROR:  function public.helper(text) does not exist" in refused.output


def test_a_set_whose_definitions_do_not_load_is_not_good(server: Server, tmp_path: Path) -> None:
    target = database(tmp_path, server)
    made(target)
    good = target.sets()[0].id
    change(target, server, INLINED)
    result = made(target, 41)
    assert "is complete, but does not load" in result.output and "is complete, loads" not in result.output
    assert "ERROR:  function public.helper(text) does not exist" in result.output
    assert 'SQL function "slug" during inlining' in result.output and "LINE 1" not in result.output, result.output
    bad = target.sets()[0]
    assert bad.state == "does not load" and target.catalog.find("latest").id == good
    run = target.runs()[0]
    assert (run.outcome, run.exit_code, run.set) == ("failed", 41, bad.id)
    told = health(target)
    assert told.startswith("fail\n") and f"the newest set, {bad.id}, does not load: " in told
    assert target.run("monitor", "--alert").code == 61
    assert "does not load" in target.run("list").output
    planned = target.run("restore", bad.id, "--dry-run")
    assert "a throw-away server could not load it" in planned.output, planned.output
    nothing_left(target, server)
    change(target, server, "DROP INDEX page_slug")
    assert "is complete, loads" in made(target).output
    assert health(target).startswith("warn\n")
    assert target.run("drill", bad.id).code == 41 and target.sets()[1].state == "does not load"


def test_a_set_whose_rows_do_not_load_is_found_by_its_drill(server: Server, tmp_path: Path) -> None:
    target = database(tmp_path, server)
    made(target)
    change(target, server, CALLED)
    assert "is complete, loads" in made(target).output
    drilled = target.run("drill", "latest")
    assert drilled.code == 41 and "does not load: " in drilled.output, drilled.output
    assert "CONTEXT:  PL/pgSQL function public.slug(text) line 1 at RETURN" in drilled.output
    assert "ALTER FUNCTION public.slug(text) SET search_path" in drilled.output and "QUERY" not in drilled.output
    bad, good = target.sets()
    assert (bad.state, good.state) == ("does not load", "complete") and target.catalog.find("latest").id == good.id
    result = made(target)
    assert (
        "not load-tested" in result.output
        and f"but the rows of {bad.id}, with the same definitions, did not" in result.output
    )
    assert f"fail {bad.id} does not load: " in health(target)
    restored = target.run("restore", bad.id, "--force", "--no-safety")
    assert restored.code == 50 and "The live data were not touched" in restored.output, restored.output
    assert "ALTER FUNCTION public.slug(text)" in restored.output
    # What was wrong with the rows is over when a newer set has been drilled.
    change(target, server, "DROP INDEX page_slug")
    made(target)
    assert f"fail {bad.id} does not load: " in health(target)
    assert target.run("drill", "latest").code == 0
    assert health(target).startswith("warn\n")


def test_an_encrypted_set_is_tried_without_its_key(server: Server, tmp_path: Path) -> None:
    public = key_pair(tmp_path / "key")
    target = database(tmp_path, server, BACKUP_ENCRYPT="all", BACKUP_AGE_RECIPIENTS=public)
    result = made(target)
    assert TRYING in result.output and "is complete, loads" in result.output
    assert test_of(target).loads


def test_one_that_is_killed_while_it_is_tried_is_good_and_says_so(server: Server, tmp_path: Path) -> None:
    target = database(tmp_path, server)
    with under_way(target, "create", "daily") as process:
        eventually(lambda: (target.root / "state/instance").exists() and throw_away(target))
        process.kill()
        process.wait(30)
    stored = target.sets()[0]
    assert stored.verified and stored.verdict and stored.verdict.load_test is None
    assert f"warn {stored.id} was not load-tested" in health(target) and "no run has done it here" in health(target)
    assert TRYING in made(target).output
    nothing_left(target, server)


@pytest.fixture
def far(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Run]]:
    """A function that makes a set as where there is no engine; but with the clients of helpers, which are here."""
    target = database(tmp_path, server)
    app, engine = target.app(), Engine()
    container = app.database_container(engine)
    mount = spool_mount(engine.own(), target.spool, HelperClients.inside)

    def clients(login: Login, *_: object) -> HelperClients:
        return HelperClients(engine, container, login, target.spool, mount, app.instance(), 20)

    def none() -> None:
        raise EngineError("there is no engine")

    def make(**environment: str) -> Run:
        settings = Sidecar.network(target, server).environment | environment
        distant = Sidecar(target.root, target.spool, target.volumes, settings)
        with monkeypatch.context() as patch:
            patch.setattr("backup.app.composition.Engine", none)
            patch.setattr("backup.app.composition.NetworkClients", clients)
            return create_set(Request(Tier.DAILY), distant.app().create_context(Silent()))

    yield make


def test_without_an_engine_a_scratch_database_is_made(server: Server, tmp_path: Path, far: Callable[..., Run]) -> None:
    before = server.databases()
    target = Sidecar.make(tmp_path, server, BACKUP_MIN_SIZE_KB="0")
    run = far()
    assert run.message == "" and test_of(target).loads and server.databases() == before
    assert f"{server.major}." in test_of(target).server_version


def test_a_login_that_may_make_no_database_says_that_nothing_was_tried(
    server: Server, tmp_path: Path, far: Callable[..., Run]
) -> None:
    target = Sidecar.make(tmp_path, server, BACKUP_MIN_SIZE_KB="0")
    with role(server, "narrow", "pg_read_all_data") as name:
        run = far(DB_USER=name, DB_PASSWORD="narrow")
        assert run.exit_code == 0 and "not load-tested: " in run.message
        assert "permission denied to create database" in run.message and "CREATEDB" in run.hint
        told = health(target)
        assert told.startswith("warn\n") and "was not load-tested" in told
        # What it may not do there says nothing of the set.
        server.execute("postgres", f"ALTER ROLE {name} CREATEDB")
        server.execute(server.made[-1], "CREATE EXTENSION pg_stat_statements")
        run = far(DB_USER=name, DB_PASSWORD="narrow")
    assert run.exit_code == 0 and "permission denied to create extension" in run.message
    assert target.sets()[0].state == "complete" and "Only a superuser" in run.hint


@contextlib.contextmanager
def role(server: Server, name: str, *member: str) -> Iterator[str]:
    server.execute("postgres", f"CREATE ROLE {name} LOGIN PASSWORD '{name}' IN ROLE {', '.join(member)}")
    try:
        yield name
    finally:
        server.execute("postgres", f"DROP ROLE {name}")
