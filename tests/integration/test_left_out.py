"""Views whose query fails, and rows that break their own constraint: the rest is loaded, and what is left out named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.support.database import Server
from tests.support.sidecar import Result, Sidecar

VIEWS: Final = """
    CREATE TABLE part (whole int, day date); INSERT INTO part VALUES (1, current_date);
    CREATE MATERIALIZED VIEW good AS SELECT count(*) AS n FROM part;
    CREATE MATERIALIZED VIEW "Quo ta's" AS SELECT 1 / whole AS q FROM part;
    CREATE UNIQUE INDEX ON "Quo ta's" (q);
    CREATE MATERIALIZED VIEW on_top AS SELECT * FROM "Quo ta's";
    CREATE EXTENSION postgres_fdw;
    CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');
    CREATE USER MAPPING FOR PUBLIC SERVER elsewhere;
    CREATE FOREIGN TABLE far (a int) SERVER elsewhere;
    CREATE MATERIALIZED VIEW from_afar AS SELECT * FROM far WITH NO DATA;
    UPDATE part SET whole = 0;
    UPDATE pg_class SET relispopulated = true WHERE relname = 'from_afar';
"""
BROKEN: Final = """
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (id int PRIMARY KEY, parent_id int CONSTRAINT has_parent REFERENCES parent DEFERRABLE);
    CREATE TABLE aged (age int CONSTRAINT grown CHECK (age >= 18));
    INSERT INTO parent SELECT generate_series(1, 50);
    SET session_replication_role = replica;
    INSERT INTO child SELECT i, i FROM generate_series(1, 100) i;
    ALTER TABLE aged DROP CONSTRAINT grown; INSERT INTO aged VALUES (17), (20);
    ALTER TABLE aged ADD CONSTRAINT grown CHECK (age >= 18) NOT VALID;
    UPDATE pg_constraint SET convalidated = true WHERE conname = 'grown';
"""


def done(result: Result, code: int = 0) -> str:
    assert result.code == code, result.output
    return result.output


@pytest.mark.one_version
def test_views_that_cannot_be_filled_are_left_empty_and_named(tmp_path: Path, any_server: Server) -> None:
    server, database = any_server, any_server.new_database()
    server.execute(database, VIEWS)
    sidecar = Sidecar.make(tmp_path, server, database)
    done(sidecar.run("create", "daily"))
    said = done(sidecar.run("drill", "latest"))
    for view, why in (
        ('"Quo ta\'s"', "division by zero"),
        ("on_top", "has not been populated"),
        ("from_afar", "could not connect to server"),
    ):
        bare = view.strip('"')
        assert re.search(
            rf"materialized view public\.{bare} was left empty: [^.]*{why}.*REFRESH MATERIALIZED VIEW public\.{view}",
            said,
        ), said
    assert "public.good" not in said and sidecar.sets()[0].proven
    said = done(sidecar.run("restore", "latest", "--force"))
    assert "3 materialized views left empty" in said and "Later: REFRESH MATERIALIZED VIEW public.on_top" in said
    filled = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'm' AND relispopulated"
    assert server.value(database, filled) == "good"
    done(sidecar.run("undo", "--discard", "--force"))


@pytest.mark.one_version
def test_rows_that_break_their_own_constraints(tmp_path: Path, any_server: Server) -> None:
    server, database = any_server, any_server.new_database()
    server.execute(database, BROKEN)
    sidecar = Sidecar.make(tmp_path, server, database)
    done(sidecar.run("create", "daily"))
    said = done(sidecar.run("drill", "latest"), 41)
    assert 'violates check constraint "grown"' in said and "--allow-invalid" in said
    shows = re.search(r"This shows the rows: (SELECT .*?;)", said)
    assert shows and server.value(database, shows[1]) == 17
    # It is not good, so `latest` does not mean it.
    broken = sidecar.sets()[0].id
    said = done(sidecar.run("restore", broken, "--force"), 50)
    assert "--allow-invalid" in said
    said = done(sidecar.run("restore", broken, "--force", "--allow-invalid"), 3)
    assert "Later: ALTER TABLE public.aged VALIDATE CONSTRAINT grown" in said
    assert "Later: ALTER TABLE ONLY public.child VALIDATE CONSTRAINT has_parent" in said
    assert "2 constraints not valid" in said
    invalid = "SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint WHERE NOT convalidated"
    assert server.value(database, invalid) == "grown has_parent"
    assert server.value(database, "SELECT count(*) FROM child") == 100
    assert server.value(database, "SELECT condeferrable FROM pg_constraint WHERE conname = 'has_parent'")
    done(sidecar.run("undo", "--discard", "--force"))
    # What is not valid is saved as such, and loads.
    done(sidecar.run("create", "daily"))
    done(sidecar.run("drill", "latest"))
    server.execute(database, "DELETE FROM aged WHERE age < 18; ALTER TABLE aged VALIDATE CONSTRAINT grown")


def test_what_breaks_a_foreign_key_is_shown(tmp_path: Path, server: Server) -> None:
    database = server.new_database()
    server.execute(database, BROKEN + "DELETE FROM aged WHERE age < 18;")
    sidecar = Sidecar.make(tmp_path, server, database)
    done(sidecar.run("create", "daily"))
    said = done(sidecar.run("drill", "latest"), 41)
    assert 'violates foreign key constraint "has_parent"' in said and "--allow-invalid" in said
    shows = re.search(r"This shows the rows: (SELECT .*?;)", said)
    assert shows
    with server.connect(database) as connection:
        assert len(connection.execute(shows[1].encode()).fetchall()) == 50


def test_what_is_twice_where_it_may_be_once_is_shown_and_not_allowed(tmp_path: Path, server: Server) -> None:
    database = server.new_database()
    server.execute(
        database, "CREATE TABLE twice (id int CONSTRAINT once PRIMARY KEY); INSERT INTO twice VALUES (1), (2)"
    )
    # As damage of its index leaves it.
    server.execute(
        database,
        """UPDATE pg_index SET indisready = false WHERE indexrelid = 'once'::regclass; INSERT INTO twice VALUES (2);
        UPDATE pg_index SET indisready = true WHERE indexrelid = 'once'::regclass""",
    )
    sidecar = Sidecar.make(tmp_path, server, database)
    done(sidecar.run("create", "daily"))
    said = done(sidecar.run("restore", "latest", "--force", "--allow-invalid"), 50)
    shows = re.search(r"This shows the rows: (SELECT .*?;)", said)
    assert shows and server.value(database, shows[1]) == 2, said
    assert "restore --allow-invalid" not in said
