"""What is read from definitions: names in functions, parts of tables, queries for rows that break a constraint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.postgres.dump.clean_statements import WithoutDrops
from backup.postgres.dump.dependency_queue import Entry
from backup.postgres.dump.dump_reader import DumpReader
from backup.postgres.dump.function_bodies import read
from backup.postgres.dump.inheritance import descendants, kinship
from backup.postgres.dump.load_attempt import Attempt
from backup.postgres.dump.post_data import Split, foreseen
from backup.postgres.dump.violations import query

HEAD = b"--\n-- PostgreSQL database dump\n--\n\nSET client_encoding = 'UTF8';\n\n"


@pytest.mark.parametrize(
    ("text", "kind", "names"),
    [
        ("BEGIN RETURN lower(unaccent(v)); END", "functions", {"lower", "unaccent"}),
        ("SELECT public.unaccent(v), pg_catalog.lower(v)", "functions", set()),
        ('SELECT "Odd one" (v) -- not_this(1)\n /* nor(2)\n this(3) */', "functions", {"Odd one"}),
        ("EXECUTE 'SELECT inside(1) FROM hidden'", "functions", {"inside"}),
        ("EXECUTE 'SELECT inside(1) FROM hidden'", "relations", {"hidden"}),
        ("SELECT FROM ONLY keys JOIN public.other o USING (k)", "relations", {"keys"}),
        ("SELECT FROM a, public.b, C d, (SELECT 1) e WHERE x IN (y)", "relations", {"a", "c"}),
        (
            "DECLARE r page%ROWTYPE; BEGIN INSERT INTO Log VALUES (1); UPDATE t SET a = 1",
            "relations",
            {"page", "log", "t"},
        ),
        ("SELECT 'x'::mood, CAST(v AS citext), v::public.other", "types", {"mood", "citext"}),
        ("DECLARE m mood := 'a'; n text; BEGIN", "types", {"mood", "text"}),
        ("SELECT a <-> b, a % b", "operators", {"<->", "%"}),
    ],
)
def test_names_that_a_body_finds_by_the_search_path(text: str, kind: str, names: set[str]) -> None:
    assert getattr(read(text), kind) >= names
    if kind in ("functions", "relations"):
        assert getattr(read(text), kind) - {"using", "cast", "values", "r"} == names


def test_functions_that_a_body_calls_by_schema() -> None:
    assert read('SELECT public.f(1), "S".g(2)').qualified == {("public", "f"), ("S", "g")}


@given(st.text(max_size=200))
def test_any_body_can_be_read(text: str) -> None:
    read(text)


def section(kind: str, name: str, text: str, schema: str = "public") -> bytes:
    return f"--\n-- Name: {name}; Type: {kind}; Schema: {schema}; Owner: o\n--\n\n{text}\n\n\n".encode()


def test_parts_of_tables() -> None:
    dump = HEAD + b"".join(
        [
            section("TABLE", "log", "CREATE TABLE public.log (\n    at date\n)\nPARTITION BY RANGE (at);"),
            section("TABLE", "Log 1", 'CREATE TABLE public."Log 1" (\n    at date\n);'),
            section("TABLE", "b", 'CREATE TABLE public.b (\n    x int\n)\nINHERITS (public.log, s."A");'),
            section("FUNCTION", "f", "CREATE FUNCTION f() AS $$\nALTER TABLE ONLY a ATTACH PARTITION b DEFAULT;\n$$;"),
            section("TABLE ATTACH", "Log 1", 'ALTER TABLE ONLY public.log ATTACH PARTITION public."Log 1" DEFAULT;'),
        ]
    )
    for size in (1, 7, len(dump)):
        found = kinship(dump[start : start + size] for start in range(0, len(dump), size))
        assert found == {"public.log": ("public.b", 'public."Log 1"'), 's."A"': ("public.b",)}
    assert descendants({"a": ["b", "c"], "b": ["d"], "d": ["a"]}, "a") == ["b", "c", "d", "a"]


FOREIGN = b"""SET default_tablespace = '';

ALTER TABLE ONLY public.child
    ADD CONSTRAINT has_parent FOREIGN KEY (p, "Q") REFERENCES s.parent(a, b) ON DELETE CASCADE DEFERRABLE;


"""


def test_queries_for_rows_that_break_a_constraint() -> None:
    entries = [
        Entry(FOREIGN, kind="FK CONSTRAINT", name="public.child has_parent"),
        Entry(
            b'ALTER TABLE ONLY public.t\n    ADD CONSTRAINT once UNIQUE NULLS NOT DISTINCT (a, "B");\n',
            name="public.t once",
        ),
        Entry(b"CREATE UNIQUE INDEX i ON public.t USING btree (a);\n", name="public.i"),
        Entry(b"CREATE UNIQUE INDEX j ON public.t USING btree (lower(a));\n", name="public.j"),
    ]
    check = b'    CONSTRAINT "C c" CHECK (((a > 0) OR (a IS NULL))),\n'
    table = b'CREATE TABLE public."T t" (\n    a int,\n' + check + b"    b int\n);\n"

    def shown(name: str, of: str = "t") -> str:
        return query(entries, [table], "public", of, name)

    assert shown("has_parent", "child") == (
        'SELECT a.* FROM public.child a WHERE a.p IS NOT NULL AND a."Q" IS NOT NULL'
        ' AND NOT EXISTS (SELECT FROM s.parent b WHERE b.a = a.p AND b.b = a."Q");'
    )
    assert shown("once") == 'SELECT a, "B", count(*) FROM public.t GROUP BY a, "B" HAVING count(*) > 1;'
    assert shown("i") == "SELECT a, count(*) FROM public.t GROUP BY a HAVING count(*) > 1;"
    assert shown("C c", "T t") == 'SELECT * FROM public."T t" WHERE NOT (((a > 0) OR (a IS NULL)));'
    assert shown("j") == shown("nothing") == ""


def test_what_a_body_reads() -> None:
    text = """BEGIN -- FROM s.comment
        SELECT 1 FROM a, s."B b" x JOIN t.c ON true WHERE EXISTS (SELECT FROM ONLY u.d); PERFORM s.f(1); END"""
    body = read(text)
    assert body.reads == {("s", "B b"), ("t", "c"), ("u", "d")} and body.relations >= {"a"}
    assert body.qualified == {("s", "f")}


def test_a_second_attempt_is_made_where_it_may_help_and_once() -> None:
    first = Attempt(("public", 'o"dd'))
    by_path = first.after("42883", calling=False)
    assert by_path and by_path.by_path and by_path.checks == "calling" and by_path.after("42883", calling=True) is None
    assert by_path.told == 'search_path = "public", "o""dd" and checks made after all rows'
    assert first.after("23514", calling=False) is None and first.after("42601", calling=True) is None
    late = first.after("23514", calling=True)
    assert late and not late.by_path and late.checks == "calling"
    allowing = Attempt(allow_invalid=True).after("23514", calling=False)
    assert allowing and allowing.checks == "all"
    assert Attempt().after("42P01", calling=True) is None


def test_only_what_may_fail_is_given_otherwise() -> None:
    view = Entry(
        b'SET x = y;\n\nREFRESH MATERIALIZED VIEW public."it\'s";\n\n\n',
        kind="MATERIALIZED VIEW DATA",
        name="public.it's",
    )
    key = Entry(FOREIGN, kind="FK CONSTRAINT", name="public.child has_parent")
    index = Entry(b"CREATE INDEX i ON t (a);\n", kind="INDEX", name="public.i")
    plain, allowing = Attempt(), Attempt(allow_invalid=True)
    assert plain.script(index) == index.script and plain.script(key) == key.script
    assert plain.script(view).startswith(b"SET x = y;\n\nDO E'")
    assert allowing.script(key).startswith(b"SET default_tablespace = '';\n\nDO E'")
    assert b"DEFERRABLE NOT VALID" in allowing.script(key) and allowing.script(index) == index.script
    assert plain.before_rows == plain.after_rows == b""


def test_event_triggers_come_last_and_views_are_known() -> None:
    dump = HEAD + b"".join(
        [
            section("TABLE", "t", "CREATE TABLE public.t (\n    a int,\n    CONSTRAINT c CHECK (public.f(a))\n);"),
            section(
                "EVENT TRIGGER", "e", "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION public.g();", "-"
            ),
            section("COMMENT", "EVENT TRIGGER e", "COMMENT ON EVENT TRIGGER e IS 'x';", "-"),
            section("MATERIALIZED VIEW DATA", "m", "REFRESH MATERIALIZED VIEW public.m;"),
        ]
    )
    entries = foreseen([dump])
    assert [(each.kind, each.name) for each in entries] == [
        ("MATERIALIZED VIEW DATA", "public.m"),
        ("EVENT TRIGGER", "e"),
        ("COMMENT", "EVENT TRIGGER e"),
    ]
    written: list[bytes] = []
    split = Split(written.append)
    reader = DumpReader(split)
    reader.feed(dump)
    reader.finish()
    split.finish()
    assert split.calling and not split.with_rows and b"REFRESH" not in b"".join(written)


def test_a_search_path_comes_behind_what_the_dump_sets() -> None:
    without = WithoutDrops(b'"a", "b\'c"')
    given = HEAD + b"SELECT pg_catalog.set_config('search_path', '', false);\n\n--\n"
    loaded = without.feed(given) + without.begin()
    assert loaded.index(b"'search_path', ''") < loaded.index(b"""'search_path', E'"a", "b''c"', false)""")
    assert without.settings.endswith(b"false);\n")
