"""Functions that a load has to run, and that find names by the search_path alone: a dump is loaded without one.

What a load runs is computed from rows: generated columns, checks, expressions of indexes and of partitions, and
materialized views; and what these call in turn. PostgreSQL does not note what the text of a function names, so that
text is read. What is computed as rows come in must not read other rows, either: they may come later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from backup.formatting import listed, printable
from backup.postgres.function_bodies import FunctionBody, read_body
from backup.postgres.session import SAFE_PATH

# From 17 on, indexes are built and views are filled with a search_path of the server's own.
_OWN_PATH: Final = 17
_ROUNDS: Final = 20
_SHOWN: Final = 3
_SYSTEM: Final = "('pg_catalog', 'information_schema')"
# Objects that a load computes something for, each with its name, then the functions that their expressions call.
_USED: Final = """
    WITH RECURSIVE made AS (
        SELECT 'pg_attrdef'::regclass::oid AS class, d.oid, false AS built, true AS early,
               format('the generated column %I.%I.%I', n.nspname, t.relname, a.attname) AS what
          FROM pg_attrdef d JOIN pg_attribute a ON (a.attrelid, a.attnum) = (d.adrelid, d.adnum)
          JOIN pg_class t ON t.oid = d.adrelid JOIN pg_namespace n ON n.oid = t.relnamespace WHERE a.attgenerated = 's'
        UNION ALL
        SELECT 'pg_class'::regclass, c.oid, true, false, format('the index %I.%I', n.nspname, c.relname)
          FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
        UNION ALL
        SELECT 'pg_class'::regclass, t.oid, false, true, format('the partition key of %I.%I', n.nspname, t.relname)
          FROM pg_partitioned_table p JOIN pg_class t ON t.oid = p.partrelid
          JOIN pg_namespace n ON n.oid = t.relnamespace WHERE p.partexprs IS NOT NULL
        UNION ALL
        SELECT 'pg_constraint'::regclass, c.oid, false, false,
               format('the constraint %I of %I.%I', c.conname, n.nspname, coalesce(t.relname, d.typname))
          FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace LEFT JOIN pg_class t ON t.oid = c.conrelid
          LEFT JOIN pg_type d ON d.oid = c.contypid WHERE c.contype = 'c'
        UNION ALL
        SELECT 'pg_rewrite'::regclass, r.oid, true, false, format('the materialized view %I.%I', n.nspname, v.relname)
          FROM pg_rewrite r JOIN pg_class v ON v.oid = r.ev_class JOIN pg_namespace n ON n.oid = v.relnamespace
         WHERE v.relkind = 'm' AND v.relispopulated),
    used AS (
        SELECT class, oid, built, early, what FROM made
        UNION
        SELECT coalesce(r.class, d.refclassid), coalesce(r.oid, d.refobjid), u.built, u.early, u.what
          FROM used u JOIN pg_depend d ON (d.classid, d.objid) = (u.class, u.oid)
          LEFT JOIN LATERAL (SELECT 'pg_rewrite'::regclass::oid AS class, oid FROM pg_rewrite
                              WHERE d.refclassid = 'pg_class'::regclass AND ev_class = d.refobjid) r ON true
         WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) OR r.oid IS NOT NULL)
    SELECT oid::bigint, what, bool_and(built), bool_or(early) FROM used
     WHERE class = 'pg_proc'::regclass AND oid >= 16384 GROUP BY 1, 2 ORDER BY 2, 1"""
_TEXTS: Final = f"""
    SELECT p.oid::bigint AS oid, n.nspname AS schema, p.proname AS name, p.prosrc AS text,
           format('%%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS signature,
           format('%%I.%%I', n.nspname, p.proname) AS written,
           CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END AS kind,
           coalesce((SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
             WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'), '') AS extension
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
     WHERE l.lanname NOT IN ('c', 'internal') AND p.prosqlbody IS NULL AND n.nspname NOT IN {_SYSTEM}
       AND (%(pinned)s OR NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE starts_with(c, 'search_path=')))
       AND (p.oid = ANY(%(oids)s::bigint[]::oid[]) OR p.proname = ANY(%(bare)s)
            OR (n.nspname || '.' || p.proname) = ANY(%(qualified)s))"""  # noqa: S608 - constants
# What a text reads, by its names; and what the server itself knows of functions whose body is no text.
_READ: Final = f"""
    SELECT NULL::bigint, n.nspname, c.relname, format('%%I.%%I', n.nspname, c.relname), '' AS signature
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE relkind IN ('r', 'p', 'f', 'v', 'm') AND nspname NOT IN {_SYSTEM}
       AND (relname = ANY(%(bare)s) OR (nspname || '.' || relname) = ANY(%(qualified)s))
    UNION
    SELECT p.oid::bigint, n.nspname, c.relname, format('%%I.%%I', n.nspname, c.relname),
           format('%%I.%%I(%%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
      FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid JOIN pg_namespace s ON s.oid = p.pronamespace
      JOIN pg_class c ON c.oid = d.refobjid JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass AND n.nspname NOT IN {_SYSTEM}
       AND d.objid = ANY(%(oids)s::bigint[]::oid[]) AND p.prosqlbody IS NOT NULL
     ORDER BY 4"""  # noqa: S608 - constants
# Of these names, those that are only outside of the system's own schemas: (kind, name, how it is written, by schema).
_RESOLVED: Final = f"""
    WITH known AS (
        SELECT 'functions' AS kind, proname AS name, pronamespace AS schema FROM pg_proc
         WHERE proname = ANY(%(functions)s)
        UNION ALL SELECT 'relations', relname, relnamespace FROM pg_class
         WHERE relname = ANY(%(relations)s) AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL SELECT 'types', typname, typnamespace FROM pg_type WHERE typname = ANY(%(types)s)
        UNION ALL SELECT 'operators', oprname, oprnamespace FROM pg_operator WHERE oprname = ANY(%(operators)s))
    SELECT kind, name::text, jsonb_object_agg(nspname, jsonb_build_array(quote_ident(nspname), quote_ident(name)))
      FROM known k JOIN pg_namespace n ON n.oid = k.schema
     GROUP BY 1, 2 HAVING NOT bool_or(nspname IN {_SYSTEM})"""  # noqa: S608 - constants
# Paths that roles are set to in this database, as they are written.
_PATHS: Final = """
    SELECT DISTINCT replace(substr(entry, strpos(entry, '=') + 1), '"$user"', coalesce(quote_ident(rolname), '"$user"'))
      FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) entry
     WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
       AND starts_with(entry, 'search_path=') ORDER BY 1 LIMIT 50"""
_KINDS: Final = ("functions", "relations", "types", "operators")


@dataclass(frozen=True)
class _Function:
    oid: int
    schema: str
    name: str
    text: str
    signature: str
    written: str
    kind: str
    extension: str


@dataclass
class _Use:
    """For which objects a load runs a function, and whether all of them are built with the server's own path."""

    objects: list[str] = field(default_factory=list)
    built: bool = True

    def add(self, what: str, built: bool) -> None:
        if what not in self.objects:
            self.objects.append(what)
        self.built = self.built and built

    @property
    def what(self) -> str:
        """The objects, the first of them by name."""
        return ", ".join(self.objects[:_SHOWN]) + (" and more" if len(self.objects) > _SHOWN else "")


@dataclass(frozen=True)
class Unresolved:
    """A function that finds `names` by the search_path, all as a dump writes them, and what is to be said of it."""

    function: str
    names: tuple[str, ...]
    caution: str


def find_unresolved(connection: psycopg.Connection[Any], path: Sequence[str]) -> Iterator[Unresolved]:
    """The functions that will not find something when a dump is loaded. `path`: where they find it now."""
    uses = _uses(connection)
    if not uses:
        return
    bodies = _reachable(connection, uses)
    wanted = {kind: sorted({name for _, body in bodies for name in getattr(body, kind)}) for kind in _KINDS}
    there = {(kind, name): schemas for kind, name, schemas in connection.execute(_RESOLVED, wanted)}
    restricted = connection.info.server_version // 10_000 >= _OWN_PATH
    for function, body in bodies:
        keys = [(kind, name) for kind in _KINDS for name in sorted(getattr(body, kind)) if (kind, name) in there]
        # Where several schemas have one, the first of the path is meant.
        found = (there[key][next((s for s in path if s in there[key]), min(there[key]))] for key in keys)
        if places := list(dict.fromkeys(map(tuple, found))):
            yield Unresolved(
                function=function.written,
                names=tuple(f"{schema}.{name}" for schema, name in places),
                caution=_caution(function, uses[function.oid], places, restricted),
            )


def find_early_reads(connection: psycopg.Connection[Any]) -> Iterator[str]:
    """What to say of functions that read tables while rows come in: what they find is not what they found."""
    uses = _uses(connection, early=True)
    if not uses:
        return
    bodies = _reachable(connection, uses, pinned=True)
    wanted = {
        "oids": list(uses),
        "bare": sorted({name for _, body in bodies for name in body.relations}),
        "qualified": sorted({".".join(pair) for _, body in bodies for pair in body.reads}),
    }
    told: dict[str, tuple[_Use, list[str]]] = {}
    for oid, schema, name, written, signature in connection.execute(_READ, wanted):
        by_text = [
            (each.signature, each.oid)
            for each, body in bodies
            if name in body.relations or (schema, name) in body.reads
        ]
        for reader, number in [(signature, oid)] if oid else by_text:
            told.setdefault(reader, (uses[number], []))[1].append(written)
    for reader, (use, read_there) in told.items():
        yield _early(reader, use, read_there)


def _early(signature: str, use: _Use, tables: Sequence[str]) -> str:
    return printable(
        f"{signature}, which {use.what} needs, reads {listed(tables, _SHOWN)}: a load computes it when the rows of"
        " that may not be there yet, so a load may fail, or store a value that no drill compares. Have a trigger"
        " fill a plain column instead; until then, after each restore, UPDATE the rows that have it"
    )


def _uses(connection: psycopg.Connection[Any], *, early: bool = False) -> dict[int, _Use]:
    """By function, what a load runs it for; `early`: before all rows are there."""
    uses: dict[int, _Use] = {}
    for oid, what, built, at_once in connection.execute(_USED):
        if at_once or not early:
            uses.setdefault(oid, _Use()).add(what, built)
    return uses


def _reachable(
    connection: psycopg.Connection[Any], uses: dict[int, _Use], *, pinned: bool = False
) -> list[tuple[_Function, FunctionBody]]:
    """The functions that are used, and those that their texts call; `uses` has what for.

    `pinned`: also those with a search_path of their own, which find what they name, whatever they call.
    """
    found: dict[int, tuple[_Function, FunctionBody]] = {}
    wanted: dict[str, Any] = {"oids": list(uses), "bare": [], "qualified": [], "pinned": pinned}
    for _ in range(_ROUNDS):
        new = [each for each in _functions(connection, wanted) if each.oid not in found]
        for each in new:
            found[each.oid] = each, read_body(each.text)
            for caller, body in list(found.values()):
                if caller.oid in uses and (each.name in body.functions or (each.schema, each.name) in body.qualified):
                    use = uses.setdefault(each.oid, _Use())
                    for what in uses[caller.oid].objects:
                        use.add(what, uses[caller.oid].built)
        bodies = [found[each.oid][1] for each in new]
        called = {name for body in bodies for name in body.functions}
        named = {".".join(pair) for body in bodies for pair in body.qualified}
        if not called | named:
            break
        wanted |= {"oids": [], "bare": list(called), "qualified": list(named)}
    return [pair for oid, pair in found.items() if oid in uses]


def _functions(connection: psycopg.Connection[Any], wanted: dict[str, Any]) -> list[_Function]:
    with connection.cursor(row_factory=class_row(_Function)) as cursor:
        return cursor.execute(_TEXTS, wanted).fetchall()


def _caution(function: _Function, use: _Use, places: Sequence[tuple[str, str]], restricted: bool) -> str:
    names = ", ".join(name for _, name in places[:_SHOWN])
    text = f"{function.signature}, which {use.what} needs, finds {names} by the search_path alone, and a dump is loaded"
    if restricted and use.built:
        text += " without one: no load can create it"
    else:
        text += " without one: that takes a second attempt, with the current search_path"
    if function.extension:
        return printable(
            f"{text}. The function is of the extension {function.extension}; a newer version may do better"
        )
    path = ", ".join([*dict.fromkeys(schema for schema, _ in places), "pg_temp"])
    return printable(f"{text}. As its owner: ALTER {function.kind} {function.signature} SET search_path = {path}")


def effective_path(connection: psycopg.Connection[Any]) -> tuple[str, ...]:
    """The schemas in which names are found: by this login, then by the roles that have a search_path of their own."""
    found = dict.fromkeys(_found_in(connection, "RESET search_path"))
    for (setting,) in connection.execute(_PATHS).fetchall():
        found |= dict.fromkeys(
            _found_in(connection, sql.SQL("SELECT set_config('search_path', {}, false)").format(setting))
        )
    return tuple(found)


def _found_in(connection: psycopg.Connection[Any], change: LiteralString | sql.Composed) -> Sequence[str]:
    connection.execute(change)
    row = connection.execute("SELECT pg_catalog.current_schemas(false)::pg_catalog.text[]").fetchone()
    connection.execute(SAFE_PATH)
    return row[0] if row else ()
