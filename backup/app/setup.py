"""The engine → an overlay, and where it is written. Needs no settings and no backup volume."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from backup.app.volume import mounted
from backup.docker.engine import Engine
from backup.errors import ConfigError, StoreError
from backup.formatting import printable
from backup.operations.setup.find import Names, Plan, plan, project_of

FILE: Final = "docker-compose.backup.yml"


def survey(project: str, service: str) -> Plan:
    """The plan for `project`, whose database is `service` (empty: found).

    Without a name it is our own project; outside of one, the only one with a database.
    """
    engine = Engine()
    own = engine.own()
    image_id, image = (own.image_id, own.image) if own else ("", "")
    project = project or (own.project if own else "")
    project = project_of([c for c in engine.containers("") if c.image_id != image_id], project)
    # By the project's own list: containers of `run` are not part of the stack.
    stack = engine.containers(project)
    # Never by equality: an engine tells the mounts of a container in another order each time.
    ours = [c for c in stack if c.image_id == image_id]
    part = [c for c in stack if c.image_id != image_id]
    return plan(project, part, Names(*engine.compose_names(project)), ours, service, image)


def write(text: str, wanted: Path, *, force: bool) -> tuple[Path, bool]:
    """Write the overlay to a file or into a folder; where, and whether it has replaced one. Never by accident."""
    path = wanted / FILE if wanted.is_dir() else wanted
    folder = path.parent
    if not folder.is_dir():
        raise ConfigError(f"{printable(str(folder))} is no folder; nothing was written", "Make it first.")
    if os.environ.get("container") and not mounted(folder):
        raise StoreError(
            f"no folder of the machine is mounted at {printable(str(folder))}: the file would go with this container",
            'Mount it: docker run --rm -v "$PWD":/project … setup --write /project',
        )
    there = os.path.lexists(path)
    if there and not force:
        raise ConfigError(
            f"{printable(str(path))} is there already; nothing was written",
            "Write another one, or replace it with --force.",
        )
    _written(path, text)
    return path, there


def _written(path: Path, text: str) -> None:
    """Beside it first, then renamed, so that there is never half a file."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        draft.write_text(text)
        draft.chmod(0o644)  # it holds no secret, and belongs to whom the folder belongs
        owner = path.parent.stat()
        with contextlib.suppress(OSError):
            os.chown(draft, owner.st_uid, owner.st_gid)
        draft.replace(path)
    except OSError as error:
        raise StoreError(
            f"{printable(str(path))} cannot be written: {error.strerror}", "Mount a folder that may be written."
        ) from error
