"""The command that verifies sets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from backup.app.volume import BackupVolume
from backup.cli import base
from backup.cli.base import IdentityOption, Image, Json, Sets
from backup.errors import BackupError, IntegrityError, NotFound
from backup.formatting import age, listed, plural, printable, size
from backup.logging import logger
from backup.model.backup_set import SEALED, StoredSet

_ALL: Final = "all"


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
    """Read and unpack every stored byte of a set, or of `all`, and compare it with the manifest.

    What sets share is read once; `all` compares the stored bytes of base backups and WAL as well.

    Examples: `verify latest`, `verify latest --quick`, `verify all`,
    `verify daily_2025-10-20_02-00-00 --test-restore`, `verify latest --identity /key.txt`.
    """
    main = BackupVolume(base.prepare_command(as_json, kind="verify", identity=identity))
    if which == [_ALL]:
        if test_restore or as_json:
            raise typer.BadParameter("`all` goes with neither --test-restore nor --json")
        _verify_all(main, quick=quick)
        return
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


def _verify_all(main: BackupVolume, *, quick: bool) -> None:
    """Each set of the volume, the newest first. IntegrityError when one is damaged, after all were looked at."""
    from backup.catalog.wal_archive import clusters  # noqa: PLC0415 - as above
    from backup.operations.pitr.scrub import SCRUB_HINT, scrub  # noqa: PLC0415
    from backup.operations.verify.packs import PackChecks  # noqa: PLC0415
    from backup.operations.verify.run import verify_set  # noqa: PLC0415

    damaged: list[str] = []
    sets = main.catalog.sets()
    with base.progress(False) as progress:
        folder = main.catalog.packs
        packs = PackChecks(folder, progress, several=True)
        for each in sets:
            try:
                if not (stored := main.catalog.read_again(each, folder)):
                    damaged.append(f"{each.id} was removed before it was verified")
                    continue
                verdict = verify_set(main.catalog, stored, progress, datetime.now(UTC), quick=quick, packs=packs)
            except BackupError as error:
                damaged.append(f"{each.id}: {error.message}")
                continue
            if verdict.problems:
                damaged.append(f"{each.id} is damaged: {verdict.problems[0]}")
            else:
                logger.success("{}: {}", stored.id, _checked(stored, verdict.unchecked))
        archives = clusters(main.settings.root)
        lost = [each for archive in archives for each in scrub(archive, progress)]
        if archives and not lost:
            logger.success("base backups and WAL: every stored byte is as it was written")
    if damaged:
        found = "".join(f"\n  - {printable(each)}" for each in damaged)
        raise IntegrityError(
            f"not good: {len(damaged)} of {plural(len(sets), 'set')}:{found}",
            "`verify ID` says all of one; do not restore those.",
        )
    if lost:
        raise IntegrityError(f"of base backups and WAL: {listed([printable(each) for each in lost])}", SCRUB_HINT)
    if not sets:
        raise NotFound("there is no set yet: nothing was verified", "`create` takes one now.")


def _checked(stored: StoredSet, unchecked: tuple[str, ...]) -> str:
    what = f"{plural(len(stored.files), 'file')}, {size(stored.size)}, {age(datetime.now(UTC) - stored.time)} old"
    if SEALED in unchecked:
        return f"every stored byte is as it was written ({what}). Not checked: {'; '.join(unchecked)}"
    if unchecked:
        return f"unpacks to its end ({what}). Not checked: {'; '.join(unchecked)}"
    return f"every byte is as it was written ({what})"
