"""A way to load a dump: as pg_dump has it but for what can be done without, or at a second attempt otherwise.

A view whose query fails stays empty. Names that pg_dump does not look for anywhere are looked for where the database's
own sessions find them. Checks are made after all rows. Constraints that rows break are made NOT VALID, if allowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal

from backup.postgres.dump.deferred_checks import put_back, taken_off
from backup.postgres.dump.dependency_queue import Entry
from backup.postgres.dump.left_out import block, noting
from backup.postgres.dump.statements import literal

# Names that were not found: of functions and operators, of tables, of types and others.
_UNRESOLVED: Final = ("42883", "42P01", "42704")
_CHECK_VIOLATION: Final = "23514"
# Of foreign keys and checks: those that can be made for later rows alone.
ALLOWED: Final = ("23503", _CHECK_VIOLATION)
_REFRESH: Final = re.compile(rb"^REFRESH MATERIALIZED VIEW [^\n]+;$", re.MULTILINE)
_FOREIGN: Final = re.compile(
    rb"^(ALTER TABLE (?:ONLY )?[^\n]+)\n    ADD (CONSTRAINT [^\n]+?) FOREIGN KEY [^\n]+;$", re.MULTILINE
)
# Want of memory or room, an end by hand, and damage of the server's own files say nothing of a query.
_FAILED: Final = b"""
        GET STACKED DIAGNOSTICS said = MESSAGE_TEXT, code = RETURNED_SQLSTATE;
        IF code ~ '^(53|57|58030|XX00[12])' THEN RAISE; END IF;"""
_FILLING: Final = b"""
    BEGIN
        EXECUTE %b;
        RETURN;
    EXCEPTION WHEN OTHERS THEN %b
    END;"""
# A view may have sums of money as text, as the server writes them, while the dump is read as it was written.
_OWN_MONEY: Final = b"""
    PERFORM set_config(name, reset_val, true) FROM pg_catalog.pg_settings WHERE name = 'lc_monetary';"""
# As the database's own sessions fill it: by names that they find, and with the rows that its owner may see.
_AS_OWN: Final = b"""
    IF code IN (%b, '42501') THEN
        PERFORM set_config('search_path', %b, true), set_config('row_security', 'on', true); %b
    END IF;"""
# Partitioned tables have no foreign keys that are not valid, before 18.
_REFERRING: Final = b"""DECLARE said text; BEGIN
    EXECUTE %b;
EXCEPTION WHEN foreign_key_violation THEN
    said := SQLERRM;
    BEGIN
        EXECUTE %b; %b
    EXCEPTION WHEN feature_not_supported THEN %b
    END;
END"""


@dataclass(frozen=True)
class Attempt:
    """`path`: schemas in which names may be found; unless `by_path`, for views alone, and only if nothing else helps.

    `checks`: which are made after all rows, those that call functions or all. `allow_invalid`: see above.
    """

    path: tuple[str, ...] = ()
    by_path: bool = False
    checks: Literal["", "calling", "all"] = ""
    allow_invalid: bool = False

    @property
    def second(self) -> bool:
        """Whether it is not the first one."""
        return self.by_path or bool(self.checks)

    @property
    def told(self) -> str:
        """What is otherwise than at the first one, in words that follow `with`."""
        found = [f"search_path = {self.search_path}"] if self.by_path else []
        return " and ".join([*found, *(["checks made after all rows"] if self.checks else [])])

    @property
    def search_path(self) -> str:
        """`path` as it is written in SQL."""
        return ", ".join('"' + name.replace('"', '""') + '"' for name in self.path)

    def after(self, sqlstate: str, *, calling: bool) -> Attempt | None:
        """What may go better when this has failed with an SQLSTATE. `calling`: a check of the dump calls a function."""
        if self.second:
            return None
        if sqlstate in _UNRESOLVED and self.path:
            return replace(self, by_path=True, checks="calling")
        if sqlstate == _CHECK_VIOLATION and (calling or self.allow_invalid):
            return replace(self, checks="all" if self.allow_invalid else "calling")
        return None

    @property
    def before_rows(self) -> bytes:
        """What is run before the first row."""
        return b"BEGIN;" + taken_off(calling=self.checks == "calling") + b"COMMIT;\n" if self.checks else b""

    @property
    def after_rows(self) -> bytes:
        """What is run when all rows are in."""
        return put_back("invalid" if self.allow_invalid else "strictly") if self.checks else b""

    def script(self, entry: Entry) -> bytes:
        """What a session is given for an entry."""
        name = literal(entry.name.encode(errors="replace"))
        if entry.kind == "MATERIALIZED VIEW DATA" and (found := _REFRESH.search(entry.script)):
            own = _filling(name, found[0], self.search_path.encode(errors="surrogateescape"))
        elif self.allow_invalid and entry.kind == "FK CONSTRAINT" and (found := _FOREIGN.search(entry.script)):
            own = _referring(name, found[0], found[1] + b" VALIDATE " + found[2] + b";")
        else:
            return entry.script
        return entry.script[: found.start()] + own + entry.script[found.end() :]


def _filling(name: bytes, refresh: bytes, path: bytes) -> bytes:
    once = _FILLING % (literal(refresh), _FAILED)
    codes = b", ".join(b"'%b'" % code.encode() for code in _UNRESOLVED)
    twice = _AS_OWN % (codes, literal(path), once)
    noted = noting("empty", name, literal(refresh))
    return block(b"DECLARE said text; code text; BEGIN %b%b%b%b\nEND" % (_OWN_MONEY, once, twice, noted))


def _referring(name: bytes, statement: bytes, validate: bytes) -> bytes:
    """A foreign key; where rows break it, one that holds for later rows alone."""
    later = statement.removesuffix(b";") + b" NOT VALID"
    invalid, absent = noting("invalid", name, literal(validate)), noting("absent", name, literal(statement))
    return block(_REFERRING % (literal(statement), literal(later), invalid, absent))
