"""Which tables of a dump are parts of others, or inherit from them, as its definitions stream by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from backup.postgres.dump.dump_reader import COLUMN, NAME, DumpReader
from backup.postgres.dump.statements import one_line

_TABLE: Final = rb"((?:" + NAME + rb"\.)?" + NAME + rb")"
_ATTACHED: Final = re.compile(rb"^ALTER TABLE ONLY " + _TABLE + rb" ATTACH PARTITION " + _TABLE + rb" ", re.MULTILINE)
_MADE: Final = re.compile(rb"^CREATE (?:UNLOGGED |FOREIGN )?TABLE " + _TABLE + rb" ", re.MULTILINE)
_INHERITS: Final = re.compile(rb"^INHERITS \((.*)\)", re.MULTILINE)
_PARENT: Final = re.compile(rb"((?:" + COLUMN + rb"\.)?" + COLUMN + rb")")
_KINDS: Final = ("TABLE", "FOREIGN TABLE", "TABLE ATTACH")


class Kinship:
    """A Watcher of a dump (see DumpReader). `children` maps each parent to its parts, all as the dump writes them."""

    def __init__(self) -> None:
        self.children: dict[bytes, list[bytes]] = {}
        self._kind, self._text = "", b""

    def section(self, kind: str, name: str) -> None:
        """An object begins (for DumpReader)."""
        self._close()
        self._kind = kind

    def table(self, table: str) -> None:
        """The present object is the rows of `table` (for DumpReader)."""

    def data(self, data: bytes) -> None:
        """The next bytes (for DumpReader)."""
        if self._kind in _KINDS:
            self._text += data

    def _close(self) -> None:
        text = one_line(self._text)
        if self._kind == "TABLE ATTACH":
            for parent, child in _ATTACHED.findall(text):
                self.children.setdefault(parent, []).append(child)
        elif (made := _MADE.search(text)) and (parents := _INHERITS.search(text)):
            for parent in _PARENT.findall(parents[1]):
                self.children.setdefault(parent, []).append(made[1])
        self._text = b""


def kinship(pieces: Iterable[bytes]) -> dict[str, tuple[str, ...]]:
    """The parts of each table of a dump, or of its definitions alone."""
    found = Kinship()
    reader = DumpReader(found, counting=False)
    for piece in pieces:
        reader.feed(piece)
    reader.finish()
    found.section("", "")
    return {_text(parent): tuple(map(_text, children)) for parent, children in found.children.items()}


def descendants(children: Mapping[str, Sequence[str]], table: str) -> list[str]:
    """All parts of a table, parts of parts too; each once."""
    found: dict[str, None] = {}
    waiting = list(children.get(table, ()))
    while waiting:
        each = waiting.pop(0)
        if each not in found:
            found[each] = None
            waiting += children.get(each, ())
    return list(found)


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
