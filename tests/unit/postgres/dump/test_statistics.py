"""The planner's statistics in a dump: loaded behind all else, wrapped so that none fails a load, and no content."""

from __future__ import annotations

import pytest

from backup.postgres.dump import statistics
from backup.postgres.dump.definitions import Definitions
from backup.postgres.dump.dump_digest import Outline, differences, same_order
from backup.postgres.dump.dump_reader import DumpReader
from backup.postgres.dump.load_attempt import left_out
from backup.postgres.dump.statistics import Statistics
from tests.unit.postgres.dump.test_load_script import (
    HEAD,
    MADE,
    TRAILER,
    beside,
    entry,
    index,
    orders,
    rows,
    split,
    table,
    unique,
)

SPACE = b"SET default_tablespace = fast;\n\n"


def known(name: str, value: str = "1") -> bytes:
    values = f"\t'relname', '{name}',\n\t'reltuples', '{value}'::real\n"
    call = f"SELECT * FROM pg_catalog.pg_restore_relation_stats(\n{values});"
    return entry("STATISTICS DATA", name, call).replace(b"-- Name", b"-- Statistics for Name")


def dump(value: str, space: bytes = SPACE, *, having: bool = True) -> bytes:
    # As pg_dump has them: of tables behind the rows, of indexes among what is built on these.
    of_table, of_index = (known("a", value), known("i", value)) if having else (b"", b"")
    return HEAD + table("a") + rows("a") + of_table + space + index("i", "a") + of_index + unique("a") + TRAILER


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_they_are_loaded_when_all_else_is_there(step: int) -> None:
    found, written, done = split(dump("1"), step)
    assert b"pg_restore" not in written and done == [len(written)]
    assert written.endswith(SPACE + b"--\n")
    made, key, statements = [each.script for each in found.entries]
    assert made.startswith(b"SET default_tablespace = fast;\n") and b"CREATE INDEX" in made and b"ADD CONSTRAINT" in key
    assert b"pg_restore" not in made + key and statements.count(b"DO E'") == statements.count(b"relation_stats(") == 2
    assert orders(found.entries)[-1] == [2]


def test_they_do_not_end_the_rows() -> None:
    value = entry("SEQUENCE SET", "s", "SELECT setval();")
    found, written, left = beside(MADE, known("a") + value + unique("a"))
    assert len(left) == 1 and b"setval" in written and [each.kind for each in found.entries] == ["CONSTRAINT", ""]


def test_what_is_too_much_is_left_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_MOST", 300)
    monkeypatch.setattr(statistics, "_AT_ONCE", 1)
    kept = Statistics()
    for name, size in (("a", 100), ("b", 100), ("c", 200), ("d", 1)):
        kept.data(b"x" * size)
        kept.end(name)
    first, second = kept.entries
    assert first.alone and not second.alone and b"x" * 100 in first.script + second.script
    assert b"E\\'c\\'" not in first.script + second.script


def test_they_are_noted_when_the_server_refuses_them() -> None:
    line = '[{"kind": "statistics", "name": "public.a", "why": "no", "remedy": ""}]'
    assert [each.told for each in left_out([line])] == ["the statistics of public.a were left out: no"]


def outline(text: bytes, step: int = 1 << 20) -> Outline:
    made = Outline()
    made.read(text[start : start + step] for start in range(0, len(text), step))
    return made


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_they_are_no_content(step: int) -> None:
    one, other = outline(dump("1"), step), outline(dump("2"))
    assert one.statistics and same_order(one, other) and not differences(one, other)
    assert not any("STATISTICS" in key for key in one.sections)
    assert not outline(dump("1", having=False)).statistics
    moved = outline(dump("1", SPACE.replace(b"fast", b"slow")))
    assert not same_order(one, moved) and differences(one, moved) == ["index public.i differs"]


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_they_define_nothing(step: int) -> None:
    def defined(text: bytes) -> Definitions:
        found = Definitions()
        DumpReader(found, telling_rows=False).read(text[start : start + step] for start in range(0, len(text), step))
        return found

    one, other = defined(dump("1")), defined(dump("2"))
    assert one.sha256 == other.sha256 != defined(dump("1", SPACE.replace(b"fast", b"slow"))).sha256
    script = b"".join(one.script or ())
    assert b"pg_restore" not in script and SPACE in script
