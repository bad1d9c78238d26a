"""A plain dump's content object by object, so that two dumps of equal databases compare equal.

Left out of what is hashed: the versions in the head, the planner's statistics, and what DumpReader leaves out, such as
the random restrict key.
Everything else counts byte for byte. Memory: one entry per object, never one line of rows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from backup.formatting import plural, printable
from backup.postgres.dump.dump_reader import END, STATISTICS, DumpReader
from backup.postgres.dump.statements import SETTINGS, TAIL

# Definitions are kept to be compared by meaning: each up to this length, all of a dump up to that.
_TEXT: Final = 64 << 10
_TEXT_IN_ALL: Final = 16 << 20
BEGINNING: Final = "beginning"
# Rows come so where another server may have them in other partitions: they count for all of these together.
_BY_ROOT: Final = b"\n-- load via partition root "
OTHER_CONTENT: Final = "same number of rows, other content"
_VARYING: Final = re.compile(
    rb"^(?:-- Dumped from database version .*|-- Dumped by pg_dump version .*)\n", re.MULTILINE
)
_STATEMENT: Final = re.compile(rb"^(?!--|\n)[^\n]+\n", re.MULTILINE)
# The head is far shorter. What is longer is none, and is hashed as it is.
_LONGEST_EDGE: Final = 64 << 10
# What PostgreSQL writes otherwise after one restore although nothing is lost (tests/support/sample_schema.py): rows of
# varying width come in another order, since a load fills gaps; `varchar IN (…)` is stored in other words; the roles of
# a policy are ordered by numbers of the server's own.
_VALUE: Final = rb"'(?:[^']|'')*'::character varying"
_CAST_ARRAY: Final = re.compile(rb"\(ARRAY\[(" + _VALUE + rb"(?:, " + _VALUE + rb")*)\]\)::text\[\]")
_EACH: Final = re.compile(_VALUE)
_POLICY: Final = re.compile(rb"^(CREATE POLICY [^\n]*? TO )([^\n]*?)((?: USING| WITH CHECK)? ?\(|;)", re.MULTILINE)
_64: Final = (1 << 64) - 1


@dataclass(frozen=True)
class Section:
    """One object of a dump: hex SHA-256 of its normalised text, its kind as pg_dump names it, rows if it has any.

    `unordered` is the same for the same rows in any order, in this process alone, and None where nobody asked for it;
    `text` is that of a small definition.
    """

    sha256: str
    rows: int | None = None
    kind: str = ""
    unordered: int | None = 0
    text: bytes = b""

    def with_more(self, other: Section) -> Section:
        """The rows of both."""
        both = None
        if self.unordered is not None and other.unordered is not None:
            both = (self.unordered + other.unordered) & _64
        sha256 = hashlib.sha256(f"{self.sha256} {other.sha256}".encode()).hexdigest()
        return Section(sha256, (self.rows or 0) + (other.rows or 0), self.kind, both)


class _Lines:
    """A sum over lines that does not depend on their order; a line may come in any pieces.

    Python's own hash of bytes: SipHash with a key that is random for each process, so only sums of one can be compared.
    """

    def __init__(self) -> None:
        self._sum = 0
        self._rest: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        first, *lines = data.split(b"\n")
        self._rest.append(first)
        if lines:
            lines[-1:], last = [b"".join(self._rest)], lines[-1]
            self._sum = (self._sum + sum(map(hash, lines))) & _64
            self._rest = [last]

    def finish(self) -> int:
        """The sum; the next bytes begin another one."""
        found, self._sum = (self._sum + hash(b"".join(self._rest))) & _64, 0
        self._rest = []
        return found


class Outline(DumpReader):
    """A DumpReader that also hashes what it reads, as its own watcher. `finish` it, then ask.

    `sections` maps `<kind> <schema>.<name>` (` (2)` behind a name's second object) to Section, in the dump's order.
    `digest` is the SHA-256 of all of them in their order: equal for two dumps whose normalised bytes are equal.
    `unordered`: as in Section, which takes as long as all the rest. `statistics`: whether the dump has any.
    """

    def __init__(self, *, unordered: bool = True, counting: bool = True) -> None:
        super().__init__(self, counting=counting)
        self.sections: dict[str, Section] = {}
        self.digest = ""
        self._total = hashlib.sha256()
        self._hash = hashlib.sha256()
        self._kind = self._key = BEGINNING
        # The table whose rows the present object is, and how many it had before.
        self._rows_of: str | None = None
        self._before = 0
        self._lead = b""
        # Partitioned tables whose rows come as their own, whatever their partition.
        self.roots: set[str] = set()
        # The text of the head until it is known where it ends.
        self._edge: bytes | None = b""
        self.statistics = False
        self._tail = b""
        self._seen: dict[str, int] = {}
        self._lines = _Lines() if unordered else None
        self._text = b""
        # Whether the present object's text is kept: all of it or nothing, since the ends of two may be equal.
        self._keeps = True
        self._room = _TEXT_IN_ALL

    def finish(self) -> None:
        """No more bytes come. Once."""
        super().finish()
        self._flush(normalise=True)
        self._close()
        self.digest = self._total.hexdigest()

    def leave_out(self, is_left_out: Callable[[str, str], bool]) -> None:
        """Compare no objects of which that is true, by kind and name; nor the beginning, which repeats names of all."""
        kept = {
            key: each
            for key, each in self.sections.items()
            if not is_left_out(each.kind, key[len(each.kind) + 1 :]) and each.kind != BEGINNING
        }
        self.sections, self.digest = kept, ""

    def section(self, kind: str, name: str) -> None:
        """See Watcher."""
        self._flush(normalise=True)
        self._close()
        self._kind, key = kind, f"{kind} {name}".rstrip()
        count = self._seen[key] = self._seen.get(key, 0) + 1
        self._key = key if count == 1 else f"{key} ({count})"

    def table(self, table: str) -> None:
        """See Watcher."""
        self._rows_of, self._before = table, self.rows[table]
        if _BY_ROOT in self._lead:
            self.roots.add(table)
            self._key = f"{self._kind} {table}"

    def data(self, data: bytes) -> None:
        """See Watcher."""
        if self._kind == STATISTICS:
            self._tail = data[-TAIL:] if len(data) >= TAIL else (self._tail + data)[-TAIL:]
            return
        if self._edge is None:
            self._hash.update(data)
            self._keep(data)
            return
        self._edge += data
        statement = _STATEMENT.search(self._edge)
        if statement and statement.start() <= _LONGEST_EDGE:
            rest = self._edge[statement.start() :]
            self._edge = self._edge[: statement.start()]
            self._flush(normalise=True)
            self._hash.update(rest)
        elif len(self._edge) > _LONGEST_EDGE:
            self._flush(normalise=False)

    def _keep(self, data: bytes) -> None:
        if self._kind == "TABLE DATA":
            if self._rows_of is None and len(self._lead) < _LONGEST_EDGE:
                self._lead += data
            if self._lines:
                self._lines.feed(data)
        elif self._keeps and self._kind != BEGINNING and len(self._text) + len(data) <= min(_TEXT, self._room):
            self._text += data
        else:
            self._text, self._keeps = b"", False

    def _flush(self, normalise: bool) -> None:
        """Hash what was held back of the head."""
        if self._edge is not None:
            self._hash.update(_VARYING.sub(b"", self._edge) if normalise else self._edge)
        self._edge = None

    def _close(self) -> None:
        if self._kind == STATISTICS:
            # What is set there for the object that comes.
            settings = SETTINGS.search(self._tail)
            self._text, self._tail, self.statistics = settings[0] if settings else b"", b"", True
            self._hash = hashlib.sha256(self._text)
            return
        rows = None if self._rows_of is None else self.rows[self._rows_of] - self._before
        unordered = self._lines.finish() if self._lines else None
        section = Section(self._hash.hexdigest(), rows, self._kind, unordered, self._text)
        self._room -= len(self._text)
        self._text, self._lead, self._keeps = b"", b"", True
        self._total.update(f"{section.sha256}  {self._key}\n".encode(errors="surrogateescape"))
        known = self.sections.get(self._key)
        self.sections[self._key] = known.with_more(section) if known else section
        self._hash, self._rows_of = hashlib.sha256(), None


def differences(expected: Outline, found: Outline, limit: int = 50) -> list[str]:
    """What a person should know of two dumps that are not equal object by object, at most `limit` lines and a count."""
    lines = list(_lines(expected, found))
    if len(lines) > limit:
        lines[limit:] = [f"and {plural(len(lines) - limit, 'more difference')}"]
    return lines


def same_order(expected: Outline, found: Outline) -> bool:
    """Whether the dumps are equal as a whole: also in the order of their objects."""
    return expected.digest == found.digest


def in_question(expected: Outline, found: Outline) -> bool:
    """Whether some rows differ, and only their sum in any order can tell whether it is their order alone."""
    return any(
        there.unordered is None and section.rows is not None and section.sha256 != there.sha256
        for key, section in expected.sections.items()
        if (there := found.sections.get(key))
    )


def _lines(expected: Outline, found: Outline) -> Iterator[str]:
    edges: list[str] = []
    for key, section in expected.sections.items():
        if section.kind in (BEGINNING, END):
            edges.append(key)
        elif key not in found.sections:
            yield f"{_shown(key, section)} is missing"
        elif section.sha256 != found.sections[key].sha256 and not _is_alike(section, found.sections[key]):
            yield f"{_shown(key, section)}{_changed(section, found.sections[key])}"
    for key, section in found.sections.items():
        if key not in expected.sections and section.kind != END:
            yield f"{_shown(key, section)} is new"
    if expected.large_objects != found.large_objects:
        yield f"{plural(found.large_objects, 'large object')} instead of {expected.large_objects:,}"
    # Last: it repeats in DROP statements what was named above.
    for key in edges:
        if key not in found.sections:
            yield f"the {key} of the dump is missing"
        elif expected.sections[key].sha256 != found.sections[key].sha256:
            what = " (settings and DROP statements)" if key == BEGINNING else ""
            yield f"the {key} of the dump{what} differs"


def _is_alike(expected: Section, found: Section) -> bool:
    """Whether two sections that are not equal byte for byte mean the same: rows in another order, or other words."""
    if expected.rows is not None:
        return (expected.rows, expected.unordered) == (found.rows, found.unordered)
    return _same_meaning(expected.text, found.text)


def _same_meaning(expected: bytes, found: bytes) -> bool:
    """Whether two definitions, neither of them empty, differ only in words that PostgreSQL chose anew."""
    return bool(expected and found) and _canonical(expected) == _canonical(found)


def _canonical(text: bytes) -> bytes:
    text = _CAST_ARRAY.sub(lambda array: b"ARRAY[" + _EACH.sub(rb"(\g<0>)::text", array[1]) + b"]", text)
    return _POLICY.sub(lambda policy: policy[1] + b", ".join(sorted(policy[2].split(b", "))) + policy[3], text)


def _changed(expected: Section, found: Section) -> str:
    if expected.rows is None or found.rows is None:
        return " differs"
    if expected.rows != found.rows:
        return f": {plural(found.rows, 'row')} instead of {expected.rows:,}"
    return f": {OTHER_CONTENT}"


def _shown(key: str, section: Section) -> str:
    if section.kind in ("BLOB", "BLOBS", "BLOB METADATA"):
        return printable(key.replace(section.kind, "large objects", 1))
    return printable(section.kind.lower() + key[len(section.kind) :])
