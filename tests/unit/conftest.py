"""Settings are the tests' own, not those of the machine that they run on; files are in memory."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru._better_exceptions import ExceptionFormatter

from backup.config.loader import KNOWN
from backup.storage import filesystem

# TZ is one of them: without it all is in UTC, whatever the zone of the host.
_SET = KNOWN & os.environ.keys()
# Each of some 800 sinks would ask for the folders of Python anew, which takes 4 ms.
setattr(ExceptionFormatter, "_get_lib_dirs", staticmethod(functools.cache(ExceptionFormatter._get_lib_dirs)))  # noqa: B010


@pytest.fixture(autouse=True)
def nobodys() -> Iterator[None]:
    """Hide the settings around the tests, take memory for a disk, as which it serves here, and keep the umask.

    A command that is run inside of the test's own process sets its own, which every later test would have. One fixture
    for all: each costs every test a tenth of a millisecond.
    """
    before = os.umask(0o022)
    os.umask(before)
    with pytest.MonkeyPatch.context() as patch:
        for name in _SET:
            patch.delenv(name)
        patch.setattr(filesystem, "MEMORY", frozenset())
        yield
    os.umask(before)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory, where thousands of files and syncs cost nothing."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="obcms-unit-", ignore_cleanup_errors=True) as made:
        yield Path(made)


@pytest.fixture
def tmp_path(memory: Path) -> Path:
    """What a file system does is tried in `sources`, and where the product runs; elsewhere it is about decisions."""
    return memory
