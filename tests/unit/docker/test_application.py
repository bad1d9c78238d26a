"""Which containers are stopped for a restore."""

from __future__ import annotations

from typing import Any, cast

import pytest

from backup.docker.application import Application
from backup.docker.container import Address, Container, database_address, described, needed_by, start_order
from backup.docker.engine import Engine


def container(name: str, *mounts: str, writes: bool = True, image: str = "app", running: bool = True) -> Container:
    """A mount is named by its volume, or by a directory of the host."""
    where = tuple({"Type": "bind" if at[0] == "/" else "volume", "Name": at.strip("/") if at[0] != "/" else "",
                   "Source": at, "RW": writes} for at in mounts)  # fmt: skip
    return Container(name, name, "p", name, image, image, running, "", {}, {}, frozenset({name}), where)


class Listed:
    """An engine with these containers; `oneoff` are those of `docker compose run`."""

    def __init__(self, *services: Container, oneoff: tuple[Container, ...] = ()) -> None:
        self._listed = {False: list(services), True: list(oneoff)}

    def containers(self, project: str, *, oneoff: bool = False) -> list[Container]:
        assert project == "p"
        return self._listed[oneoff]


def stopped(sources: tuple[str, ...], *services: Container, oneoff: tuple[Container, ...] = ()) -> list[str]:
    engine: Any = Listed(*services, oneoff=oneoff)
    own = container("backup", "/data/media", image="own")
    return [c.name for c in Application(cast(Engine, engine), "p", own, ("db",)).running((), sources)]


@pytest.mark.parametrize(
    ("mount", "found"),
    [
        ("/data/media", True),
        ("/data", True),
        ("/data/media/uploads", True),
        ("/data/medial", False),
        ("/data/other", False),
        ("media", False),
    ],
)
def test_whoever_can_write_there_by_a_folder_above_or_below(mount: str, found: bool) -> None:
    assert stopped(("/data/media",), container("web1", mount)) == (["web1"] if found else [])
    assert stopped(("/data/media",), container("web1", mount, writes=False)) == []
    assert stopped(("/data/media",), container("web1", mount, running=False)) == []


def test_volumes_are_told_by_their_names() -> None:
    assert stopped(("p_media",), container("web1", "p_media"), container("web2", "p_medial"), container("web3", "p")) \
        == ["web1"]  # fmt: skip


def test_those_of_compose_run_too_but_not_our_own_nor_the_database() -> None:
    there = container("web1", "/data"), container("db", "/data"), container("backup2", "/data", image="own")
    assert stopped(("/data/media",), *there, oneoff=(container("run", "/data"),)) == ["web1", "run"]


def test_of_named_services_those_of_compose_come_first() -> None:
    engine: Any = Listed(container("web1"), oneoff=(container("run"),))
    application = Application(cast(Engine, engine), "p", None)
    assert [c.name for c in application.running(("run", "web1"), ())] == ["web1", "run"]


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"DATABASE_URL": "postgres://u@pgbouncer:6432/o"}, Address("pgbouncer", 6432, "u", "", "o")),
        ({"DATABASE_URL": "postgresql+psycopg://u:p%40%2F@db/o%20b?x=1"}, Address("db", 5432, "u", "p@/", "o b")),
        ({"DATABASE_URL": "postgis://db"}, Address("db")),
        ({"DATABASE_URL": "mysql://db/o", "DB_HOST": "other"}, None),
        ({"DATABASE_URL": "postgres://db:port/o"}, None),
        ({"DATABASE_URL": "sqlite:///x"}, None),
        ({"DB_HOST": "db", "DB_PORT": "x", "DB_NAME": "o"}, Address("db", 5432, "", "", "o")),
        ({"POSTGRES_HOST": "db", "POSTGRES_USER": "u", "POSTGRES_DB": "o"}, Address("db", 5432, "u", "", "o")),
        ({"PGHOST": "db", "PGPORT": "1"}, Address("db", 1)),
        ({"POSTGRES_USER": "u", "POSTGRES_DB": "o"}, None),
    ],
)
def test_where_an_application_finds_its_database(environment: dict[str, str], found: Address | None) -> None:
    assert database_address(environment) == found
    assert "p@/" not in repr(found)


def service(name: str, *needs: str, **environment: str) -> Container:
    label = ",".join(f"{each}:service_healthy:false" for each in needs)
    return described(
        {
            "Id": f"id-{name}",
            "Name": f"/p-{name}-1",
            "Image": "i",
            "Config": {
                "Labels": {"com.docker.compose.service": name, "com.docker.compose.depends_on": label},
                "Env": [f"{key}={value}" for key, value in environment.items()],
                "StopTimeout": 60 if name.startswith("celery") else None,
            },
            "State": {"Running": False, "Health": {"Status": "starting"}},
            "NetworkSettings": {},
        }
    )


def test_containers_are_started_behind_what_they_need() -> None:
    through = {"DATABASE_URL": "postgres://u@pgbouncer:6432/o"}
    stack = [service("nginx", "web1"), service("web1", "db", **through), service("celery", "web1"),
             service("pgbouncer", "db"), service("redis")]  # fmt: skip
    assert [[c.service for c in group] for group in start_order(stack)] == [
        ["pgbouncer", "redis"], ["web1"], ["nginx", "celery"]]  # fmt: skip
    assert [c.service for c in needed_by(stack, ["nginx"])] == ["nginx", "web1", "pgbouncer"]
    assert needed_by(stack, ["nobody"]) == []
    circle = [service("a", "b"), service("b", "a"), service("c")]
    assert [[c.service for c in group] for group in start_order(circle)] == [["c"], ["a", "b"]]
    assert [c.stop_seconds for c in stack[1:3]] == [10, 60] and stack[0].health == "starting"
    assert stack[0].depends_on == {"web1": "service_healthy"}


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({}, 0),
        ({"NanoCpus": 0, "CpuQuota": 0, "CpusetCpus": ""}, 0),
        ({"NanoCpus": 500_000_000}, 1),
        ({"NanoCpus": 2_500_000_000, "CpusetCpus": "0-7"}, 3),
        ({"CpuQuota": 400_000, "CpuPeriod": 0}, 4),
        ({"CpuQuota": -1, "CpusetCpus": "0-2,5"}, 4),
    ],
)
def test_how_many_cores_a_container_may_use(limits: dict[str, object], cores: int) -> None:
    facts = {"Id": "i", "Name": "/n", "Image": "i", "Config": {}, "State": {}, "NetworkSettings": {}}
    assert described({**facts, "HostConfig": limits}).cores == cores
