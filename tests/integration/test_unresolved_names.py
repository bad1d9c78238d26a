"""Functions that find names by the search_path alone: named when a set is made, and loaded all the same."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psycopg
import pytest

from backup.postgres.dump.load_attempt import put_back, taken_off
from tests.support.database import USER, Server
from tests.support.sidecar import Result, Sidecar

SLUG: Final = """
    CREATE EXTENSION unaccent;
    CREATE FUNCTION slug(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN lower(unaccent(v)); END$$;
    CREATE TABLE page (title text, slug text GENERATED ALWAYS AS (slug(title)) STORED);
    INSERT INTO page VALUES ('Élan');
"""
# The table that the check reads has the later name, so that its rows come later.
KNOWN: Final = """
    CREATE TABLE zz_key (k text); INSERT INTO zz_key VALUES ('a'), ('b');
    CREATE FUNCTION known(v text) RETURNS boolean LANGUAGE sql STABLE AS
        $$SELECT EXISTS (SELECT FROM zz_key WHERE zz_key.k = v)$$;
    CREATE TABLE item (k text CONSTRAINT is_known CHECK (known(k)), n int CHECK (n > 0));
    COMMENT ON CONSTRAINT is_known ON item IS 'one of zz_key''s';
    CREATE TABLE of_item (CONSTRAINT is_known CHECK (known(k))) INHERITS (item);
    CREATE DOMAIN key AS text CONSTRAINT is_key CHECK (known(VALUE));
    CREATE TABLE keyed (k key, at date NOT NULL) PARTITION BY RANGE (at);
    ALTER TABLE keyed ADD CONSTRAINT is_known_too CHECK (known(k));
    CREATE TABLE keyed_1 PARTITION OF keyed FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
    INSERT INTO item VALUES ('a', 1); INSERT INTO of_item VALUES ('b', 2); INSERT INTO keyed VALUES ('a', '2024-05-06');
"""
# Where indexes are built and views filled with the session's search_path.
BUILT: Final = """
    CREATE FUNCTION f_unaccent(v text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT unaccent(v)$$;
    CREATE INDEX by_title ON page (f_unaccent(title));
    CREATE MATERIALIZED VIEW titles AS SELECT f_unaccent(title) AS title FROM page;
"""
# Made while there was nothing to build; with rows nobody builds it.
NEVER: Final = """
    CREATE TABLE word (w text);
    CREATE FUNCTION bare(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN unaccent(v); END$$;
    CREATE INDEX by_word ON word (bare(w)); INSERT INTO word VALUES ('é');
"""


# Computed as the rows of `bill` come in, which is before those of `zz_rate`.
EARLY: Final = """
    CREATE TABLE zz_rate (k text, r int); INSERT INTO zz_rate VALUES ('a', 7);
    CREATE FUNCTION rate(v text) RETURNS int LANGUAGE sql IMMUTABLE SET search_path = public, pg_temp AS
        $$SELECT r FROM zz_rate WHERE k = v$$;
    CREATE FUNCTION twice(v text) RETURNS int LANGUAGE sql IMMUTABLE
        RETURN (SELECT sum(r * 2)::int FROM public.zz_rate WHERE k = v);
    CREATE FUNCTION named(v text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
        $$BEGIN RETURN (SELECT z.r FROM public.zz_rate z WHERE z.k = v); END$$;
    CREATE TABLE bill (k text, of int GENERATED ALWAYS AS (public.rate(k)) STORED,
                       more int GENERATED ALWAYS AS (twice(k) + named(k)) STORED);
    INSERT INTO bill VALUES ('a');
"""


def done(result: Result, code: int = 0) -> str:
    assert result.code == code, result.output
    return result.output


@pytest.mark.parametrize("major", [15, 17, 18])
def test_what_is_found_by_the_search_path_is_named_and_loaded(
    tmp_path: Path, servers: Callable[[int], Server], major: int
) -> None:
    server = servers(major)
    database = server.new_database()
    for part in (SLUG, KNOWN, *([BUILT] if major < 17 else [])):
        server.execute(database, part)
    sidecar = Sidecar.make(tmp_path, server, database)
    said = done(sidecar.run("create", "daily"))
    for function in ("slug", "known", *(["f_unaccent"] if major < 17 else [])):
        assert f"ALTER FUNCTION public.{function}(v text) SET search_path = public, pg_temp" in said
        assert said.count(f"{function}(v text), which") == 1
    assert "ALTER FUNCTION public.slug(v text)" in sidecar.run("doctor").output
    part = sidecar.sets()[0].manifest.database  # type: ignore[union-attr]
    assert part and part.search_path == ("public",) and part.found_by_path["public.known"] == ("public.zz_key",)
    said = done(sidecar.run("drill", "latest"))
    assert 'second attempt, with search_path = "public"' in said
    assert sidecar.sets()[0].proven
    said = done(sidecar.run("restore", "latest", "--force"))
    assert 'a second attempt, with search_path = "public"' in said
    assert server.value(database, "SELECT slug FROM page") == "elan"
    checks = "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conname ~ '^is_k' AND convalidated"
    assert server.value(database, checks) == 5
    assert (
        server.value(
            database,
            "SELECT obj_description(oid) FROM pg_constraint WHERE conrelid = 'item'::regclass AND conname = 'is_known'",
        )
        == "one of zz_key's"
    )
    if major < 17:
        assert server.value(database, "SELECT title FROM titles") == "Elan"
    with pytest.raises(psycopg.errors.CheckViolation):
        server.execute(database, "INSERT INTO item VALUES ('unknown', 1)")
    done(sidecar.run("undo", "--discard", "--force"))
    extracted(sidecar, server, tmp_path)


# A domain takes no new check while columns use it within an array, a range, a row or another domain of these.
WITHIN: Final = """
    CREATE TYPE size AS (width int, height int);
    CREATE FUNCTION area(v size) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN v.width * v.height; END$$;
    CREATE FUNCTION small(v size) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN area(v) < 9; END$$;
    CREATE DOMAIN page AS size CONSTRAINT is_small CHECK (small(VALUE));
    CREATE DOMAIN pages AS page[] CHECK (array_length(VALUE, 1) < 5);
    CREATE TABLE sheet (one page, many pages CONSTRAINT has_small CHECK (small(many[1])));
    INSERT INTO sheet VALUES (ROW(1, 2), ARRAY[ROW(3, 2)::page]);
"""


@pytest.mark.one_version
def test_a_domain_that_takes_no_new_check_keeps_its_own(tmp_path: Path, any_server: Server) -> None:
    database = any_server.new_database()
    any_server.execute(database, WITHIN)
    sidecar = Sidecar.make(tmp_path, any_server, database)
    done(sidecar.run("create", "daily"))
    assert "second attempt" in done(sidecar.run("drill", "latest"))
    done(sidecar.run("restore", "latest", "--force"))
    for wrong in ("ROW(3, 3), NULL", "NULL, ARRAY[ROW(9, 9)]::page[]"):
        with pytest.raises(psycopg.errors.CheckViolation):
            any_server.execute(database, f"INSERT INTO sheet VALUES ({wrong})")
    checks = "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conname ~ '_small$' AND convalidated"
    assert any_server.value(database, checks) == 2
    done(sidecar.run("undo", "--discard", "--force"))


def extracted(sidecar: Sidecar, server: Server, folder: Path) -> None:
    """Single tables load as the help says, into an empty database."""
    for tables, query, value in (
        (["page"], "SELECT slug FROM page", "elan"),
        (["item", "zz_key"], "SELECT count(*) FROM item", 2),
        (["item"], "SELECT count(*) FROM item", 2),
    ):
        script = folder / "extracted.sql"
        script.unlink(missing_ok=True)
        done(sidecar.run("extract", "latest", *(f"--table={table}" for table in tables), "-o", str(script)))
        database = server.new_database()
        server.load(database, script.read_bytes())
        assert server.value(database, query) == value
        valid = "SELECT count(*) FROM pg_constraint WHERE conname = 'is_known' AND convalidated"
        assert server.value(database, valid) == (2 if "zz_key" in tables else 0)


def test_what_no_order_can_load_is_named(tmp_path: Path, server: Server) -> None:
    database = server.new_database()
    server.execute(database, SLUG)
    for statement in NEVER.split(";\n"):
        server.execute(database, statement)
    server.execute(database, EARLY)
    sidecar = Sidecar.make(tmp_path, server, database)
    said = sidecar.run("create", "daily").output
    for reader, column in (("rate", "of"), ("twice", "more"), ("named", "more")):
        early = f"public.{reader}(v text), which the generated column public.bill.{column} needs, reads public.zz_rate:"
        assert said.count(early) == 1, said
    assert "bare(v text), which the index public.by_word needs" in said and "no load can create it" in said
    said = done(sidecar.run("drill", "latest"), 41)
    assert "public.bare(text)" in said and "at a second attempt" in said
    server.execute(database, "ALTER FUNCTION bare(text) SET search_path = public, pg_temp")
    said = done(sidecar.run("create", "daily"))
    assert "bare" not in said
    done(sidecar.run("drill", "latest"))


@pytest.mark.parametrize("options", [("-Fc",), ("--inserts",)])
def test_files_of_others_get_the_second_attempt_too(tmp_path: Path, server: Server, options: tuple[str, ...]) -> None:
    database = server.new_database()
    for part in (SLUG, KNOWN):
        server.execute(database, part)
    command = ["docker", "exec", server.container.id, "pg_dump", "-h", "127.0.0.1", "-U", USER, *options, database]
    (tmp_path / "theirs").write_bytes(subprocess.check_output(command))
    sidecar = Sidecar.make(tmp_path, server, database)
    server.execute(database, "DROP TABLE page, item CASCADE; CREATE TABLE lives (a int)")
    said = done(sidecar.run("restore", str(tmp_path / "theirs"), "--force", "--no-safety"))
    assert 'a second attempt, with search_path = "public" and checks made after all rows' in said
    assert server.value(database, "SELECT slug FROM page") == "elan"
    checks = "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conname ~ '^is_k' AND convalidated"
    assert server.value(database, checks) == 5
    if "--inserts" in options:
        said = done(sidecar.run("verify", "--test-restore", str(tmp_path / "theirs")))
        assert "is proven" in said and "are INSERT statements" in said
    done(sidecar.run("undo", "--discard", "--force"))


# As extensions have tables and domains of their own, which belong to whoever may make the extension.
OWNED: Final = """
    CREATE EXTENSION unaccent; CREATE ROLE {role}; GRANT CREATE ON SCHEMA public TO {role};
    CREATE FUNCTION fine(v text) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT true';
    CREATE TABLE theirs (v text CONSTRAINT of_it CHECK (fine(v)));
    CREATE DOMAIN word AS text CONSTRAINT of_it CHECK (fine(VALUE));
    ALTER EXTENSION unaccent ADD TABLE theirs; ALTER EXTENSION unaccent ADD DOMAIN word;
    SET ROLE {role}; CREATE TABLE ours (v text CONSTRAINT of_us CHECK (fine(v))); RESET ROLE;
"""


@pytest.mark.parametrize("calling", [False, True])
def test_what_an_extension_has_made_is_left_as_it_is(server: Server, calling: bool) -> None:
    """A load's own role may not even change it."""
    database = server.new_database()
    server.execute(database, OWNED.format(role=f"app_{database}"))
    names = "SELECT string_agg(conname, ', ' ORDER BY conname) FROM pg_constraint WHERE conname ~ '^of_(it|us)$'"
    with server.connect(database) as connection:
        run = connection.execute
        run(f"SET ROLE app_{database}; BEGIN".encode())
        run(taken_off(calling=calling))
        run("COMMIT")
        assert run(names).fetchone() == ("of_it, of_it",)
        run(put_back())
        assert run(names).fetchone() == ("of_it, of_it, of_us",)


ODD: Final = """
    CREATE ROLE {role};
    CREATE SCHEMA "Odd, one";
    ALTER ROLE {role} IN DATABASE {database} SET search_path = "Odd, one";
    CREATE FUNCTION "Odd, one".named(v text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT v || '!'$$;
    CREATE FUNCTION "Odd, one"."User"(v text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
        $$BEGIN RETURN named(v); END$$;
    SET search_path = "Odd, one";
    CREATE TABLE t (v text, w text GENERATED ALWAYS AS ("User"(v)) STORED);
    INSERT INTO t VALUES ('a');
"""


def test_names_are_found_where_roles_of_the_database_find_them(tmp_path: Path, server: Server) -> None:
    database = server.new_database()
    server.execute(database, ODD.format(role=f"app_{database}", database=database))
    sidecar = Sidecar.make(tmp_path, server, database)
    assert 'SET search_path = "Odd, one", pg_temp' in done(sidecar.run("create", "daily"))
    done(sidecar.run("drill", "latest"))
