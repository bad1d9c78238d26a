"""Fixtures of the integration tests alone: sets to be spoilt, with live data that no refusal may change."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.database import Server, start_server
from tests.support.engine import Engine, engine
from tests.support.restoring import Target, drop_kept
from tests.support.sidecar import IMAGE

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """What a module shares is made anew after a test that failed, whatever it has left: no other one fails by it."""
    report = (yield).get_result()  # type: ignore[misc]
    item.stash[_FAILED] = report.failed or item.stash.get(_FAILED, False)
    if report.when == "teardown" and item.stash[_FAILED]:
        for *_, definition in item._fixtureinfo.name2fixturedefs.values():  # type: ignore[attr-defined]
            if definition.scope == "module":
                # What its end meets is due to the failure, which is told.
                with contextlib.suppress(Exception):
                    definition.finish(item._request)  # type: ignore[attr-defined]


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
