"""What `setup` has found, for people and programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from backup.formatting import printable
from backup.operations.setup.find import Plan


def setup_notes(plan: Plan) -> Iterator[str]:
    """What was found, line by line."""
    yield f"project {printable(plan.project)}, database {plan.database.shown}, network {printable(plan.network)}"
    for each in plan.media:
        who = printable(", ".join(each.writers))
        why = f"left out: {printable(each.left_out)}" if each.left_out else f"as /volumes/{each.name}"
        yield f"{'folder' if each.bind else 'volume'} {printable(each.source)}, written by {who}: {why}"
    if not any(not each.left_out for each in plan.media):
        yield "no volume of the application was found: only the database will be backed up"


def setup_json(plan: Plan) -> dict[str, Any]:
    """As `--json` prints it; nothing of the container's environment."""
    return {
        "project": plan.project,
        "database": {"service": plan.database.service, "container": plan.database.name, "image": plan.database.image},
        "network": plan.network,
        "media": [asdict(each) for each in plan.media],
        "stop": list(plan.stop),
        "zone": plan.zone,
        "service": plan.service,
    }
