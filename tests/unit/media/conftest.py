"""Here files are on a disk: its holes, attributes, times and limits are what is tried."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory on disk, removed however deep it is."""
    made = tmp_path_factory.mktemp("sources")
    yield made
    try:
        shutil.rmtree(made)
    except RecursionError:
        subprocess.run(["rm", "-rf", made], check=True)
