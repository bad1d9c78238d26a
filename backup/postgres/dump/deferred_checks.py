"""Check constraints that are made after all rows, as SQL: some call functions that read rows of other tables.

pg_dump writes them with their tables, before any rows, and the tables in the order of their names. So they are taken
off before the first row, as the server has them by then, and made again behind the last.
"""

from __future__ import annotations

from typing import Final, Literal

from backup.postgres.dump.left_out import block, noting

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
_ALLOWED: Final = f"""
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
    allowed = _ALLOWED.replace("{noting}", noting("invalid", name, remedy).decode())
    made = {"strictly": f"\n        EXECUTE {_MADE};", "invalid": allowed, "as possible": _TRIED}
    return block(_PUT_BACK.replace("{made}", made[how]).encode())
