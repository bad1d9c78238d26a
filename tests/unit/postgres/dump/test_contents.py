"""Cutting a dump into parts: in any chunks the same file, whose parts are what they say when each is read alone."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.errors import IntegrityError
from backup.pipeline.gzip import GzipWriter, unpack_part
from backup.postgres.dump.contents import LEAST, SIZE, Contents, ContentsCheck, Cutter, Part
from backup.postgres.dump.dump_reader import DumpReader
from tests.support.examples import examples

HEAD = b"--\n-- PostgreSQL database dump\n--\n\nSET statement_timeout = 0;\n"
FOOT = b"\n--\n-- PostgreSQL database dump complete\n--\n\n"
# What looks like rows, and is quoted.
QUOTED = b"CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$\nCOPY public.fake (a) FROM stdin;\n1\n2\n\\.\n$$;\n"
Table = tuple[str, bytes]


class Cut(NamedTuple):
    """What cutting a dump gave: the stored file, its contents, and the reader."""

    stored: bytes
    contents: Contents | None
    reader: DumpReader
    most_held: int


def chunks(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return (data[start:end] for start, end in zip(edges, edges[1:], strict=False))


def cut(data: bytes, cuts: list[int], least: int = LEAST, size: int = SIZE) -> Cut:
    target, reader = io.BytesIO(), DumpReader()
    writer = GzipWriter(target, 1)
    passed: list[int] = [0]

    class Counting:
        def write(self, data: bytes) -> None:
            passed.append(passed[-1] + len(data))
            writer.write(data)

        def mark(self) -> None:
            writer.mark()

    cutter = Cutter(reader, Counting(), least, size)
    fed = held = 0
    for chunk in chunks(data, cuts):
        reader.feed(chunk)
        cutter.write(chunk)
        fed += len(chunk)
        held = max(held, fed - passed[-1])
    cutter.finish()
    writer.close()
    stored = target.getvalue()
    return Cut(stored, cutter.contents(writer.marks, len(stored)), reader, held)


def dump(tables: list[Table], end: bytes = FOOT) -> bytes:
    text = HEAD + QUOTED
    for name, rows in tables:
        text += b"\n--\n-- Data for Name: x; Type: TABLE DATA; Schema: public; Owner: o\n--\n\n"
        text += f"COPY {name} (a) FROM stdin;\n".encode() + rows + b"\\.\n\n"
    return text + end


ROWS = st.lists(
    st.one_of(st.binary(max_size=40).map(lambda row: row.replace(b"\n", b"\\n").replace(b"\\.", b"\\\\."))), max_size=12
).map(lambda rows: b"".join(row + b"\n" for row in rows))
NAMES = st.sampled_from(["public.a", 'public."b c"', "app.tÄble", 'app."x\ny"'])
TABLES = st.lists(st.tuples(NAMES, ROWS), max_size=5)
CUTS = st.lists(st.integers(0, 1 << 20), max_size=40)


@examples(120)
@given(TABLES, CUTS, st.integers(1, 120), st.integers(1, 120), st.sampled_from([FOOT, b"", b"\n", b"-- rest\n"]))
def test_any_dump_in_any_chunks(tables: list[Table], cuts: list[int], least: int, size: int, end: bytes) -> None:
    data = dump(tables, end)
    stored, contents, reader, _ = cut(data, cuts, least, size)
    assert gzip.decompress(stored) == data
    large = [(name, rows) for name, rows in tables if len(rows) >= least]
    if contents is None:
        assert not large
        return
    assert Contents.decode(contents.encode()) == contents
    assert contents.parts[0].offset == 10
    assert contents.parts[-1].offset + contents.parts[-1].stored == len(stored)
    position = 0
    for part in contents.parts:
        plain = data[position : position + part.size]
        alone = b"".join(unpack_part([stored[part.offset : part.offset + part.stored]], part.size))
        assert alone == plain
        assert part.sha256 == hashlib.sha256(plain).hexdigest()
        assert part.rows == (plain.count(b"\n") if part.table else 0)
        assert not part.table or (data[position - 1 : position] + plain[-1:]) == b"\n\n"
        position += part.size
    assert position == len(data)
    grouped = groupby(contents.parts, key=lambda part: part.table)
    found = [(table, list(parts)) for table, parts in grouped if table]
    assert [table for table, _ in found] == [name for name, _ in large]
    for (_, parts), (_, rows) in zip(found, large, strict=True):
        assert sum(part.size for part in parts) == len(rows)
        # Each ends at the first row that makes it large enough.
        for part in parts[:-1]:
            assert size <= part.size <= size + max(map(len, rows.split(b"\n"))) + 1
    check = ContentsCheck(contents)
    for chunk in chunks(data, cuts[::2]):
        check.feed(chunk)
    assert check.agrees(reader.spans)


@examples(60)
@given(TABLES, CUTS, CUTS, st.integers(1, 120), st.integers(1, 120))
def test_chunks_make_no_difference(
    tables: list[Table], one: list[int], other: list[int], least: int, size: int
) -> None:
    data = dump(tables)
    assert plain_parts(cut(data, one, least, size)) == plain_parts(cut(data, other, least, size))


def plain_parts(found: Cut) -> list[tuple[str, int, int, str]]:
    parts = found.contents.parts if found.contents else ()
    return [(part.table, part.rows, part.size, part.sha256) for part in parts]


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 7, 64, 1000])
def test_spans_are_where_the_rows_lie(step: int) -> None:
    data = dump([("public.a", b""), ("public.b", b"1\n2\n"), ("public.c", b"\n\n")])
    reader = DumpReader()
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
        assert reader.judged <= start + step
    assert [(span.table, data[span.begin : span.end]) for span in reader.spans] == [
        ("public.a", b""),
        ("public.b", b"1\n2\n"),
        ("public.c", b"\n\n"),
    ]
    assert all(data[span.end :].startswith(b"\\.\n") for span in reader.spans)


@pytest.mark.parametrize("end", [b"", b"\\", b"\\.", b"3"])
@pytest.mark.parametrize("least", [1, 1000])
def test_a_dump_that_ends_among_its_rows_is_passed_on_whole(end: bytes, least: int) -> None:
    data = HEAD + b"\nCOPY public.a (a) FROM stdin;\n1\n2\n" + end
    for step in (1, 3, 1000):
        found = cut(data, list(range(0, len(data), step)), least, 1)
        assert gzip.decompress(found.stored) == data
        assert (found.contents is None) == (least == 1000)
        assert [span[:3] for span in found.reader.spans] == [("public.a", data.index(b"1\n2"), -1)]
    assert gzip.decompress(cut(HEAD + b"\nCOPY public.a (a) FROM stdin;", [3], least, 1).stored).endswith(b"stdin;")


@pytest.mark.long
def test_large_tables_alone_have_parts_and_memory_stays_flat() -> None:
    row = b"1\t" + b"x" * 97 + b"\n"
    small, large = row * (LEAST // len(row)), row * ((2 * SIZE + LEAST) // len(row))
    data = dump([("small", small), ("large", large), ("small2", small), ("exact", row[:76] + b"\n" + small)])
    found = cut(data, list(range(0, len(data), 70_001)))
    assert found.contents is not None
    assert [(part.table, part.size >= SIZE) for part in found.contents.parts] == [
        ("", False),
        ("large", True),
        ("large", True),
        ("large", False),
        ("", False),
        ("exact", False),
        ("", False),
    ]
    assert found.most_held <= LEAST + 4 * 70_001
    assert len(found.stored) < len(gzip.compress(data, 1)) * 1.5


PARTS = (
    Part("", 0, 10, 40, 100, "a" * 64),
    Part("public.a", 3, 50, 20, 30, "b" * 64),
    Part("", 0, 70, 10, 5, "c" * 64),
)


def listed(**changed: object) -> bytes:
    """The contents as JSON, with something else in the second part."""
    content: dict[str, Any] = json.loads(Contents(PARTS).encode())
    content["parts"][1] |= changed
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b"[]",
        b'{"format": 1, "parts": []}',
        b'{"format": 1, "parts": [7]}',
        b'{"format": 1, "parts": {}}',
        Contents(PARTS).encode().replace(b'"format": 1', b'"format": 2'),
        Contents(PARTS).encode()[:-20],
        Contents((PARTS[0], PARTS[2])).encode(),
        Contents(PARTS[::-1]).encode(),
        *(
            listed(**{field: value})
            for field in ("rows", "offset", "stored", "size")
            for value in (-1, 1 << 70, "50", 1.5, None, True)
        ),
        *(listed(**{field: 0}) for field in ("offset", "stored", "size")),
        listed(offset=51),
        listed(offset=49, stored=21),
        listed(stored=19),
        listed(table=""),
        listed(table=7),
        listed(sha256="B" * 64),
        listed(sha256="b" * 63),
    ],
)
def test_what_cannot_be_contents_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="the contents of the dump cannot be used"):
        Contents.decode(data)


def test_contents_are_read_back_and_later_facts_are_left_out() -> None:
    assert Contents.decode(Contents(PARTS).encode()) == Contents(PARTS)
    assert json.loads(Contents(PARTS).encode())["format"] == 1
    assert Contents.decode(listed(later="fact")) == Contents(PARTS)


def checked(contents: Contents, data: bytes, reader: DumpReader) -> bool:
    check = ContentsCheck(contents)
    for start in range(0, len(data), 7):
        check.feed(data[start : start + 7])
    return check.agrees(reader.spans)


def test_contents_that_contradict_the_dump_are_found() -> None:
    data = dump([("public.a", b"1\n22\n333\n"), ("public.b", b"4\n5\n")])
    _, contents, reader, _ = cut(data, [], 3, 3)
    assert contents is not None and checked(contents, data, reader)
    parts = contents.parts
    assert [part.table for part in parts] == ["", "public.a", "public.a", "", "public.b", ""]

    def put(number: int, **changed: Any) -> Contents:
        return Contents(tuple(replace(part, **changed) if at == number else part for at, part in enumerate(parts)))

    assert not checked(contents, data[:-1], reader)
    assert not checked(contents, data + b"\n", reader)
    assert not checked(contents, data.replace(b"333", b"334"), reader)
    assert not checked(Contents(parts[:-1]), data, reader)
    assert not checked(put(1, sha256="0" * 64), data, reader)
    assert not checked(put(1, rows=7), data, reader)
    assert not checked(put(1, size=parts[1].size + 1), data, reader)
    assert not checked(put(3, table="public.a"), data, reader)
    for at in (1, 2):
        assert not checked(put(at, table="public.b"), data, reader)
    # Right by themselves, but the rows of one table are cut off: what follows would be read as SQL.
    merged = [parts[0], parts[1], tally(data, parts, 2, 4)]
    assert not checked(Contents((*merged, *parts[4:])), data, reader)
    # Right but for a row that is cut in two.
    begin = sum(part.size for part in parts[:1])
    halves = [resized(parts[1], data[begin : begin + 1]), resized(parts[1], data[begin + 1 : begin + parts[1].size])]
    assert not checked(Contents((parts[0], *halves, *parts[2:])), data, reader)


def tally(data: bytes, parts: tuple[Part, ...], first: int, last: int) -> Part:
    """Several parts as one of no table."""
    begin = sum(part.size for part in parts[:first])
    return replace(
        resized(parts[first], data[begin : begin + sum(part.size for part in parts[first:last])]), table="", rows=0
    )


def resized(part: Part, plain: bytes) -> Part:
    return replace(part, size=len(plain), rows=plain.count(b"\n"), sha256=hashlib.sha256(plain).hexdigest())
