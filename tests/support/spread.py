"""Spread tests over the workers by measured duration, the longest first, so that no worker ends long after the others.

What shares a module's fixtures stays on one worker; everything else may run anywhere. `tests/durations.json` holds
seconds by group (a file, a part of one, or one test); DURATIONS=FILE writes what a run took in that form, beside what
is known of files that it had no test of.

xdist's own groups are not used: 3.8 appends their names to a field that pytest 9.2 does not read any more, and says
nothing (findings/xdist_groups_are_ignored_by_pytest_9_2.sh).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

FILE = Path(__file__).parents[1] / "durations.json"
# Of files that have never been measured: they may be long.
_UNKNOWN = 60.0
# What is quicker need not be told apart.
_LEAST = 1.0


def arrange(items: list[pytest.Item]) -> None:
    """Sort, the longest group first; within a group, and among equals, the random order stays."""
    seconds = measured()
    known = {_file(name) for name in seconds}
    first: dict[str, int] = {}
    for place, item in enumerate(items):
        first.setdefault(group(item), place)

    def expected(item: pytest.Item) -> float:
        return seconds.get(group(item), 0.0 if _file(item.nodeid) in known else _UNKNOWN)

    items.sort(key=lambda item: (-expected(item), first[group(item)]))


def measured() -> dict[str, float]:
    """Return seconds by group, as they were last written."""
    return dict(json.loads(FILE.read_text())) if FILE.exists() else {}


def group(item: pytest.Item) -> str:
    """Return its file where it is quick or shares what its module makes, which another worker would make again.

    A mark says of which part of its file it is, where each part makes what it shares anew, or with which other file it
    goes. So does a parameter of what is shared, which is made anew for each. Others are alone.
    """
    file = _file(item.nodeid)
    if part := item.get_closest_marker("xdist_group"):
        return str(part.args[0]) if part.args[0].startswith("tests/") else f"{file}::{part.args[0]}"
    definitions = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    shared = [name for name, each in definitions.items() if each[-1].scope in ("module", "class")]
    if not file.startswith(("tests/contract/", "tests/integration/", "tests/e2e/")):
        return file
    parameters = getattr(item, "callspec", None)
    made = [str(parameters.params[name]) for name in shared if parameters and name in parameters.params]
    return item.nodeid if not shared else "::".join([file, *made])


def _file(name: str) -> str:
    return name.partition("::")[0]


class Scheduler(LoadScopeScheduling):
    """Hands out whole groups in the order of the collection. A worker has written which those are (`note`)."""

    groups: dict[str, str]

    def schedule(self) -> None:
        self.config.option.loadscopereorder = False
        self.groups = noted(self.config)
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return self.groups[nodeid]


_NOTES = pytest.StashKey[Path]()


def notes(config: pytest.Config) -> Path:
    """Return the file that workers tell the scheduler by."""
    return config.stash.setdefault(_NOTES, Path(tempfile.gettempdir()) / f"obcms-test-groups-{os.getpid()}.json")


def noted(config: pytest.Config) -> dict[str, str]:
    """Return the group of each test, in the process that hands them out; empty where there are no workers."""
    return dict(json.loads(notes(config).read_text())) if notes(config).exists() else {}


def note(session: pytest.Session) -> None:
    """In a worker: tell the scheduler which test is of which group."""
    if target := getattr(session.config, "workerinput", {}).get("groups"):
        own = Path(f"{target}.{os.getpid()}")
        own.write_text(json.dumps({item.nodeid: group(item) for item in session.items}))
        own.replace(target)


def write(reports: Iterable[pytest.TestReport], config: pytest.Config) -> None:
    """Write what this run took where DURATIONS says; without it nothing."""
    groups, target = noted(config), os.environ.get("DURATIONS")
    notes(config).unlink(missing_ok=True)
    if not target:
        return
    found: dict[str, float] = defaultdict(float)
    for report in reports:
        found[groups.get(report.nodeid, report.nodeid)] += report.duration
    run = {_file(name) for name in found}
    found |= {
        name: seconds for name, seconds in measured().items() if _file(name) not in run and Path(_file(name)).exists()
    }
    listed = {name: round(total, 1) for name, total in sorted(found.items(), key=lambda e: -e[1]) if total >= _LEAST}
    # A file in which all is quick is known, too.
    listed |= dict.fromkeys(sorted({_file(name) for name in found} - {_file(name) for name in listed}), 0.0)
    Path(target).write_text(json.dumps(listed, indent=0) + "\n")
