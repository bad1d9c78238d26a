"""Texts in a database that look like what a dump says of itself, and dumps made with other options than ours."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_databases import discard, proof
from tests.support.database import USER, Server
from tests.support.sidecar import Sidecar

ODD = r"""
\restrict abc
\unrestrict abc
\connect other
SET default_tablespace = nowhere;

--
-- TOC entry 215 (class 1259 OID 16386)
-- Dependencies: 3
-- Name: fake; Type: INDEX; Schema: public; Owner: nobody
--

ALTER TABLE fake OWNER TO nobody;
COPY public.fake (a) FROM stdin;
1
\.

-- Started on 2020-01-01
-- Completed on 2020-01-01

--
-- PostgreSQL database dump complete
--

\unrestrict abc
"""
SEED = """
    CREATE FUNCTION said() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN $t${0}$t$; END $f$;
    CREATE TABLE held (a int PRIMARY KEY, b text DEFAULT '{0}', c text DEFAULT said());
    INSERT INTO held SELECT i, '{0}' || i FROM generate_series(1, 3) i;
    CREATE INDEX other ON held (c);
    COMMENT ON TABLE held IS '{0}';
    COMMENT ON INDEX other IS '{0}';
    CREATE VIEW seen AS SELECT a, '{0}'::text AS b FROM held;
    CREATE TABLE parts (a int) PARTITION BY LIST (a);
    CREATE TABLE part PARTITION OF parts DEFAULT;
    CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
    INSERT INTO parts VALUES (1), (2), (3);
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TABLE moods (a mood) PARTITION BY HASH (a);
    CREATE TABLE mood_0 PARTITION OF moods FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE mood_1 PARTITION OF moods FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    INSERT INTO moods VALUES ('good'), ('bad'), ('bad');
    CREATE TABLE refers (a int REFERENCES held, g int GENERATED ALWAYS AS IDENTITY);
    INSERT INTO refers VALUES (1), (2);
    ALTER TABLE refers ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON refers USING (a > 0);
    SELECT lo_from_bytea(0, 'an object');
"""
STATE = """
    SELECT concat_ws('|', (SELECT prosrc FROM pg_proc WHERE proname = 'said'), obj_description('held'::regclass),
        obj_description('other'::regclass), pg_get_viewdef('seen'::regclass), said(),
        (SELECT string_agg(pg_get_expr(adbin, adrelid), ',' ORDER BY adrelid, adnum) FROM pg_attrdef),
        (SELECT string_agg(h::text, ',' ORDER BY a) FROM held h),
        (SELECT string_agg(p.tableoid::regclass::text || p::text, ',' ORDER BY a) FROM parts p),
        (SELECT string_agg(m::text, ',' ORDER BY a) FROM moods m),
        (SELECT string_agg(r::text, ',' ORDER BY a) FROM refers r),
        (SELECT string_agg(tablename, ',' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'),
        (SELECT string_agg(encode(lo_get(oid), 'escape'), '') FROM pg_largeobject_metadata))
"""
CLEAR = """
    DROP TABLE refers, parts, moods, held CASCADE; DROP TYPE mood; DROP FUNCTION said();
    SELECT lo_unlink(oid) FROM pg_largeobject_metadata
"""
OPTIONS = {
    "verbose": ("--verbose",),
    "verbose restored": ("-Fc", "--verbose"),
    "inserts": ("--inserts", "--rows-per-insert=2", "--verbose"),
    "columns": ("--column-inserts",),
    "clean": ("--clean", "--if-exists", "--quote-all-identifiers"),
    "roots": ("--load-via-partition-root", "--disable-triggers", "--enable-row-security"),
    "authorization": ("--use-set-session-authorization", "--clean"),
    "strings": ("--disable-dollar-quoting", "--no-owner"),
}


def state(server: Server, database: str) -> Any:
    return server.value(database, STATE)


def dumped(server: Server, database: str, *options: str) -> bytes:
    """What the server's own pg_dump makes of a database; the custom format as its pg_restore writes it."""

    def run(*words: str, given: bytes = b"") -> bytes:
        command = ["docker", "exec", "-i", server.container.id, *words]
        return subprocess.run(command, input=given, capture_output=True, check=True).stdout

    made = run("pg_dump", "-U", USER, "-h", "127.0.0.1", *options, database)
    return run("pg_restore", "-f", "-", "--verbose", given=made) if made.startswith(b"PGDMP") else made


def test_what_looks_like_a_dump_within_a_set_comes_back_as_it_was(any_server: Server, tmp_path: Path) -> None:
    server, database = any_server, any_server.new_database()
    server.execute(database, SEED.format(ODD))
    before, sidecar = state(server, database), Sidecar.make(tmp_path, server, database)
    made = sidecar.run("create", "daily", "--only", "database")
    assert made.code == 0, made.output
    assert sidecar.run("verify", "latest").code == 0
    proof(sidecar)
    server.execute(database, CLEAR)
    done = sidecar.run("restore", "latest", "--force", "--no-safety")
    assert done.code == 0 and state(server, database) == before, done.output
    discard(sidecar)


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_dump_of_any_options_is_loaded_as_it_is(server: Server, tmp_path: Path, kind: str) -> None:
    database = server.new_database()
    server.execute(database, SEED.format(ODD))
    before, sidecar, file = state(server, database), Sidecar.make(tmp_path, server, database), tmp_path / "theirs.sql"
    file.write_bytes(dumped(server, database, *OPTIONS[kind]))
    checked = sidecar.run("verify", str(file))
    assert checked.code == 0 and "commands for psql" not in checked.output, checked.output
    drilled = sidecar.run("drill", str(file), "--json")
    assert drilled.code == 0 and drilled.json["proof"]["differences"] == [], drilled.output
    server.execute(database, CLEAR)
    done = sidecar.run("restore", str(file), "--force", "--no-safety")
    assert done.code == 0 and state(server, database) == before, done.output
    discard(sidecar)
    taken = sidecar.run("extract", str(file), "--table", "held", "-o", str(tmp_path / "held.sql"))
    assert taken.code == 0, taken.output
    other = server.new_database()
    server.load(other, (tmp_path / "held.sql").read_bytes())
    query = (
        "SELECT string_agg(h::text, ',' ORDER BY a) || (SELECT prosrc FROM pg_proc WHERE proname = 'said') FROM held h"
    )
    assert server.value(other, query) == server.value(database, query)
