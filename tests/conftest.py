"""Fixtures shared by all tests: real PostgreSQL servers, sidecars on temporary directories.

Skips are failures when CI is set: a check that did not run must not look like one that passed.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal

# Read at import time by testcontainers: no registry is in reach to pull its reaper from.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support import examples, s3, spread, versions
from tests.support.database import Server, start_server
from tests.support.s3 import Service
from tests.support.sidecar import Sidecar

examples.register()
# Under CI the same examples each time: what is found by chance is found by `make fuzz`.
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "here"))


def pytest_configure(config: pytest.Config) -> None:
    """Beside the properties, `make fuzz` runs what is marked `search`; `make fast` leaves out what is marked `long`."""
    config.addinivalue_line("markers", "one_version: tries what is ours, not the server's (tests/support/versions.py)")
    config.addinivalue_line("markers", "search: tries more cases in `make fuzz` than elsewhere")
    config.addinivalue_line("markers", "long: takes more than half a second")


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
            running[major] = start_server(major, in_memory=True)
        return running[major]

    yield get
    for server in running.values():
        server.remove()


@pytest.fixture(params=versions.MAJORS, ids=lambda major: f"pg{major}")
def any_server(request: pytest.FixtureRequest, servers: Callable[[int], Server]) -> Server:
    """Each supported server in turn; the test makes its own database on it."""
    return servers(request.param)


@pytest.fixture
def server(servers: Callable[[int], Server]) -> Server:
    """The PostgreSQL 17 server of this session."""
    return servers(17)


@pytest.fixture(scope="session")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Service]]:
    """Ceph's RADOS gateway of a release: one for all workers, started by the first test that wants it."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda release: stack.enter_context(s3.ceph(release, folder)))


@pytest.fixture(scope="session")
def gateway(gateways: Callable[[int], Service]) -> Service:
    """The newest of the gateways."""
    return gateways(s3.RELEASES[-1])


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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """After they were shuffled: what belongs together stays together, what takes long begins first."""
    versions.keep_one(items, config)
    spread.arrange(items)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of tests are no garbage: looking through them again and again took a tenth of the time.

    First of all, for afterwards the worker says that it is ready: two that were so at once had told the scheduler of no
    groups yet, and the run ended.
    """
    spread.note(session)
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Let the worker tell the scheduler of groups."""
    node.workerinput["groups"] = str(spread.notes(node.config))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> spread.Scheduler | None:
    """With `--dist loadgroup`, tests are spread by group."""
    return spread.Scheduler(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Under CI a skipped test has failed."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped under CI: {report.longrepr}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The order is random everywhere: what fails in one only must be found, and be repeated."""
    reports = (report for each in ("passed", "failed", "error", "") for report in terminalreporter.getreports(each))
    spread.write(reports, config)
    if seed := config.getoption("randomly_seed", None):
        terminalreporter.write_line(f"order of the tests: --randomly-seed={seed} (make … SEED={seed}) repeats it")
