"""The roles that a dump names, found without knowing any of them."""

from __future__ import annotations

import pytest

from backup.postgres.dump.dump_reader import DumpReader
from backup.postgres.dump.role_names import RoleNames

DUMP = b"""--
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
FOUND = ["first", 'Odd "oneé', "writer", "gone", "one", "two", "mapped", "maker", "reader", "last"]


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_each_is_found_once_however_the_dump_is_cut(size: int) -> None:
    names = RoleNames()
    reader = DumpReader(names, counting=False)
    for start in range(0, len(DUMP), size):
        reader.feed(DUMP[start : start + size])
    reader.finish()
    assert sorted(names.found) == sorted(FOUND) and names.found["last"] == 1 and not names.found["reader"]
