"""What a dump defines, as it streams by: all of it with a hash that names it, tables that are parts, roles it names."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from backup.postgres.dump.dump_reader import COLUMN, END, ROWS, STATISTICS, TABLE, DumpReader
from backup.postgres.dump.statements import SETTINGS, TAIL, meant, one_line

# What is said of large objects, as often as there are any: their owners and grants, comments and labels.
_OF_OBJECTS: Final = ("ACL", "COMMENT", "SECURITY LABEL")
_OBJECT: Final = "LARGE OBJECT"
# Definitions of a hundred thousand tables. More of them are hashed, but not kept.
_MOST: Final = 64 << 20
_ATTACHED: Final = re.compile(rb"^ALTER TABLE ONLY " + TABLE + rb" ATTACH PARTITION " + TABLE + rb" ", re.MULTILINE)
CREATED: Final = re.compile(rb"^CREATE (UNLOGGED |FOREIGN )?TABLE " + TABLE + rb" ", re.MULTILINE)
_INHERITS: Final = re.compile(rb"^INHERITS \((.*)\)", re.MULTILINE)
_PARENT: Final = re.compile(rb"((?:" + COLUMN + rb"\.)?" + COLUMN + rb")")
RELATING: Final = ("TABLE", "FOREIGN TABLE", "TABLE ATTACH")
_ROLE: Final = rb'(?:"(?:[^"\n]|"")+"|[a-z_\x80-\xff][a-z0-9_$\x80-\xff]*)'
_ROLES: Final = _ROLE + rb"(?:, " + _ROLE + rb")*"
# As pg_dump writes them.
_NAMED: Final = re.compile(
    rb"^(?:ALTER .* OWNER TO (?P<owner>" + _ROLE + rb");"
    rb"|(?:ALTER DEFAULT PRIVILEGES .* )?(?:GRANT .* TO|REVOKE .* FROM) (?P<granted>"
    + _ROLE
    + rb")(?: WITH GRANT OPTION)?(?: GRANTED BY [^;]*)?;"
    rb"|CREATE POLICY .* TO (?P<policy>" + _ROLES + rb")(?: USING .*| WITH CHECK .*|;)"
    rb"|CREATE USER MAPPING FOR (?P<mapped>" + _ROLE + rb") SERVER .*"
    rb"|SET SESSION AUTHORIZATION '?(?P<session>" + _ROLE + rb")'?;)$",
    re.MULTILINE,
)
_DEFAULTS: Final = re.compile(rb"^ALTER DEFAULT PRIVILEGES FOR ROLE (" + _ROLE + rb") ", re.MULTILINE)
_ONE: Final = re.compile(_ROLE)
_ROWS: Final = ("TABLE DATA", "BLOBS", "LARGE OBJECT DATA", STATISTICS)
# In what comes behind, of one object, nothing is looked for.
_LONGEST: Final = 64 << 20


class Definitions:
    """A Watcher of a dump without its rows: all that it defines, but statistics, sequence values and large objects.

    Two dumps of an unchanged database have the same hash: the head, with its versions, restrict key and the statements
    that drop what is made below, and the trailer are left out of it. Memory: the definitions, up to 64 MB.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._hash, self._most = hashlib.sha256(), most
        self._kept: list[bytes] | None = []
        self._size = 0
        self._keeps, self._hashes = True, False
        # The last bytes of statistics: what is set there for the object that comes.
        self._tail: bytes | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 in hex."""
        return self._hash.hexdigest()

    @property
    def script(self) -> list[bytes] | None:
        """A plain dump of the definitions alone, in pieces; None where they are too many."""
        return self._kept

    def section(self, kind: str, name: str) -> None:
        """See Watcher."""
        if self._tail is not None and (settings := SETTINGS.search(self._tail)):
            self._keeps = self._hashes = True
            self._take(settings[0])
        self._tail = b"" if kind == STATISTICS else None
        of_objects = kind in _OF_OBJECTS and name.startswith(_OBJECT)
        self._keeps = kind in ("TABLE DATA", "SEQUENCE SET") or not (kind in ROWS or of_objects)
        self._hashes = self._keeps and kind not in (END, "SEQUENCE SET")

    def table(self, table: str) -> None:
        """See Watcher."""

    def data(self, data: bytes) -> None:
        """See Watcher."""
        if self._tail is not None:
            self._tail = (self._tail + data)[-TAIL:]
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        if self._hashes:
            self._hash.update(data)
        if self._keeps and self._kept is not None:
            self._kept.append(data)
            self._size += len(data)
            if self._size > self._most:
                self._kept = None


class Kinship:
    """A Watcher of a dump. `children` maps each parent to its parts, all as the dump writes them."""

    def __init__(self) -> None:
        self.children: dict[bytes, list[bytes]] = {}
        self._kind, self._text = "", b""

    def section(self, kind: str, name: str) -> None:
        """See Watcher."""
        self._close()
        self._kind = kind

    def table(self, table: str) -> None:
        """See Watcher."""

    def data(self, data: bytes) -> None:
        """See Watcher."""
        if self._kind in RELATING:
            self._text += data

    def _close(self) -> None:
        for parent, child in related(self._kind, one_line(self._text)):
            self.children.setdefault(parent, []).append(child)
        self._text = b""


def related(kind: str, text: bytes) -> list[tuple[bytes, bytes]]:
    """The tables that a definition makes parts of others, each behind the one that it is a part of."""
    if kind == "TABLE ATTACH":
        return _ATTACHED.findall(text)
    made, parents = CREATED.search(text), _INHERITS.search(text)
    if kind not in RELATING or not made or not parents:
        return []
    return [(parent, made[2]) for parent in _PARENT.findall(parents[1])]


def kinship(pieces: Iterable[bytes]) -> dict[str, tuple[str, ...]]:
    """The parts of each table of a dump, or of its definitions alone."""
    found = Kinship()
    DumpReader(found, counting=False, telling_rows=False).read(pieces)
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


class RoleNames:
    """A Watcher of a dump: `found` are the names, as the server has them; each with how much it owns."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self._rows = False
        self._text: list[bytes] = []
        self._size = 0

    def section(self, kind: str, name: str) -> None:
        """See Watcher."""
        self._read(one_line(b"".join(self._text)))
        self._text, self._size, self._rows = [], 0, kind in _ROWS

    def table(self, table: str) -> None:
        """See Watcher."""

    def data(self, data: bytes) -> None:
        """See Watcher."""
        if not self._rows and self._size < _LONGEST:
            self._text.append(data)
            self._size += len(data)

    def _read(self, text: bytes) -> None:
        for match in _NAMED.finditer(text):
            for name in _ONE.findall(match[match.lastgroup or 0]):
                self._note(name, owns=match.lastgroup == "owner")
        for match in _DEFAULTS.finditer(text):
            self._note(match[1])

    def _note(self, written: bytes, *, owns: bool = False) -> None:
        name = meant(written)
        # Names that begin so are the server's own.
        if not name.startswith("pg_"):
            self.found[name] += owns
