"""What of a dump may be built beside what, against entries as pg_dump writes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import pytest

from backup.postgres.dump.adaptation import AS_IT_IS
from backup.postgres.dump.contents import Part
from backup.postgres.dump.dependency_queue import Entry, Queue
from backup.postgres.dump.dump_reader import DumpReader
from backup.postgres.dump.load_attempt import LoadAttempt
from backup.postgres.dump.load_script import FIRST_SESSION, Split, WithoutDrops

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


PART = Part("public.a", 1000, 10, 500, len(MANY), "0" * 64)


def beside(
    before: bytes, built: bytes = b"", parts: Sequence[Part] = (PART,), *, shared: bool = False, **how: object
) -> tuple[Split, bytes, list[Entry]]:
    """A dump whose rows of `a` are left out if that may be: the split, what went through, what was left out."""
    written, left = bytearray(), list[Entry]()
    attempt = LoadAttempt(**how)  # type: ignore[arg-type]
    found = Split(written.extend, apart=left.append, in_order=lambda: written.extend(b"--drained\n"), attempt=attempt)
    reader = DumpReader(AS_IT_IS.applied(found))
    begin, _, end = rows("a").partition(b"1\n2\n")
    reader.feed(before + begin)
    if not found.defer("public.a", parts, shared=shared):
        reader.feed(MANY)
    reader.read([end, rows("b"), built + TRAILER])
    found.finish()
    return found, bytes(written), left


def test_rows_that_another_session_loads_are_left_out_with_their_statement() -> None:
    _, written, (entry_,) = beside(TABLES[: TABLES.index(b"--\n-- Data")])
    assert b"COPY public.a" not in written and b"Name: a; Type: TABLE DATA" in written
    assert written.count(b"\\.\n") == 1
    assert entry_.script == b"BEGIN;\nTRUNCATE ONLY public.a;\nCOPY public.a (id) FROM stdin (FREEZE);\n"
    assert entry_.parts == (PART,) and entry_.weight == PART.size


def test_rows_that_several_sessions_share_are_not_frozen() -> None:
    _, _, left = beside(TABLES[: TABLES.index(b"--\n-- Data")], parts=[PART, PART], shared=True)
    assert [each.script for each in left] == [b"BEGIN;\nCOPY public.a (id) FROM stdin;\n"] * 2
    assert left[0].alters.isdisjoint(left[1].alters)


MADE = HEAD + table("a") + table("b")
OWN = entry("FUNCTION", "f(integer)", "CREATE FUNCTION public.f(a integer) RETURNS boolean ...;")


def having(column: str) -> bytes:
    return (
        HEAD
        + OWN
        + MADE.removeprefix(HEAD).replace(b"    id integer\n", f"    id integer,\n    {column}\n".encode(), 1)
    )


CALLING = {
    "check": "CONSTRAINT c CHECK (public.f(id))",
    "operator": "CONSTRAINT c CHECK ((id OPERATOR(public.=~) 0))",
    "generated": "n integer GENERATED ALWAYS AS (public.f(id)) STORED",
    "case": "n integer GENERATED ALWAYS AS (\nCASE\n    WHEN (id > 0) THEN public.f(id)\n    ELSE 0\nEND) STORED",
}


@pytest.mark.parametrize(
    ("before", "how"),
    [
        # Whoever made it may have put rows there, and triggers.
        (HEAD + table("b"), {}),
        # What a function of the dump's finds in other tables depends on what was there before.
        *((having(column), {}) for column in CALLING.values()),
        (MADE + index("i", "b"), {}),
        (MADE, {"alone": True}),
        (MADE, {"checks": "all"}),
    ],
)
def test_what_may_depend_on_the_order_of_rows_is_loaded_in_order(before: bytes, how: dict[str, object]) -> None:
    _, written, left = beside(before, **how)
    assert left == [] and MANY in written


@pytest.mark.parametrize("column", CALLING.values(), ids=list(CALLING))
def test_functions_of_extensions_do_not_keep_rows_in_order(column: str) -> None:
    assert len(beside(having(column).replace(OWN, b""))[2]) == 1


@pytest.mark.parametrize("kind", ["TRIGGER", "RULE", "POLICY", "ROW SECURITY", "CHECK CONSTRAINT", "COMMENT", "ACL"])
def test_nothing_behind_the_rows_is_there_before_those_that_are_loaded_apart(kind: str) -> None:
    """A trigger would change them, a check that holds for later rows alone refuse them."""
    found, written, left = beside(MADE, entry(kind, "a x", "CREATE SOMETHING;"))
    assert len(left) == 1 and b"CREATE SOMETHING" not in written
    assert b"CREATE SOMETHING" in found.entries[-1].script and found.entries[-1].alone


def test_a_remark_on_a_large_object_does_not_end_the_rows() -> None:
    of_object = entry("COMMENT", "LARGE OBJECT 16400", "COMMENT ON LARGE OBJECT 16400 IS 'x';", "-")
    found, written, _ = beside(MADE, of_object + entry("SEQUENCE SET", "s", "SELECT setval();") + unique("a"))
    assert b"setval" in written and [each.kind for each in found.entries] == ["CONSTRAINT"]


@pytest.mark.parametrize("length", range(65_440, 65_560, 3))
def test_a_statement_as_long_as_what_is_handed_on_at_once_is_left_out_whole_or_not_at_all(length: int) -> None:
    columns = ", ".join(["id", *(f'"{"x" * 57}{number:04}"' for number in range(length // 61))])
    columns += f', "{"y" * (length - len(columns) - 40)}"' if len(columns) + 45 < length else ""
    begin = rows("a").partition(b"1\n2\n")[0].replace(b"(id)", f"({columns})".encode())
    written, left = bytearray(), list[Entry]()
    found = Split(written.extend, apart=left.append)
    reader = DumpReader(AS_IT_IS.applied(found))
    reader.feed(MADE + begin)
    if not found.defer("public.a", [PART], shared=False):
        reader.feed(MANY)
    reader.read([rows("a").partition(b"1\n2\n")[2], rows("b"), TRAILER])
    found.finish()
    assert (MANY in written) == (not left)
    assert (columns.encode() in written) == (not left) and all(columns.encode() in each.script for each in left)


def taken(queue: Queue) -> list[Entry]:
    return list(iter(queue.take, None))


def test_what_is_built_on_rows_waits_for_them_alone() -> None:
    built = (
        unique("a") + unique("b") + index("i", "a") + index("e", "a", "btree (public.f(id))") + index("j", "b")
        + foreign("b", "a") + entry("TRIGGER", "a t", "CREATE TRIGGER t ON public.a;")
    )  # fmt: skip
    found, _, (rows_a,) = beside(MADE, built)
    key_a, key_b, index_a, called, index_b, between, trigger = found.entries
    queue = Queue([rows_a, *found.entries], running=[FIRST_SESSION])
    assert taken(queue) == [rows_a]
    queue.done(rows_a)
    # Its rows came over another session, so nothing of the first one's matters.
    assert taken(queue) == [key_a]
    queue.done(key_a)
    assert taken(queue) == [index_a]
    queue.done(FIRST_SESSION)
    assert taken(queue) == [called, key_b]
    for each in (index_a, called, key_b):
        queue.done(each)
    assert taken(queue) == [index_b]
    queue.done(index_b)
    assert taken(queue) == [between]
    queue.done(between)
    assert taken(queue) == [trigger]


def test_what_relatives_need_waits_for_all_rows() -> None:
    related_ = MADE + table("c", "\nINHERITS (public.a);")
    found, _, (rows_a,) = beside(related_, unique("c") + index("i", "c") + foreign("b", "c"))
    queue = Queue([rows_a, *found.entries], running=[FIRST_SESSION])
    assert taken(queue) == [rows_a]
    queue.done(FIRST_SESSION)
    assert taken(queue) == []
    queue.done(rows_a)
    assert taken(queue)[0].kind == "CONSTRAINT"


def test_before_a_dump_of_another_make_goes_on_in_order_rows_are_in() -> None:
    _, written, _ = beside(MADE, index("i", "a") + rows("b"))
    assert b"--drained\n" in written and written.index(b"--drained\n") < written.index(b"CREATE INDEX i")


def test_event_triggers_come_last_and_views_are_known() -> None:
    dump = HEAD + b"".join(
        [
            entry("TABLE", "t", "CREATE TABLE public.t (\n    a int,\n    CONSTRAINT c CHECK (public.f(a))\n);"),
            entry("EVENT TRIGGER", "e", "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION public.g();", "-"),
            entry("COMMENT", "EVENT TRIGGER e", "COMMENT ON EVENT TRIGGER e IS 'x';", "-"),
            entry("MATERIALIZED VIEW DATA", "m", "REFRESH MATERIALIZED VIEW public.m;"),
        ]
    )
    entries = split(dump)[0].entries
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
