"""What is shown of the inside of a set, of one file, and of the space that is taken."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final
from zoneinfo import ZoneInfo

from rich.console import Group, RenderableType
from rich.text import Text

from backup.cli.render.set_tables import name_column, number, plain_table
from backup.formatting import plural, printable, size
from backup.media.tar_writer import IndexEntry
from backup.model.backup_set import StoredSet
from backup.model.manifest import DatabasePart
from backup.operations.inspect.disk_usage import Use
from backup.operations.inspect.file_index import Tree
from backup.operations.inspect.one_file import Seen
from backup.postgres.dump.definitions import descendants

_SHOWN: Final = 20


def tables_lines(part: DatabasePart) -> list[str]:
    """Every table and its rows, separated by a tab; behind a third, of what a table with parts has the sum."""
    sums = tables_sums(part)
    return [
        f"{printable(name)}\t{sums[name][0]}\tin {plural(sums[name][1], 'part')}"
        if name in sums
        else f"{printable(name)}\t{part.rows[name]}"
        for name in sorted({*part.rows, *sums})
    ]


def tables_sums(part: DatabasePart) -> dict[str, tuple[int, int]]:
    """Of each table with parts (partitions, or tables that inherit from it): rows of all, and how many parts."""
    children = part.children or {}
    below = {name: descendants(children, name) for name in children}
    return {name: (sum(part.rows.get(each, 0) for each in (name, *parts)), len(parts)) for name, parts in below.items()}


def trees_page(trees: Sequence[Tree]) -> RenderableType:
    """The top directories of each volume."""
    return Group(*(_tree(each) for each in trees))


def _tree(found: Tree) -> RenderableType:
    if found.problem:
        return Text(f"\nvolume {found.volume}: {printable(found.problem)}", style="red")
    table = plain_table(f"in {printable(found.volume)}", "files", "size")
    for name, files, count in found.directories[:_SHOWN]:
        table.add_row(Text(printable(name)), number(f"{files:,}"), number(size(count)))
    if len(found.directories) > _SHOWN:
        table.add_row(
            Text(f"and {plural(len(found.directories) - _SHOWN, 'more directory', 'more directories')}; --json has all")
        )
    return Group(Text(), table)


def file_line(entry: IndexEntry) -> str:
    """One file of an index: SHA-256, bytes, path, separated by tabs."""
    return f"{entry.sha256}\t{entry.size}\t{printable(os.fsdecode(entry.path))}"


def history_page(path: str, which: StoredSet, seen: Sequence[Seen], zone: ZoneInfo) -> RenderableType:
    """One file from set to set, newest first."""
    here = next((each.entry for each in seen if each.stored.id == which.id), None)
    facts = f"{size(here.size)} ({here.size:,} bytes), SHA-256 {here.sha256}" if here else "not in its file indexes"
    table = plain_table(name_column("set", (each.stored.id for each in seen)), "taken", "bytes", "SHA-256", "content")
    for each in seen:
        entry = each.entry
        table.add_row(
            Text(each.stored.id, style="bold" if each.stored.id == which.id else ""),
            f"{each.stored.time.astimezone(zone):%Y-%m-%d %H:%M}",
            number(f"{entry.size:,}" if entry else ""),
            entry.sha256[:12] if entry else "",
            Text(printable(each.what), style="" if each.what in ("same", "first") else "yellow"),
        )
    return Group(Text(f"{printable(path)} in {which.id}: {facts}\n"), table)


def usage_page(use: Use) -> RenderableType:
    """What takes the space, the largest first."""
    blocks: list[RenderableType] = []
    kinds = sorted(use.kinds.items(), key=lambda item: -item[1])
    if use.sets:
        shared = ("needs packs", "frees") if any(each.needs for each in use.sets.values()) else ()
        table = plain_table(name_column("set", use.sets), "size", *(kind for kind, _ in kinds), *shared)
        for each in use.by_size:
            cells = [size(each.kinds[kind]) if each.kinds[kind] else "" for kind, _ in kinds]
            cells += [size(each.needs), size(each.frees)] if shared else []
            table.add_row(each.id, *(number(cell) for cell in (size(each.bytes), *cells)))
        blocks += [table, Text()]
    sums = plain_table("what", "size")
    for what, count in usage_rows(use):
        sums.add_row(Text(what), number(size(count)))
    blocks.append(sums)
    for title, listed in (("left by killed runs", use.leftovers), ("not ours", use.foreign)):
        blocks += [
            Text(f"{title}: {printable(path)}, {size(count)}", style="yellow") for path, count in listed[:_SHOWN]
        ]
    return Group(*blocks)


def usage_rows(use: Use) -> list[tuple[str, int]]:
    """(what, bytes) of each tier, each kind and all else, and of the disk."""
    rows = [(f"tier {tier}", count) for tier, count in sorted(use.tiers.items(), key=lambda item: -item[1])]
    rows += [(kind, count) for kind, count in sorted(use.kinds.items(), key=lambda item: -item[1])]
    rows += sorted(use.other.items(), key=lambda item: -item[1])
    rows.append((f"total ({plural(len(use.sets), 'set')})", use.bytes))
    if use.undo:
        rows.append(("kept for `undo`, in the server and the volumes", use.undo))
    return [*rows, ("free on the disk", use.free), ("size of the disk", use.total)]


def usage_lines(use: Use) -> list[str]:
    """For other programs' eyes: what and bytes, separated by a tab; first each set."""
    lines = [f"{each.id}\t{each.bytes}" for each in use.by_size]
    lines += [f"{what}\t{count}" for what, count in usage_rows(use)]
    return lines + [f"{what}: {printable(path)}\t{count}" for what, path, count in _listed(use)]


def _listed(use: Use) -> list[tuple[str, str, int]]:
    return [("leftover", *each) for each in use.leftovers] + [("foreign", *each) for each in use.foreign]
