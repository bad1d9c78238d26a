"""Commands that put things back."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Final, NamedTuple

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from backup.app.composition import App
from backup.app.offsite import locate_set
from backup.app.restore import restore_context
from backup.cli import base
from backup.cli.base import At, AtLsn, FromPlace, IdentityOption, Json, OnlyOption
from backup.cli.render.set_tables import plain_table
from backup.errors import LockHeld, NotConfirmed, RestoreFailed
from backup.formatting import plural, printable, size
from backup.logging import logger
from backup.model.finding import Finding
from backup.model.moment import Wanted
from backup.operations.restore import locking, run, single_files
from backup.operations.restore.journal import KeptFile
from backup.operations.restore.plan import Only, Plan, plan
from backup.operations.restore.plan_inputs import gather

Which = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ID|FILE|latest|s3:ID",
        help="A set, or one of its files; or a dump and its archives from one folder.",
        autocompletion=base.set_ids,
    ),
]
_WORDS: Final = {"warn": "warning", "fail": "refused"}
_QUESTION: Final = "Restore this and replace what is live?"
Force = Annotated[bool, typer.Option("--force", help="Do not ask for `yes`.")]
PhysicalOption = Annotated[
    bool, typer.Option("--physical", help="With --at: the whole cluster, exchanged in the database's own volume.")
]


def restore_command(
    which: Which = None,
    only: Annotated[OnlyOption | None, typer.Option(help="Restore only the database or only the volumes.")] = None,
    force: Force = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; change nothing.")] = False,
    no_safety: Annotated[bool, typer.Option("--no-safety", help="Take no safety set of the live state.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Finish an interrupted restore.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Roll back an interrupted restore.")] = False,
    allow_invalid: Annotated[
        bool,
        typer.Option("--allow-invalid", help="Restore constraints that rows break as NOT VALID, and list them."),
    ] = False,
    path: Annotated[
        list[str] | None,
        typer.Option("--path", metavar="PATH", help="With --only media: one file or directory alone. May be repeated."),
    ] = None,
    at: At = "",
    at_lsn: AtLsn = "",
    physical: PhysicalOption = False,
    place: FromPlace = "",
    identity: IdentityOption = None,
    as_json: Json = False,
) -> None:
    """Restore a set, completely or not at all. It is built beside the live data, then swapped with them.

    With `--at` a set of the database of that moment is made first; `--from s3`: from the bucket alone. With
    `--physical`, too, the whole cluster is exchanged instead, while the server is stopped for seconds. The media stay.

    Examples: `restore latest --dry-run`, `restore daily_2025-10-20_02-00-00`, `restore latest --only media`,
    `restore latest --only media --path uploads/2025/a.pdf`, `restore s3:latest`,
    `restore latest --identity /key.txt`, `restore /old/dump.sql.gz /old/media.tar.gz`,
    `restore --at '10 minutes ago' --dry-run`, `restore --at '10 minutes ago' --physical --dry-run`.
    """
    main = App(base.prepare_command(as_json, kind="restore", identity=identity))
    main.require_volume()
    wanted = base.wanted_moment(at, at_lsn, main.settings.zone, place)
    if [bool(which), resume, rollback, bool(wanted)].count(True) != 1:
        raise typer.BadParameter("name a set, or pass --at, --resume or --rollback")
    if physical:
        _cluster(main, None if path or only or no_safety or allow_invalid or place else wanted, force, dry_run, as_json)
    elif wanted:
        if path or only is OnlyOption.MEDIA:
            raise typer.BadParameter("--at restores the database alone")
        which, only = _of_moment(main, wanted, place, force, dry_run, as_json), OnlyOption.DATABASE
    if path:
        _paths(main, which or [], only, path, force, dry_run, as_json)
    elif resume or rollback:
        with base.progress(as_json) as progress:
            logger.success("{}", run.end(restore_context(main, progress), back=rollback))
    elif which:
        _whole(main, which, only.value if only else "", _How(force, dry_run, not no_safety, allow_invalid), as_json)


class _How(NamedTuple):
    """What was said of how to restore."""

    force: bool
    dry_run: bool
    safety: bool
    allow_invalid: bool


def _of_moment(main: App, wanted: Wanted, place: str, force: bool, dry_run: bool, as_json: bool) -> list[str]:
    """Make the set of a moment; none, but a look at what would be, when that is all that is asked for."""
    from backup.cli import moment  # noqa: PLC0415 - most restores are of a set

    if dry_run:
        _show(moment.look_ahead(main, wanted, place, as_json), as_json)
        return []
    # It takes minutes: whoever cannot agree to the plan then is told now.
    _require_answer(force, _QUESTION)
    return [moment.make_set(main, wanted, place, as_json)]


def _cluster(main: App, wanted: Wanted | None, force: bool, dry_run: bool, as_json: bool) -> None:
    """The whole cluster of a moment, in the database's own volume."""
    from backup.app import recovery  # noqa: PLC0415 - as above
    from backup.cli import moment  # noqa: PLC0415
    from backup.operations.restore.physical import restore_cluster  # noqa: PLC0415

    if wanted is None:
        raise typer.BadParameter("--physical goes with --at alone: it restores the whole cluster of a moment")
    wish = recovery.physical(main, wanted, KeptFile(main.settings.root).read())
    planned = moment.look_at_cluster(main, wish, as_json)
    _show(planned, as_json)
    _refuse(planned)
    if dry_run:
        return
    _confirm(force, "Restore the whole cluster, with every database of it?")
    with base.progress(as_json) as progress:
        logger.success("{}", restore_cluster(wish, restore_context(main, progress)))


def _whole(main: App, which: Sequence[str], only: Only, how: _How, as_json: bool) -> None:
    with ExitStack() as stack:
        with base.progress(as_json) as progress:
            stored = stack.enter_context(locate_set(main, which, progress))
            kept = KeptFile(main.settings.root).read()
            planned = plan(gather(restore_context(main, progress), stored, only, how.safety))
        _show(planned, as_json)
        _refuse(planned)
        if how.dry_run:
            return
        _confirm(how.force, _QUESTION)
        _restore(main, run.Wish(stored, only, how.safety, kept, how.allow_invalid), as_json)


def _restore(main: App, wish: run.Wish, as_json: bool) -> None:
    with base.progress(as_json) as progress:
        text, code = run.restore_set(wish, restore_context(main, progress))
    (logger.warning if code else logger.success)("{}", text)
    if code:
        raise typer.Exit(code)


def _paths(
    main: App,
    which: Sequence[str],
    only: OnlyOption | None,
    paths: list[str],
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Single files and directories: the application runs on, and nothing else is touched."""
    if only is not OnlyOption.MEDIA or not which:
        raise typer.BadParameter("--path needs a set and --only media")
    with ExitStack() as stack:
        with base.progress(as_json) as progress:
            stored = stack.enter_context(locate_set(main, which, progress))
            chosen = single_files.choose(stored, paths, restore_context(main, progress))
        if as_json:
            base.print_json("paths", set=stored.id, paths=chosen)
        else:
            base.print_lines(_path_line(stored.id, each) for each in chosen)
        if dry_run:
            return
        _confirm(force, "Put these back? What they replace is kept.")
        with base.progress(as_json) as progress:
            logger.success("{}", single_files.restore_paths(stored, chosen, restore_context(main, progress)))


def undo_command(
    discard: Annotated[bool, typer.Option("--discard", help="Remove what is kept for undo instead.")] = False,
    force: Force = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would do; change nothing.")] = False,
) -> None:
    """Bring back what was live before the last restore. A second `undo` brings the restored state again.

    Examples: `undo --dry-run`, `undo`, `undo --force`, `undo --discard`.
    """
    main = App(base.prepare_command(as_json=False, kind="restore"))
    main.require_volume()
    kept = KeptFile(main.settings.root).read()
    what = locking.kept_words(kept, main.settings.zone)
    if not discard and (kept or dry_run):
        with base.progress(as_json=False) as progress:
            run.foresee_undo(restore_context(main, progress), kept)
    if dry_run:
        base.print_lines([f"{'would remove for good' if discard else 'would bring back'} {what}"])
        return
    _confirm(force, f"Remove for good {what}?" if discard else f"Bring back {what}?")
    with base.progress(as_json=False) as progress:
        context = restore_context(main, progress)
        logger.success("{}", run.discard(context, kept) if discard else run.undo_restore(context, kept))


def _show(planned: Plan, as_json: bool) -> None:
    if as_json:
        base.print_json("plan", planned)
    else:
        base.show(lambda: plan_page(planned), lambda: plan_lines(planned))


def _refuse(planned: Plan) -> None:
    if planned.refusals:
        found = "".join(f"\n  - {each.text}" for each in planned.refusals)
        text, error = (
            ("this cannot be restored now", LockHeld) if planned.busy else ("this cannot be restored", RestoreFailed)
        )
        raise error(f"{text}; nothing was touched:{found}", planned.refusals[0].hint)


def _require_answer(force: bool, question: str) -> None:
    if not force and not sys.stdin.isatty():
        raise NotConfirmed(
            f"nothing was touched: no terminal to answer at: {question}",
            "Pass --force to skip the question.",
        )


def _confirm(force: bool, question: str) -> None:
    _require_answer(force, question)
    if force:
        return
    base.out.print(f"{question} Type yes to continue: ", end="")
    if sys.stdin.readline().strip() != "yes":
        raise NotConfirmed("nothing was touched: you did not type yes", "Run it again when you are sure.")


def plan_page(planned: Plan) -> RenderableType:
    """Draw the plan for a terminal: sections, then warnings, then what forbids it."""
    table = plain_table(header=False)
    for number, section in enumerate(planned.sections):
        if number:
            table.add_row()
        table.add_row(Text(section.heading.upper(), style="bold"))
        for label, text in section.rows:
            table.add_row(Text(f"  {label}"), Text(text))
    blocks: list[RenderableType] = [table]
    blocks += map(_finding, planned.findings)
    return Group(*blocks)


def plan_lines(planned: Plan) -> list[str]:
    """Draw the plan for a log or a pipe."""
    lines: list[str] = []
    for section in planned.sections:
        lines += [section.heading, *(f"  {label}: {text}" for label, text in section.rows)]
    for each in planned.findings:
        lines += [f"{_WORDS[each.level]}: {each.text}", f"  {each.hint}"]
    return lines


def _finding(each: Finding) -> Text:
    style = "bold red" if each.level == "fail" else "yellow"
    return Text.assemble((f"\n{_WORDS[each.level]}: ", style), each.text, f"\n  {each.hint}")


def _path_line(identifier: str, each: single_files.Choice) -> str:
    """What becomes of one path of a single restore."""
    name = printable(os.fsdecode(each.path))
    what = f"{plural(each.files, 'file')}, {size(each.bytes)}" if each.files else "as in the archive"
    now = f"replaces what is there now ({plural(each.live_files, 'file')}, {size(each.live_bytes)})"
    return f"{each.volume}: {name} from {identifier}: {what}; {now if each.live else 'nothing is there now'}"
