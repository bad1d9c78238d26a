"""Roles of a set against those of a server: what is not the same, and what makes it so."""

from __future__ import annotations

from backup.postgres.role_states import aligning, differing, subjects
from backup.postgres.roles import Roles, is_setting

SET = Roles.parse(
    """
CREATE ROLE app;
ALTER ROLE app WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 5"""
    """ PASSWORD 'secret''s' VALID UNTIL '2030-01-01 08:00:00+08';
ALTER ROLE app SET search_path TO 'a', 'b c';
ALTER ROLE app SET statement_timeout TO '1min';
COMMENT ON ROLE app IS 'it''s';
CREATE ROLE "Staff";
ALTER ROLE "Staff" WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
GRANT "Staff" TO app GRANTED BY boss;
CREATE ROLE gone;
ALTER DATABASE live OWNER TO app;
ALTER DATABASE live SET search_path TO "$user", public;
ALTER ROLE app IN DATABASE live SET work_mem TO '7MB';
GRANT CONNECT ON DATABASE live TO app;
"""
)
SAME = """
CREATE ROLE app;
ALTER ROLE app WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 5"""
SAME += """ VALID UNTIL '2030-01-01 00:00:00+00';
ALTER ROLE app SET search_path TO a, "b c";
ALTER ROLE app SET statement_timeout TO '1min';
COMMENT ON ROLE app IS E'it''s';
CREATE ROLE "Staff";
ALTER ROLE "Staff" WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS
    CONNECTION LIMIT -1;
GRANT "Staff" TO app;
"""


def test_the_same_in_other_words_is_no_difference() -> None:
    assert differing(SET, Roles.parse(SAME.replace("E'it''s'", "'it''s'"))) == {}


def test_what_differs_is_named_role_by_role_and_without_values() -> None:
    here = Roles.parse(
        """CREATE ROLE app;
        ALTER ROLE app WITH SUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN NOREPLICATION NOBYPASSRLS;
        CREATE ROLE "Staff"; ALTER ROLE "Staff" WITH LOGIN CONNECTION LIMIT 3; CREATE ROLE other;"""
    )
    found = differing(SET, here)
    assert set(found) == {"app", "Staff"}
    assert set(found["app"]) == {
        *("SUPERUSER", "CONNECTION LIMIT", "VALID UNTIL", "search_path", "statement_timeout", "comment"),
        "member of Staff",
    }
    assert "CONNECTION LIMIT" in found["Staff"] and "LOGIN" in found["Staff"]


def test_roles_become_what_they_were_but_for_passwords_and_those_at_work_lose_nothing() -> None:
    made = aligning(SET, ("app", "Staff"), {"Staff"})
    assert not [each for each in made if "PASSWORD" in each or "secret" in each or "DATABASE" in each or "gone" in each]
    assert "ALTER ROLE app SET search_path TO 'a', 'b c';" in made and "COMMENT ON ROLE app IS 'it''s';" in made
    assert 'GRANT "Staff" TO app;' in made
    app, staff = (each for each in made if " WITH " in each)
    assert "NOSUPERUSER" in app and "LOGIN" in app and "CONNECTION LIMIT 5" in app
    assert staff == 'ALTER ROLE "Staff" WITH INHERIT CONNECTION LIMIT -1;'


def test_what_concerns_a_database_is_said_in_words() -> None:
    about = [each for each in SET.statements if each.database]
    assert subjects(about) == ["its owner", "search_path", "work_mem", "grants on it"]


def test_a_setting_is_a_single_statement_that_sets_a_parameter() -> None:
    assert is_setting("ALTER DATABASE live SET timezone TO 'US/Pacific';")
    assert is_setting("ALTER ROLE \"a SET b\" IN DATABASE live SET work_mem TO '1MB';")
    for other in ("ALTER DATABASE live OWNER TO app;", "CREATE ROLE app;", "ALTER ROLE app WITH LOGIN;", "SELECT 'x"):
        assert not is_setting(other)
    assert not is_setting("ALTER ROLE app SET work_mem TO '1MB'; CREATE ROLE other;")
