"""What of a dump may be built beside what, against entries as pg_dump writes them."""

from __future__ import annotations

from functools import reduce

import pytest

from backup.postgres.dump.dependency_queue import Entry, Queue
from backup.postgres.dump.dump_reader import DumpReader
from backup.postgres.dump.load_script import Split, WithoutDrops, foreseen, violation_query

HEAD = rb"""--
-- PostgreSQL database dump
--

\restrict Abc123

-- Dumped from database version 17.11
-- Dumped by pg_dump version 17.11

SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);

ALTER TABLE IF EXISTS ONLY public.a DROP CONSTRAINT IF EXISTS a_pkey;
SET default_tablespace = '';

"""
TRAILER = b"--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict Abc123\n\n"


def entry(kind: str, name: str, sql: str, schema: str = "public") -> bytes:
    return f"--\n-- Name: {name}; Type: {kind}; Schema: {schema}; Owner: o\n--\n\n{sql}\n\n\n".encode()


def rows(table: str) -> bytes:
    return (
        f"--\n-- Data for Name: {table}; Type: TABLE DATA; Schema: public; Owner: o\n--\n\n"
        f"COPY public.{table} (id) FROM stdin;\n1\n2\n\\.\n\n\n"
    ).encode()


def table(name: str, more: str = ";") -> bytes:
    return entry("TABLE", name, f"CREATE TABLE public.{name} (\n    id integer\n){more}")


def unique(name: str, kind: str = "PRIMARY KEY (id)") -> bytes:
    return entry(
        "CONSTRAINT", f"{name} {name}_key", f"ALTER TABLE ONLY public.{name}\n    ADD CONSTRAINT {name}_key {kind};"
    )


def index(name: str, on: str, using: str = "btree (id)", more: str = "") -> bytes:
    return entry("INDEX", name, f"CREATE INDEX {name} ON public.{on} USING {using};{more}")


def foreign(name: str, to: str) -> bytes:
    sql = f"ALTER TABLE ONLY public.{name}\n    ADD CONSTRAINT fk FOREIGN KEY (id) REFERENCES public.{to}(id);"
    return entry("FK CONSTRAINT", f"{name} fk", sql)


TABLES = HEAD + table("a") + table("b") + rows("a") + rows("b")


def split(dump: bytes, step: int = 1 << 20) -> tuple[Split, bytes, list[int]]:
    """The split, what went through at once, and how much of that when the rows were done."""
    written, done = bytearray(), []
    found = Split(written.extend, lambda: done.append(len(written)))
    reader = DumpReader(found)
    for start in range(0, len(dump), step):
        reader.feed(dump[start : start + step])
    reader.finish()
    found.finish()
    return found, bytes(written), done


def orders(entries: list[Entry], sessions: int = 2) -> list[list[int]]:
    """What runs together, when each takes as long as the others."""
    queue, together = Queue(entries), []
    while queue:
        taken = [each for each in (queue.take() for _ in range(sessions)) if each]
        together.append(sorted(next(i for i, e in enumerate(entries) if e is each) for each in taken))
        for each in taken:
            queue.done(each)
    return together


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_rows_go_through_and_the_rest_is_kept_in_pieces(step: int) -> None:
    dump = TABLES + unique("a") + unique("b") + index("i", "a") + foreign("b", "a") + TRAILER
    found, written, done = split(dump, step)
    assert written.endswith((b"\\.\n\n\n--\n", b"--\nCOMMIT;\n")) and b"DROP CONSTRAINT" not in written
    assert done == [len(written)]
    assert len(found.entries) == 4 and found.trailer == TRAILER[3:].replace(b"\\unrestrict Abc123\n\n", b"")
    settings = b"SET statement_timeout = 0;\nSELECT pg_catalog.set_config('search_path', '', false);\n"
    assert found.settings == settings + b"SET default_tablespace = '';\n"
    both = written + b"".join(each.script for each in found.entries)
    assert both.count(b"CREATE TABLE") == 2 and both.count(b"ADD CONSTRAINT") == 3 and both.count(b"CREATE INDEX") == 1


MANY = b"".join(b"%d\n" % number for number in range(1000))


@pytest.mark.parametrize("step", [1, 7, 1500])
def test_rows_are_frozen_where_the_dump_made_their_table(step: int) -> None:
    foreign_table = entry("FOREIGN TABLE", "f", "CREATE FOREIGN TABLE public.f (\n    id integer\n)\nSERVER s;")
    parted = table("p", "\nPARTITION BY RANGE (id);")
    made = HEAD + table("a") + table("b").replace(b"CREATE", b"CREATE UNLOGGED") + foreign_table + parted
    data = b"".join(rows(name).replace(b"1\n", MANY) for name in ("a", "b", "f", "p", "elsewhere"))
    _, written, _ = split(made + data + unique("a") + TRAILER, step)
    frozen = [name for name in "abfp" if b"COPY public.%b (id) FROM stdin (FREEZE);\n" % name.encode() in written]
    assert frozen == ["a", "b"] and written.count(b"BEGIN;\n") == written.count(b"COMMIT;\n") == 2


def test_many_rows_are_frozen_in_a_transaction_of_their_own() -> None:
    dump = HEAD + table("a") + table("b") + rows("a").replace(b"1\n", MANY) + rows("b") + unique("a") + TRAILER
    _, written, _ = split(dump, 1500)
    begin, end = written.index(b"BEGIN;\nTRUNCATE ONLY public.a;\nCOPY public.a "), written.index(b"COMMIT;\n")
    assert MANY in written[begin:end] and written[begin:end].endswith(b"\\.\n\n\n--\n")
    assert written.count(b"(FREEZE)") == written.count(b"TRUNCATE") == 1 and written.index(b"COPY public.b ") > end
    added = (b"BEGIN;\nTRUNCATE ONLY public.a;\n", b" (FREEZE)", b"COMMIT;\n")
    assert reduce(lambda text, piece: text.replace(piece, b"", 1), added, written) == split(dump)[1]


def test_a_value_that_looks_like_a_copy_statement_stays_as_it_is() -> None:
    value = rows("a").replace(b"1\n", b"COPY public.a (id) FROM stdin;\n")
    _, written, _ = split(HEAD + table("a") + value.replace(b"2\n", b"2\n" * 1000) + TRAILER, 1000)
    assert written.count(b"(FREEZE)") == 1 and b"COPY public.a (id) FROM stdin;\n2\n" in written


def test_what_needs_different_tables_is_built_together_and_keys_before_what_names_them() -> None:
    built = unique("a") + unique("b") + index("i", "a") + index("j", "a") + foreign("b", "a")
    assert orders(split(TABLES + built + TRAILER)[0].entries) == [[0, 1], [2, 3], [4]]


def test_an_index_that_changes_its_table_is_built_alone_on_it() -> None:
    marked = index("i", "a", more="\n\nALTER TABLE public.a CLUSTER ON i;")
    assert orders(split(TABLES + marked + index("j", "a") + index("k", "b") + TRAILER)[0].entries) == [[0, 2], [1]]


def test_what_relatives_need_is_built_one_by_one() -> None:
    child = table("c", '\nINHERITS (public.a, public."q,x");')
    attached = entry("TABLE ATTACH", "d", "ALTER TABLE ONLY public.b ATTACH PARTITION public.d FOR VALUES IN (1);")
    relatives = HEAD + table("a") + table("b") + child + table("d") + attached + rows("a")
    for first, second in (("a", "c"), ("b", "d")):
        assert orders(split(relatives + unique(first) + unique(second) + TRAILER)[0].entries) == [[0], [1]]
        assert orders(split(relatives + index("i", first) + index("j", second) + TRAILER)[0].entries) == [[0], [1]]


@pytest.mark.parametrize(
    "sql",
    [
        entry("INDEX ATTACH", "i", "ALTER INDEX public.i ATTACH PARTITION public.j;"),
        entry("TRIGGER", "a t", "CREATE TRIGGER t AFTER INSERT ON public.a EXECUTE FUNCTION public.f();"),
        entry("MATERIALIZED VIEW DATA", "m", "REFRESH MATERIALIZED VIEW public.m;"),
        entry("STATISTICS", "s", "CREATE STATISTICS public.s ON id, id FROM public.a;"),
        unique("a", "EXCLUDE USING gist (public.f(id) WITH =)"),
        entry("COMMENT", "INDEX k", "COMMENT ON INDEX public.k IS 'of another';"),
        entry("INDEX", "odd", "ALTER INDEX whatever;"),
    ],
)
def test_what_is_not_understood_stands_alone(sql: bytes) -> None:
    built = index("i", "a") + sql + index("j", "b")
    assert orders(split(TABLES + built + TRAILER)[0].entries) == [[0], [1], [2]]


def test_a_comment_goes_with_what_it_is_on() -> None:
    remark = entry("COMMENT", "INDEX i", "COMMENT ON INDEX public.i IS 'x';")
    key = entry("COMMENT", "CONSTRAINT b_key ON b", "COMMENT ON CONSTRAINT b_key ON public.b IS 'x';")
    found = split(TABLES + index("i", "a") + remark + unique("b") + key + TRAILER)[0]
    assert orders(found.entries) == [[0, 1]] and b"COMMENT ON INDEX" in found.entries[0].script


def test_settings_between_entries_hold_for_those_that_come() -> None:
    elsewhere = b"SET default_tablespace = fast;\n\n"
    built = index("i", "a") + elsewhere + index("j", "b") + b"SET default_tablespace = '';\n\n" + index("k", "b")
    first, second, third = (each.script for each in split(TABLES + built + TRAILER)[0].entries)
    assert b"fast" not in first and second.startswith(elsewhere[:-1]) and second.count(b"SET ") == 1
    assert third.startswith(b"SET default_tablespace = '';\n-- Name: k")


@pytest.mark.long
@pytest.mark.parametrize(
    "odd",
    [rows("a"), entry("TRIGGER", "t", "SET SESSION AUTHORIZATION other;"), index("x", "a", more=" " * (65 << 20))],
)
def test_a_dump_of_another_make_is_loaded_as_it_comes(odd: bytes) -> None:
    dump = TABLES + index("i", "a") + odd + index("j", "b") + TRAILER
    found, written, _ = split(dump)
    assert found.entries == [] and found.trailer == b""
    assert written.index(b"INDEX i") < written.rindex(odd[:30].rsplit(b"\n")[-1]) < written.index(b"INDEX j")
    assert written.endswith(TRAILER.replace(b"\\unrestrict Abc123\n\n", b"")) and written.count(b"CREATE INDEX j") == 1


def test_the_heaviest_goes_first() -> None:
    light, heavy = Entry(b"l", reads=frozenset([b"a"]), weight=1), Entry(b"h", reads=frozenset([b"a"]), weight=5)
    queue = Queue([light, heavy])
    assert queue.take() is heavy and queue.take() is light and queue.take() is None and bool(queue)
    queue.done(heavy)
    queue.done(light)
    assert not queue


def early(built: bytes) -> list[bool]:
    return [each.early for each in foreseen([TABLES + built + TRAILER])]


def test_what_needs_no_more_than_its_own_tables_may_be_built_before_the_last_row() -> None:
    assert (
        early(unique("a") + index("i", "a") + index("j", "a", "gin (id public.ops)") + foreign("b", "a")) == [True] * 4
    )


@pytest.mark.parametrize(
    "built",
    [
        # Functions may read other tables, whatever they are declared as.
        index("i", "a", "btree (public.f(id))"),
        index("i", "a", "btree (((id + 1)))"),
        index("i", "a", "btree (id) WHERE public.f(id)"),
        index("i", "a", more="\n\nALTER TABLE public.a CLUSTER ON i;"),
        unique("a", "EXCLUDE USING gist (id WITH =)"),
    ],
)
def test_what_may_need_more_waits_for_the_last_row(built: bytes) -> None:
    assert early(built) == [False]


def test_only_loaded_tables_are_built_on() -> None:
    built = unique("a") + unique("b") + index("i", "a") + index("j", "b") + foreign("b", "a")
    key_a, key_b, index_a, index_b, between = entries = foreseen([TABLES + built + TRAILER])
    queue = Queue(entries)
    assert queue.take(()) is None
    assert queue.take({b"public.b"}) is key_b and queue.take({b"public.b"}) is None
    queue.done(key_b)
    assert queue.take({b"public.b"}) is index_b and queue.take({b"public.b"}) is None
    assert queue.take() is key_a and queue.take() is None
    queue.done(key_a)
    assert queue.take() is index_a and queue.take() is None
    queue.done(index_a)
    queue.done(index_b)
    assert queue.take({b"public.a"}) is None and queue.take({b"public.a", b"public.b"}) is between


def test_relatives_are_built_on_after_the_last_row() -> None:
    child = table("c", "\nINHERITS (public.a);")
    relatives = HEAD + table("a") + child + rows("a") + rows("c") + unique("a") + index("i", "c") + TRAILER
    queue = Queue(foreseen([relatives]))
    assert queue.take({b"public.a", b"public.c"}) is None and queue.take() is not None


def test_tables_are_told_when_their_rows_are_written() -> None:
    written, told = bytearray(), []
    found = Split(written.extend, loaded=lambda table: told.append((table, bytes(written))))
    reader = DumpReader(found)
    dump = HEAD + table("a") + table("b") + rows("a").replace(b"1\n", MANY) + rows("b") + unique("a") + TRAILER
    for start in range(0, len(dump), 100):
        reader.feed(dump[start : start + 100])
    assert [name for name, _ in told] == [b"public.a", b"public.b"]
    assert told[0][1].endswith(b"COMMIT;\n") and told[1][1].endswith(
        b"COPY public.b (id) FROM stdin;\n1\n2\n\\.\n\n\n--\n"
    )


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
        return violation_query(entries, [table], "public", of, name)

    assert shown("has_parent", "child") == (
        'SELECT a.* FROM public.child a WHERE a.p IS NOT NULL AND a."Q" IS NOT NULL'
        ' AND NOT EXISTS (SELECT FROM s.parent b WHERE b.a = a.p AND b.b = a."Q");'
    )
    assert shown("once") == 'SELECT a, "B", count(*) FROM public.t GROUP BY a, "B" HAVING count(*) > 1;'
    assert shown("i") == "SELECT a, count(*) FROM public.t GROUP BY a HAVING count(*) > 1;"
    assert shown("C c", "T t") == 'SELECT * FROM public."T t" WHERE NOT (((a > 0) OR (a IS NULL)));'
    assert shown("j") == shown("nothing") == ""


def test_event_triggers_come_last_and_views_are_known() -> None:
    dump = HEAD + b"".join(
        [
            entry("TABLE", "t", "CREATE TABLE public.t (\n    a int,\n    CONSTRAINT c CHECK (public.f(a))\n);"),
            entry("EVENT TRIGGER", "e", "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION public.g();", "-"),
            entry("COMMENT", "EVENT TRIGGER e", "COMMENT ON EVENT TRIGGER e IS 'x';", "-"),
            entry("MATERIALIZED VIEW DATA", "m", "REFRESH MATERIALIZED VIEW public.m;"),
        ]
    )
    entries = foreseen([dump])
    assert [(each.kind, each.name) for each in entries] == [
        ("MATERIALIZED VIEW DATA", "public.m"),
        ("EVENT TRIGGER", "e"),
        ("COMMENT", "EVENT TRIGGER e"),
    ]
    written: list[bytes] = []
    found = Split(written.append)
    reader = DumpReader(found)
    reader.feed(dump)
    reader.finish()
    found.finish()
    assert found.calling and not found.with_rows and b"REFRESH" not in b"".join(written)


def test_a_search_path_comes_behind_what_the_dump_sets() -> None:
    without = WithoutDrops(b'"a", "b\'c"')
    given = HEAD + b"SELECT pg_catalog.set_config('search_path', '', false);\n\n--\n"
    loaded = without.feed(given) + without.begin()
    assert loaded.index(b"'search_path', ''") < loaded.index(b"""'search_path', E'"a", "b''c"', false)""")
    assert without.settings.endswith(b"false);\n")
