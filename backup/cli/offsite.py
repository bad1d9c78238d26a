"""Commands about copies of sets at another place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from backup.app.composition import App
from backup.app.offsite import contexts, policy
from backup.cli import base, bucket
from backup.cli.base import Json
from backup.cli.render.offsite import copies_json, copies_lines, copies_table
from backup.cli.render.prune import prune_json, prune_lines, prune_table
from backup.errors import BackupError
from backup.logging import logger
from backup.model.manifest import Tier
from backup.operations.offsite import fetch, verify_copies
from backup.operations.offsite import prune as pruning
from backup.operations.offsite import upload as uploading
from backup.operations.offsite.context import OffsiteContext
from backup.operations.offsite.upload import request_for

_QUEUE: Final = 6 * 3600.0
_Done = TypeVar("_Done")

app = typer.Typer(
    help="Copies of sets at another place: what is there, whether it can be relied on, and how it comes back."
    " Examples: `offsite list`, `offsite pull latest`.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command()(bucket.setup)
app.command()(bucket.check)
app.command()(bucket.policy)
Wait = Annotated[float, typer.Option(help="Seconds to queue behind another run of this kind.", min=0)]
Scheduled = Annotated[bool, typer.Option("--scheduled", hidden=True)]
From = Annotated[str, typer.Option("--from", metavar="s3|copy", help="Which place, if there are two.")]


def upload(
    invocation: typer.Context,
    which: Annotated[str, typer.Argument(metavar="[daily|weekly|monthly|manual|ID]", help="A tier, or one set.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="The sets of all tiers.")] = False,
    wait: Wait = 0.0,
    scheduled: Scheduled = False,
    trigger: Annotated[str, typer.Option(hidden=True)] = "",
    as_json: Json = False,
) -> None:
    """Send verified sets to the bucket (and BACKUP_COPY_DIR): what is missing there or differs, newest first.

    Without a tier: those that are uploaded by themselves. Backups and restores do not wait for it.

    Examples: `upload`, `upload monthly`, `upload --all`, `upload daily_2025-10-20_02-00-00`.
    """
    main = App(base.prepare(as_json, kind="backup"))
    main.require_volume()
    tier = Tier(which) if which in set(Tier) else None
    if which and everything:
        raise typer.BadParameter("name a tier or a set, or pass --all")
    occasion = base.occasion(invocation, scheduled)._asdict()
    if trigger:
        occasion["trigger"] = trigger
    only = "" if tier or not which else main.catalog.find(which).id

    def send(context: OffsiteContext) -> uploading.Report:
        tiers = () if only else request_for(tier, everything, context.tiers)
        request = uploading.Request(tiers=tiers, only=only, wait=_QUEUE if scheduled or trigger else wait, **occasion)
        return uploading.upload(request, context)

    reports = list(_each(main, as_json, send))
    for report in reports:
        logger.success("{}", report.words)
    if as_json:
        base.print_json([{"place": r.place, "sent": r.sent, "bytes": r.bytes, "same": r.same} for r in reports])


@app.command("list")
def list_copies(as_json: Json = False) -> None:
    """List the sets there and here: offsite, incomplete, differs, archived, gone, or only local.

    Example: `offsite list --json`.
    """
    main = App(base.prepare(as_json))
    found: list[Any] = []

    def show(context: OffsiteContext) -> None:
        rows = verify_copies.rows(context)
        if as_json:
            found.append(copies_json(context.remote.name, rows))
        elif base.out.is_terminal:
            base.out.print(copies_table(context.remote.name, rows, datetime.now(UTC)))
        else:
            base.print_lines(copies_lines(rows))

    for _ in _each(main, as_json, show):
        pass
    if as_json:
        base.print_json(found)


@app.command()
def verify(
    invocation: typer.Context,
    which: Annotated[str, typer.Argument(metavar="[ID]", help="One set; without it, all.")] = "",
    download: Annotated[bool, typer.Option("--download", help="Read every byte, too.")] = False,
    accept: Annotated[bool, typer.Option("--accept", help="Miss no longer what is gone from there.")] = False,
    wait: Wait = 0.0,
    scheduled: Scheduled = False,
    as_json: Json = False,
) -> None:
    """Ask the place for size and checksum of every object again. Scheduled, it also reads a share of the bytes.

    Examples: `offsite verify`, `offsite verify --download`, `offsite verify monthly_2025-10-01_04-00-00`.
    """
    main = App(base.prepare(as_json, kind="verify"))
    main.require_volume()
    request = verify_copies.Request(
        only=which,
        accept=accept,
        read=download,
        share=scheduled,
        wait=_QUEUE if scheduled else wait,
        **base.occasion(invocation, scheduled)._asdict(),
    )
    reports = list(_each(main, as_json, lambda context: verify_copies.verify(request, context)))
    for report in reports:
        logger.success("{}", report.words)
    if as_json:
        base.print_json(
            [{"place": r.place, "read": r.read, "sets": {c.id: c.state for c in r.copies.values()}} for r in reports]
        )


@app.command()
def pull(
    which: Annotated[str, typer.Argument(metavar="ID|latest", help="A set that is there.")],
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="An empty folder; without it, among the sets here.")
    ] = (None),
    place: From = "",
    wait: Wait = 0.0,
    as_json: Json = False,
) -> None:
    """Bring a set back, with nothing but the place and its key. On a fresh machine: `offsite pull latest`, `restore`.

    Examples: `offsite pull latest`, `offsite pull monthly_2025-10-01_04-00-00 --to /restore`.
    """
    main = App(base.prepare(as_json, kind="restore"))
    with base.progress(as_json) as progress:
        context = contexts(main, progress, place)[0]
        if to:
            identifier = fetch.pull_to(context, which, to).id
            where = str(to)
        else:
            main.require_volume()
            identifier, where = fetch.pull(context, which, wait).set, "here"
    logger.success("{} is {}: fetched from {} and read back", identifier, where, context.remote.name)
    if as_json:
        base.print_json({"id": identifier, "from": context.remote.name, "to": where})


@app.command()
def prune(
    invocation: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show each set and why it stays or goes.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Remove all that is over its time, also what waits for a person.")
    ] = False,
    wait: Wait = 0.0,
    scheduled: Scheduled = False,
    as_json: Json = False,
) -> None:
    """Remove copies whose time is over, by the rules of local sets. Never needed: a key that may not delete is better.

    Examples: `offsite prune --dry-run`, `offsite prune`.
    """
    main = App(base.prepare(as_json, kind="" if dry_run else "backup"))
    main.require_volume()
    request = pruning.Request(
        force=force, wait=_QUEUE if scheduled else wait, **base.occasion(invocation, scheduled)._asdict()
    )
    rules = policy(main.settings)
    act = pruning.plan if dry_run else pruning.prune
    reports = list(_each(main, as_json, lambda context: act(request, context, rules)))
    if as_json:
        base.print_json([_pruned(report, dry_run) for report in reports])
    for report in reports:
        if dry_run and not as_json:
            _show(report)
        elif not dry_run:
            level = "WARNING" if report.hold or report.waiting else "SUCCESS"
            logger.log(level, "{}", base.with_hint(report.words, report.hint))
    raise typer.Exit(max(report.exit_code for report in reports))


def _pruned(report: pruning.Report, dry_run: bool) -> dict[str, Any]:
    sets = prune_json(report.decisions)
    return {
        "place": report.place,
        "dry_run": dry_run,
        "ends": report.ends,
        "hold": report.hold,
        "waiting": report.waiting,
        "later": report.later,
        "sets": sets,
    }


def _show(report: pruning.Report) -> None:
    if base.out.is_terminal:
        base.out.print(prune_table(report.decisions, datetime.now(UTC), report.hold))
    else:
        base.print_lines(prune_lines(report.decisions))


def _each(main: App, as_json: bool, act: Callable[[OffsiteContext], _Done]) -> Iterator[_Done]:
    """Do it at every place; what fails at one keeps nobody from the others, and is raised in the end."""
    with base.progress(as_json) as progress:
        failed = None
        for context in contexts(main, progress):
            try:
                yield act(context)
            except BackupError as error:
                if failed:
                    logger.error("{} {}", failed.message, failed.hint)
                failed = error
        if failed:
            raise failed
