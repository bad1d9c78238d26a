"""Fixtures of the integration tests alone: sets to be spoilt, with live data that no refusal may change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.database import Server
from tests.support.restoring import Target, drop_kept


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory, servers: Callable[[int], Server]) -> Iterator[Target]:
    """Two sets and what is live, for `spoilt` to copy."""
    made = Target.make(tmp_path_factory.mktemp("pristine"), servers(17), both=True)
    yield made
    drop_kept(made)


@pytest.fixture
def spoilt(tmp_path: Path, pristine: Target) -> Iterator[Target]:
    """Copies of two sets, to be damaged. Whatever was done with them, the live data are as they were."""
    case = pristine.copy(tmp_path)
    yield case
    case.unchanged()
