"""Where a database's data lie, as its container says, and which containers must not be stopped and started."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from backup.docker.container import described
from backup.docker.database_server import DatabaseServer, place_of
from backup.errors import ConfigError

DATA = "/var/lib/postgresql/data"
VOLUME = {"Type": "volume", "Name": "pgdata", "Source": "/var/lib/docker/x", "Destination": DATA, "RW": True}


def facts(*mounts: dict[str, Any], pgdata: str = DATA, **config: Any) -> dict[str, Any]:
    return {
        "Id": "id",
        "Name": "/db",
        "Image": "sha256:1",
        "State": {"Running": True},
        "NetworkSettings": {},
        "HostConfig": {"AutoRemove": config.pop("AutoRemove", False)},
        "Config": {"Env": [f"PGDATA={pgdata}"], "StopSignal": "SIGINT", **config},
        "Mounts": list(mounts or (VOLUME,)),
    }


def place(found: dict[str, Any], version: str = "1.45") -> Any:
    api = SimpleNamespace(inspect_container=lambda _: found, api_version=version)
    engine = cast(Any, SimpleNamespace(api=api))
    made = place_of(engine, described(found))
    return DatabaseServer(engine, made, {}), made


def test_a_volume_whose_root_the_data_are() -> None:
    server, found = place(facts())
    assert (found.kind, found.source, found.target, found.pgdata) == ("volume", "pgdata", DATA, DATA)
    folder = server.folder("beside/new", "/there")
    assert (folder["Target"], folder["VolumeOptions"]) == ("/there", {"Subpath": "beside/new"})


def test_a_folder_below_a_mount_and_the_innermost_mount() -> None:
    outer = VOLUME | {"Name": "outer", "Destination": "/var/lib"}
    host = {"Type": "bind", "Source": "/srv/db", "Destination": "/var/lib/postgresql", "RW": True}
    server, found = place(facts(outer, host, pgdata="/var/lib/postgresql/18/docker"))
    assert (found.kind, found.source) == ("bind", "/srv/db")
    assert server.folder("beside/new", "/there")["Source"] == "/srv/db/18/docker/beside/new"


def test_an_engine_that_cannot_mount_a_folder_alone() -> None:
    server, _ = place(facts(), "1.44")
    with pytest.raises(ConfigError, match="cannot mount one folder of pgdata alone"):
        server.folder("beside/new", "/there")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (facts(AutoRemove=True), "is removed by the engine when it stops"),
        (facts(Labels={"com.docker.swarm.task.id": "x"}), "is a task of Docker Swarm"),
        (facts(StopSignal="SIGTERM"), "is stopped by SIGTERM, not SIGINT"),
        (facts(StopSignal=None), "is stopped by SIGTERM, not SIGINT"),
        (facts(VOLUME, pgdata="/elsewhere"), "lie on no volume"),
        (facts(VOLUME | {"Type": "tmpfs"}), "lie on no volume"),
        (facts(VOLUME | {"RW": False}), "lie on no volume"),
        (facts(VOLUME, VOLUME | {"Destination": f"{DATA}/pg_wal"}), "pg_wal is mounted within the data"),
    ],
)
def test_what_is_refused(found: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        place(found)
    assert "--physical" in raised.value.hint


def test_a_mounted_configuration_stays_where_it_is() -> None:
    assert place(facts(VOLUME, VOLUME | {"Type": "bind", "Destination": f"{DATA}/pg_hba.conf"}))[1].source == "pgdata"
