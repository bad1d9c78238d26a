"""The command that takes single tables out of sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backup.app.volume import BackupVolume
from backup.cli import base
from backup.cli.base import Identity, Set
from backup.formatting import plural
from backup.logging import logger
from backup.operations.export import Output
from backup.operations.inspect import tables


def extract(
    which: Set,
    table: Annotated[list[str], typer.Option("--table", metavar="TABLE", help="A table; may be given again.")],
    schema_only: Annotated[bool, typer.Option("--schema-only", help="No rows.")] = False,
    data_only: Annotated[bool, typer.Option("--data-only", help="Only rows and sequence values.")] = False,
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="A file instead of stdout.")] = "-",
    identity: Identity = None,
) -> None:
    """Write single tables of the dump as SQL that an empty database can load: schema, rows, sequences, indexes, parts.

    One transaction, whose COMMIT comes only when the dump was read to its end and is whole. References to tables that
    are not asked for are comments.

    Examples: `extract latest --table app_case > case.sql`, `extract latest --table public.app_case -o /out/case.sql`.
    """
    if schema_only and data_only:
        raise typer.BadParameter("--schema-only and --data-only leave nothing")
    main = BackupVolume(base.identified(base.prepare(as_json=True), identity))
    stored = main.find(which)
    with base.progress(True) as progress, Output(None if output == "-" else Path(output)) as target:
        names = tables.extract(stored, table, target.write, progress, schema=not data_only, rows=not schema_only)
    what = plural(len(names), "table")
    logger.info("{} of {}: {}", what, stored.id, ", ".join(names))
