"""A database with one of everything (in SQL), ways to damage a copy of it, and what a plain dump does not keep."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from psycopg import sql

from tests.support.database import Server

SCRIPT: Final = Path(__file__).with_name("sample_schema.sql")
# Without these the dump's text depends on settings of the database or of the role that dumps, which pg_dump leaves be.
PINNED: Final = {"PGTZ": "UTC", "PGOPTIONS": "-c bytea_output=hex -c quote_all_identifiers=off -c array_nulls=on"}

# name: (one statement for a copy, what a report of the difference must mention, in lower case)
DAMAGES: Final[dict[str, tuple[str, str]]] = {
    "a row": ("DELETE FROM public.app_case WHERE id = 1", "public.app_case"),
    "a row changed": ("UPDATE public.app_case SET added = 'slow' WHERE id = 2", "public.app_case"),
    "an empty string for NULL": ("UPDATE app.text_values SET t = '' WHERE t IS NULL AND c = ''", "app.text_values"),
    "a row of no columns": ("DELETE FROM app.nothing WHERE ctid = '(0,1)'", "app.nothing"),
    "a row of a partition": ("DELETE FROM app.log_2024 WHERE id % 7 = 0 AND id < 500", "app.log_2024"),
    "rows of an unlogged table": ("DELETE FROM app.unlogged_table", "app.unlogged_table"),
    "the last digit of a float": (
        "UPDATE app.number_values SET d = 0.3 WHERE d = 0.30000000000000004",
        "app.number_values",
    ),
    "a minus zero": ("UPDATE app.number_values SET d = 0 WHERE d::text = '-0'", "app.number_values"),
    "an index": ("DROP INDEX public.case_brin", "case_brin"),
    "an index's options": ("ALTER INDEX public.case_brin2 RESET (pages_per_range)", "case_brin2"),
    "a constraint": ("ALTER TABLE app.booking DROP CONSTRAINT no_overlap", "no_overlap"),
    "a constraint made valid": ("ALTER TABLE public.app_person VALIDATE CONSTRAINT unchecked", "unchecked"),
    "a grant": ("REVOKE SELECT ON public.app_case FROM PUBLIC", "app_case"),
    "a grant on a function": ("GRANT EXECUTE ON FUNCTION app.definer() TO PUBLIC", "definer"),
    "a table's owner": ("ALTER TABLE public.app_case OWNER TO CURRENT_USER", "app_case"),
    "a sequence's value": ("SELECT setval('app.lonely', 3)", "app.lonely"),
    "a sequence's step": ("ALTER SEQUENCE app.untouched INCREMENT BY 2", "app.untouched"),
    "a large object's bytes": ("SELECT lo_put(4100002, 2000000, 'x')", "4100002"),
    "a large object": ("SELECT lo_unlink(4100004)", "4100004"),
    "a large object's comment": ("COMMENT ON LARGE OBJECT 4100002 IS NULL", "4100002"),
    "a large object's grant": ("REVOKE SELECT ON LARGE OBJECT 4100002 FROM PUBLIC", "4100002"),
    "a large object's owner": ("ALTER LARGE OBJECT 4100003 OWNER TO CURRENT_USER", "4100003"),
    "a comment": ("COMMENT ON COLUMN public.app_case.title IS 'tab here'", "app_case.title"),
    "a policy": ("DROP POLICY all_of_them ON public.app_person", "all_of_them"),
    "row security": ("ALTER TABLE public.app_case NO FORCE ROW LEVEL SECURITY", "app_case"),
    "a trigger disabled": ("ALTER TABLE public.app_case DISABLE TRIGGER before_row", "before_row"),
    "an event trigger enabled": ("ALTER EVENT TRIGGER replica_drop ENABLE", "replica_drop"),
    "a rule": ("DROP RULE never ON app.empty_table", "never"),
    "a default privilege": ("ALTER DEFAULT PRIVILEGES IN SCHEMA app REVOKE SELECT ON TABLES FROM PUBLIC", "default"),
    "a column's default": ("ALTER TABLE public.app_case ALTER COLUMN added SET DEFAULT 'slow'", "app_case"),
    "a column": ("ALTER TABLE app.typed NOT OF", "app.typed"),
    "an enum's label": ("ALTER TYPE app.mood RENAME VALUE 'last' TO 'lost'", "app.mood"),
    "a domain's check": ("ALTER DOMAIN app.positive DROP CONSTRAINT below", "app.positive"),
    "a function's body": (
        "CREATE OR REPLACE FUNCTION app.overloaded(integer) RETURNS integer LANGUAGE sql AS 'SELECT 9'",
        "app.overloaded(",
    ),
    "a view": ("ALTER VIEW public.open_cases RESET (security_barrier)", "public.open_cases"),
    "a materialised view's rows": ("REFRESH MATERIALIZED VIEW app.on_top WITH NO DATA", "app.on_top"),
    "an extension": ("DROP EXTENSION pg_stat_statements", "pg_stat_statements"),
    "extended statistics": ("DROP STATISTICS app.together", "app.together"),
    "a publication": ("ALTER PUBLICATION chosen DROP TABLE ONLY app.parent", "chosen"),
    "a user mapping": ('DROP USER MAPPING FOR PUBLIC SERVER "far ""away"""', "user mapping"),
    "a partition": ("ALTER TABLE app.log DETACH PARTITION app.log_2024", "log_2024"),
    "a collation": ("ALTER COLLATION app.folded RENAME TO unfolded", "app.folded"),
    "clustering": ("ALTER TABLE public.app_case SET WITHOUT CLUSTER", "app_case"),
    "a storage setting": ("ALTER TABLE public.app_case ALTER COLUMN body SET STORAGE MAIN", "app_case"),
}

# What one restore writes differently although nothing is lost: name: statements for a database of its own.
UNSTABLE: Final[dict[str, str]] = {
    "the order of rows of varying width": "CREATE TABLE t AS SELECT i, repeat('x' || i, i % 40) AS t "
    "FROM generate_series(1, 5000) i; DELETE FROM t WHERE i % 50 = 7; UPDATE t SET t = t || t WHERE i % 40 = 3",
    "varchar IN (...) of a check": "CREATE TABLE t (s varchar(9) CHECK (s IN ('a', 'b')))",
    "varchar IN (...) of an index": "CREATE TABLE t (s varchar(9)); CREATE INDEX i ON t (s) WHERE s IN ('a', 'b')",
    "varchar IN (...) of a view": "CREATE TABLE t (s varchar(9)); CREATE VIEW v AS SELECT 1 AS a FROM t WHERE "
    "s NOT IN ('a', 'b')",
    "an unnamed constant in BEGIN ATOMIC": "CREATE FUNCTION f() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT 'a'; END",
    "a column added to a parent after the child's own": "CREATE TABLE p (a int); CREATE TABLE c (own int) "
    "INHERITS (p); ALTER TABLE p ADD COLUMN b int; INSERT INTO c VALUES (1, 2, 3)",
    "hash partitions by an enum": "CREATE TYPE e AS ENUM ('a','b','c','d','e','f','g','h','i','j','k','l','m','n'); "
    "CREATE TABLE t (k e) PARTITION BY HASH (k);"
    "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
    "CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1); "
    "INSERT INTO t SELECT unnest(enum_range(NULL::e))",
}

# What a strict load into an empty database refuses although `--clean --if-exists` wrote it.
REFUSED: Final[dict[str, str]] = {
    "ALTER DOMAIN without IF EXISTS": "CREATE SCHEMA s; CREATE DOMAIN s.d AS int; "
    "ALTER DOMAIN s.d ADD CONSTRAINT c CHECK (VALUE > 0) NOT VALID",
    "CREATE OR REPLACE VIEW before its schema": "CREATE SCHEMA s; CREATE TABLE s.t (a int PRIMARY KEY, b int); "
    "CREATE VIEW s.v AS SELECT a, b FROM s.t GROUP BY a",
    "a refresh under forced row security": "CREATE TABLE t (a int); GRANT ALL ON SCHEMA public TO PUBLIC; "
    "CREATE MATERIALIZED VIEW m AS SELECT a FROM t; ALTER TABLE t ENABLE ROW LEVEL SECURITY; "
    "GRANT SELECT ON t TO pg_monitor; ALTER MATERIALIZED VIEW m OWNER TO pg_monitor",
}

NOT_CARRIED: Final = (
    "rows of foreign tables (they stay on the other server)",
    "the rows of a materialised view as they were: it is computed again",
    "settings, comment, owner, grants, connection limit, encoding and locale of the database itself",
    "settings of a role for one database (ALTER ROLE ... IN DATABASE)",
    "whether the schema public was dropped: a new database has it",
    "the order of rows in a table, dropped columns' places, and free space",
    "planner statistics (ANALYZE makes them again), counters and the contents of pg_stat_statements",
    "the version of a collation an index was built with",
    "whether a subscription was enabled, its slot and its progress",
    "numbers of objects (oid) except those of large objects; replication slots and prepared transactions",
)


def roles(prefix: str = "ks") -> list[str]:
    """The names of the fixture's roles."""
    plain = [f"{prefix}_{name}" for name in ("owner", "app", "reader", "granter")]
    return [*plain, f"{prefix} Odd \"Röle\" 'x' \\ "]


def fill(server: Server, database: str, prefix: str = "ks") -> None:
    """Make everything in an empty database. The roles may exist; `prefix` is letters and digits."""
    server.load(database, f"\\set prefix {prefix}\n".encode() + SCRIPT.read_bytes())


def drop_roles(server: Server, prefix: str = "ks") -> None:
    """The roles, once no database holds anything of theirs."""
    names = sql.SQL(", ").join(map(sql.Identifier, roles(prefix)))
    with server.connect() as connection:
        connection.execute(sql.SQL("DROP OWNED BY {}").format(names))
        connection.execute(sql.SQL("DROP ROLE {}").format(names))


def drop(server: Server, database: str, prefix: str = "ks") -> None:
    """The database and the roles; drop copies first, they hold the roles."""
    with server.connect() as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))
    drop_roles(server, prefix)
