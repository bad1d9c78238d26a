"""Databases that are not like the sample: places, encodings, new servers, names that are gone, other versions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.database import USER, Server, start_server
from tests.support.faults import docker
from tests.support.restoring import Target
from tests.support.sidecar import Sidecar

TABLES = """
    CREATE TABLE fast (a int PRIMARY KEY USING INDEX TABLESPACE {0}, b text) TABLESPACE {0};
    CREATE INDEX slow ON fast (b);
    CREATE TABLE parts (a int) PARTITION BY LIST (a) TABLESPACE {0};
    CREATE TABLE part PARTITION OF parts DEFAULT;
    CREATE MATERIALIZED VIEW seen TABLESPACE {0} AS SELECT 1 AS a;
    CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT '
SET default_tablespace = {0};

--
'::text $$;
    INSERT INTO fast VALUES (1, E'SET default_tablespace = {0};\\n\\n--\\n'); INSERT INTO parts VALUES (2);
"""
PLACES = """
    SELECT string_agg(relname || coalesce(' in ' || spcname, ''), ', ' ORDER BY relname COLLATE "C") FROM pg_class
      LEFT JOIN pg_tablespace t ON t.oid = reltablespace WHERE relnamespace = 'public'::regnamespace"""
DJANGO = "CREATE TABLE django_migrations (id int); CREATE TABLE documents (file varchar(200));\n"


def proof(sidecar: Sidecar, *options: str, **environment: str) -> dict[str, Any]:
    result = sidecar.run("drill", "latest", "--json", *options, **environment)
    assert result.code == 0, result.output
    found = result.json["proof"]
    assert found["differences"] == [], found
    return dict(found)


def restored(sidecar: Sidecar, which: str = "latest", *options: str) -> str:
    """Restore without a safety set; what was said."""
    result = sidecar.run("restore", which, "--force", "--no-safety", *options)
    assert result.code == 0, result.output
    return result.output


def discard(sidecar: Sidecar) -> None:
    assert sidecar.run("undo", "--discard", "--force").code == 0


@pytest.mark.one_version
def test_tablespaces(any_server: Server, tmp_path: Path) -> None:
    """The throw-away server has them; a server that has not takes the default one, and says so."""
    server, database = any_server, any_server.new_database()
    space = f'"fa""st {database}"'
    with server.connect() as connection:
        connection.execute("SET allow_in_place_tablespaces = on")
        connection.execute(f"CREATE TABLESPACE {space} LOCATION ''".encode())
    server.execute(database, TABLES.format(space))
    there = server.value(database, PLACES)
    sidecar = Sidecar.make(tmp_path, server, database)
    assert sidecar.run("create", "daily").code == 0
    proof(sidecar)
    assert "tablespace" not in restored(sidecar)
    assert server.value(database, PLACES) == there
    discard(sidecar)
    server.execute(database, "DROP TABLE fast, parts; DROP MATERIALIZED VIEW seen")
    server.execute("postgres", f"DROP TABLESPACE {space}")
    # In the plan, and at the end.
    assert restored(sidecar).count(f'no tablespace fa"st {database}: what was in it goes into the default one') == 2
    assert server.value(database, PLACES) == there.replace(f' in fa"st {database}', "")
    assert server.value(database, "SELECT b FROM fast").startswith(f"SET default_tablespace = {space};")
    assert f"SET default_tablespace = {space};" in server.value(database, "SELECT f()")
    file = tmp_path / "fast.sql"
    taken = sidecar.run("extract", "latest", "--table", "fast", "-o", str(file))
    assert taken.code == 0, taken.output
    other = server.new_database()
    server.load(other, file.read_bytes())
    assert server.value(other, "SELECT count(*) FROM fast") == 1


def new_database(server: Server, encoding: str, script: bytes) -> str:
    name = f"obcms_{encoding.lower()}"
    server.execute("postgres", f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    server.load(name, script)
    return name


def test_a_latin1_database_and_files_that_it_cannot_name(server: Server, tmp_path: Path) -> None:
    script = f"""SET client_encoding = 'UTF8';
    {DJANGO} INSERT INTO documents VALUES ('uploads/é.txt'), ('uploads/ü.txt'), ('uploads/a.txt');
    CREATE TABLE "Größe" (datei varchar(99)); INSERT INTO "Größe" VALUES ('straße/x');"""
    database = new_database(server, "LATIN1", script.encode())
    sidecar = Sidecar.make(tmp_path, server, database)
    uploads = sidecar.media / "uploads"
    for name in ("é.txt", "a – b.txt"):
        (uploads / name).write_text("x")
    (uploads / "ü.txt".encode("latin-1").decode(errors="surrogateescape")).write_text("named as it is held")
    (sidecar.media / "straße").mkdir()
    (sidecar.media / "straße" / "y").write_text("y")
    assert sidecar.run("create", "daily").code == 0
    files = proof(sidecar)["files"]
    assert files["columns"] == ["Größe.datei", "documents.file"], files
    assert (files["referenced"], files["missing"], files["listed"]) == (4, 1, ["Größe.datei: straße/x"])
    named = proof(sidecar, BACKUP_FILE_COLUMNS="documents.file,Größe.datei")
    assert named["files"] == files
    restored(sidecar, "latest", "--only", "database")
    assert server.value(database, "SELECT min(file) FROM documents WHERE file > 'uploads/b'") == "uploads/é.txt"
    discard(sidecar)


def test_a_database_without_an_encoding_and_a_byte_that_is_not_utf8(server: Server, tmp_path: Path) -> None:
    names = (b"1", b"2", b"3", "é".encode(), b"\xff")
    rows = b"".join(b"INSERT INTO documents VALUES ('uploads/%b.txt');\n" % name for name in names)
    database = new_database(server, "SQL_ASCII", DJANGO.encode() + rows)
    sidecar = Sidecar.make(tmp_path, server, database)
    for name in ("1", "2", "é"):
        (sidecar.media / "uploads" / f"{name}.txt").write_text("x")
    assert sidecar.run("create", "daily").code == 0
    files = proof(sidecar)["files"]
    assert (files["columns"], files["referenced"], files["missing"]) == (["documents.file"], 5, 2), files
    assert files["listed"] == ["documents.file: uploads/3.txt", r"documents.file: uploads/\xff.txt"]
    restored(sidecar, "latest", "--only", "database")
    held = "SELECT count(*) FROM documents WHERE position(decode('ff', 'hex') IN convert_to(file, 'SQL_ASCII')) > 0"
    assert server.value(database, held) == 1
    discard(sidecar)


@pytest.fixture(scope="module")
def fresh() -> Iterator[Server]:
    """A server whose image has just made the database."""
    server = start_server(17, "fresh", in_memory=True)
    yield server
    server.remove()


def settings(server: Server, database: str) -> list[object]:
    """What belongs to a database, and what the roles of the test are."""
    of_database = f"FROM pg_database d WHERE datname = '{database}'"
    queries = (
        f"SELECT (SELECT setconfig::text FROM pg_db_role_setting WHERE setdatabase = d.oid) {of_database}",
        f"SELECT datconnlimit {of_database}",
        f"SELECT shobj_description(oid, 'pg_database') {of_database}",
        f"SELECT has_database_privilege('public', '{database}', 'CONNECT')",
        f"SELECT pg_get_userbyid(datdba)::text {of_database}",
        "SELECT rolcreatedb::text || rolconnlimit || rolcanlogin FROM pg_roles WHERE rolname = 'fresh_clerk'",
        "SELECT setconfig::text FROM pg_db_role_setting WHERE setdatabase = 0 AND setrole = 'obcms_user'::regrole",
        "SELECT pg_has_role('fresh_clerk', 'fresh_staff', 'MEMBER')",
        "SELECT rolsuper FROM pg_roles WHERE rolname = 'obcms_user'",
    )
    return [server.value(database, query) for query in queries]


WANTED = [
    *('{"search_path=app, public"}', 7, "it's live", False, "fresh_clerk"),
    *("true3true", "{obcms.kind=set}", True, True),
]


@pytest.fixture(scope="module")
def configured(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a set whose database and roles have settings of their own."""
    server = servers(17)
    database = server.new_database()
    clerk = "CREATE ROLE fresh_clerk LOGIN CREATEDB CONNECTION LIMIT 3 PASSWORD 'old'"
    server.execute("postgres", f"CREATE ROLE fresh_staff; {clerk}; GRANT fresh_staff TO fresh_clerk")
    try:
        server.execute("postgres", "ALTER ROLE obcms_user SET obcms.kind = 'set'")
        server.execute(database, f"CREATE TABLE t (a int); ALTER DATABASE {database} SET search_path = app, public")
        server.execute(database, f"COMMENT ON DATABASE {database} IS 'it''s live'")
        server.execute(database, f"ALTER DATABASE {database} CONNECTION LIMIT 7")
        server.execute(database, f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        server.execute(database, f"ALTER DATABASE {database} OWNER TO fresh_clerk")
        assert settings(server, database) == WANTED
        sidecar = Sidecar.make(tmp_path_factory.mktemp("configured"), server, database)
        made = sidecar.run("create", "daily", "--only", "database")
        assert made.code == 0, made.output
        yield sidecar.sets()[0].directory
    finally:
        server.execute("postgres", "ALTER ROLE obcms_user RESET obcms.kind")
        server.execute("postgres", f"ALTER DATABASE {database} OWNER TO obcms_user")
        server.execute(database, "DROP OWNED BY fresh_clerk; DROP ROLE fresh_clerk; DROP ROLE fresh_staff")


def test_what_lives_keeps_its_own_and_what_is_new_gets_the_sets(
    fresh: Server, configured: Path, tmp_path: Path
) -> None:
    database, sidecar = "obcms_prod", Sidecar.make(tmp_path, fresh)
    fresh.execute("postgres", "CREATE ROLE fresh_clerk LOGIN PASSWORD 'new'; CREATE ROLE fresh_staff")
    digest = "SELECT rolpassword FROM pg_authid WHERE rolname = 'fresh_clerk'"
    password, own = fresh.value("postgres", digest), settings(fresh, database)

    fresh.execute(database, "CREATE TABLE lives (a int)")
    said = restored(sidecar, str(configured), "--only", "database")
    stays = "settings: those of the live database stay; the set has others: "
    assert said.count(stays) == 2, said
    for word in ("search_path", "its connection limit", "its comment", "its owner", "grants on it"):
        assert word in said.partition(stays)[2].partition("\n")[0], word
    assert said.count("role fresh_clerk: stays as it is here; the set differs in: CONNECTION LIMIT, CREATEDB") == 2
    assert settings(fresh, database) == own
    assert sidecar.run("undo", "--force").code == 0
    discard(sidecar)
    fresh.execute(database, "DROP TABLE lives")

    said = restored(sidecar, str(configured), "--only", "database")
    assert said.count("settings: those of the set, because nothing is in the database yet: ") == 2, said
    assert said.count("role fresh_clerk: becomes as it was, but for its password: CONNECTION LIMIT, CREATEDB") == 2
    assert said.count("role obcms_user: becomes as it was, but for its password: obcms.kind") == 2
    assert settings(fresh, database) == WANTED and fresh.value("postgres", digest) == password


# The number in a dump, as the database is set: 1.234,56 €. pg_dump writes it like that, and a constant of a definition.
MONEY = """
    CREATE TABLE paid (a int, sum money DEFAULT '7.5'::text::money, CHECK (sum < '2000.50'::money));
    INSERT INTO paid VALUES (1, '1234.56'), (2, '0.5'), (3, NULL);
    ALTER TABLE paid ALTER sum SET DEFAULT '7.5'::money;
    CREATE MATERIALIZED VIEW shown AS SELECT sum::text AS sum FROM paid WHERE a = 1;
"""


@pytest.mark.one_version
def test_sums_of_money_are_read_as_they_are_written(any_server: Server, tmp_path: Path) -> None:
    server, database = any_server, any_server.new_database()
    server.execute(database, MONEY)
    server.execute("postgres", f"ALTER DATABASE {database} SET lc_monetary = 'de_DE.utf8'")
    sidecar = Sidecar.make(tmp_path, server, database)
    assert sidecar.run("create", "daily").code == 0
    proof(sidecar)
    restored(sidecar)
    sums = "SELECT array_agg(sum::numeric::text ORDER BY a) FROM paid"
    assert server.value(database, sums) == ["1234.56", "0.50", None]
    server.execute(database, "INSERT INTO paid (a) VALUES (4)")
    assert server.value(database, "SELECT sum::numeric::text FROM paid WHERE a = 4") == "7.50"
    check = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'paid'::regclass AND contype = 'c'"
    assert "2.000,50 €" in server.value(database, check)
    discard(sidecar)
    file = tmp_path / "paid.sql"
    assert sidecar.run("extract", "latest", "--table", "paid", "-o", str(file)).code == 0
    other = server.new_database()
    server.execute("postgres", f"ALTER DATABASE {other} SET lc_monetary = 'de_DE.utf8'")
    server.load(other, file.read_bytes())
    assert server.value(other, sums) == ["1234.56", "0.50", None]


def test_an_owner_has_no_right_that_it_took_from_itself(server: Server, tmp_path: Path) -> None:
    database = server.new_database()
    server.execute("postgres", f"REVOKE CREATE, TEMPORARY ON DATABASE {database} FROM {USER}")
    sidecar = Sidecar.make(tmp_path, server, database)
    assert sidecar.run("create", "daily").code == 0
    proof(sidecar)
    grants = f"SELECT datacl::text FROM pg_database WHERE datname = '{database}'"
    there = server.value("postgres", grants)
    restored(sidecar)
    assert server.value("postgres", grants) == there and f"{USER}=c/{USER}" in there
    discard(sidecar)
    # Nothing is live: the set's own count.
    server.execute("postgres", f"DROP DATABASE {database} WITH (FORCE)")
    restored(sidecar)
    assert server.value("postgres", grants) == there


def test_settings_of_all_roles_are_missed_when_the_set_is_made(server: Server, sidecar: Sidecar) -> None:
    server.execute("postgres", "ALTER ROLE ALL SET obcms.shared = '1'")
    try:
        assert sidecar.run("create", "daily", "--only", "database").code == 0
    finally:
        server.execute("postgres", "ALTER ROLE ALL RESET obcms.shared")
    lost = "the setting obcms.shared of all roles"
    assert lost in sidecar.run("restore", "latest", "--dry-run").output
    assert lost in " ".join(sidecar.run("show", "latest").output.split())


def test_lists_of_settings_with_an_empty_name(any_server: Server, tmp_path: Path) -> None:
    """As it is recommended for functions and roles; the server stores it as it does not read it."""
    server, database = any_server, any_server.new_database()
    name = f"empty_path_{database}"
    server.execute("postgres", f"CREATE ROLE {name}; ALTER ROLE {name} SET search_path = ''")
    try:
        for setting in ("search_path = ''", "temp_tablespaces = ''"):
            server.execute("postgres", f"ALTER DATABASE {database} SET {setting}")
        odd = """'', 'a, "", b', "$user", public"""
        server.execute("postgres", f"ALTER ROLE {name} IN DATABASE {database} SET search_path = {odd}")
        query = f"""SELECT array_agg(setconfig::text ORDER BY setconfig::text) FROM pg_db_role_setting
            WHERE setrole::regrole::text IN ('-', '{name}') AND setdatabase IN
                (0, (SELECT oid FROM pg_database WHERE datname = '{database}'))"""
        there = server.value("postgres", query)
        sidecar = Sidecar.make(tmp_path, server, database)
        assert sidecar.run("create", "daily").code == 0
        assert not any("setting" in note for note in proof(sidecar)["notes"])
        assert server.value("postgres", query) == there and len(there) == 3
        assert "left out" not in restored(sidecar)
        assert server.value("postgres", query) == there
        discard(sidecar)
    finally:
        server.execute("postgres", f"DROP DATABASE {database} WITH (FORCE)")
        server.execute("postgres", f"DROP ROLE {name}")


def test_a_name_that_an_image_has_lost_holds_nothing_up(server: Server, sidecar: Sidecar) -> None:
    """As Debian's tzdata lost US/Pacific: the image of the throw-away server has no such zone, ours did for a while."""
    database, zone = sidecar.environment["DB_NAME"], "/usr/share/zoneinfo/US/Pacific"
    copy = f"mkdir -p {zone.rpartition('/')[0]}; cp /usr/share/zoneinfo/Asia/Manila {zone}"
    docker("exec", server.container.name, "sh", "-c", copy)
    try:
        server.execute(database, "CREATE TABLE t (a int); CREATE ROLE lost_zone; ALTER TABLE t OWNER TO lost_zone")
        for what in (f"DATABASE {database}", "ROLE lost_zone"):
            server.execute(database, f"ALTER {what} SET timezone = 'US/Pacific'")
        assert sidecar.run("create", "daily").code == 0
        docker("exec", server.container.name, "rm", zone)
        left_out = "refuses a setting, which is left out: ALTER "
        notes = " ".join(proof(sidecar)["notes"])
        assert notes.count(left_out) == 2 and "ROLE lost_zone SET" in notes and "'US/Pacific'" in notes, notes
        server.execute(database, "DROP TABLE t; DROP ROLE lost_zone; CREATE TABLE lives (a int)")
        said = restored(sidecar)
        assert said.count(left_out) == 2 and said.count("invalid value for parameter") == 2, said
        assert server.value(database, "SELECT tableowner::text FROM pg_tables WHERE tablename = 't'") == "lost_zone"
    finally:
        docker("exec", server.container.name, "rm", "-f", zone)
        server.execute(database, "DROP TABLE IF EXISTS t; DROP ROLE IF EXISTS lost_zone")


def test_logins_of_user_mappings_are_missed_when_the_set_is_made(server: Server, sidecar: Sidecar) -> None:
    database = sidecar.environment["DB_NAME"]
    server.execute(database, "CREATE ROLE mapper LOGIN PASSWORD 'x'; GRANT pg_read_all_data TO mapper")
    try:
        server.execute(database, "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER far FOREIGN DATA WRAPPER w")
        server.execute(database, "CREATE USER MAPPING FOR obcms_user SERVER far OPTIONS (password 'canary')")
        # Its own it may see.
        server.execute(database, "CREATE USER MAPPING FOR mapper SERVER far")
        server.execute(database, "GRANT USAGE ON FOREIGN SERVER far TO mapper")
        lost = "the options of the user mapping for obcms_user on the server far, such as its password"
        made = sidecar.run("create", "daily", "--only", "database", DB_USER="mapper", DB_PASSWORD="x")  # noqa: S106
        assert made.code == 0 and lost in made.output and "canary" not in made.output, made.output
        assert lost in sidecar.run("restore", "latest", "--dry-run").output
        assert lost in " ".join(sidecar.run("show", "latest").output.split())
        whole = sidecar.run("create", "daily", "--only", "database")
        assert whole.code == 0 and lost not in whole.output
    finally:
        server.execute(database, "DROP FOREIGN DATA WRAPPER w CASCADE; DROP OWNED BY mapper; DROP ROLE mapper")


def test_extensions_come_in_the_version_that_they_had_or_both_are_named(server: Server, tmp_path: Path) -> None:
    case = Target.make(tmp_path, server)
    server.execute(case.database, "CREATE EXTENSION pg_trgm VERSION '1.3'; CREATE EXTENSION hstore")
    case.create("weekly")
    version = "SELECT extversion FROM pg_extension WHERE extname = 'pg_trgm'"
    proof(case.sidecar)
    server.execute(case.database, "ALTER EXTENSION pg_trgm UPDATE")
    assert "another version" not in restored(case.sidecar, case.stored("weekly").id)
    assert server.value(case.database, version) == "1.3"

    def elsewhere(manifest: dict[str, Any]) -> None:
        manifest["database"]["versions"]["pg_trgm"] = "0.9"

    case.reseal(elsewhere, tier="weekly")
    said = restored(case.sidecar, case.stored("weekly").id)
    assert said.count("extensions differ in version from the set's: pg_trgm 0.9 becomes 1.6") == 2, said
    assert server.value(case.database, version) == "1.6"
    server.execute(case.database, "UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'pg_trgm'")
    made = case.sidecar.run("create", "monthly")
    assert "pg_trgm is of version 0.9, which this server can no longer create" in made.output, made.output
    discard(case.sidecar)
