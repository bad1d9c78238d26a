"""The contents of a dump: which stretches of its file can be read by themselves, and what is in each.

Rows of large tables begin at entry points of the gzip stream (see GzipWriter.mark), so several sessions can load one
dump side by side. The list is a file of its own: the dump stays one that gunzip and psql read as ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Annotated, Final, Literal, Protocol

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from backup.errors import IntegrityError
from backup.model.pack import Sha256, why_unusable
from backup.postgres.dump.dump_reader import DumpReader, Span, newlines

# How many bytes of rows a table has at least that gets parts of its own, and how many such a part has at least.
LEAST: Final = 1 << 20
SIZE: Final = 32 << 20
# No file has that many bytes, or rows.
_MOST: Final = 1 << 50
_Rows = Annotated[int, Field(ge=0, le=_MOST)]
_Bytes = Annotated[int, Field(gt=0, le=_MOST)]


@dataclass(frozen=True)
class Part:
    """A stretch of a dump that can be read by itself.

    `table` is as the dump writes it where all of the stretch are rows of it, none of them cut: `rows` of them. It is
    empty for anything else: SQL, and the rows of small tables. `offset` and `stored`: where in the file the stretch
    begins, and how many bytes it has there, up to the next one or the file's end. `size` and `sha256`: of its content.
    """

    table: str
    rows: _Rows
    offset: _Bytes
    stored: _Bytes
    size: _Bytes
    sha256: Sha256


@dataclass(frozen=True)
class Contents:
    """The parts of a whole dump, in its order and without a gap."""

    __pydantic_config__ = ConfigDict(strict=True)

    format: Literal[1] = field(default=1, kw_only=True)
    parts: tuple[Part, ...]

    def encode(self) -> bytes:
        """The contents as JSON."""
        return _JSON.dump_json(self, indent=1) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Contents:
        """Read them back; IntegrityError for anything that cannot be the contents of a dump."""
        try:
            contents = _JSON.validate_json(data)
        except ValidationError as error:
            raise _unusable(why_unusable(error)) from None
        if not contents.parts:
            raise _unusable("they list nothing")
        if any(before.offset + before.stored != after.offset for before, after in pairwise(contents.parts)):
            raise _unusable("their parts do not follow one another")
        if any(part.rows and not part.table for part in contents.parts):
            raise _unusable("they count rows of no table")
        return contents


def _unusable(why: str) -> IntegrityError:
    return IntegrityError(f"the contents of the dump cannot be used: {why}")


_JSON: Final = TypeAdapter(Contents)


class Markable(Protocol):
    """Where a dump goes; what is written behind a mark can be read by itself."""

    def write(self, data: bytes) -> object: ...

    def mark(self) -> None: ...


class _Tally:
    """What a part comes to as its bytes pass."""

    def __init__(self, table: str) -> None:
        self.table = table
        self.rows = self.size = 0
        self._hash = hashlib.sha256()

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self._hash.update(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def part(self, offset: int, stored: int) -> Part:
        return Part(self.table, self.rows, offset, stored, self.size, self.sha256)


class Cutter:
    """Passes a dump on, byte for byte, with a mark before each part. `reader`, which counts, is fed each chunk first.

    A table with `least` bytes of rows or more gets parts of its own: cut where they begin, where they end, and between
    at the first end of a row that is `size` bytes on. Holds back what may still be a small table, and what the reader
    has not judged.
    """

    def __init__(self, reader: DumpReader, target: Markable, least: int = LEAST, size: int = SIZE) -> None:
        self._reader, self._target, self._least, self._size = reader, target, least, size
        self._done: list[_Tally] = []
        self._open = _Tally("")
        # What is held back, where in the dump it begins, and the first of the reader's spans that is not passed on.
        self._held, self._offset, self._next = b"", 0, 0
        # Of that span, how many rows are.
        self._counted = 0

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._held += chunk
        judged = self._reader.judged
        for span in self._reader.spans[self._next :]:
            table, begin, end, _ = span
            known = judged if end < 0 else end
            if known - begin >= self._least:
                self._pass_rows(span, known)
            elif end < 0:
                self._pass(begin)
            if end < 0:
                return
            if self._open.table:
                self._cut("")
            self._next, self._counted = self._next + 1, 0
        self._pass(judged)

    def finish(self) -> None:
        """Pass on what was held back: no more bytes come, to the reader neither."""
        self._reader.finish()
        self._pass(self._offset + len(self._held))
        self._cut("")

    @property
    def sha256(self) -> str:
        """That of all that was passed on, in hex; empty if it was passed on in parts, each of which has its own."""
        return self._done[0].sha256 if len(self._done) == 1 else ""

    def contents(self, marks: Sequence[int], stored: int) -> Contents | None:
        """What was passed on, by where its marks are in a file of `stored` bytes; None if no table has parts."""
        between = pairwise([*marks, stored])
        parts = tuple(done.part(begin, end - begin) for done, (begin, end) in zip(self._done, between, strict=True))
        return Contents(parts) if any(part.table for part in parts) else None

    def _pass_rows(self, span: Span, known: int) -> None:
        """Pass on the rows of a large table as far as they are known."""
        if not self._open.table:
            self._pass(span.begin)
            self._cut(span.table)
        while (row := self._held.find(b"\n", max(self._size - 1 - self._open.size, 0), known - self._offset)) >= 0:
            self._count(newlines(self._held, 0, row + 1))
            self._pass(self._offset + row + 1)
            self._cut(span.table)
        self._count(span.rows - self._counted)
        self._pass(known)

    def _count(self, rows: int) -> None:
        self._open.rows += rows
        self._counted += rows

    def _pass(self, end: int) -> None:
        count = end - self._offset
        piece, self._held = self._held[:count], self._held[count:]
        if not piece:
            return
        if not self._open.size:
            self._target.mark()
        self._target.write(piece)
        self._open.add(piece)
        self._offset = end

    def _cut(self, table: str) -> None:
        """End the part that is open, if anything is in it; what comes next is of `table`."""
        if self._open.size:
            self._done.append(self._open)
        self._open = _Tally(table)


class ContentsCheck:
    """Compares a plain dump with its contents: feed it with all of it, then ask."""

    def __init__(self, contents: Contents) -> None:
        self._parts = contents.parts
        self._at, self._wrong = 0, False
        self._tally: _Tally | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        while data and self._at < len(self._parts):
            part = self._parts[self._at]
            tally = self._tally = self._tally or _Tally(part.table)
            piece, data = data[: part.size - tally.size], data[part.size - tally.size :]
            tally.rows += newlines(piece, 0, len(piece)) if part.table else 0
            tally.add(piece)
            if tally.size == part.size:
                cut_row = bool(part.table) and not piece.endswith(b"\n")
                self._wrong |= cut_row or tally.part(part.offset, part.stored) != part
                self._at, self._tally = self._at + 1, None
        self._wrong |= bool(data)

    def agrees(self, spans: Iterable[Span]) -> bool:
        """Whether all of it was as the contents say, if rows lie in `spans`."""
        whole = not self._wrong and self._at == len(self._parts)
        return whole and set(_spans(self._parts)).issubset(span._replace(rows=0) for span in spans)


def _spans(parts: Iterable[Part]) -> Iterator[Span]:
    """Where in the dump the rows lie that have parts of their own."""
    end = 0
    for table, group in groupby(parts, key=lambda part: part.table):
        begin, end = end, end + sum(part.size for part in group)
        if table:
            yield Span(table, begin, end)
