"""The product's command line, but for what a backup does last: each new set is taken to load, and none is tried.

What is done to the files of a volume is done by a fork: an interpreter takes 0.05 s of a core.

And memory is taken for a disk: small ones that fill up, or fail, are made of it. Who receives WAL, or sends it on,
looks more often than outside of tests, and waits for less long when something is away: nothing that is tried here is
about how long.

A throw-away server for the first set of each of hundreds of tests would take as long as all else that they do.
`Sidecar.tries` runs the whole. A program in place of the command line, UNTRIED_PROGRAM, finds all that replaced.
"""

from __future__ import annotations

import os
import runpy
import sys
from types import ModuleType
from typing import Any

from backup.app import restore
from backup.cli import main
from backup.model.backup_set import LoadTest
from backup.operations.create import database
from backup.operations.pitr import receive, ship
from backup.storage import filesystem
from tests.support.forked_helper import in_fork


def taken(*_: object, **known: Any) -> LoadTest:
    """What a try of a set that loads tells."""
    return LoadTest(tried=known["clock"](), server_version="not tried by this test")


def replaced(module: ModuleType, **values: object) -> None:
    """Give names of a module other values. One that it has no longer would be replaced for nobody: AssertionError."""
    assert values.keys() <= vars(module).keys(), f"{module.__name__} has not all of {', '.join(values)}"
    vars(module).update(values)


if __name__ == "__main__":
    os.umask(0o077)
    # Seconds between two looks, and the most of them after failures.
    replaced(receive, LOOK=0.5, _LONGEST=2.0)
    replaced(ship, LOOK=1.0, _LONGEST=4.0)
    replaced(database, load_test=taken)
    replaced(restore, in_child=in_fork)
    replaced(filesystem, MEMORY=frozenset())
    if program := os.environ.pop("UNTRIED_PROGRAM", ""):
        runpy.run_path(program, run_name="__main__")
    else:
        sys.exit(main(sys.argv[1:] or ["serve"]))
