"""Commands that look into sets, and take single files and tables out of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group

from backup.app.volume import BackupVolume
from backup.cli import base
from backup.cli.base import IdentityOption, Json, Set
from backup.cli.render import inspect as shown
from backup.cli.render import set_tables
from backup.errors import NotFound
from backup.formatting import plural, printable
from backup.logging import logger
from backup.model.backup_set import StoredSet
from backup.model.manifest import Tier
from backup.operations.export import Output, refuse_terminal
from backup.operations.inspect import disk_usage, file_index, one_file

_Path = Annotated[str, typer.Option("--path", metavar="PATH", help="A file of the media, such as uploads/2025/a.pdf.")]


def show(
    which: Set,
    pattern: Annotated[
        str,
        typer.Argument(metavar="[PATTERN]", help="With --files: part of a path, or a whole one with `*`, `?`, `[…]`."),
    ] = "",
    all_tables: Annotated[bool, typer.Option("--tables", help="All tables with their rows, nothing else.")] = False,
    files: Annotated[bool, typer.Option("--files", help="The files in its archives that match PATTERN.")] = False,
    path: _Path = "",
    identity: IdentityOption = None,
    as_json: Json = False,
) -> None:
    """Show one set: identity, files, rows per table, directories of the media.

    Examples: `show latest`, `show latest --tables`, `show latest --files '*.pdf'`, `show latest --path uploads/a.pdf`.
    """
    settings = base.prepare_command(as_json, identity=identity)
    main = BackupVolume(settings)
    stored = main.find(which)
    if [all_tables, files or bool(pattern), bool(path)].count(True) > 1:
        raise typer.BadParameter("choose one of --tables, --files and --path")
    if all_tables:
        return _tables(stored, as_json)
    if files or pattern:
        return _files(stored, pattern, as_json)
    if path:
        return _history(main, stored, path, as_json)
    trees = [
        file_index.tree(stored, volume) for volume in file_index.volumes(stored) if file_index.index_of(stored, volume)
    ]
    if as_json:
        return base.print_json("set", stored, media=trees)
    return base.out.print(Group(set_tables.set_page(stored, settings.zone), shown.trees_page(trees)))


def _tables(stored: StoredSet, as_json: bool) -> None:
    part = stored.manifest.database
    if part is None:
        raise NotFound(
            f"{stored.id} has no manifest that lists its tables",
            "`verify` reads its dump; `extract` takes tables out of it.",
        )
    if as_json:
        return base.print_json("tables", set=stored.id, tables=part.rows, sums=shown.tables_sums(part))
    return base.print_lines(shown.tables_lines(part))


def _files(stored: StoredSet, pattern: str, as_json: bool) -> None:
    _require_index(stored)
    if as_json:
        found = (each._asdict() | {"volume": volume} for volume, each in file_index.matching(stored, pattern))
        return base.print_json("files", items=found, set=stored.id)
    count = 0
    for _, entry in file_index.matching(stored, pattern):
        count += 1
        sys.stdout.write(shown.file_line(entry) + "\n")
    if not count:
        logger.info("no file of {} has {!r} in its path", stored.id, printable(pattern))
    return None


def _require_index(stored: StoredSet) -> None:
    if not any(file_index.index_of(stored, volume) for volume in file_index.volumes(stored)):
        raise NotFound(
            f"{stored.id} has no file index", "The old scripts made none: `tar -tzf` lists what is in the archive."
        )


def _history(main: BackupVolume, stored: StoredSet, path: str, as_json: bool) -> None:
    others = [each for each in main.catalog.sets() if each.id != stored.id or each.directory != stored.directory]
    seen = one_file.history([stored, *others], path)
    if not any(each.entry for each in seen):
        raise file_index.no_such_file(stored, path)
    if as_json:
        return base.print_json("history", set=stored.id, path=path, versions=seen)
    return base.out.print(shown.history_page(path, stored, seen, main.settings.zone))


def du(tier: Annotated[Tier | None, typer.Argument(help="Only this tier.")] = None, as_json: Json = False) -> None:
    """Show what takes the space in the backup volume. Examples: `du`, `du weekly --json`."""
    main = BackupVolume(base.prepare_command(as_json))
    main.require_volume()
    use = disk_usage.usage(main.catalog, tier)
    if as_json:
        return base.print_json("usage", use, sets=use.by_size)
    return base.show(lambda: shown.usage_page(use), lambda: shown.usage_lines(use))


def cat(
    which: Set,
    path: Annotated[str, typer.Option("--path", metavar="PATH", help="The file.")],
    identity: IdentityOption = None,
) -> None:
    """Write one file of the media to stdout, compared with its SHA-256. Its end is written only if it matches.

    Example: `docker compose run --rm -T backup cat latest --path uploads/2025/a.pdf > a.pdf`.
    """
    main = BackupVolume(base.prepare_command(as_json=True, identity=identity))
    stored = main.find(which)
    refuse_terminal()
    with base.progress(True) as progress, Output(None) as stdout:
        one_file.content(stored, path, stdout.write, progress)


def extract_command(
    which: Set,
    table: Annotated[list[str], typer.Option("--table", metavar="TABLE", help="A table. May be repeated.")],
    schema_only: Annotated[bool, typer.Option("--schema-only", help="No rows.")] = False,
    data_only: Annotated[bool, typer.Option("--data-only", help="Only rows and sequence values.")] = False,
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="A file instead of stdout.")] = "-",
    identity: IdentityOption = None,
) -> None:
    """Write single tables as SQL for an empty database: schema, rows, sequences, indexes, partitions.

    One transaction; COMMIT is written only if the dump is complete. References to tables that are not named are
    comments.

    Examples: `extract latest --table app_case > case.sql`, `extract latest --table public.app_case -o /out/case.sql`.
    """
    # It loads what restores do, and takes longer than to look into a set.
    from backup.operations.inspect.tables import extract_tables  # noqa: PLC0415

    if schema_only and data_only:
        raise typer.BadParameter("choose one of --schema-only and --data-only")
    main = BackupVolume(base.prepare_command(as_json=True, identity=identity))
    stored = main.find(which)
    with base.progress(True) as progress, Output(None if output == "-" else Path(output)) as target:
        names = extract_tables(stored, table, target.write, progress, schema=not data_only, rows=not schema_only)
    what = plural(len(names), "table")
    logger.info("{} of {}: {}", what, stored.id, ", ".join(names))
