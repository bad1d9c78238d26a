"""Whatever a server, a database or a role is set to: our sessions read, write and live as if nothing were."""

from __future__ import annotations

import contextlib
import difflib
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg import sql

from tests.support.database import PASSWORD, USER, Server
from tests.support.sidecar import Result, Sidecar

# Values of which the text depends on the session's settings, as far as they are read and written by them.
CONTENT: Final = """
    CREATE TABLE plain (id int PRIMARY KEY, at timestamptz, gone interval, f float8, b bytea, x xml, a text[], p money);
    INSERT INTO plain VALUES
        (1, '2024-03-04 05:06:07.89+02', '-1 year -2 mons +3 days', 0.1 + 0.2, '\\x00ff41', '<a>1</a>', '{NULL,"NULL"}',
         '12.34'),
        (2, '0044-03-15 12:00 BC', '1 day -02:03:04', 'NaN', '\\x5c27', 'only text', '{}', NULL);
    CREATE TABLE old (at date CHECK (at > '2000-02-01'), t text COLLATE "C" DEFAULT 'it''s \\ €');
    INSERT INTO old VALUES ('2024-02-01', 'a € \\ b');
    CREATE TABLE parted (at timestamptz NOT NULL) PARTITION BY RANGE (at);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2024-01-01 00:00+00') TO ('2025-01-01 00:00+00');
    INSERT INTO parted VALUES ('2024-06-01 00:00+00');
    CREATE FUNCTION shown(v text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN v || '\\' || "v"; END$$;
    CREATE VIEW seen AS SELECT id, a = NULL AS nothing, at::date AS day FROM plain;
    CREATE MATERIALIZED VIEW kept AS SELECT * FROM seen;
    CREATE INDEX ON plain USING gin (a);
    SELECT lo_from_bytea(4711, '\\x00ff41');
"""
# No session can begin with these, or what they are set to is named by the error.
LEFT: Final = {
    "local_preload_libraries",
    "session_preload_libraries",
    "max_stack_depth",
    "temp_file_limit",
    "role",
    "session_authorization",
    # Each commit and each cleaned page would wait.
    "commit_delay",
    "vacuum_cost_delay",
    "wal_consistency_checking",
}
TEXTS: Final = {
    "DateStyle": "German, DMY",
    "client_encoding": "LATIN1",
    "search_path": "nowhere, public, pg_catalog",
    "TimeZone": "Asia/Manila",
    "timezone_abbreviations": "India",
    "default_tablespace": "nowhere",
    "temp_tablespaces": "nowhere",
    "default_text_search_config": "pg_catalog.simple",
    "restrict_nonsystem_relation_kind": "view, foreign-table",
    "createrole_self_grant": "set, inherit",
    "lc_messages": "C.UTF-8",
    "lc_numeric": "C.UTF-8",
    "lc_time": "C.UTF-8",
    "backtrace_functions": "",
}
FIRST: Final = {
    "IntervalStyle": "iso_8601",
    "default_transaction_isolation": "serializable",
    "session_replication_role": "replica",
}


class Odd:
    """A server whose only superuser that we know is set to everything odd, and one who may still look."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.looker = f"looker_{server.major}"

    @contextlib.contextmanager
    def everything(self) -> Iterator[int]:
        """In the body all that a role can be set to is otherwise than by default; how much that is."""
        with self.server.connect() as connection:
            statement = sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}")
            connection.execute(statement.format(sql.Identifier(self.looker), PASSWORD))
        done = 0
        with self.look() as connection:
            for name, value in odd(connection):
                with contextlib.suppress(psycopg.Error):
                    self.alter(connection, name, value)
                    done += 1
        try:
            yield done
        finally:
            with self.look() as connection:
                connection.execute(f"ALTER ROLE {USER} RESET ALL".encode())
            with self.server.connect() as connection:
                connection.execute(f"DROP ROLE {self.looker}".encode())

    @staticmethod
    def alter(connection: psycopg.Connection[Any], name: str, value: str) -> None:
        words = sql.SQL(", ").join(value.split(", ")) if name in ("search_path", "DateStyle") else sql.Literal(value)
        connection.execute(
            sql.SQL("ALTER ROLE {} SET {} = {}").format(sql.Identifier(USER), sql.Identifier(name), words)
        )

    def look(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=self.server.address, user=self.looker, password=PASSWORD, dbname=database, autocommit=True
        )


def odd(connection: psycopg.Connection[Any]) -> Iterator[tuple[str, str]]:
    """Every setting that a role can have, and a value that it does not have by default."""
    query = """SELECT name, vartype, setting, min_val, max_val, enumvals FROM pg_settings
                WHERE context IN ('user', 'superuser') AND name !~ '[.]' ORDER BY 1"""
    for name, kind, now, least, most, choices in connection.execute(query).fetchall():
        if name in LEFT or name.startswith(("log_", "debug_print_", "trace_")):
            continue
        if kind == "bool":
            yield name, "off" if now == "on" else "on"
        elif kind == "enum":
            yield name, FIRST.get(name) or next(choice for choice in choices if choice != now)
        elif kind == "string":
            if name in TEXTS:
                yield name, TEXTS[name]
        elif "timeout" in name:
            yield name, "1"
        else:
            yield name, least if now != least else most


def dumped(sidecar: Sidecar) -> list[str]:
    """What the newest set holds of the database, and of the role; less what is another each time."""
    stored = sidecar.sets()[0]
    dump, roles = (
        gzip.decompress((stored.directory / name).read_bytes()).decode().splitlines()
        for what in ("backup", "roles")
        for name in stored.files
        if name.startswith(f"obcms_{what}_")
    )
    about = [line for line in roles if line.startswith(f"ALTER ROLE {USER} WITH ")]
    return [line for line in dump if "restrict " not in line] + about


def done(result: Result) -> str:
    assert result.code == 0, result.output
    return result.output


def test_nothing_that_a_role_can_be_set_to_changes_a_dump_or_keeps_it_from_loading(
    tmp_path: Path, any_server: Server
) -> None:
    server, database = any_server, any_server.new_database()
    server.execute(database, CONTENT)
    server.execute(database, f"ALTER ROLE {USER} VALID UNTIL '2039-02-01 00:00+00'")
    try:
        sidecar = Sidecar.make(tmp_path, server, database, BACKUP_STALL_TIMEOUT="120")
        done(sidecar.run("create", "manual"))
        before = dumped(sidecar)
        look = Odd(server)
        with look.everything() as count:
            assert count > 120
            with look.look(database) as connection:
                rows = connection.execute("SELECT p::text FROM plain p ORDER BY 1").fetchall()
            done(sidecar.run("create", "daily"))
            assert list(difflib.unified_diff(before, dumped(sidecar))) == []
            done(sidecar.run("drill", "latest"))
            done(sidecar.run("restore", "latest", "--force"))
            with look.look(database) as connection:
                assert connection.execute("SELECT p::text FROM plain p ORDER BY 1").fetchall() == rows
            assert sidecar.run("undo", "--discard", "--force").code == 0
    finally:
        # Other tests compare what a set says of this role.
        server.execute(database, f"UPDATE pg_authid SET rolvaliduntil = NULL WHERE rolname = '{USER}'")


def test_settings_of_a_database_that_once_kept_it_from_being_saved(tmp_path: Path, server: Server) -> None:
    database = server.new_database()
    server.execute(database, "CREATE TABLE price (t text); INSERT INTO price VALUES ('5 €')")
    server.execute(database, f"ALTER DATABASE {database} SET client_encoding = 'LATIN1'")
    server.execute(database, f"ALTER ROLE {USER} IN DATABASE {database} SET statement_timeout = '1ms'")
    sidecar = Sidecar.make(tmp_path, server, database)
    done(sidecar.run("create", "daily"))
    done(sidecar.run("drill", "latest"))


LOGIN: Final = """
    CREATE TABLE seen (who text, at timestamptz DEFAULT now());
    CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS
        $$BEGIN INSERT INTO public.seen (who) VALUES (session_user); END$$;
    CREATE EVENT TRIGGER note ON login EXECUTE FUNCTION note();
    ALTER EVENT TRIGGER note ENABLE ALWAYS;
"""


def seen(server: Server, database: str) -> int:
    """How many logins a trigger has noted, asked by one that it does not act on."""
    with psycopg.connect(
        host=server.address, user=USER, password=PASSWORD, dbname=database, options="-c event_triggers=off"
    ) as connection:
        row = connection.execute("SELECT count(*) FROM seen").fetchone()
    return int(row[0]) if row else -1


@pytest.mark.parametrize("major", [17, 18])
def test_a_trigger_of_logins_is_not_for_ours(tmp_path: Path, servers: Callable[[int], Server], major: int) -> None:
    server = servers(major)
    database = server.new_database()
    server.execute(database, LOGIN)
    server.execute(database, "SELECT 1")
    assert seen(server, database) == 1
    sidecar = Sidecar.make(tmp_path, server, database)
    done(sidecar.run("create", "daily"))
    done(sidecar.run("drill", "latest"))
    done(sidecar.run("restore", "latest", "--force"))
    assert seen(server, database) == 1
    assert "event trigger" not in sidecar.run("doctor").output
    done(sidecar.run("undo", "--force"))
    assert seen(server, database) == 1
    done(sidecar.run("undo", "--discard", "--force"))


def test_who_may_not_switch_it_off_is_told_and_may_be_let(tmp_path: Path, server: Server) -> None:
    database = server.new_database()
    role = f"plain_{database}"
    server.execute(database, LOGIN)
    with server.connect() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), PASSWORD))
        connection.execute(f"GRANT pg_read_all_data TO {role}".encode())
    sidecar = Sidecar.make(tmp_path, server, database, DB_USER=role)
    before = seen(server, database)
    said = done(sidecar.run("create", "daily"))
    remedy = f"GRANT SET ON PARAMETER event_triggers TO {role}"
    assert "the event trigger note fires on every login" in said and remedy in said
    assert remedy in sidecar.run("doctor").output
    done(sidecar.run("drill", "latest"))
    noted = seen(server, database)
    assert noted > before
    server.execute("postgres", remedy)
    said = done(sidecar.run("create", "daily"))
    assert remedy not in said and seen(server, database) == noted
    server.execute("postgres", f"REVOKE SET ON PARAMETER event_triggers FROM {role}")


@pytest.mark.one_version
def test_triggers_of_definitions_do_not_act_on_a_load(tmp_path: Path, any_server: Server) -> None:
    """They are made before views are filled, where pg_dump has its way."""
    database = any_server.new_database()
    any_server.execute(
        database,
        """CREATE TABLE done (what text);
        CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS
            $$BEGIN INSERT INTO public.done VALUES (tg_tag); END$$;
        CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM done;
        CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION note();
        COMMENT ON EVENT TRIGGER note IS 'notes all';
        ALTER EVENT TRIGGER note ENABLE ALWAYS""",
    )
    sidecar = Sidecar.make(tmp_path, any_server, database)
    done(sidecar.run("create", "daily"))
    done(sidecar.run("drill", "latest"))
