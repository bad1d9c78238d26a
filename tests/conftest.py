"""Fixtures shared by all tests: real PostgreSQL servers, sidecars on temporary directories.

Skips are failures when CI is set: a check that did not run must not look like one that passed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal

# Read at import time by testcontainers: no registry is in reach to pull its reaper from.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import s3
from tests.support.database import Server, start_server
from tests.support.s3 import Service
from tests.support.sidecar import Sidecar

MAJORS = (15, 17, 18)
# A busy machine is no flaw of the code.
settings.register_profile("here", deadline=None)
settings.load_profile("here")


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A run inside the test's own process ends with signals ignored, which every later child would inherit."""
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[int], Server]]:
    """A function from a major version to its one running server of this session."""
    running: dict[int, Server] = {}

    def get(major: int) -> Server:
        if major not in running:
            running[major] = start_server(major)
        return running[major]

    yield get
    for server in running.values():
        server.remove()


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def any_server(request: pytest.FixtureRequest, servers: Callable[[int], Server]) -> Server:
    """Each supported server in turn; the test makes its own database on it."""
    return servers(request.param)


@pytest.fixture
def server(servers: Callable[[int], Server]) -> Server:
    """The PostgreSQL 17 server of this session."""
    return servers(17)


@pytest.fixture(scope="session")
def gateways() -> Iterator[Callable[[int], Service]]:
    """Ceph's RADOS gateway of a release, started by the first test that wants it."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda release: stack.enter_context(s3.ceph(release)))


@pytest.fixture(params=s3.RELEASES, ids=lambda release: f"ceph{release}")
def ceph(request: pytest.FixtureRequest, gateways: Callable[[int], Service]) -> Service:
    """Each of the gateways in turn; the test makes its own bucket there."""
    return gateways(request.param)


@pytest.fixture(scope="session")
def moto() -> Iterator[Service]:
    """moto's S3, which knows what is Amazon's alone."""
    with s3.moto() as service:
        yield service


@pytest.fixture
def sidecar(tmp_path: Path, server: Server) -> Sidecar:
    """A sidecar on empty directories, with one small volume, for a new database on PostgreSQL 17."""
    return Sidecar.make(tmp_path, server, server.new_database())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Under CI a skipped test has failed."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped under CI: {report.longrepr}"
