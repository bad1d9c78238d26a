"""A roles file is taken apart as the server would read it, and nothing foreign in it is let through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.errors import IntegrityError
from backup.postgres.roles import Roles, is_setting, retarget

HEAD = """--
-- PostgreSQL database cluster dump
--

\\restrict abcDEF0123

SET default_transaction_read_only = off;

SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;

"""
TAIL = "\n\n\\unrestrict abcDEF0123\n\n--\n-- PostgreSQL database cluster dump complete\n--\n\n"
BODY = r"""
CREATE ROLE app;
ALTER ROLE app WITH NOSUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$4096:a;b--c$d' VALID UNTIL '2030-01-01 00:00:00+00';
COMMENT ON ROLE app IS 'it''s; a \';
CREATE ROLE boss;
ALTER ROLE boss WITH SUPERUSER;
CREATE ROLE reader;
ALTER ROLE reader WITH NOSUPERUSER CONNECTION LIMIT -1;
ALTER ROLE reader SET search_path TO 'a', 'b c';
SECURITY LABEL FOR "dum my" ON ROLE reader IS E'x\'; DROP';
GRANT pg_monitor TO app GRANTED BY boss;
GRANT reader TO app WITH ADMIN OPTION, INHERIT TRUE GRANTED BY boss;
GRANT reader TO boss WITH INHERIT TRUE GRANTED BY app;
GRANT SET ON PARAMETER work_mem TO app WITH GRANT OPTION;
SET SESSION AUTHORIZATION app;
GRANT SET ON PARAMETER work_mem TO reader;
RESET SESSION AUTHORIZATION;
GRANT ALTER SYSTEM ON PARAMETER "obcms.foo" TO PUBLIC;
"""
SETTINGS = """-- Settings of the database itself
ALTER DATABASE live OWNER TO app;
ALTER DATABASE live CONNECTION LIMIT 77;
COMMENT ON DATABASE live IS E'a\\\\b\n-- c';
REVOKE ALL ON DATABASE live FROM PUBLIC;
GRANT CONNECT, CREATE ON DATABASE live TO reader WITH GRANT OPTION;
GRANT TEMPORARY ON DATABASE live TO PUBLIC;
ALTER DATABASE live SET search_path TO "$user", public;
ALTER ROLE app IN DATABASE live SET work_mem TO '7MB';
"""
FILE = HEAD + BODY + TAIL + SETTINGS
names = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=20)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def test_nothing_is_made_where_all_roles_exist() -> None:
    roles = Roles.parse(FILE)
    assert roles.names == ("app", "boss", "reader")
    assert roles.missing({"app", "boss", "reader"}) == [] and roles.script({"app", "boss", "reader", "x"}, "boss") == []


def test_only_what_concerns_missing_roles_is_run() -> None:
    roles = Roles.parse(FILE)
    assert roles.missing({"app", "boss"}) == ["reader"]
    made = roles.script({"app", "boss"}, "boss")
    assert made[3:] == [
        "CREATE ROLE reader;",
        "ALTER ROLE reader WITH NOSUPERUSER CONNECTION LIMIT -1;",
        "ALTER ROLE reader SET search_path TO 'a', 'b c';",
        "SECURITY LABEL FOR \"dum my\" ON ROLE reader IS E'x\\'; DROP';",
        "GRANT reader TO app WITH ADMIN OPTION, INHERIT TRUE;",
        "GRANT reader TO boss WITH INHERIT TRUE GRANTED BY app;",
        "SET SESSION AUTHORIZATION app;\nGRANT SET ON PARAMETER work_mem TO reader;\nRESET SESSION AUTHORIZATION;",
    ]
    assert all(line.startswith("SET ") for line in made[:3])


def test_a_membership_of_a_role_that_exists_is_granted_by_whoever_restores() -> None:
    made = Roles.parse(FILE).script({"reader", "boss"}, "boss")
    assert "GRANT reader TO app WITH ADMIN OPTION, INHERIT TRUE;" in made and "GRANT pg_monitor TO app;" in made
    assert not any("TO boss" in line or "ALTER ROLE reader" in line for line in made)


def test_a_new_cluster_gets_all_but_its_first_role() -> None:
    made = Roles.parse(FILE).for_new_cluster("boss")
    assert "CREATE ROLE boss;" not in made and "ALTER ROLE boss WITH SUPERUSER;" in made
    assert "CREATE ROLE app;" in made and "GRANT reader TO app WITH ADMIN OPTION, INHERIT TRUE GRANTED BY boss;" in made
    assert not any("DATABASE" in line or "restrict" in line for line in made)


def test_settings_move_to_another_database() -> None:
    made = Roles.parse(FILE).database_settings("live", 'n"ew')
    assert len(made) == 8 and all(' "n""ew" ' in line for line in made)
    assert 'ALTER ROLE app IN DATABASE "n""ew" SET work_mem TO \'7MB\';' in made
    with pytest.raises(IntegrityError, match="not about the database 'other'"):
        Roles.parse(FILE).database_settings("other", "x")


def test_an_empty_name_in_a_list_is_for_the_server_to_refuse() -> None:
    statements = ['ALTER DATABASE x SET search_path TO "", public;', "ALTER DATABASE x SET search_path TO '';"]
    assert [is_setting(each) for each in statements] == [True, True]
    assert retarget(statements, "x", "y") == [each.replace("DATABASE x", 'DATABASE "y"') for each in statements]


@given(names, names, names)
def test_names_of_any_kind_are_one_token(role: str, source: str, target: str) -> None:
    statements = [
        f"ALTER DATABASE {quoted(source)} OWNER TO {quoted(role)};",
        f"ALTER ROLE {quoted(role)} IN DATABASE {quoted(source)} SET {quoted(target)} TO 'x';",
        f"GRANT CONNECT ON DATABASE {quoted(source)} TO {quoted(role)};",
    ]
    assert retarget(statements, source, target) == [
        f"ALTER DATABASE {quoted(target)} OWNER TO {quoted(role)};",
        f"ALTER ROLE {quoted(role)} IN DATABASE {quoted(target)} SET {quoted(target)} TO 'x';",
        f"GRANT CONNECT ON DATABASE {quoted(target)} TO {quoted(role)};",
    ]
    parsed = Roles.parse(f"{HEAD}CREATE ROLE {quoted(role)};\nGRANT {quoted(role)} TO {quoted(target)};{TAIL}")
    assert parsed.names == (role,) and parsed.statements[1].roles == (role, target)


@given(st.text(st.sampled_from("'\\;\n-x"), max_size=12))
def test_strings_end_where_the_server_ends_them(value: str) -> None:
    plain = "'" + value.replace("'", "''") + "'"
    escaped = "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
    for text in (plain, escaped, f"$x${value}$x$"):
        (one, two) = Roles.parse(f"COMMENT ON ROLE a IS {text};\nCREATE ROLE b;").statements
        assert one.text == f"COMMENT ON ROLE a IS {text};" and two.roles == ("b",)
    off = f"SET standard_conforming_strings = off;\nCOMMENT ON ROLE a IS {escaped[1:]};CREATE ROLE b;"
    assert [each.roles for each in Roles.parse(off).statements] == [("a",), ("b",)]


@pytest.mark.parametrize(
    "foreign",
    [
        "DROP TABLE x;",
        "COPY x FROM PROGRAM 'id';",
        "CREATE ROLE x; \\! id\n",
        "CREATE ROLE x\n\\restrict a\n;",
        "CREATE ROLE x",
        "CREATE ROLE :x;",
        'CREATE ROLE "";',
        'CREATE ROLE U&"x";',
        "CREATE /* */ ROLE x;",
        "GRANT a ON TABLE x TO y;",
        "GRANT ALL ON DATABASE a, b TO y;",
        "ALTER DATABASE x SET TABLESPACE y;",
        "ALTER ROLE ALL RESET ALL;",
        "SET ROLE x;",
        "SET SESSION AUTHORIZATION x; CREATE ROLE y; RESET SESSION AUTHORIZATION;",
        "SET SESSION AUTHORIZATION x; GRANT SET ON PARAMETER a TO b;",
        "COMMENT ON ROLE a IS 'x",
        "CREATE ROLE a\0b;",
        ";",
    ],
)
def test_anything_else_is_refused(foreign: str) -> None:
    with pytest.raises(IntegrityError, match="roles file cannot be used"):
        Roles.parse(HEAD + "CREATE ROLE first;\n" + foreign)


def test_a_refusal_shows_no_password() -> None:
    with pytest.raises(IntegrityError) as caught:
        Roles.parse("ALTER ROLE x PASSWORD 'canary-secret';")
    assert "canary" not in caught.value.message and "ALTER ROLE x" in caught.value.message


def test_names_without_quotes_are_lower_case() -> None:
    assert Roles.parse('CREATE ROLE App; CREATE ROLE "App"; CREATE ROLE Ärger$1;').names == ("app", "App", "Ärger$1")
