"""A failing end-to-end test tells what its containers said last."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from tests.support.engine import Engine
from tests.support.last_logs import last_logs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add a section with the logs: of this worker's containers, and of those on an engine of the test's own."""
    report = yield
    if report.failed:
        engines = [each for value in item.funcargs.values() if isinstance(each := getattr(value, "engine", 0), Engine)]
        logs = [last_logs(f"-{os.getpid()}"), *(last_logs("", each.env) for each in engines)]
        report.sections.append(("what its containers said last", "\n".join(filter(None, logs))))
    return report
