"""Quoted texts that look like all that a reader of dumps looks for: they pass through each reader as they are."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.operations.verify.set_files import wrong_roles
from backup.postgres.dump.adaptation import Adaptation
from backup.postgres.dump.definitions import Definitions, RoleNames, kinship
from backup.postgres.dump.dump_digest import Outline
from backup.postgres.dump.dump_reader import DumpReader, Watcher
from backup.postgres.dump.load_script import Split
from backup.postgres.dump.table_extract import TableExtract

KEY = r"\restrict Abc123"
ODD = [
    KEY,
    r"\unrestrict Abc123",
    r"\restrict other",
    r"\connect elsewhere",
    r"\! touch evil",
    r"\.",
    r"\N",
    "--",
    "-- it's a comment",
    "/* one that goes on",
    "*/",
    "-- TOC entry 215 (class 1259 OID 16386)",
    "-- Dependencies: 3 4",
    "-- Data Pos: 0",
    "-- Started on 2026-01-01 00:00:00 UTC",
    "-- Completed on 2026-01-01 00:00:00 UTC",
    "-- Dumped by pg_dump version 9.6",
    "-- PostgreSQL database dump",
    "-- PostgreSQL database dump complete",
    "-- PostgreSQL database cluster dump complete",
    *(f"-- Name: fake; Type: {kind}; Schema: public; Owner: nobody" for kind in ("TABLE", "INDEX", "EXTENSION", "ACL")),
    "-- Data for Name: fake; Type: TABLE DATA; Schema: public; Owner: nobody",
    "-- Name: 1; Type: BLOB; Schema: -; Owner: nobody",
    "COPY public.fake (a) FROM stdin;",
    "SELECT pg_catalog.lo_open('1', 131072);",
    "SET default_tablespace = nowhere;",
    "SET default_table_access_method = heap;",
    "SET standard_conforming_strings = off;",
    "SET SESSION AUTHORIZATION nobody;",
    "ALTER TABLE public.fake OWNER TO nobody;",
    "GRANT ALL ON TABLE public.fake TO nobody;",
    "CREATE EXTENSION IF NOT EXISTS fake WITH SCHEMA public;",
    "COMMENT ON EXTENSION fake IS 'x';",
    "CREATE ROLE nobody;",
    "INHERITS (public.fake)",
    "BEGIN ATOMIC",
    "END;",
    "$$",
    '"',
    "'",
    "\\",
    "",
    "ALTER FUNCTION public.f() OWNER TO nobody;",
]
texts = st.lists(st.sampled_from(ODD) | st.text("'\"$\\-/*;aeE\n", max_size=6), max_size=12).map("\n".join)
cuts = st.lists(st.integers(0, 1 << 16), max_size=12)
HEAD = "--\n-- PostgreSQL database dump\n--\n\n{restrict}"
VERSIONS = "-- Dumped from database version 17.2\n-- Dumped by pg_dump version 17.2\n\n"
SETTINGS = "SET client_encoding = 'UTF8';\nSET standard_conforming_strings = {strings};\n\n"
TRAILER = "--\n-- PostgreSQL database dump complete\n--\n\n"


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def escaped(text: str) -> str:
    return literal(text.replace("\\", "\\\\"))


def dollar(text: str) -> str:
    tag = next(tag for tag in ("$$", "$_$", "$_X$") if tag not in text and not (text + "$").endswith(tag[:-1] + "$"))
    return f"{tag}{text}{tag}"


@dataclass
class Made:
    """A dump, its statements in order, and what each is about."""

    objects: list[tuple[str, str, str]]
    strings: str = "on"

    def dump(self, *, verbose: bool = False, keyed: bool = True) -> bytes:
        """As pg_dump writes it, or `pg_dump --verbose`."""
        text = HEAD.format(restrict=f"{KEY}\n\n" if keyed else "") + VERSIONS
        text += ("-- Started on 2026-11-29 06:46:04 UTC\n\n" if verbose else "") + SETTINGS.format(strings=self.strings)
        for number, (kind, name, statement) in enumerate(self.objects):
            toc = f"-- TOC entry {number} (class 1259 OID {number})\n-- Dependencies: 2 3\n" if verbose else ""
            of_rows = "Data for " if kind == "TABLE DATA" else ""
            position = "-- Data Pos: 0\n" if verbose else ""
            title = f"-- {of_rows}Name: {name}; Type: {kind}; Schema: public; Owner: me\n"
            text += f"--\n{toc}{title}{position}--\n\n{statement}\n\n\n"
        text += ("-- Completed on 2026-11-29 06:46:04 UTC\n\n" if verbose else "") + TRAILER
        return (text + (rf"\un{KEY[1:]}" + "\n\n" if keyed else "")).encode()

    @property
    def statements(self) -> list[bytes]:
        return [statement.encode() for _, _, statement in self.objects]

    @property
    def titles(self) -> list[str]:
        return [f"{kind} public.{name}" for kind, name, _ in self.objects]


@st.composite
def dumps(draw: st.DrawFn) -> Made:
    """One that holds texts wherever pg_dump writes any."""
    strings = draw(st.sampled_from(["on", "off"]))
    plain = literal if strings == "on" else escaped
    body, default, remark, value, row, note = (draw(texts) for _ in range(6))
    quote = draw(st.sampled_from([dollar, plain, lambda text: "E" + escaped(text)]))
    rows = row.replace("\\", "\\\\").replace("\n", "\\n")
    objects = [
        ("FUNCTION", "f()", f"CREATE FUNCTION public.f() RETURNS text\n    LANGUAGE sql\n    AS {quote(body)};"),
        ("TABLE", "t", f"CREATE TABLE public.t (\n    a text DEFAULT (public.f() || {plain(default)})\n);"),
        ("TABLE", "u", 'CREATE TABLE public.u (\n    a text,\n    "odd $$  /* -- e" text\n);'),
        ("COMMENT", "TABLE t", f"COMMENT ON TABLE public.t IS {plain(remark)};"),
        ("TABLE DATA", "t", f"COPY public.t (a) FROM stdin;\n{rows}\n\\."),
        (
            "TABLE DATA",
            "u",
            f"INSERT INTO public.u VALUES ({plain(value)}, 'é');\nINSERT INTO public.u VALUES (NULL, 1);",
        ),
        ("INDEX", "i", "CREATE INDEX i ON public.t USING btree (a);"),
        ("COMMENT", "INDEX i", f"COMMENT ON INDEX public.i IS {plain(note)};"),
        ("ACL", "TABLE t", "GRANT SELECT ON TABLE public.t TO reader;"),
    ]
    return Made(objects, strings)


@dataclass
class Kept:
    """A Watcher that keeps all."""

    sections: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    text: bytes = b""

    def section(self, kind: str, name: str) -> None:
        self.sections.append(f"{kind} {name}".rstrip())

    def table(self, table: str) -> None:
        self.tables.append(table)

    def data(self, data: bytes) -> None:
        self.text += data


def read(dump: bytes, watcher: Watcher | None = None, *places: int) -> DumpReader:
    reader, begun = DumpReader(watcher, telling_rows=not isinstance(watcher, Definitions)), 0
    for cut in [*sorted(cut % len(dump) for cut in places), len(dump)]:
        reader.feed(dump[begun:cut])
        begun = cut
    reader.finish()
    return reader


def in_order(text: bytes, statements: list[bytes]) -> bool:
    """Whether all are there, each behind the other."""
    at = 0
    for each in statements:
        found = text.find(each, at)
        if found < 0:
            return False
        at = found + len(each)
    return True


@given(dumps(), cuts)
def test_a_reader_sees_what_is_there_and_nothing_else(made: Made, places: list[int]) -> None:
    kept = Kept()
    reader = read(made.dump(), kept, *places)
    assert reader.missing() == "" and reader.client_version == "17.2"
    assert kept.sections == [*made.titles, "end"] and kept.tables == ["public.t"]
    assert (reader.rows, reader.extensions, reader.large_objects) == ({"public.t": 1}, [], 0)
    assert reader.commands == [] and not reader.connects
    assert kept.text == made.dump(keyed=False)


@given(dumps(), cuts)
def test_a_verbose_dump_is_read_as_one_that_is_not(made: Made, places: list[int]) -> None:
    plain, verbose, hashes = Kept(), Kept(), []
    read(made.dump(), plain)
    reader = read(made.dump(verbose=True), verbose, *places)
    assert reader.missing() == "" and (verbose.sections, verbose.text) == (plain.sections, plain.text)
    for dump in (made.dump(), made.dump(verbose=True)):
        definitions, outline = Definitions(), Outline()
        read(dump, definitions)
        outline.feed(dump)
        outline.finish()
        hashes.append((definitions.sha256, outline.digest))
    assert hashes[0] == hashes[1]


@given(dumps(), st.floats(0, 1, exclude_max=True), cuts)
def test_what_is_cut_off_is_never_whole(made: Made, share: float, places: list[int]) -> None:
    dump = made.dump(keyed=False)
    length = int(share * (len(dump) - len("complete\n--\n\n")))
    assert read(dump[:length] or b"-", None, *places).missing()


@given(dumps(), cuts, st.booleans())
def test_what_is_loaded_is_what_was_dumped(made: Made, places: list[int], elsewhere: bool) -> None:
    written = bytearray()
    split = Split(written.extend)
    how = Adaptation({"fake": "1"}, {"other": "fake"}, frozenset()) if elsewhere else Adaptation()
    read(made.dump(), how.applied(split), *places)
    split.finish()
    assert [each.kind for each in split.entries] in (["INDEX", "ACL"], ["INDEX", "COMMENT", "ACL"], [])
    scripts = [each.script for each in split.entries]
    assert in_order(bytes(written) + b"".join(scripts) + split.trailer, made.statements)


@given(dumps(), cuts)
def test_the_definitions_are_kept_as_they_are(made: Made, places: list[int]) -> None:
    found = Definitions()
    read(made.dump(), found, *places)
    script = b"".join(found.script or [])
    statements = [each for each in made.statements if not each.startswith(b"COPY")]
    assert in_order(script, statements) and b"COPY public.t (a) FROM stdin;\n\\.\n" in script
    again = Definitions()
    assert read(script, again).missing() == "" and again.sha256 == found.sha256


@given(dumps(), cuts)
def test_a_table_is_taken_out_as_it_is(made: Made, places: list[int]) -> None:
    written = bytearray()
    extract = TableExtract([b"public.t", b"public.u"], written.extend)
    read(made.dump(), extract, *places)
    extract.end()
    assert extract.written == {b"public.t", b"public.u"}
    assert f"SET LOCAL standard_conforming_strings = {made.strings};\n".encode() in written
    own = [each for each in made.statements if b"INDEX public.i" not in each and b"GRANT" not in each]
    assert all(bytes(written).count(each) == 1 for each in own)
    assert in_order(bytes(written), own)


@given(dumps(), cuts)
def test_nobody_and_no_relative_is_found_in_a_text(made: Made, places: list[int]) -> None:
    names = RoleNames()
    read(made.dump(), names, *places)
    assert set(names.found) == {"reader"} and kinship([made.dump()]) == {}


@given(texts, st.floats(0, 1))
def test_a_list_of_roles_is_whole_by_its_own_trailer(remark: str, share: float) -> None:
    head = f"--\n-- PostgreSQL database cluster dump\n--\n\n-- Started on x\n\n{KEY}\n\nCREATE ROLE a;\n"
    text = f"{head}COMMENT ON ROLE a IS {literal(remark)};\n\n\\un{KEY[1:]}\n\n-- Completed on x\n\n"
    whole = (text + "--\n-- PostgreSQL database cluster dump complete\n--\n\n").encode()
    assert wrong_roles([whole + b"-- Settings of the database itself\nALTER DATABASE a SET x TO 'y';\n"]) == []
    assert wrong_roles([whole[: int(share * len(text))]])


@pytest.mark.parametrize("size", [1, 1 << 20, 3 << 20])
def test_a_text_of_any_length_is_a_text(size: int) -> None:
    """Longer than what is held of a line: all that comes in it is the text's."""
    for quoted in (literal("x" * (3 << 20) + "\n" + "\n".join(ODD)), dollar("\n".join(ODD).replace("$$", "") * 3000)):
        made = Made([("COMMENT", "TABLE t", f"COMMENT ON TABLE public.t IS {quoted};")])
        reader, kept, dump = DumpReader(), Kept(), made.dump()
        reader = DumpReader(kept)
        step = size if size > 1 else 50_001
        for start in range(0, len(dump), step):
            reader.feed(dump[start : start + step])
        reader.finish()
        assert reader.missing() == "" and kept.sections == [*made.titles, "end"] and reader.commands == []
        assert kept.text == made.dump(keyed=False)


def test_what_a_clean_dump_sets_for_its_first_object_is_kept_and_what_somebody_added() -> None:
    """Between the statements that drop what was there and the first object."""
    table = "CREATE TABLE public.t (a text);"
    dump = Made([("TABLE", "t", table)]).dump()
    dropping = b'DROP TABLE public."DROP\n\n--\n-- Name: t; Type: TABLE; Schema: public; Owner: me\n";\n'
    more = (
        b"SET SESSION AUTHORIZATION me;\n\n" + dropping + b"CREATE EXTENSION added;\nSET default_tablespace = fast;\n\n"
    )
    dump = re.sub(rb"(?<=\n)(?=--\n-- Name: )", lambda _: more, dump, count=1)
    written = bytearray()
    split = Split(written.extend)
    read(dump, split)
    split.finish()
    last = b"SET default_tablespace = fast;\n"
    assert in_order(
        bytes(written), [b"SET SESSION AUTHORIZATION me;\n", b"CREATE EXTENSION added;", last, table.encode()]
    )
    assert b"DROP" not in written and b"added" not in split.settings and split.settings.endswith(last)
