"""A plain dump as a new database takes it: without what drops what was there, and divided where its rows end.

What comes then is kept entry by entry, with the tables that each needs: pg_dump announces each object with a comment
and writes what is built on rows last. Entries that are not fully understood stay `alone`: everything before them is
done first, and nothing beside them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from backup.errors import LoadFailed
from backup.formatting import printable
from backup.postgres.dump.contents import Part
from backup.postgres.dump.definitions import CREATED, RELATING, related
from backup.postgres.dump.dependency_queue import Entry
from backup.postgres.dump.dump_reader import COPY, END, END_OF_ROWS, NAME, ROWS, STATISTICS, TABLE
from backup.postgres.dump.load_attempt import LoadAttempt
from backup.postgres.dump.statements import SETTINGS, TAIL, literal, statements
from backup.postgres.dump.statistics import Statistics
from backup.postgres.dump.violations import ALTER, REFERENCE

_INDEX: Final = re.compile(
    rb"^CREATE (?:UNIQUE )?INDEX " + NAME + rb" ON (?:ONLY )?" + TABLE + rb" USING (\w+) ", re.MULTILINE
)
_UNIQUE: Final = re.compile(ALTER + rb" (?:PRIMARY KEY|UNIQUE) ", re.MULTILINE)
_FOREIGN: Final = re.compile(REFERENCE + rb"\(", re.MULTILINE)
_PARTED: Final = re.compile(rb"^PARTITION BY ", re.MULTILINE)
_SETTING: Final = re.compile(rb"SET (\w+) = [^\n]*;\n")
# What a session does under another name, only its own later statements are to see.
_STATEFUL: Final = re.compile(rb"^(?:SET SESSION AUTHORIZATION|\\c(?:onnect)?) ", re.MULTILINE)
_EVENT_TRIGGER: Final = "EVENT TRIGGER"
# What may be the first to come behind the rows, of what is given to sessions one by one.
_BUILT: Final = ("INDEX", "CONSTRAINT", "FK CONSTRAINT", "EVENT TRIGGER", "MATERIALIZED VIEW DATA")
_CHECKING: Final = (*RELATING, "DOMAIN")
# Functions of the server's own are written without a schema.
_CALLED: Final = rb".*?(?:" + NAME + rb"\." + NAME + rb"\(|\bOPERATOR\()"
_CALLING: Final = re.compile(rb"\bCHECK \(" + _CALLED, re.DOTALL)
_GENERATED: Final = re.compile(rb"\bGENERATED ALWAYS AS \(" + _CALLED, re.DOTALL)
# In the name of what pg_dump notes of large objects, among the rows.
_LARGE_OBJECT: Final = "LARGE OBJECT"
# What stands among locks for all that the first session is given in the dump's order, and for rows given to another.
FIRST_SESSION: Final = Entry(b"", alters=frozenset([b"\0"]))
_ROWS: Final = b"\0%d of %b"
_TERMINATOR: Final = b"\\.\n"
# Definitions of a hundred thousand indexes. A dump with more of them is loaded as it comes.
_MOST: Final = 64 << 20
FIRST: Final = LoadAttempt()
# How much longer than a sorted index one with many keys per row takes.
_SLOW: Final = 4
_SETTING_OF_HEAD: Final = re.compile(rb"SET |SELECT pg_catalog\.set_config\(")
# A view that others need is replaced by an empty one.
_DROP: Final = re.compile(
    rb"DROP |ALTER .* DROP |CREATE OR REPLACE VIEW .* AS\nSELECT\n    NULL::|SELECT pg_catalog\.lo_unlink\(", re.DOTALL
)
# The drops of a million objects; what is longer has none, and is passed on as it is.
_LONGEST_HEAD: Final = 64 << 20


class WithoutDrops:
    """Give it the chunks of a plain dump before its first object in order, then `begin`; it gives what is to be loaded.

    Some of the statements that `--clean` makes fail where nothing is: pg_dump drops the constraint of a domain without
    asking for the domain, and replaces a view of a schema that is not there.

    `search_path`: where names are found that the dump does not look for anywhere; empty for as it is.
    """

    def __init__(self, search_path: bytes = b"") -> None:
        self._path = search_path
        self._head: bytes | None = b""
        # What the dump sets before its first object: each session that takes a part of it needs that.
        self.settings = b""

    def feed(self, chunk: bytes) -> bytes:
        """What can be loaded now."""
        if self._head is None:
            return chunk
        self._head += chunk
        return self.finish() if len(self._head) > _LONGEST_HEAD else b""

    def begin(self) -> bytes:
        """What is to be loaded before the first object, which comes now; nothing the next time."""
        head, self._head = self._head, None
        if head is None:
            return b""
        kept = [each + b"\n" for each in statements(head) if not _DROP.match(each)]
        if self._path:
            kept.append(b"SELECT pg_catalog.set_config('search_path', %b, false);\n" % literal(self._path))
        self.settings = b"".join(filter(_SETTING_OF_HEAD.match, kept))
        # The last line of it belongs to the object.
        return b"".join([*kept, b"\n--\n"])

    def finish(self) -> bytes:
        """What is left, of a dump that names no object at all."""
        head, self._head = self._head or b"", None
        return head


class Split:
    """A Watcher of a dump. `write` gets what comes before the first index or constraint; `entries` has the rest.

    If a table that the dump makes has many rows, they come in frozen, in a transaction of their own: no later scan has
    to mark each and write its page again. `rows_done` is called when those of all were written, `in_order` before
    `write` gets what may need rows that are loaded `apart`. `attempt` is how it is loaded. `settings` is what each
    session has to begin with, `trailer` what it ends with; `checked` are the statements that make what has checks,
    `calling` that these call somebody's function.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        rows_done: Callable[[], None] = lambda: None,
        apart: Callable[[Entry], None] = lambda entry: None,
        in_order: Callable[[], None] = lambda: None,
        attempt: LoadAttempt = FIRST,
    ) -> None:
        self._attempt = attempt
        # Whether rows of any table came by.
        self.with_rows = False
        self._write, self._rows_done, self._apart, self._in_order = write, rows_done, apart, in_order
        # The rows that come are those of these parts, one by one where several sessions may share them.
        self._parts: Sequence[tuple[Part, ...]] = ()
        self._statement = b""
        # What stands for the rows that are loaded apart, by table.
        self._coming: dict[bytes, frozenset[bytes]] = {}
        self._copying = self._within = False
        self._freezable: set[bytes] = set()
        self.entries: list[Entry] = []
        self.trailer = b""
        self._passed = WithoutDrops(attempt.search_path.encode(errors="surrogateescape") if attempt.by_path else b"")
        self._kind = self._name = self._last = ""
        self._holding = self._passing = False
        self._held = 0
        self._text: list[bytes] = []
        self._statistics = Statistics()
        self._tail = b""
        self._current: dict[bytes, bytes] = {}
        self._bytes: dict[bytes, int] = {}
        # Bytes of rows.
        self.rows = 0
        self.calling = False
        self.checked: list[bytes] = []
        self._ordered = self._functions = False
        self._left = 0
        self._table = b""
        # Tables that inherit from others, with those: a lock of one may be one of all.
        self._kin: set[bytes] = set()

    @property
    def settings(self) -> bytes:
        """The dump's own settings, as they are at its beginning."""
        return self._passed.settings

    def section(self, kind: str, name: str) -> None:
        """See Watcher."""
        self._close()
        self._write(self._passed.begin())
        self._kind, self._name, self._table = kind, name, b""
        self._functions = self._functions or kind == "FUNCTION"
        if kind == "TABLE DATA" and not self.with_rows:
            self.with_rows = True
            self._write(self._attempt.before_rows)
        # A trigger is not to see rows that are loaded apart, nor is anything else that comes behind them.
        waits = self._coming and kind not in (*ROWS, STATISTICS) and _LARGE_OBJECT not in name
        behind = kind in _BUILT or waits
        if behind and not self._holding and not self._passing:
            self._holding = True
            self._rows_done()
        elif kind in ROWS and self._holding:
            self._pass_on()

    def table(self, table: str) -> None:
        """See Watcher."""
        if not self._kind:
            # Rows before any object: whoever has put them there knows why.
            self._write(self._passed.finish())
        self._table = table.encode(errors="surrogateescape")
        self._copying = True

    def defer(self, table: str, parts: Sequence[Part], *, shared: bool) -> bool:
        """Whether the rows that come now, which are these parts of the dump, may be left out, for `apart` gets them.

        `shared`: each part by itself.
        """
        key = table.encode(errors="surrogateescape")
        # A function of the dump's own, in a check or a generated column, may read what comes before it in the dump.
        held = (self._ordered and self._functions) or self._attempt.second or self._holding or self._passing
        if held or not self._copying or key != self._table or key not in self._freezable:
            return False
        self._parts = [(part,) for part in parts] if shared else [tuple(parts)]
        return True

    def data(self, data: bytes) -> None:
        """See Watcher."""
        if self._parts:
            self._statement += data
            if not COPY.match(self._statement):
                return
            data = self._leave(self._statement)
        elif self._copying and self._table in self._freezable:
            data = self._frozen(data)
        self._copying = False
        self._tail = data[-TAIL:] if len(data) >= TAIL else (self._tail + data)[-TAIL:]
        if self._kind == STATISTICS:
            self._statistics.data(data)
            return
        if self._left:
            data, self._left = data[self._left :], max(0, self._left - len(data))
        if self._kind == "TABLE DATA":
            self._bytes[self._table] = self._bytes.get(self._table, 0) + len(data)
            self.rows += len(data)
        elif self._holding or self._kind in _CHECKING:
            self._text.append(data)
            self._held += len(data)
        if not self._holding:
            self._write(self._passed.feed(data))
        elif self._held > _MOST:
            self._pass_on()

    def finish(self) -> None:
        """No more comes; `entries` and `trailer` are complete."""
        self._close()
        self._write(self._passed.finish())
        self.entries += self._statistics.entries
        # They would act on what comes behind them, such as the filling of views.
        self.entries.sort(key=lambda entry: entry.last)

    def _close(self) -> None:
        """An object ends, and with it what the dump sets for those that come."""
        if self._parts:
            # No statement came that they could follow: better no load than one without them.
            self._leave(self._statement)
        if self._within:
            self._within = False
            self._write(b"COMMIT;\n")
        text, settings = b"".join(self._text), SETTINGS.search(self._tail)
        self._text = []
        if self._kind == STATISTICS:
            self._statistics.end(self._name)
            if settings and not self._holding:
                self._write(settings[0])
        elif not self._holding:
            self._held = 0
            self._note_table(text)
        elif self._kind == END:
            self.trailer = text
        else:
            self._add(text)
        if settings:
            self._current.update((match[1], match[0]) for match in _SETTING.finditer(settings[0]))
        self._tail = b""

    def _frozen(self, data: bytes) -> bytes:
        copy = COPY.match(data)
        if not copy or END_OF_ROWS in data:
            return data  # so few that a transaction, and a new file for them, would cost more
        self._within = True
        return self._freezing(copy[0]) + data[copy.end() :]

    def _freezing(self, copy: bytes) -> bytes:
        # As VACUUM FREEZE would leave them.
        return b"BEGIN;\nTRUNCATE ONLY %b;\n%b (FREEZE);\n" % (self._table, copy.removesuffix(b";\n"))

    def _leave(self, data: bytes) -> bytes:
        """Hand on the rows that were left out; what comes behind their statement. Their end is left out, too."""
        parts, self._parts, table = self._parts, (), self._table
        self._statement = b""
        copy = COPY.match(data)
        if not copy:
            raise LoadFailed(f"the rows of {printable(self._name)} cannot be loaded by themselves")
        tokens = [_ROWS % (number, table) for number in range(len(parts))]
        self._coming[table] = frozenset(tokens)
        script = self._freezing(copy[0]) if len(parts) == 1 else b"BEGIN;\n" + copy[0]
        for token, each in zip(tokens, parts, strict=True):
            weight = sum(part.size for part in each)
            self._bytes[table] = self._bytes.get(table, 0) + weight
            self.rows += weight
            self._apart(Entry(script, frozenset([token]), weight=weight, kind=self._kind, name=self._name, parts=each))
        self._left = len(_TERMINATOR)
        return data[copy.end() :]

    def _note_table(self, text: bytes) -> None:
        if b" CHECK (" in text:
            self.checked.append(text)
            self.calling = self.calling or bool(_CALLING.search(text))
        self._ordered = self._ordered or self.calling or bool(_GENERATED.search(text))
        for pair in related(self._kind, text):
            self._kin.update(pair)
        if self._kind in ("TABLE", "FOREIGN TABLE") and (made := CREATED.search(text)):
            if made[1] != b"FOREIGN " and not _PARTED.search(text):
                self._freezable.add(made[2])

    def _add(self, text: bytes) -> None:
        if _STATEFUL.search(text):
            self._text.append(text)
            self._pass_on()
            return
        # The settings behind it belong to what comes: each entry begins with all that hold for it.
        own = SETTINGS.sub(b"", text)
        script = b"".join(self._current.values()) + own
        entry = replace(self._understood(script, own), kind=self._kind, name=self._name)
        last = self.entries[-1] if self.entries else None
        if last and not last.alone and self._kind == "COMMENT" and _remark_on(self._last, self._name):
            self.entries[-1] = replace(last, script=last.script + script)
        else:
            self.entries.append(entry)
            self._last = self._name

    def _understood(self, script: bytes, own: bytes) -> Entry:
        match self._kind:
            case "INDEX" if found := _INDEX.search(own):
                table, method = self._key(found[1]), found[2]
                weight = self._bytes.get(found[1], 0) * (1 if method == b"btree" else _SLOW)
                # More than the index itself: CLUSTER ON, REPLICA IDENTITY, statistics of its columns.
                if b"\nALTER " in own or not table:
                    return Entry(script, frozenset([table]), self._rows_of(found[1]), weight=weight)
                # Its functions may read other tables, whatever they are declared as.
                plain = own.count(b"(") == 1 and b" WHERE " not in own
                rows = self._rows_of(found[1]) if plain else self._rows_of()
                return Entry(script, reads=rows | {table}, weight=weight)
            case "CONSTRAINT" if found := _UNIQUE.search(own):
                weight = self._bytes.get(found[1], 0)
                return Entry(script, frozenset([self._key(found[1])]), self._rows_of(found[1]), weight=weight)
            case "FK CONSTRAINT" if found := _FOREIGN.search(own):
                weight = self._bytes.get(found[1], 0)
                both = (found[1], found[3])
                return Entry(script, frozenset(map(self._key, both)), self._rows_of(*both), weight=weight)
        return Entry(script, alone=True, last=_EVENT_TRIGGER in (self._kind, self._name[: len(_EVENT_TRIGGER)]))

    def _rows_of(self, *tables: bytes) -> frozenset[bytes]:
        """What stands for all rows of these tables; of all without any, or where one is related to others."""
        if not tables or not self._kin.isdisjoint(tables):
            return FIRST_SESSION.alters.union(*self._coming.values())
        if all(table in self._coming for table in tables):
            return frozenset().union(*(self._coming[table] for table in tables))
        return FIRST_SESSION.alters.union(*(self._coming.get(table, frozenset()) for table in tables))

    def _key(self, table: bytes) -> bytes:
        """What stands for a table among locks: one name for all that are related."""
        return b"" if table in self._kin else table

    def _pass_on(self) -> None:
        """Not a dump as pg_dump makes them: what was kept, and all that comes, is loaded in its order."""
        self._holding, self._passing = False, True
        self._in_order()
        for entry in self.entries:
            self._write(entry.script)
        self._write(b"".join([*self._current.values(), *self._text]))
        self.entries, self._text, self._held = [], [], 0


def _remark_on(thing: str, comment: str) -> bool:
    """Whether `public.INDEX i` is the comment on the index `public.i`, `public.CONSTRAINT c ON t` on `public.t c`."""
    schema, _, name = thing.partition(".")
    table, _, constraint = name.partition(" ")
    return comment in (f"{schema}.INDEX {name}", f"{schema}.CONSTRAINT {constraint} ON {table}")
