"""Commands that carry sets out of the backup volume and into it."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from backup.app.volume import BackupVolume
from backup.cli import base
from backup.cli.base import IdentityOption, Json, Set, Wait
from backup.errors import NotConfirmed, NotFound
from backup.formatting import plural, printable, size
from backup.logging import logger
from backup.model.run import new_run_id
from backup.operations import export as export_operation
from backup.operations.context import Context
from backup.operations.export import Output, refuse_terminal
from backup.operations.import_ import adopt
from backup.operations.whole_copy import without_packs


def export(
    which: Set,
    target: Annotated[str, typer.Argument(metavar="[-|DIR]", help="stdout, as a tar archive, or a folder.")] = "-",
) -> None:
    """Copy a set, or one file of it, to stdout or into a folder. All is compared with the manifest.

    Examples: `docker compose run --rm -T backup export latest - > set.tar`, `export latest /out`,
    `export obcms_backup_daily_2025-10-20_02-00-00.sql.gz - > dump.sql.gz`.
    """
    main = BackupVolume(base.prepare_command(as_json=True))
    if target == "-":
        refuse_terminal()
    stored = main.find(which)
    named = export_operation.is_file_of(stored, which)
    with base.progress(True) as progress, contextlib.ExitStack() as stack:
        if not named:
            run = new_run_id(datetime.now(UTC))
            stored = stack.enter_context(without_packs(stored, main.catalog, run, progress))
        names = export_operation.files_to_export(stored, which)
        if target == "-":
            with Output(None) as stdout:
                export_operation.to_stream(stored, names, which, stdout.write, progress)
        else:
            export_operation.to_folder(stored, names, Path(target), progress)
        total = sum((stored.directory / name).lstat().st_size for name in names)
    logger.success("{}: {} copied, {}", stored.id, plural(len(names), "file"), size(total))


def import_sets(
    sources: Annotated[list[str], typer.Argument(metavar="FILE…|DIR|-", help="Folders, files, or - for stdin.")],
    wait: Wait = 0.0,
    identity: IdentityOption = None,
    as_json: Json = False,
) -> None:
    """Import sets: folders, archives of `export`, files of the old scripts, lone dumps.

    Each is copied, read back and verified before it is listed in its tier. Nothing is overwritten.

    Examples: `docker compose run --rm -T backup import - < set.tar`, `import /restore`, `import /restore/set.tar`.
    """
    main = BackupVolume(base.prepare_command(as_json, kind="backup", identity=identity))
    main.require_volume()
    paths, stream = [Path(each) for each in sources if each != "-"], None
    for path in paths:
        if not path.exists():
            raise NotFound(
                f"{printable(str(path))} does not exist",
                "A file of the host must be mounted: `docker compose run --rm -v /its/folder:/restore:ro backup …`.",
            )
    if "-" in sources:
        if sys.stdin.isatty():
            raise NotConfirmed("stdin is a terminal, so there is nothing to import", "`import - < set.tar`.")
        stream = sys.stdin.buffer
    with base.progress(as_json) as progress:
        done = adopt(
            paths, stream, Context(catalog=main.catalog, records=main.records, lock=main.lock, progress=progress), wait
        )
    if as_json:
        base.print_json("import", done, imported=done.new)
