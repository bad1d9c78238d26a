"""Commands that look after a bucket: set it up, try what the key may, print the rights that it needs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Final

import typer

from backup.app.offsite import memory, options
from backup.cli import base
from backup.cli.base import Json
from backup.errors import RemoteFailed
from backup.logging import logger
from backup.storage.s3 import open_bucket
from backup.storage.s3.options import policy as policy_of

if TYPE_CHECKING:
    from backup.storage.s3.bucket_setup import Step

_LEVELS: Final = {"done": "SUCCESS", "would": "INFO", "same": "INFO", "note": "WARNING", "failed": "ERROR"}


def setup(
    create: Annotated[bool, typer.Option("--create", help="Make the bucket if it is not there.")] = False,
    archive_days: Annotated[
        int, typer.Option(min=0, help="Days after which objects go to GLACIER; 0: they stay in their class.")
    ] = 90,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Block public access and set the lifecycle, leaving other rules alone. Once, with an owner's key.

    Examples: `offsite setup --dry-run`, `offsite setup --create`, `offsite setup --archive-days 0`.
    """
    # It loads boto3, which whoever has copies in a folder alone does without.
    from backup.storage.s3.bucket_setup import Wanted  # noqa: PLC0415
    from backup.storage.s3.bucket_setup import setup as set_up  # noqa: PLC0415

    bucket = open_bucket(options(base.prepare(as_json)))
    _tell(set_up(bucket, Wanted(create=create, archive_days=archive_days), dry=dry_run), as_json)


def check(as_json: Json = False) -> None:
    """Prove with small objects that the key can put, list and get, and say whether it may delete, which is not good.

    Says what the store refuses, keeps and honours; uploads do without what it refuses from then on.

    Example: `offsite check`.
    """
    from backup.storage.s3.bucket_setup import check as check_bucket  # noqa: PLC0415

    settings = base.prepare(as_json)
    _tell(check_bucket(open_bucket(options(settings), memory(settings, quiet=True))), as_json)


def policy(
    prune: Annotated[bool, typer.Option("--prune", help="For a key that `offsite prune` may delete with.")] = False,
) -> None:
    """Print the IAM policy of a key that can send and read copies, and neither delete nor overwrite them.

    Example: `offsite policy > policy.json`.
    """
    wanted = policy_of(options(base.prepare(as_json=True)), prune=prune)
    base.print_lines([json.dumps(wanted, indent=2)])


def _tell(steps: Iterable[Step], as_json: bool) -> None:
    """Each step as it is taken. RemoteFailed in the end when one failed."""
    told = []
    for step in steps:
        told.append(step)
        if not as_json:
            logger.log(_LEVELS[step.state], "{}", base.with_hint(step.words, step.hint))
    if as_json:
        base.print_json([vars(step) for step in told])
    if failed := [step for step in told if step.state == "failed"]:
        raise RemoteFailed(f"not all could be done: {failed[0].words}", failed[0].hint)
