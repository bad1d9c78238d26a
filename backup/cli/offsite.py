"""Commands about copies of sets at another place, and about the bucket that they may be in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from backup.app.composition import App
from backup.app.offsite import copy_policy
from backup.app.places import bucket_options, contexts, memory
from backup.cli import base
from backup.cli.base import Json, Scheduled, Trigger
from backup.cli.render.set_tables import copies_lines, copies_table
from backup.cli.retention import show_decisions
from backup.errors import RemoteFailed
from backup.logging import logger
from backup.model.manifest import Tier
from backup.operations.offsite import fetch, verify_copies
from backup.operations.offsite import prune as pruning
from backup.operations.offsite import upload as uploading
from backup.operations.offsite.context import OffsiteContext
from backup.operations.offsite.upload import request_for
from backup.storage.s3 import open_bucket
from backup.storage.s3.options import iam_policy

if TYPE_CHECKING:
    from backup.storage.s3.bucket_setup import SetupStep

_LEVELS: Final = {"done": "SUCCESS", "would": "INFO", "same": "INFO", "note": "WARNING", "failed": "ERROR"}
# By how much the oldest base backup that is needed may be older than the oldest moment: it is taken once a week at
# least, and may build on one that is a week older.
_BASE_DAYS: Final = 14
_Done = TypeVar("_Done")

app = typer.Typer(
    help="Copies of sets at another place: list, check, fetch and remove them. Examples: `offsite list`, `offsite "
    "pull latest`.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Wait = Annotated[float, typer.Option(help="Seconds to wait for another run of this kind.", min=0)]
From = Annotated[str, typer.Option("--from", metavar="s3|copy", help="Which place, if there are two.")]


@app.command("setup")
def setup_command(
    create: Annotated[bool, typer.Option("--create", help="Create the bucket if it is missing.")] = False,
    archive_days: Annotated[int, typer.Option(min=0, help="Days after which objects move to GLACIER; 0: never.")] = 90,
    wal_days: Annotated[
        int, typer.Option(min=0, help="With BACKUP_PITR=on: days after which WAL and bases are removed; 0: never.")
    ] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done; change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Block public access to the bucket and set its lifecycle; other rules stay. Run it once, with the owner's key.

    Examples: `offsite setup --dry-run`, `offsite setup --create`, `offsite setup --archive-days 0`.
    """
    # It loads boto3, which whoever has copies in a folder alone does without.
    from backup.storage.s3.bucket_setup import WantedBucket, setup_bucket  # noqa: PLC0415

    settings = base.prepare_command(as_json)
    if archive_days and settings.media == "incremental":
        # The newest set may need a pack that is years old, and what is in GLACIER cannot be read for hours.
        logger.warning("objects stay in their class: BACKUP_MEDIA=incremental, and young sets need old packs")
        archive_days = 0
    wal_days = wal_days if settings.pitr == "on" else 0
    if wal_days and wal_days < settings.pitr_days + _BASE_DAYS:
        raise typer.BadParameter(
            f"--wal-days: moments of {settings.pitr_days} days need base backups that are some days older:"
            f" {settings.pitr_days + _BASE_DAYS} at least, or 0"
        )
    bucket = open_bucket(bucket_options(settings))
    wanted = WantedBucket(create=create, archive_days=archive_days, wal_days=wal_days)
    _tell(setup_bucket(bucket, wanted, dry=dry_run), as_json)


@app.command("check")
def check_command(as_json: Json = False) -> None:
    """Test with small objects that the key can put, list and get; warn if it may delete.

    Says what the store refuses, keeps and honours; later uploads do without what it refuses.

    Example: `offsite check`.
    """
    from backup.storage.s3.bucket_setup import check_bucket  # noqa: PLC0415

    settings = base.prepare_command(as_json)
    _tell(check_bucket(open_bucket(bucket_options(settings), memory(settings, quiet=True))), as_json)


@app.command("policy")
def show_policy(
    prune: Annotated[bool, typer.Option("--prune", help="For a key that may delete, for `offsite prune`.")] = False,
) -> None:
    """Print the IAM policy for a key that can send and read copies, but not delete or overwrite them.

    Example: `offsite policy > policy.json`.
    """
    options = bucket_options(base.prepare_command(as_json=True))
    base.print_lines([json.dumps(iam_policy(options, prune=prune), indent=2)])


def upload_command(
    invocation: typer.Context,
    which: Annotated[str, typer.Argument(metavar="[daily|weekly|monthly|manual|ID]", help="A tier, or one set.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="The sets of all tiers.")] = False,
    wait: Wait = 0.0,
    scheduled: Scheduled = False,
    trigger: Trigger = "",
    as_json: Json = False,
) -> None:
    """Send verified sets to the bucket and BACKUP_COPY_DIR: what is missing or differs there, newest first.

    Without a tier: those that are uploaded on schedule. Backups and restores do not wait for it.

    Examples: `upload`, `upload monthly`, `upload --all`, `upload daily_2025-10-20_02-00-00`.
    """
    main = App(base.prepare_command(as_json, kind="backup"))
    main.require_volume()
    tier = Tier(which) if which in set(Tier) else None
    if which and everything:
        raise typer.BadParameter("name a tier or a set, or pass --all")
    occasion = base.occasion(invocation, scheduled, trigger)._asdict()
    patience = base.QUEUE if scheduled or trigger else wait
    only = "" if tier or not which else main.catalog.find(which).id

    def send(context: OffsiteContext) -> uploading.Report:
        tiers = () if only else request_for(tier, everything, context.tiers)
        return uploading.upload_sets(uploading.Request(tiers=tiers, only=only, wait=patience, **occasion), context)

    reports = list(_each(main, as_json, send))
    for report in reports:
        logger.success("{}", report.words)
    if as_json:
        base.print_json("uploads", places=reports)


@app.command("list")
def list_copies(as_json: Json = False) -> None:
    """List the sets there and here: offsite, incomplete, differs, archived, gone, or only local.

    Example: `offsite list --json`.
    """
    main = App(base.prepare_command(as_json))
    found: list[Any] = []

    def show(context: OffsiteContext) -> None:
        rows = verify_copies.rows(context)
        if as_json:
            found.append({"place": context.remote.name, "copies": rows})
        else:
            base.show(lambda: copies_table(context.remote.name, rows, datetime.now(UTC)), lambda: copies_lines(rows))

    for _ in _each(main, as_json, show):
        pass
    if as_json:
        base.print_json("copies", places=found)


@app.command("verify")
def verify_command(
    invocation: typer.Context,
    which: Annotated[str, typer.Argument(metavar="[ID]", help="One set; without it, all.")] = "",
    download: Annotated[bool, typer.Option("--download", help="Also read every byte.")] = False,
    accept: Annotated[bool, typer.Option("--accept", help="Stop reporting copies that are gone.")] = False,
    wait: Wait = 0.0,
    scheduled: Scheduled = False,
    as_json: Json = False,
) -> None:
    """Check size and checksum of every object at the place. The scheduled run also reads a share of the bytes.

    Examples: `offsite verify`, `offsite verify --download`, `offsite verify monthly_2025-10-01_04-00-00`.
    """
    main = App(base.prepare_command(as_json, kind="verify"))
    main.require_volume()
    request = verify_copies.Request(
        only=which,
        accept=accept,
        read=download,
        share=scheduled,
        wait=base.QUEUE if scheduled else wait,
        **base.occasion(invocation, scheduled)._asdict(),
    )
    reports = list(_each(main, as_json, lambda context: verify_copies.verify_copies(request, context)))
    for report in reports:
        logger.success("{}", report.words)
    if as_json:
        places = [{"place": r.place, "copies": r.newest_first, "read": r.read} for r in reports]
        base.print_json("copies", places=places)


@app.command("pull")
def pull_command(
    which: Annotated[str, typer.Argument(metavar="ID|latest", help="A set at the place.")],
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Empty folder; default: the backup volume.")] = None,
    place: From = "",
    wait: Wait = 0.0,
    as_json: Json = False,
) -> None:
    """Fetch a set from the place. On a fresh machine: `offsite pull latest`, then `restore latest`.

    Examples: `offsite pull latest`, `offsite pull monthly_2025-10-01_04-00-00 --to /restore`.
    """
    main = App(base.prepare_command(as_json, kind="restore"))
    with base.progress(as_json) as progress:
        context = contexts(main, progress, place)[0]
        if to:
            identifier = fetch.pull_to(context, which, to).id
            where = str(to)
        else:
            main.require_volume()
            identifier, where = fetch.pull_set(context, which, wait).set, "here"
    logger.success("{} is {}: fetched from {} and read back", identifier, where, context.remote.name)
    if as_json:
        base.print_json("pull", set=identifier, place=context.remote.name, folder=str(to) if to else None)


@app.command("prune")
def prune_command(
    invocation: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show why each set stays or goes; change nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove all sets past retention, also those that wait for this option.")
    ] = False,
    wait: Wait = 0.0,
    scheduled: Scheduled = False,
    as_json: Json = False,
) -> None:
    """Remove copies that are past retention, by the rules of local sets. Safer: a key that may not delete.

    Examples: `offsite prune --dry-run`, `offsite prune`.
    """
    main = App(base.prepare_command(as_json, kind="" if dry_run else "backup"))
    main.require_volume()
    request = pruning.Request(
        force=force, wait=base.QUEUE if scheduled else wait, **base.occasion(invocation, scheduled)._asdict()
    )
    rules = copy_policy(main.settings)
    act = pruning.plan if dry_run else pruning.prune_copies
    reports = list(_each(main, as_json, lambda context: act(request, context, rules)))
    if as_json:
        base.print_json("cleanups", places=reports, dry_run=dry_run)
    for report in reports:
        if dry_run and not as_json:
            show_decisions(report.decisions, report.hold, datetime.now(UTC))
        elif not dry_run:
            level = "WARNING" if report.hold or report.waiting else "SUCCESS"
            logger.log(level, "{}", base.with_hint(report.words, report.hint))
    raise typer.Exit(max(report.exit_code for report in reports))


def _each(main: App, as_json: bool, act: Callable[[OffsiteContext], _Done]) -> Iterator[_Done]:
    """Do it at every place."""
    with base.progress(as_json) as progress:
        yield from base.do_each(contexts(main, progress), act)


def _tell(steps: Iterable[SetupStep], as_json: bool) -> None:
    """Each step as it is taken. RemoteFailed in the end when one failed."""
    taken = []
    for step in steps:
        taken.append(step)
        if not as_json:
            logger.log(_LEVELS[step.state], "{}", base.with_hint(step.words, step.hint))
    if as_json:
        base.print_json("steps", steps=taken)
    if failed := [step for step in taken if step.state == "failed"]:
        raise RemoteFailed(f"some steps failed; the first: {failed[0].words}", failed[0].hint)
