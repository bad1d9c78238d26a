"""Outlines of hand-written and of real dumps: independent of chunks, of random keys, and of nothing else."""

from __future__ import annotations

import hashlib
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.postgres.dump.dump_digest import Outline, differences, in_question, same_order

DUMP = rb"""--
-- PostgreSQL database dump
--

\restrict Abc123

-- Dumped from database version 17.11 (Debian)
-- Dumped by pg_dump version 17.11 (Debian)

SET statement_timeout = 0;
DROP TABLE public.two;
--
-- Name: f(integer); Type: FUNCTION; Schema: public; Owner: o
--

CREATE FUNCTION public.f(integer) RETURNS text LANGUAGE sql AS $$
-- Dumped by pg_dump version 1
\restrict not this
COPY public.fake (a) FROM stdin;
$$;


--
-- Name: a; Type: x; Type: TABLE; Schema: public; Owner: o
--

CREATE TABLE public."a; Type: x" (a text);

--
-- Name: two; Type: TABLE; Schema: public; Owner: o; Tablespace: 
--

CREATE TABLE public.two (a text, b text);

--
-- Data for Name: two; Type: TABLE DATA; Schema: public; Owner: o
--

COPY public.two (a, b) FROM stdin;
1	\\.
-- Name: trap; Type: TABLE; Schema: public; Owner: o
-- PostgreSQL database dump complete
\\restrict Abc123
-- Dumped by pg_dump version 2
\.


--
-- Data for Name: "new line"; Type: TABLE DATA; Schema: public; Owner: o
--

COPY public."new
-- Name: trap; Type: TABLE; Schema: public; Owner: o
line" (a) FROM stdin;
x
\.


--
-- Data for Name: by insert; Type: TABLE DATA; Schema: public; Owner: o
--

INSERT INTO public."by insert" VALUES (1);


--
-- Name: two_idx; Type: INDEX; Schema: public; Owner: o
--

CREATE INDEX two_idx ON public.two (a);


--
-- Name: two_idx; Type: INDEX; Schema: public; Owner: o
--

CREATE INDEX two_idx ON public.two (b);


--
-- Data for Name: BLOBS; Type: BLOBS; Schema: -; Owner: -
--

SELECT pg_catalog.lo_open('16400', 131072);

--
-- Name: TABLE two; Type: ACL; Schema: public; Owner: o
--

GRANT SELECT ON TABLE public.two TO PUBLIC;

--
-- PostgreSQL database dump complete
--

\unrestrict Abc123

"""  # noqa: W291
KEYS = [
    "beginning",
    "FUNCTION public.f(integer)",
    "TABLE public.a; Type: x",
    "TABLE public.two",
    "TABLE DATA public.two",
    'TABLE DATA public."new line"',
    "TABLE DATA public.by insert",
    "INDEX public.two_idx",
    "INDEX public.two_idx (2)",
    "BLOBS BLOBS",
    "ACL public.TABLE two",
    "end",
]


def outline(data: bytes, cuts: list[int] | None = None, *, unordered: bool = True) -> Outline:
    made = Outline(unordered=unordered)
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts or []}), len(data)]
    for start, end in zip(edges, edges[1:], strict=False):
        made.feed(data[start:end])
    made.finish()
    return made


def test_every_object_has_a_section() -> None:
    made = outline(DUMP)
    assert list(made.sections) == KEYS
    assert made.rows == {"public.two": 5, 'public."new\n-- Name: trap; Type: TABLE; Schema: public; Owner: o\nline"': 1}
    assert made.sections["TABLE DATA public.two"].rows == 5 and made.sections["TABLE public.two"].rows is None
    assert made.large_objects == 1 and made.client_version == "17.11 (Debian)" and made.missing() == ""


def test_sections_are_the_bytes_between_the_comments() -> None:
    """All of the dump but for the varying lines, cut at the comments by other means."""
    parts = re.split(rb"(?m)^(?=-- (?:Data for )?Name: (?!trap)|-- PostgreSQL database dump complete\n--\n)", DUMP)
    varying = rb"(?m)^(\\(un)?restrict Abc123\n|-- Dumped (by|from) .*)\n"
    parts[0], parts[-1] = (re.sub(varying, b"", parts[at]) for at in (0, -1))
    made = outline(DUMP)
    assert [s.sha256 for s in made.sections.values()] == [hashlib.sha256(part).hexdigest() for part in parts]
    lines = "".join(f"{section.sha256}  {key}\n" for key, section in made.sections.items())
    assert made.digest == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 64, 1000])
def test_chunks_make_no_difference(step: int) -> None:
    whole, cut = outline(DUMP), outline(DUMP, list(range(0, len(DUMP), step)))
    assert (whole.digest, whole.sections) == (cut.digest, cut.sections)


@given(st.lists(st.integers(0, 5000), max_size=20))
def test_random_chunks_make_no_difference(cuts: list[int]) -> None:
    assert outline(DUMP, cuts).sections == outline(DUMP).sections


def test_keys_and_versions_make_no_difference_at_the_edges_only() -> None:
    other = DUMP.replace(b"restrict Abc123\n\n", b"restrict Xyz9\n\n")
    other = other.replace(b"pg_dump version 17.11", b"pg_dump version 18.1").replace(
        b"base version 17", b"base version 15"
    )
    assert other.count(b"Xyz9") == 2 and same_order(outline(DUMP), outline(other))
    bare = re.sub(rb"(?m)^\\(un)?restrict Abc123\n\n", b"", DUMP)
    assert same_order(outline(DUMP), outline(bare))
    assert outline(DUMP).digest != outline(DUMP.replace(b"\\\\restrict Abc", b"\\\\restrict Abd")).digest
    assert outline(DUMP).digest != outline(DUMP.replace(b"pg_dump version 2", b"pg_dump version 3")).digest
    assert outline(DUMP).digest != outline(DUMP.replace(b"\\restrict not", b"\\restrict Not")).digest
    assert outline(DUMP).digest != outline(DUMP.replace(b"pg_dump version 1\n", b"pg_dump version 3\n")).digest


@pytest.mark.long
def test_every_changed_byte_makes_a_difference() -> None:
    """But for those of the varying lines."""
    expected = outline(DUMP).digest
    varying = [m.span() for m in re.finditer(rb"\\(?:un)?restrict Abc123\n\n|(?m:^-- Dumped .*Debian\)\n)", DUMP)]
    for at in range(len(DUMP)):
        changed = DUMP[:at] + (b"y" if DUMP[at : at + 1] != b"y" else b"z") + DUMP[at + 1 :]
        assert (outline(changed).digest != expected) or any(start <= at < end for start, end in varying), at


def test_differences_are_in_words() -> None:
    def words(*changes: tuple[bytes, bytes]) -> list[str]:
        other = DUMP
        for before, after in changes:
            assert before in other
            other = other.replace(before, after, 1)
        return differences(outline(DUMP), outline(other))

    assert words() == []
    assert words((b"1\t\\\\.\n", b"")) == ["table data public.two: 4 rows instead of 5"]
    assert words((b"1\t\\\\.\n", b"2\t\\\\.\n")) == ["table data public.two: same number of rows, other content"]
    assert words((b"RETURNS text", b"RETURNS int")) == ["function public.f(integer) differs"]
    assert words((b"\nx\n", b"\nx\nx\n")) == ['table data public."new line": 2 rows instead of 1']
    assert words((b"TABLE two; Type: ACL", b"TABLE \x1btwo; Type: ACL")) == [
        "acl public.TABLE two is missing",
        "acl public.TABLE \\x1btwo is new",
    ]
    assert words((b"lo_open('16400'", b"lo_close('16400'")) == [
        "large objects BLOBS differs",
        "0 large objects instead of 1",
    ]
    assert words((b"timeout = 0", b"timeout = 1")) == [
        "the beginning of the dump (settings and DROP statements) differs"
    ]
    assert words((b"\n\\unrestrict", b"\nSELECT 1;\n\\unrestrict")) == ["the end of the dump differs"]


def test_the_order_of_objects_is_no_difference() -> None:
    index = DUMP.index(b"-- Name: TABLE two; Type: ACL")
    table, end = DUMP.index(b"-- Data for Name: BLOBS"), DUMP.index(b"-- PostgreSQL database dump complete\n--\n")
    one, two = outline(DUMP), outline(DUMP[:table] + DUMP[index:end] + DUMP[table:index] + DUMP[end:])
    assert differences(one, two) == [] and not same_order(one, two) and same_order(one, one)


def test_rows_in_another_order_are_in_question_until_someone_has_looked() -> None:
    start = DUMP.rindex(copy := b"COPY public.two (a, b) FROM stdin;\n") + len(copy)
    end = DUMP.index(b"\n\\.\n", start) + 1
    rows = DUMP[start:end].splitlines(keepends=True)
    turned = DUMP[:start] + b"".join(reversed(rows)) + DUMP[end:]
    assert turned != DUMP
    expected = outline(DUMP)
    assert not in_question(expected, outline(DUMP, unordered=False))
    assert in_question(expected, outline(turned, unordered=False))
    assert differences(expected, outline(turned, unordered=False)) != []
    looked = outline(turned)
    assert not in_question(expected, looked) and differences(expected, looked) == []


@pytest.mark.parametrize("step", [4 << 10, 20_000, 60_000, 64 << 10])
def test_what_is_long_differs_wherever_it_does(step: int) -> None:
    """Its text is not kept; nor is that of its end alone, which may be the same."""
    line = b"SELECT pg_catalog.lowrite(0, '\\x%0064x');\n"
    first, more = line % 7, b"".join(line % number for number in range(2_000))
    made = []
    for content in (first + more, first.replace(b"7'", b"8'") + more):
        made.append(Outline())
        dump = DUMP.replace(b"$$;\n", b"$$;\n" + content, 1)
        for start in range(0, len(dump), step):
            made[-1].feed(dump[start : start + step])
        made[-1].finish()
    assert differences(*made) != []


def test_a_long_list_is_cut() -> None:
    table = b"--\n-- Name: t%d; Type: TABLE; Schema: s; Owner: o\n--\n\nCREATE TABLE t%d ();\n\n"
    end = b"--\n-- PostgreSQL database dump complete\n--\n\n\\un"
    more = DUMP.replace(end, b"".join(table % (n, n) for n in range(80)) + end)
    found = differences(outline(more), outline(DUMP), limit=10)
    assert found[0] == "table s.t0 is missing" and found[9:] == ["table s.t9 is missing", "and 70 more differences"]


def test_memory_does_not_grow_with_rows_or_lines() -> None:
    made, row = Outline(), (b"%0998d\n" % 1) * 1000
    begin, end = DUMP.split(b"1\t\\\\.\n")
    tracemalloc.start()
    made.feed(begin)
    for _ in range(60):
        made.feed(row)
    made.feed(end)
    made.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert made.rows["public.two"] == 60_004 and peak < 20 << 20


def test_a_quoted_trailer_is_hashed_as_it_is() -> None:
    fake = b"-- PostgreSQL database dump complete\n\\unrestrict one\n$$;"
    one, two = (DUMP.replace(b"$$;", each, 1) for each in (fake, fake.replace(b"one", b"two")))
    assert outline(one).digest != outline(two).digest and list(outline(one).sections) == KEYS


def test_rows_that_may_be_in_other_partitions_count_for_all_of_them() -> None:
    """pg_dump writes them so by itself where a partition goes by the hash of an enum, which differs between servers."""

    def dump(*partitions: str) -> Outline:
        text = ""
        for number, values in enumerate(partitions):
            title = f"-- Data for Name: p_{number}; Type: TABLE DATA; Schema: public; Owner: o\n--\n\n"
            copy = "-- load via partition root public.p\n\nCOPY public.p (a) FROM stdin;\n"
            text += f"--\n{title}{copy}{''.join(f'{value}' + chr(10) for value in values)}\\.\n\n\n"
        return outline(
            DUMP.replace(b"--\n-- Name: two_idx", text.encode() + b"--\n-- Name: two_idx", 1), [*range(0, 9000, 7)]
        )

    first, second = dump("abc", "d"), dump("dc", "ab")
    assert first.roots == {"public.p"} and first.sections["TABLE DATA public.p"].rows == 4 == first.rows["public.p"]
    assert differences(first, second) == []
    assert differences(first, dump("dc", "ax")) == ["table data public.p: same number of rows, other content"]
    assert differences(first, dump("dc", "a")) == ["table data public.p: 3 rows instead of 4"]
