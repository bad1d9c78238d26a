"""What a dump defines: one hash, whatever its rows, versions and keys are; parts of tables; the roles that it names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backup.postgres.dump.definitions import Definitions, RoleNames, descendants, kinship
from backup.postgres.dump.dump_reader import DumpReader

HEAD = """\
--
-- PostgreSQL database dump
--

\\restrict {key}

-- Dumped from database version {version}
-- Dumped by pg_dump version {version}

SET statement_timeout = 0;
SET client_encoding = 'UTF8';

DROP TABLE IF EXISTS public.t;
{unlink}--
-- Name: t; Type: TABLE; Schema: public; Owner: me
--

CREATE TABLE public.t (
    a integer{column}
);


"""
OBJECT = "--\n-- Name: {number}; Type: BLOB; Schema: -; Owner: me\n--\n\nSELECT pg_catalog.lo_create('{number}');\n\n\n"
GRANT = (
    "--\n-- Name: LARGE OBJECT {number}; Type: ACL; Schema: -; Owner: me\n--\n\nGRANT ALL ON LARGE OBJECT 1 TO x;\n\n\n"
)
DATA = """\
--
-- Data for Name: t; Type: TABLE DATA; Schema: public; Owner: me
--

COPY public.t (a) FROM stdin;
{rows}\\.


--
-- Name: s; Type: SEQUENCE SET; Schema: public; Owner: me
--

SELECT pg_catalog.setval('public.s', {value}, true);


"""
TAIL = """\
--
-- Name: i; Type: INDEX; Schema: public; Owner: me
--

CREATE INDEX i ON public.t USING btree ({index});


--
-- PostgreSQL database dump complete
--

\\unrestrict {key}

"""


def dump(
    *, key: str = "a", version: str = "17.2", column: str = "", rows: int = 3, index: str = "a", objects: int = 0
) -> bytes:
    unlink = "".join(f"SELECT pg_catalog.lo_unlink('{number}');\n" for number in range(objects))
    lines = "".join(f"{number}\n" for number in range(rows))
    blobs = "".join(OBJECT.format(number=number) + GRANT.format(number=number) for number in range(objects))
    text = HEAD.format(key=key, version=version, unlink=unlink, column=column) + blobs
    return (text + DATA.format(rows=lines, value=rows + 1) + TAIL.format(key=key, index=index)).encode()


def read(data: bytes, size: int = 1 << 20, most: int = 1 << 20) -> Definitions:
    found = Definitions(most)
    reader = DumpReader(found, telling_rows=False)
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
    reader.finish()
    reader.check_whole()
    return found


@pytest.fixture(params=[1, 7, 1 << 20])
def size(request: pytest.FixtureRequest) -> Iterator[int]:
    yield request.param


def test_rows_values_objects_versions_and_keys_do_not_count(size: int) -> None:
    first = read(dump(), size)
    for other in (dump(key="b"), dump(version="17.9"), dump(rows=900), dump(objects=3)):
        assert read(other, size).sha256 == first.sha256


def test_any_definition_counts(size: int) -> None:
    hashes = {read(each, size).sha256 for each in (dump(), dump(column=" NOT NULL"), dump(index="(a + 1)"))}
    assert len(hashes) == 3


def test_the_definitions_are_a_whole_dump_without_rows(size: int) -> None:
    script = read(dump(rows=900, objects=2), size).script
    assert script is not None
    whole, again = b"".join(script), DumpReader()
    again.feed(whole)
    again.check_whole()
    assert again.rows == {"public.t": 0} and b"CREATE TABLE public.t" in whole and b"CREATE INDEX i" in whole
    assert not any(word in whole for word in (b"lo_create", b"LARGE OBJECT", b"899"))


def test_definitions_without_end_are_hashed_and_not_kept() -> None:
    found = read(dump(), most=100)
    assert found.script is None and found.sha256 == read(dump()).sha256


@pytest.mark.parametrize("kind", ["TABLE DATA", "SEQUENCE SET", "BLOB", "BLOBS"])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_text_that_quotes_how_rows_are_announced_is_kept(kind: str, step: int) -> None:
    quoted = f"--\n-- Name: fake; Type: {kind}; Schema: public; Owner: x\n--\n\\.\n$$';\n\n\n"
    comment = (
        f"--\n-- Name: TABLE t; Type: COMMENT; Schema: public; Owner: me\n--\n\nCOMMENT ON TABLE t IS E'a\n{quoted}"
    )
    dump = (
        HEAD.format(key="k", version="17", unlink="", column="") + comment + DATA.format(rows="a row\n", value=1)
    ).encode()
    made = Definitions()
    reader = DumpReader(made, telling_rows=False)
    for start in range(0, len(dump), step):
        reader.feed(dump[start : start + step])
    reader.finish()
    kept = b"".join(made.script or []).decode()
    assert quoted in kept and "COPY public.t (a) FROM stdin;\n\\.\n" in kept and "a row" not in kept


def section(kind: str, name: str, text: str) -> bytes:
    return f"--\n-- Name: {name}; Type: {kind}; Schema: public; Owner: o\n--\n\n{text}\n\n\n".encode()


def test_parts_of_tables() -> None:
    definitions = b"--\n-- PostgreSQL database dump\n--\n\nSET client_encoding = 'UTF8';\n\n" + b"".join(
        [
            section("TABLE", "log", "CREATE TABLE public.log (\n    at date\n)\nPARTITION BY RANGE (at);"),
            section("TABLE", "Log 1", 'CREATE TABLE public."Log 1" (\n    at date\n);'),
            section("TABLE", "b", 'CREATE TABLE public.b (\n    x int\n)\nINHERITS (public.log, s."A");'),
            section("FUNCTION", "f", "CREATE FUNCTION f() AS $$\nALTER TABLE ONLY a ATTACH PARTITION b DEFAULT;\n$$;"),
            section("TABLE ATTACH", "Log 1", 'ALTER TABLE ONLY public.log ATTACH PARTITION public."Log 1" DEFAULT;'),
        ]
    )
    for size in (1, 7, len(definitions)):
        found = kinship(definitions[start : start + size] for start in range(0, len(definitions), size))
        assert found == {"public.log": ("public.b", 'public."Log 1"'), 's."A"': ("public.b",)}
    assert descendants({"a": ["b", "c"], "b": ["d"], "d": ["a"]}, "a") == ["b", "c", "d", "a"]


NAMING = b"""--
-- PostgreSQL database dump
--

SET SESSION AUTHORIZATION 'first';
--
-- Name: a; Type: TABLE; Schema: public; Owner: x
--

ALTER TABLE public.a OWNER TO "Odd ""one\xc3\xa9";
ALTER DEFAULT PRIVILEGES FOR ROLE maker IN SCHEMA public GRANT SELECT ON TABLES TO reader;
GRANT SELECT,INSERT(a) ON TABLE public.a TO writer WITH GRANT OPTION;
GRANT ALL ON SCHEMA public TO PUBLIC;
GRANT ALL ON SCHEMA public TO pg_monitor;
REVOKE ALL ON TABLE public.a FROM gone;
CREATE POLICY p ON public.a FOR SELECT TO one, "two" USING ((a > 1));
CREATE USER MAPPING FOR mapped SERVER s OPTIONS (
    "user" 'x'
);
--
-- Data for Name: a; Type: TABLE DATA; Schema: public; Owner: x
--

COPY public.a (a) FROM stdin;
GRANT ALL ON SCHEMA public TO nobody;
\\.


--
-- Name: b; Type: TABLE; Schema: public; Owner: x
--

ALTER TABLE public.b OWNER TO last;
--
-- PostgreSQL database dump complete
--
"""
NAMED = ["first", 'Odd "oneé', "writer", "gone", "one", "two", "mapped", "maker", "reader", "last"]


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_each_role_is_found_once_however_the_dump_is_cut(size: int) -> None:
    names = RoleNames()
    reader = DumpReader(names, counting=False)
    for start in range(0, len(NAMING), size):
        reader.feed(NAMING[start : start + size])
    reader.finish()
    assert sorted(names.found) == sorted(NAMED) and names.found["last"] == 1 and not names.found["reader"]
