"""An exchange that is told is done, whatever the server is set to, and whenever it dies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from backup.postgres import swap
from tests.contract.test_admin import Site
from tests.support.database import Server, start_server
from tests.support.faults import docker

HASTY = ["-c", "fsync=on", "-c", "synchronous_commit=off", "-c", "wal_writer_delay=10s"]


@pytest.fixture
def hasty() -> Iterator[Server]:
    """Answers seconds before its disk knows."""
    made = start_server(17, "hasty", command=HASTY)
    yield made
    made.remove()


def test_the_server_dies_in_the_moment_after_it(hasty: Server) -> None:
    at = Site(hasty)
    hasty.execute("postgres", "CHECKPOINT")
    swap.exchange_databases(at.login, at.wanted)
    docker("kill", hasty.container.id)
    docker("start", hasty.container.id)
    hasty.wait()
    at.login = replace(at.login, host=hasty.address)  # another container may have the old one by now
    assert {at.live: at.new_oid, at.kept: at.live_oid} == {name: at.oid(name) for name in (at.live, at.kept)}
