"""Which tests run on every supported version of PostgreSQL, and which on one of them.

What a server does is tried on all of them. What we do, whatever the server (a rule, a refusal, what is left after a
kill), is marked `one_version`: each case of it runs on one version, always the same, chosen by its name, so that the
cases of a file are spread over all of them. FULL_SWEEP=1 runs them all; so does naming a case with its version.
"""

from __future__ import annotations

import os
import zlib
from collections import defaultdict

import pytest

MAJORS = (15, 17, 18)
FULL_SWEEP = bool(os.environ.get("FULL_SWEEP"))
# The parameters that a version comes by.
_NAMES = ("any_server", "story", "cluster", "major")


def keep_one(items: list[pytest.Item], config: pytest.Config) -> None:
    """Leave each case that is marked so on one version only. Cases that were asked for on some versions stay."""
    if FULL_SWEEP:
        return
    cases: dict[str, dict[int, pytest.Item]] = defaultdict(dict)
    for item in items:
        if item.get_closest_marker("one_version"):
            name, major = _case(item)
            cases[name][major] = item
    left = {
        item
        for name, found in cases.items()
        if set(found) == set(MAJORS)
        for major, item in found.items()
        if major != chosen(name)
    }
    if left:
        config.hook.pytest_deselected(items=list(left))
        items[:] = [item for item in items if item not in left]


def chosen(name: str) -> int:
    """Return the version that a case of this name runs on."""
    return MAJORS[zlib.crc32(name.encode()) % len(MAJORS)]


def _case(item: pytest.Item) -> tuple[str, int]:
    """Return the test with all its parameters but for the version; and that."""
    call = item.callspec  # type: ignore[attr-defined]
    by = next(name for name in _NAMES if name in call.params)
    others = {name: value for name, value in sorted(call.params.items()) if name != by}
    return f"{item.nodeid.partition('[')[0]} {others}", call.params[by]
