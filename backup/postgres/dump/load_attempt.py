"""A way to load a dump: as pg_dump has it but for what can be done without, or at a second attempt otherwise.

A view whose query fails stays empty. Names that pg_dump does not look for anywhere are looked for where the database's
own sessions find them. Checks are made after all rows. Constraints that rows break are made NOT VALID, if allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from backup.postgres.dump.dependency_queue import Entry
from backup.postgres.dump.statements import literal, quoted

# Names that were not found: of functions and operators, of tables, of types and others.
_UNRESOLVED: Final = ("42883", "42P01", "42704")
_CHECK_VIOLATION: Final = "23514"
# Of locks: a deadlock, and one that was waited for too long.
_LOCKED: Final = ("40P01", "55P03")
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
_NOTES: Final = b"obcms_backup.left_out"
# What a session has noted, as an expression of SQL: JSON in one line.
NOTES: Final = b"coalesce(nullif(pg_catalog.current_setting('%b', true), ''), '[]')" % _NOTES
# More are not listed one by one.
_MOST: Final = 500
_Kind = Literal["empty", "invalid", "absent", "statistics"]
_TOLD: Final[dict[_Kind, str]] = {
    "empty": "the materialized view {} was left empty",
    "invalid": "the constraint {} is not valid for the rows that are there",
    "absent": "the constraint {} was left out",
    "statistics": "the statistics of {} were left out",
}
# Some checks call functions that read rows of other tables. pg_dump writes them with their tables, before any rows, and
# the tables in the order of their names. So they are taken off before the first row, as the server has them by then,
# and made again behind the last.
_CALLING: Final = """AND EXISTS (
             SELECT FROM pg_depend WHERE classid = 'pg_constraint'::regclass AND objid = c.oid
                AND refclassid = 'pg_proc'::regclass AND refobjid >= 16384)"""
_MADE: Final = "format('ALTER %s ADD CONSTRAINT %I %s', each.owner, each.name, each.definition)"
_OFF: Final = "format('ALTER %s DROP CONSTRAINT %I', each.owner, each.name)"
# What CREATE EXTENSION makes is not in the dump, is as its own script has it, and may be another's.
# Of what tables inherit, the origin is taken off first, which takes it from all; then what some have themselves.
# A domain that columns use within an array, a range or a row takes no new check: whoever has one keeps it.
_TAKEN_OFF: Final = f"""
SET LOCAL search_path = '';
CREATE TEMPORARY TABLE obcms_backup_checks (number serial, owner text, name text, definition text, remark text);
DO $obcms$
DECLARE each record; kept oid[] := ARRAY[]::oid[];
BEGIN
    LOOP
        SELECT c.oid, c.conrelid = 0 AS of_domain, c.conname AS name,
               format('%s %I.%I', CASE WHEN c.conrelid = 0 THEN 'DOMAIN' ELSE 'TABLE' END, n.nspname,
                      coalesce(t.relname, d.typname)) AS owner,
               pg_get_constraintdef(c.oid) AS definition, obj_description(c.oid, 'pg_constraint') AS remark INTO each
          FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
          LEFT JOIN pg_class t ON t.oid = c.conrelid LEFT JOIN pg_type d ON d.oid = c.contypid
         WHERE c.contype = 'c' AND c.convalidated AND c.coninhcount = 0
           AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND c.oid <> ALL (kept)
           AND NOT EXISTS (SELECT FROM pg_depend WHERE deptype = 'e' AND (classid, objid) IN
                             (('pg_class'::regclass, c.conrelid), ('pg_type'::regclass, c.contypid)))
           {{calling}} LIMIT 1;
        EXIT WHEN NOT FOUND;
        BEGIN
            EXECUTE {_OFF};
            IF each.of_domain THEN
                EXECUTE format('ALTER %s ADD CONSTRAINT %I CHECK (true)', each.owner, each.name);
                EXECUTE {_OFF};
            END IF;
            INSERT INTO pg_temp.obcms_backup_checks (owner, name, definition, remark)
            VALUES (each.owner, each.name, each.definition, each.remark);
        EXCEPTION WHEN feature_not_supported THEN
            kept := kept || each.oid;
        END;
    END LOOP;
END $obcms$;
"""  # noqa: S608 - constants
# In place of {made}, where rows may break it.
_INVALID: Final = f"""
        BEGIN
            EXECUTE {_MADE};
        EXCEPTION WHEN check_violation THEN
            said := SQLERRM;
            EXECUTE {_MADE} || ' NOT VALID'; {{noting}}
        END;"""
# Where what they need may not be.
_TRIED: Final = f"""
        BEGIN
            EXECUTE {_MADE};
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'left out: constraint % of %: %', each.name, each.owner, SQLERRM;
            CONTINUE;
        END;"""
_PUT_BACK: Final = """DECLARE each record; said text;
BEGIN
    FOR each IN SELECT * FROM pg_temp.obcms_backup_checks ORDER BY number DESC LOOP {made}
        IF each.remark IS NOT NULL THEN
            EXECUTE format('COMMENT ON CONSTRAINT %I ON %s IS %L', each.name, regexp_replace(each.owner, '^TABLE ', ''),
                           each.remark);
        END IF;
    END LOOP;
END"""


@dataclass(frozen=True)
class LeftOut:
    """A view that is `empty`, a constraint that is `invalid` (it holds for later rows alone) or `absent`, `statistics`.

    `why` is what the server said, `remedy` the statement that makes it good; empty where nobody has to.
    """

    kind: _Kind
    name: str
    why: str
    remedy: str

    @property
    def told(self) -> str:
        """What became of it, in one sentence, and what to do."""
        later = f". Later: {self.remedy.removesuffix(';')}" if self.remedy else ""
        return f"{_TOLD[self.kind].format(self.name)}: {self.why}{later}"


@dataclass(frozen=True)
class LoadAttempt:
    """`path`: schemas in which names may be found; unless `by_path`, for views alone, and only if nothing else helps.

    `checks`: which are made after all rows, those that call functions or all. `allow_invalid`: see above. `alone`: by
    one session, in the dump's order.
    """

    path: tuple[str, ...] = ()
    by_path: bool = False
    checks: Literal["", "calling", "all"] = ""
    allow_invalid: bool = False
    alone: bool = False

    @property
    def second(self) -> bool:
        """Whether it is not the first one."""
        return self.alone or self.by_path or bool(self.checks)

    @property
    def told(self) -> str:
        """What is otherwise than at the first one, in words that follow `with`."""
        found = [f"search_path = {self.search_path}"] if self.by_path else []
        checked = ["checks made after all rows"] if self.checks else []
        return " and ".join([*found, *checked, *(["one session"] if self.alone else [])])

    @property
    def search_path(self) -> str:
        """`path` as it is written in SQL."""
        return ", ".join(map(quoted, self.path))

    def after(self, sqlstate: str, *, calling: bool, apart: bool) -> LoadAttempt | None:
        """What may go better when this has failed with an SQLSTATE.

        `calling`: a check of the dump calls a function; `apart`: rows were refused that came in beside others.
        """
        if self.second:
            return None
        if sqlstate in _UNRESOLVED and self.path:
            return replace(self, by_path=True, checks="calling")
        if sqlstate == _CHECK_VIOLATION and (calling or self.allow_invalid):
            return replace(self, checks="all" if self.allow_invalid else "calling")
        return replace(self, alone=True) if apart or sqlstate in _LOCKED else None

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


def taken_off(*, calling: bool) -> bytes:
    """What is run before the first row, within a transaction, which has no search_path afterwards.

    `calling`: those alone that call functions which are not the server's own.
    """
    return _TAKEN_OFF.replace("{calling}", _CALLING if calling else "").encode()


def put_back(how: Literal["strictly", "invalid", "as possible"] = "strictly") -> bytes:
    """What is run behind the last row, in the same session.

    `invalid`: what rows break is made for later rows alone, `as possible`: what cannot be made is left out, and said.
    """
    name = b"format('%I of %s', each.name, each.owner)"
    remedy = b"format('ALTER %s VALIDATE CONSTRAINT %I;', each.owner, each.name)"
    allowed = _INVALID.replace("{noting}", _noting("invalid", name, remedy).decode())
    made = {"strictly": f"\n        EXECUTE {_MADE};", "invalid": allowed, "as possible": _TRIED}
    return _block(_PUT_BACK.replace("{made}", made[how]).encode())


def _filling(name: bytes, refresh: bytes, path: bytes) -> bytes:
    once = _FILLING % (literal(refresh), _FAILED)
    codes = b", ".join(b"'%b'" % code.encode() for code in _UNRESOLVED)
    twice = _AS_OWN % (codes, literal(path), once)
    noted = _noting("empty", name, literal(refresh))
    return _block(b"DECLARE said text; code text; BEGIN %b%b%b%b\nEND" % (_OWN_MONEY, once, twice, noted))


def planning(name: str, statements: bytes) -> bytes:
    """Run the statements that give an object its statistics; what the server refuses is noted, and fails nothing."""
    noted = _noting("statistics", literal(name.encode(errors="replace")), b"''")
    once = _FILLING % (literal(statements), _FAILED)
    return _block(b"DECLARE said text; code text; BEGIN %b%b\nEND" % (once, noted))


def _referring(name: bytes, statement: bytes, validate: bytes) -> bytes:
    """A foreign key; where rows break it, one that holds for later rows alone."""
    later = statement.removesuffix(b";") + b" NOT VALID"
    invalid, absent = _noting("invalid", name, literal(validate)), _noting("absent", name, literal(statement))
    return _block(_REFERRING % (literal(statement), literal(later), invalid, absent))


def _noting(kind: _Kind, name: bytes, remedy: bytes) -> bytes:
    """The statement of PL/pgSQL that notes it, `said` being why; `name` and `remedy` are expressions."""
    return (
        b"\n    IF jsonb_array_length(%b::jsonb) < %d THEN PERFORM set_config('%b', (%b::jsonb || jsonb_build_object("
        b"'kind', '%b', 'name', %b, 'why', left(said, 500), 'remedy', %b))::text, false); END IF;"
    ) % (NOTES, _MOST, _NOTES, NOTES, kind.encode(), name, remedy)


def left_out(lines: Iterable[str]) -> list[LeftOut]:
    """What sessions have told, each in one line."""
    return [LeftOut(**each) for line in lines for each in json.loads(line)]


def _block(body: bytes) -> bytes:
    """PL/pgSQL as a statement; no name in it can end it."""
    return b"DO " + literal(body) + b";\n"
