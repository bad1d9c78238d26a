"""Which rows break a constraint, by its definition."""

from __future__ import annotations

from backup.postgres.dump.dependency_queue import Entry
from backup.postgres.dump.violations import violation_query

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
