"""Here files are on a disk: its holes, attributes, times and limits are what is tried."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory on disk."""
    return tmp_path_factory.mktemp("sources")
