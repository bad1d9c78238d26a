"""The dump reader against hand-written dumps, cut into chunks at every place."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backup.errors import DumpFailed
from backup.postgres.dump.dump_reader import END_OF_ROWS, DumpReader, end_of_rows, newlines

DUMP = rb"""--
-- PostgreSQL database dump
--

\restrict Abc123

-- Dumped from database version 17.11 (Debian)
-- Dumped by pg_dump version 17.11 (Debian)

SET statement_timeout = 0;
CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$
COPY public.fake (a) FROM stdin;
$$;

--
-- Data for Name: empty; Type: TABLE DATA; Schema: public; Owner: o
--

COPY public.empty (a) FROM stdin;
\.


--
-- Data for Name: two; Type: TABLE DATA; Schema: public; Owner: o
--

COPY public.two (a, b) FROM stdin;
1	\\.
2	COPY public.x FROM stdin;
\.


--
-- Data for Name: no columns; Type: TABLE DATA; Schema: public; Owner: o
--

COPY public."no columns"  FROM stdin;


\.


--
-- Data for Name: BLOBS; Type: BLOBS; Schema: -; Owner: -
--

BEGIN;

SELECT pg_catalog.lo_open('16400', 131072);
SELECT pg_catalog.lowrite(0, '\x00');
SELECT pg_catalog.lo_close(0);

COMMIT;

--
-- PostgreSQL database dump complete
--

\unrestrict Abc123

"""
ROWS = {"public.empty": 0, "public.two": 2, 'public."no columns"': 2}


def read(data: bytes, cuts: list[int]) -> DumpReader:
    reader = DumpReader()
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    for start, end in zip(edges, edges[1:], strict=False):
        reader.feed(data[start:end])
    return reader


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 64, 10_000])
def test_counts_do_not_depend_on_chunks(step: int) -> None:
    reader = read(DUMP, list(range(0, len(DUMP), step)))
    reader.check_whole()
    assert (reader.rows, reader.large_objects) == (ROWS, 1)
    assert reader.client_version == "17.11 (Debian)"


@given(st.lists(st.integers(0, 5000), max_size=20))
def test_counts_do_not_depend_on_random_cuts(cuts: list[int]) -> None:
    reader = read(DUMP, cuts)
    reader.check_whole()
    assert reader.rows == ROWS


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_extensions_are_named_but_not_those_in_rows(step: int) -> None:
    made = b"--\n-- Name: pg_trgm; Type: EXTENSION; Schema: -; Owner: -\n--\n\nCREATE EXTENSION pg_trgm;\n\n\n"
    comment = b"--\n-- Name: EXTENSION pg_trgm; Type: COMMENT; Schema: -; Owner: -\n--\n\n"
    row = b"-- Name: x; Type: EXTENSION; Schema: -; Owner: -\n"
    dump = DUMP.replace(b"--\n-- Data", made + comment + b"--\n-- Data", 1).replace(b"2\tCOPY", row + b"2\tCOPY")
    reader = DumpReader()
    for at in range(0, len(dump), step):
        reader.feed(dump[at : at + step])
    assert reader.extensions == ["pg_trgm"] and reader.rows["public.two"] == 3


def test_every_truncation_is_refused() -> None:
    for length in range(len(DUMP) - 2):
        with pytest.raises(DumpFailed):
            read(DUMP[:length], []).check_whole()


@given(st.lists(st.text(alphabet="ab\\.\tN", max_size=12), max_size=30), st.lists(st.integers(0, 999), max_size=9))
def test_rows_of_any_text(values: list[str], cuts: list[int]) -> None:
    rows = "".join(value.replace("\\", "\\\\") + "\n" for value in values).encode()
    table = b"-- Data for Name: t; Type: TABLE DATA; Schema: s; Owner: o\n--\n\nCOPY s.t (a) FROM stdin;\n"
    reader = read(table + rows + b"\\.\n\n\n" + table.replace(b"s.t", b"s.u") + b"\\.\n", cuts)
    assert reader.rows == {"s.t": len(values), "s.u": 0}


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_commands_of_psql_are_named_but_not_those_in_rows(step: int) -> None:
    odd = b"\\echo a\nSELECT 1;\n\\! b\n\\unrestrict c d\n\\N\n\\N\tx\n\\\\x00\n\\.\n" + b"\\p\n" * 20
    dump = DUMP.replace(b"\n--\n-- Data for", b"\n" + odd + b"\n--\n-- Data for", 1)
    plain, found = (read(text, list(range(0, len(text), step))) for text in (DUMP, dump))
    assert plain.commands == [] and found.missing() == ""
    assert found.commands == [r"\echo a", r"\! b", r"\unrestrict c d", r"\N", "\\N\tx", r"\\x00", r"\.", *[r"\p"] * 3]


def test_another_key_at_the_end_is_refused() -> None:
    with pytest.raises(DumpFailed, match="key"):
        read(DUMP.replace(b"\\unrestrict Abc123", b"\\unrestrict Abc124"), []).check_whole()


def test_old_servers_have_no_restrict_lines() -> None:
    read(DUMP.replace(b"\\restrict Abc123\n\n", b"").replace(b"\\unrestrict Abc123\n\n", b""), []).check_whole()


@given(st.integers(1, 200))
def test_names_may_go_on_over_several_lines(size: int) -> None:
    """A newline in the name of a table or column: the rows are counted, and never read as SQL."""
    copy = b'COPY public."new\nline" (a, "x\n, (y)""\n", b) FROM stdin;\n1\t2\t3\nCOPY public.fake (a) FROM stdin;\n'
    dump = DUMP.replace(b"COPY public.two (a, b) FROM stdin;\n", copy)
    reader = DumpReader()
    for start in range(0, len(dump), size):
        reader.feed(dump[start : start + size])
    reader.check_whole()
    assert reader.rows['public."new\nline"'] == 4 and "public.fake" not in reader.rows


@pytest.mark.parametrize("length", range(4000, 4200))
def test_a_key_across_the_edge_of_what_is_kept_of_the_beginning(length: int) -> None:
    end = b"\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict Abc123\n\n"
    begin = b"--\n-- PostgreSQL database dump\n--\n\n\\restrict Abc123\n\n"
    reader = DumpReader()
    reader.feed(begin + b"-" * (length - len(begin) - len(end)) + end)
    reader.check_whole()


@given(st.lists(st.integers(0, 200), max_size=200), st.integers(0, 50), st.integers(0, 50))
def test_newlines_are_counted_whatever_the_length_of_lines(lengths: list[int], start: int, cut: int) -> None:
    text = b"\n".join(b"x" * length for length in lengths)
    end = max(start, len(text) - cut)
    assert newlines(text, start, end) == text.count(b"\n", start, end)


@example([b"a" * 700, b"\\", END_OF_ROWS], 0, 1)
@given(
    st.lists(st.sampled_from([b"\n", b"\\", b".", b"\\.", b"a" * 700, END_OF_ROWS]), max_size=30),
    st.integers(0, 2000),
    st.integers(1, 4),
)
def test_the_end_of_rows_is_found_however_many_backslashes_there_are(
    pieces: list[bytes], start: int, times: int
) -> None:
    text = b"".join(pieces * times)
    assert end_of_rows(text, start) == text.find(END_OF_ROWS, start)
