"""What is kept of a client's words, and what is advised: by the cause, and a new set only where it would be another."""

from __future__ import annotations

import pytest

from backup.postgres.client_errors import hint_for, shown_error, sqlstate

BODY = "\n".join(f"  -- line {number} of a long function" for number in range(400))
SLUG = f"""\
psql:/spool/0123456789ab.x.fifo:9: NOTICE:  00000: extension "plpgsql" already exists, skipping
LOCATION:  CreateExtension, extension.c:1000
psql:/spool/0123456789ab.x.fifo:99: ERROR:  42883: function unaccent(text) does not exist
LINE 1: lower(unaccent(v))
              ^
HINT:  No function matches the given name and argument types. You might need to add explicit type casts.
QUERY:  lower(unaccent(v)){BODY}
CONTEXT:  PL/pgSQL function public.slug(text) line 1 at RETURN
COPY page, line 1: "Ein Übergang\t\\N"
LOCATION:  ParseFuncOrColumn, parse_func.c:629
"""
ORPHAN = """\
psql:x:7: ERROR:  23503: insert or update on table "child" violates foreign key constraint "child_parent_fkey"
DETAIL:  Key (parent)=(51) is not present in table "parent".
SCHEMA NAME:  public
CONSTRAINT NAME:  child_parent_fkey
LOCATION:  ri_ReportViolation, ri_triggers.c:2609
"""
DUMPING = """\
pg_dump: warning: there are circular foreign-key constraints on this table:
pg_dump: error: Dumping the contents of table "t" failed: PQgetResult() failed.
pg_dump: detail: Error message from server: ERROR:  invalid page in block 7 of relation base/5/16384
pg_dump: detail: Command was: COPY public.t (a) TO stdout;
"""


def test_the_error_and_its_context_are_kept_and_long_queries_and_hints_are_not() -> None:
    assert shown_error(SLUG) == (
        "ERROR:  function unaccent(text) does not exist; CONTEXT:  PL/pgSQL function public.slug(text) line 1 at RETURN"
    )
    assert sqlstate(SLUG) == "42883" and sqlstate("psql: error: connection lost") == ""
    assert shown_error(ORPHAN).endswith('DETAIL:  Key (parent)=(51) is not present in table "parent".')
    assert shown_error("psql:f:1: FEHLER:  42P01: Relation »t« existiert nicht\nTIPP:  keiner").startswith(
        "FEHLER:  Relation"
    )
    assert (
        'table "t" failed' in shown_error(DUMPING)
        and "invalid page" in shown_error(DUMPING)
        and "COPY" not in shown_error(DUMPING)
    )
    assert shown_error("a\nb\n\x1b[31mc") == "a; b; \\x1b[31mc" and shown_error(" \n") == "no message"
    assert len(shown_error("psql:x:1: ERROR:  22023: " + "x" * 10_000)) < 500


@pytest.mark.parametrize(
    ("said", "words", "new_set"),
    [
        ("ERROR:  57014: canceling statement due to statement timeout", "limit statement_timeout ended it", False),
        ("ERROR:  55P03: canceling statement due to lock timeout", "see pg_locks", False),
        ("FATAL:  25P04: terminating connection due to transaction timeout", "transaction_timeout ended it", False),
        ("FATAL:  terminating connection due to idle-session timeout", "idle_session_timeout ended it", False),
        ("ERROR:  57014: canceling statement due to user request", "pg_cancel_backend", False),
        (SLUG, "ALTER FUNCTION public.slug(text) SET search_path", True),
        (ORPHAN, 'constraint "child_parent_fkey": correct them in the live database', True),
        ('ERROR:  role "a ""b" does not exist', 'CREATE ROLE "a ""b")', False),
        ('ERROR:  42704: tablespace "fast" does not exist', 'CREATE TABLESPACE "fast"', False),
        ('ERROR:  0A000: extension "postgis" is not available', "--image", False),
        ("ERROR:  timescaledb must be loaded via shared_preload_libraries", "shared_preload_libraries", False),
        ("ERROR:  22012: division by zero", "Code of the database", True),
        ("ERROR:  42601: syntax error at or near \"x\"", "the set's own version", False),
        ("ERROR:  53100: could not extend file: No space left on device", "disk of the database server", False),
        ('ERROR:  42501: permission denied to create extension "x"', "superuser", False),
        ("ERROR:  57P01: whatever", "own log", False),
        ('ERROR:  F0000: could not open synonym file "y.syn": No such file or directory', "which no dump holds", False),
        ('ERROR:  58P01: could not access file "$libdir/x": No such file or directory', "which no dump holds", False),
        ('ERROR:  58P01: could not open file "base/5/9": No such file or directory', "own log", False),
        ('ERROR:  42501: permission denied to change owner of event trigger "e"', 'Only a superuser can own "e"', True),
        ("ERROR:  42501: permission denied for schema public", "as another role, which has lost the right", True),
    ],
)  # fmt: skip
def test_the_remedy_fits_the_cause_of_a_load_that_failed(said: str, words: str, new_set: bool) -> None:
    told = hint_for(said, loading=True)
    assert words in told and ("`create` takes" in told) is new_set


def test_what_a_load_is_told_is_not_told_of_a_dump() -> None:
    assert hint_for('ERROR:  relation "gone" does not exist') == "The database's own log may say more."
    waited = "canceling statement due to statement timeout\npg_dump: detail: Query was: LOCK TABLE public.big IN"
    assert "is locked" in hint_for(waited) and "BACKUP_LOCK_TIMEOUT" in hint_for(waited)
    assert "BYPASSRLS" in hint_for("ERROR:  query would be affected by row-level security policy")
    assert r"`\drds` in psql" in hint_for("ERROR:  permission denied for table t")
