"""Clients of a database that is exchanged: those of a pooler and those that log in themselves."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import docker
import psycopg
import pytest

from backup.logging import logger
from backup.postgres import login_lock, server, swap
from backup.postgres.availability import Way, wait, watching
from backup.postgres.session import Login
from backup.postgres.swap import Exchange
from tests.contract.test_admin import Site
from tests.support.clients import Client, crowd, strange
from tests.support.database import LABEL, PASSWORD, PROJECT, USER, Server

# `EXCHANGES=30` for a record of it.
ROUNDS = int(os.environ.get("EXCHANGES", "4"))
PORT = 6432
SLACK = 0.2
QUERY = "SELECT min(what) FROM which"


@pytest.fixture
def site(any_server: Server) -> Iterator[Site]:
    made = Site(any_server)
    yield made
    made.remove()


@contextmanager
def pooler(at: Site) -> Iterator[Login]:
    """pgbouncer as OBCMS has it, in front of a database."""
    environment: dict[str, Any] = {
        "DB_HOST": at.server.address,
        "DB_USER": USER,
        "DB_PASSWORD": PASSWORD,
        "DB_NAME": at.live,
        "LISTEN_PORT": PORT,
        "MIN_POOL_SIZE": 5,
        "SERVER_LOGIN_RETRY": 15,
    }
    client = docker.from_env()
    made = client.containers.run(
        "obcms-test/pgbouncer:latest", detach=True, environment=environment, labels={LABEL: PROJECT}
    )
    try:
        made.reload()
        networks = made.attrs["NetworkSettings"]["Networks"]
        login = Login(next(net["IPAddress"] for net in networks.values()), PORT, USER, at.live, PASSWORD)
        assert not wait(Way(login, at.live, "pooler"), 20)
        yield login
    finally:
        made.remove(force=True)
        client.close()


def there_and_back(at: Site) -> Iterator[Exchange]:
    """One exchange after the other."""
    oids = [at.live_oid, at.new_oid]
    while True:
        yield Exchange(at.live, oids[0], oids[1], at.kept)
        oids.reverse()


def test_no_client_is_ever_told_that_the_database_does_not_exist(site: Site) -> None:
    with ExitStack() as stack:
        through = stack.enter_context(pooler(site))
        clients = [Client(through, QUERY, each_new=number % 2 == 0) for number in range(6)]
        clients += [Client(site.login, QUERY, each_new=number > 0) for number in range(4)]
        windows = []
        with crowd(*clients):
            for _, wanted in zip(range(ROUNDS), there_and_back(site), strict=False):
                time.sleep(0.3)
                with watching(Way(through, site.live, "pooler")) as watch:
                    assert watch
                    direct = swap.exchange_databases(site.login, wanted)
                    felt, ended = watch.outage(20), time.monotonic()
                    windows.append((ended - max(direct, felt) - SLACK, ended + SLACK, direct, felt))
    print([(round(d * 1000), round(f * 1000)) for *_, d, f in windows], len(windows))
    assert not strange(*clients)
    failures = [each for client in clients for each in client.failures]
    late = [(when, said) for when, said in failures if not any(a <= when <= b for a, b, *_ in windows)]
    assert not late, "and nobody is told anything once the printed time is over"
    assert max(client.longest() for client in clients) < max(b - a for a, b, *_ in windows) + SLACK


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """What is logged as a warning."""
    said: list[str] = []
    handler = logger.add(lambda message: said.append(str(message)), level="WARNING")
    yield said
    logger.remove(handler)


def test_who_reads_the_list_of_databases_delays_it_and_is_named(site: Site, warned: list[str]) -> None:
    with site.server.connect() as other, other.transaction():
        other.execute("SET application_name = 'the other'")
        other.execute("SELECT count(*) FROM pg_database")
        assert swap.exchange_databases(site.login, site.wanted, patience=0.5) < 5
        assert other.execute("SELECT 1").fetchone(), "nobody else's session is ended"
    assert site.what(site.live) == "new" and len(warned) == 1 and f"{USER} the other" in warned[0]
    with site.server.connect(site.live) as inside:
        inside.execute("BEGIN; SELECT count(*) FROM pg_database")
        back = Exchange(site.live, site.new_oid, site.live_oid, site.kept)
        assert swap.exchange_databases(site.login, back) < 5
        with pytest.raises(psycopg.OperationalError):
            inside.execute("SELECT 1")
    assert site.what(site.live) == "old" and len(warned) == 1


def test_who_may_keep_logins_waiting(site: Site) -> None:
    """A superuser; from 17 on whoever maintains, and nobody else."""
    role = f"{site.live}_owner"
    site.server.execute("postgres", f"CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'x'")
    for database in (site.live, site.new):
        site.server.execute("postgres", f"GRANT {role} TO {USER}; ALTER DATABASE {database} OWNER TO {role}")
    login = replace(site.login, user=role, password="x")  # noqa: S106
    assert may_wait(site.login) and not may_wait(login)
    assert swap.exchange_databases(login, site.wanted) < 2 and site.what(site.live) == "new"
    if site.server.major >= 17:
        site.server.execute("postgres", f"GRANT pg_maintain TO {role}")
        assert may_wait(login)
    back = Exchange(site.live, site.new_oid, site.live_oid, site.kept)
    assert swap.exchange_databases(login, back) < 2 and site.what(site.live) == "old"


def may_wait(login: Login) -> bool:
    with server.maintenance(login, "test") as connection:
        return login_lock.can_wait(connection)
