"""Fixtures of the integration tests alone: sets to be spoilt, with live data that no refusal may change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.database import Server, start_server
from tests.support.engine import Engine, engine
from tests.support.restoring import Target, drop_kept
from tests.support.sidecar import IMAGE


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


@pytest.fixture(scope="session")
def mortal() -> Iterator[Engine]:
    """An engine of this worker, to be killed; images take long to bring in."""
    with engine("obcms-test/postgres:17", "obcms-test/app:latest", IMAGE) as made:
        yield made


@pytest.fixture(scope="module")
def doomed(mortal: Engine) -> Iterator[Engine]:
    """All that this module asks of Docker, it asks of this engine, which it may kill."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in mortal.env.items():
            patch.setenv(name, value)
        yield mortal


@pytest.fixture(scope="module")
def victim(doomed: Engine) -> Iterator[Server]:
    """The database in it."""
    server = start_server(17, "doomed", restart_policy={"Name": "unless-stopped"})
    yield server
    doomed.docker("rm", "-f", "-v", server.container.id)
