"""A dump on its way into another server: what is changed in it, and that nothing else is."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.postgres.dump.adaptation import AS_IT_IS, Adaptation
from backup.postgres.dump.dump_reader import DumpReader

HEAD = rb"""--
-- PostgreSQL database dump
--

-- Dumped from database version 17.11
-- Dumped by pg_dump version 17.11

SET statement_timeout = 0;
SET client_encoding = 'LATIN1';
SELECT pg_catalog.set_config('search_path', '', false);

"""
CRON = rb"""--
-- Name: pg_cron; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS pg_cron WITH SCHEMA pg_catalog;


--
-- Name: EXTENSION pg_cron; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION pg_cron IS 'x';


"""
TIMESCALE = rb"""--
-- Name: timescaledb; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS timescaledb WITH SCHEMA "o'dd";


"""
FUNCTION = rb"""--
-- Name: f(); Type: FUNCTION; Schema: public; Owner: o
--

CREATE FUNCTION public.f() RETURNS text
    LANGUAGE sql
    AS $$
SET default_tablespace = fast;

--
$$;


"""
FAST = b"SET default_tablespace = fast;\n\n"
HERE = b'SET default_tablespace = "he""re";\n\n'
TABLE = rb"""--
-- Name: t; Type: TABLE; Schema: public; Owner: o
--

CREATE TABLE public.t (a text);


"""
JOBS = rb"""--
-- Data for Name: job; Type: TABLE DATA; Schema: cron; Owner: o
--

COPY cron.job (jobid) FROM stdin;
1
\.


"""
ROWS = rb"""--
-- Data for Name: t; Type: TABLE DATA; Schema: public; Owner: o
--

COPY public.t (a) FROM stdin;
SET default_tablespace = fast;

--
\.


"""
JOBID = rb"""--
-- Name: jobid_seq; Type: SEQUENCE SET; Schema: cron; Owner: o
--

SELECT pg_catalog.setval('cron.jobid_seq', 1, true);


"""
INDEX = rb"""--
-- Name: i; Type: INDEX; Schema: public; Owner: o
--

CREATE INDEX i ON public.t USING btree (a);


"""
GRANT = rb"""--
-- Name: SCHEMA cron; Type: ACL; Schema: -; Owner: o
--

GRANT USAGE ON SCHEMA cron TO app;


"""
TAIL = b"--\n-- PostgreSQL database dump complete\n--\n\n"
BODY = CRON + TIMESCALE + FUNCTION + FAST + TABLE + JOBS + HERE + ROWS + FAST + JOBID + FAST + INDEX + GRANT + TAIL


@dataclass
class Kept:
    """What a Watcher is told, and what was put aside."""

    sections: list[str] = field(default_factory=list)
    text: bytes = b""
    aside: bytes = b""

    def section(self, kind: str, name: str) -> None:
        self.sections.append(f"{kind} {name}".rstrip())

    def table(self, table: str) -> None:
        self.sections.append(f"rows of {table}")

    def data(self, data: bytes) -> None:
        self.text += data

    def put(self, data: bytes) -> None:
        self.aside += data


def through(how: Adaptation, dump: bytes, *cuts: int) -> Kept:
    kept = Kept()
    reader = DumpReader(how.applied(kept, kept.put))
    begun = 0
    for cut in [*sorted(cut % len(dump) for cut in cuts), len(dump)]:
        reader.feed(dump[begun:cut])
        begun = cut
    reader.finish()
    return kept


cuts = st.lists(st.integers(0, 1 << 16), max_size=12)


@given(cuts)
def test_what_needs_no_change_comes_through_as_it_is(places: list[int]) -> None:
    dump = HEAD + BODY.replace(TIMESCALE, b"")
    kept = through(AS_IT_IS, dump, *places)
    assert kept.text == dump and not kept.aside
    plain = Kept()
    reader = DumpReader(plain)
    reader.feed(dump)
    reader.finish()
    assert kept.sections == plain.sections


@given(cuts)
def test_a_tablespace_that_is_not_there_becomes_the_default_one_between_objects_alone(places: list[int]) -> None:
    """Neither in a function's text nor in a row, whatever they say."""
    default = b"SET default_tablespace = '';\n\n"
    kept = through(Adaptation(tablespaces=frozenset({'he"re'})), HEAD + BODY.replace(TIMESCALE, b""), *places)
    wanted = BODY.replace(TIMESCALE, b"").replace(FAST + TABLE, default + TABLE).replace(FAST + INDEX, default + INDEX)
    assert kept.text == HEAD + wanted.replace(FAST + JOBID, default + JOBID)


@given(cuts)
def test_what_waits_is_put_aside_as_a_whole_and_settings_stay(places: list[int]) -> None:
    kept = through(Adaptation(waiting={"pg_cron": "cron"}), HEAD + BODY.replace(TIMESCALE, b""), *places)
    assert not [each for each in kept.sections if "cron" in each]
    for line in (
        b"CREATE EXTENSION",
        b"COMMENT ON EXTENSION",
        b"COPY cron.job",
        b"setval",
        b"GRANT USAGE ON SCHEMA cron",
    ):
        assert line in kept.aside and line not in kept.text.replace(ROWS, b"")
    assert kept.aside.startswith(b"SET client_encoding = 'LATIN1';\n") and kept.aside.count(b"client_encoding") == 1
    # Each setting stands where it stood: before the next object that is not put aside.
    assert HERE + ROWS + FAST + b"--\n" + FAST + INDEX in kept.text
    assert kept.text.endswith(TAIL) and kept.text.count(FAST) == BODY.count(FAST)


@pytest.mark.parametrize("version", ["", "2.19.3"])
def test_an_extension_that_wants_to_know_of_loads_is_told_and_gets_its_version(version: str) -> None:
    kept = through(Adaptation(versions={"timescaledb": version}), HEAD + TIMESCALE + TABLE + TAIL)
    made, _, rest = kept.text.partition(b"timescaledb_pre_restore()")
    assert b"TABLE public.t" in rest and b"TABLE public.t" not in made
    assert (b'EXISTS timescaledb WITH SCHEMA "o\'dd";' in made) is not version
    if version:
        assert b"VERSION" in made and b"2.19.3" in made and b"\"o\\\\'\\\\'dd\"" not in made
