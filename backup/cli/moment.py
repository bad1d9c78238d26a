"""What `create` and `restore` do with a moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from backup.app.composition import App
from backup.app.recovery import moment_origin
from backup.app.restore import restore_context
from backup.cli import base
from backup.model.manifest import Tier
from backup.model.moment import Wanted
from backup.model.moment_media import media_then
from backup.model.run import new_run_id
from backup.operations.create.run import Request, create_set
from backup.operations.restore.locking import RUN_WAIT, looking
from backup.operations.restore.physical import Physical, gather, plan
from backup.operations.restore.plan import Plan, PlanSection, media_words


def make_set(main: App, wanted: Wanted, place: str, as_json: bool) -> str:
    """Make a set of a moment to be restored; its id."""
    with base.progress(as_json) as progress, moment_origin(main, wanted, place, progress) as origin:
        context = replace(main.create_context(progress), origin=origin)
        return create_set(Request(Tier.MANUAL, "database", trigger="restore", wait=RUN_WAIT), context).set


def look_at_cluster(main: App, wish: Physical, as_json: bool) -> Plan:
    """Look at the server, and at the WAL unless something forbids it all. Nothing is changed."""
    run = new_run_id(datetime.now(UTC))
    with base.progress(as_json) as progress:
        facts = gather(wish, restore_context(main, progress))
        found = plan(wish, facts, [])
        if found.refusals:
            return found
        with looking(main.lock, "look at a moment", run):
            return plan(wish, facts, wish.origin.look(run, progress))


def look_ahead(main: App, wanted: Wanted, place: str, as_json: bool) -> Plan:
    """Read the WAL, and say what a restore of a moment would bring back. Nothing is changed."""
    run = new_run_id(datetime.now(UTC))
    with (
        base.progress(as_json) as progress,
        moment_origin(main, wanted, place, progress) as origin,
        looking(main.lock, "look at a moment", run),
    ):
        rows = origin.look(run, progress)
    now = datetime.now(UTC)
    at = wanted.moment or (now if wanted.place is None else origin.moment.base.ended)
    then = media_then(main.catalog.sets(), main.records.readable(), at, now)
    rows.append(("media", media_words(then, at)))
    rows.append(("then", "a set of it is made, and restored as any other: its plan is shown, and asks for `yes`"))
    return Plan((PlanSection("recovery", tuple(rows)),), (), (), ())
