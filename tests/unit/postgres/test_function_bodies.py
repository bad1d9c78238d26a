"""Names that the body of a function finds by the search_path, and what it reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.postgres.function_bodies import read_body


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
    assert getattr(read_body(text), kind) >= names
    if kind in ("functions", "relations"):
        assert getattr(read_body(text), kind) - {"using", "cast", "values", "r"} == names


def test_functions_that_a_body_calls_by_schema() -> None:
    assert read_body('SELECT public.f(1), "S".g(2)').qualified == {("public", "f"), ("S", "g")}


@given(st.text(max_size=200))
def test_any_body_can_be_read(text: str) -> None:
    read_body(text)


def test_what_a_body_reads() -> None:
    text = """BEGIN -- FROM s.comment
        SELECT 1 FROM a, s."B b" x JOIN t.c ON true WHERE EXISTS (SELECT FROM ONLY u.d); PERFORM s.f(1); END"""
    body = read_body(text)
    assert body.reads == {("s", "B b"), ("t", "c"), ("u", "d")} and body.relations >= {"a"}
    assert body.qualified == {("s", "f")}
