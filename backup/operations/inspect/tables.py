"""Single tables out of the dump of a set, as SQL that an empty database can load."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from typing import Final

from backup.errors import NotFound
from backup.formatting import printable
from backup.model.backup_set import StoredSet
from backup.operations.load import attempt_for
from backup.operations.set_artifacts import (
    content_of,
    contents_of,
    damaged,
    dump_of,
    open_file,
    read_part,
    recognised,
    require_as_written,
)
from backup.pipeline.file_type import FileKind
from backup.postgres.dump.definitions import Kinship, descendants
from backup.postgres.dump.dump_reader import DumpReader, Watcher
from backup.postgres.dump.table_extract import TableExtract, called
from backup.progress import Progress

_NEAR: Final = 8


def extract_tables(
    stored: StoredSet,
    queries: Sequence[str],
    write: Callable[[bytes], object],
    progress: Progress,
    *,
    schema: bool = True,
    rows: bool = True,
) -> list[str]:
    """Write these tables, and the parts that they have, to `write`; their names.

    The COMMIT comes last, when all that was read of the dump is found to be whole. NotFound with near names for a table
    that is not in the dump, before anything is written.
    """
    named = _wanted(stored, queries, progress)
    children = _children(stored, progress)
    written = [_text(name) for name in named]
    wanted = list(dict.fromkeys([*named, *(_bytes(part) for name in written for part in descendants(children, name))]))
    part = stored.manifest.database
    by_path = {_bytes(name): [*map(_bytes, found)] for name, found in part.found_by_path.items()} if part else {}
    path = _bytes(attempt_for(stored).search_path)
    made = TableExtract(wanted, write, schema=schema, rows=rows, path=path, by_path=by_path)
    _read(stored, made, progress, rows=map(_text, wanted))
    made.end()
    return [_shown(name) for name in wanted]


def _wanted(stored: StoredSet, queries: Sequence[str], progress: Progress) -> list[bytes]:
    """The tables that are meant, as the dump writes them."""
    rows = stored.manifest.database.rows if stored.manifest.database else {}
    try:
        return [_one(query, [name.encode() for name in rows]) for query in queries]
    except NotFound:
        # Partitioned tables have no rows of their own, and files without a manifest tell nothing before they are read.
        look = TableExtract([], lambda _data: None)
        _read(stored, look, progress, rows=())
        look.section("", "")
        return [_one(query, look.seen) for query in queries]


def _children(stored: StoredSet, progress: Progress) -> Mapping[str, Sequence[str]]:
    """The parts of each table: as the manifest has noted them, else by the definitions of the dump."""
    part = stored.manifest.database
    if part and part.children is not None:
        return part.children
    found = Kinship()
    _read(stored, found, progress, rows=(), definitions=True)
    found.section("", "")
    return {_text(parent): [*map(_text, children)] for parent, children in found.children.items()}


def _one(query: str, tables: Sequence[bytes]) -> bytes:
    found = [table for table in tables if called(query, table)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(map(_shown, found))
        raise NotFound(f"{printable(query)!r} is ambiguous: {names}", "Name it with its schema, as it is written here.")
    near = ", ".join(_near(query, [_shown(table) for table in tables]))
    raise NotFound(
        f"the dump has no table {printable(query)!r}",
        f"Did you mean: {near}?" if near else "`show --tables` lists the tables of a set.",
    )


def _near(query: str, tables: Sequence[str]) -> list[str]:
    """Names that have the query in them, then those that are spelt alike."""
    bare = {table: table.partition(".")[2].strip('"').casefold() for table in tables}
    wanted = query.rpartition(".")[2].strip('"').casefold()
    inside = [table for table, name in bare.items() if wanted in name]
    alike = difflib.get_close_matches(wanted, bare.values(), n=_NEAR)
    alike_tables = [table for name in alike for table, each in bare.items() if each == name]
    return list(dict.fromkeys([*inside, *alike_tables]))[:_NEAR]


def _read(
    stored: StoredSet, watcher: Watcher, progress: Progress, *, rows: Iterable[str], definitions: bool = False
) -> None:
    """Let the watcher see a dump, but for the rows of large tables that are none of `rows`. IntegrityError unless what
    is read is whole.

    `definitions`: it may end where the first rows begin.
    """
    name = dump_of(stored)
    if not name:
        raise NotFound(f"{stored.id} holds no dump of a database", "`list` shows other sets.")
    reader = DumpReader(watcher)
    if stored.derived and recognised(stored, name) is not FileKind.SQL:
        raise NotFound(
            f"{name} is a custom-format dump, which only pg_restore can read",
            f"`pg_restore -n SCHEMA -t TABLE -f - {name}` writes one table of it.",
        )
    with contextlib.closing(_pieces(stored, name, progress, set(rows))) as pieces:
        for piece in pieces:
            reader.feed(piece)
            if definitions and reader.rows:
                return
    reader.finish()
    if missing := reader.missing():
        raise damaged(f"{name} is an incomplete dump: it {missing}")


def _pieces(stored: StoredSet, name: str, progress: Progress, rows: Collection[str]) -> Generator[bytes, None, None]:
    if contents := contents_of(stored):
        parts = [part for part in contents.parts if not part.table or part.table in rows]
        progress.phase(f"reading {name}", sum(part.stored for part in parts))
        for part in parts:
            yield from read_part(stored, part, progress)
        return
    progress.phase(f"reading {name}", stored.size)
    with open_file(stored, name, progress) as source:
        yield from content_of(stored, source)
        require_as_written(stored, source)


def _shown(table: bytes) -> str:
    return printable(_text(table))


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogateescape")
