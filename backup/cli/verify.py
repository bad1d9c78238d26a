"""The command that verifies sets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from backup.app.volume import BackupVolume
from backup.cli import base
from backup.cli.base import IdentityOption, Image, Json, Sets
from backup.errors import IntegrityError
from backup.formatting import age, plural, printable, size
from backup.logging import logger
from backup.model.backup_set import SEALED, StoredSet


def verify_command(
    which: Sets,
    quick: Annotated[bool, typer.Option("--quick", help="Compare only the stored bytes; unpack nothing.")] = False,
    test_restore: Annotated[
        bool, typer.Option("--test-restore", help="Also restore it into a throw-away server, as `drill` does.")
    ] = False,
    image: Image = "",
    identity: IdentityOption = None,
    as_json: Json = False,
) -> None:
    """Read and unpack every stored byte of a set, and compare it with the manifest.

    Examples: `verify latest`, `verify latest --quick`, `verify daily_2025-10-20_02-00-00 --test-restore`,
    `verify latest --identity /key.txt`.
    """
    main = BackupVolume(base.prepare_command(as_json, kind="verify", identity=identity))
    stored = main.find(*which)
    if test_restore:
        # What restores need takes longer to import than to compare the bytes of a small set.
        from backup.app.composition import App  # noqa: PLC0415
        from backup.cli.drill import prove_sets  # noqa: PLC0415

        main.require_volume()
        prove_sets(App(main.settings), stored, image, as_json)
        return
    # What it reads dumps with takes longer to import than a list of sets to make.
    from backup.operations.verify.run import verify_set  # noqa: PLC0415

    with base.progress(as_json) as progress:
        verdict = verify_set(main.catalog, stored, progress, datetime.now(UTC), quick=quick)
    if as_json:
        base.print_json("verdict", verdict, set=stored.id)
    if verdict.problems:
        found = "".join(f"\n  - {printable(problem)}" for problem in verdict.problems)
        raise IntegrityError(
            f"{stored.id} is damaged:{found}", "Do not restore it; `list` shows other sets, `create` takes a new one."
        )
    logger.success("{}: {}", stored.id, _checked(stored, verdict.unchecked))


def _checked(stored: StoredSet, unchecked: tuple[str, ...]) -> str:
    what = f"{plural(len(stored.files), 'file')}, {size(stored.size)}, {age(datetime.now(UTC) - stored.time)} old"
    if SEALED in unchecked:
        return f"every stored byte is as it was written ({what}). Not checked: {'; '.join(unchecked)}"
    if unchecked:
        return f"unpacks to its end ({what}). Not checked: {'; '.join(unchecked)}"
    return f"every byte is as it was written ({what})"
