"""What `setup` makes of a project's containers, and what it refuses to guess."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from backup.docker.container import Container
from backup.errors import ConfigError
from backup.operations.setup import ComposeNames, Plan, overlay, plan, project_of

NAMES = ComposeNames({"p_uploads": "uploads", "p_data": "data"}, {"p_default": "default"})


def container(service: str, image: str = "shop:1", project: str = "p", **changed: Any) -> Container:
    fields: dict[str, Any] = {
        "id": f"{project}-{service}",
        "name": f"{project}-{service}-1",
        "project": project,
        "service": service,
        "image": image,
        "image_id": f"sha256:{image}",
        "running": True,
        "status": "running",
        "environment": {},
        "addresses": {f"{project}_default": "10.0.0.2"},
        "aliases": frozenset(),
        "mounts": (),
    }
    return Container(**(fields | changed))


def mount(name: str, at: str, *, kind: str = "volume", writable: bool = True) -> dict[str, Any]:
    named = {"Name": name} if kind == "volume" else {}
    return {"Type": kind, "Source": name, "Destination": at, "RW": writable, **named}


DB = container(
    "postgres", "postgis/postgis:17-3.5", environment={"POSTGRES_PASSWORD": "x"}, mounts=(mount("p_data", "/data"),)
)
APP = container("django", mounts=(mount("p_uploads", "/srv/uploads"), mount("p_static", "/srv/static")))


def made(*containers: Container, service: str = "", names: ComposeNames = NAMES) -> Plan:
    return plan("p", containers, names, [], service, "obcms-backup:latest")


def parsed(found: Plan) -> dict[str, Any]:
    value = yaml.safe_load(overlay(found))
    assert isinstance(value, dict)
    return value


def test_an_ordinary_project() -> None:
    redis = container("redis", "redis:7", mounts=(mount("p_redis", "/data"),))
    found = made(DB, APP, redis, container("web", environment={"TZ": "Asia/Manila"}))
    assert (found.database.service, found.network_key, found.stop, found.zone) == (
        "postgres",
        "default",
        ("django",),
        "Asia/Manila",
    )
    file = parsed(found)
    backup = file["services"]["backup"]
    assert backup["networks"] == ["default"]
    assert backup["environment"] == {
        "TZ": "${TZ:-Asia/Manila}",
        "DB_SERVICE": "postgres",
        "BACKUP_RESTORE_STOP": "django",
    }
    assert "uploads:/volumes/uploads:ro" in backup["volumes"]
    assert "static" not in str(backup["volumes"])
    assert "redis" not in str(backup["volumes"])
    assert "left out: p_redis" in overlay(found)
    assert file["volumes"]["obcms_backups"] == {"name": "p_backups"}


def test_volumes_and_networks_from_elsewhere_are_external() -> None:
    file = parsed(made(DB, APP, names=ComposeNames({}, {})))
    assert file["volumes"]["backed_up_uploads"] == {"external": True, "name": "p_uploads"}
    assert file["networks"] == {"backup_network": {"external": True, "name": "p_default"}}


def test_folders_of_the_machine_but_not_its_sockets() -> None:
    web = container(
        "web", mounts=(mount("/srv/a: b$c", "/m", kind="bind"), mount("/var/run/docker.sock", "/s", kind="bind"))
    )
    text = overlay(made(DB, web))
    assert {
        "type": "bind",
        "source": "/srv/a: b$$c",
        "target": "/volumes/m",
        "read_only": True,
    } in yaml.safe_load(text)["services"]["backup"]["volumes"]
    assert text.count("docker.sock") == 2  # the sidecar's own line


def test_volumes_of_one_folder_name_get_names_of_their_own() -> None:
    a, b, c = (mount(f"p_{name}", f"/{name}/media") for name in "abc")
    found = made(DB, container("web", mounts=(a, b, c)), names=ComposeNames({"p_b": "b"}, {}))
    assert [each.name for each in found.media] == ["media", "b", "media_2"]


def test_hostile_names_stay_names() -> None:
    evil = 'x"\n  evil: {privileged: true} ${HOME} #'
    found = made(DB, container(evil, mounts=(mount("v", f"/{evil}"),)), names=ComposeNames({}, {}))
    file = parsed(found)
    assert set(file["services"]) == {"backup"}
    assert file["services"]["backup"]["environment"]["BACKUP_RESTORE_STOP"] == evil.replace("$", "$$")


def test_the_databases_own_volume_is_no_media() -> None:
    exporter = container("exporter", mounts=(mount("p_data", "/data"), mount("p_uploads", "/srv/uploads")))
    assert [each.source for each in made(DB, exporter).media] == ["p_uploads"]


def test_no_media_at_all() -> None:
    assert parsed(made(DB))["services"]["backup"]["environment"]["BACKUP_ALLOW_EMPTY"] == "none"


def test_another_service_called_backup_is_left_alone() -> None:
    assert set(parsed(made(DB, container("backup", "cron:1")))["services"]) == {"obcms-backup"}


def test_our_own_service_is_replaced() -> None:
    ours = container("backup", "obcms-backup:latest")
    assert plan("p", [DB, APP], NAMES, [ours], "", "").service == "backup"


def test_several_databases_are_not_guessed() -> None:
    replica = container("replica", DB.image)
    with pytest.raises(ConfigError, match=r"(?s)could be the database.*p-postgres-1.*p-replica-1") as caught:
        made(DB, replica)
    assert "--service" in caught.value.hint
    assert made(DB, replica, service="replica").database.service == "replica"


def test_of_several_databases_the_one_that_the_application_names() -> None:
    """By its settings, through a pooler or not; else by what it depends on."""
    replicas = [container(f"replica{number}", DB.image, depends_on={"postgres": ""}) for number in (1, 2)]
    pooler = container("pgbouncer", "pgbouncer", environment={"DB_HOST": "postgres"})
    behind = container("web", environment={"DATABASE_URL": "postgres://u@pgbouncer:6432/o"})
    beside = container("job", "job:1", depends_on={"postgres": "service_healthy"}, running=False)
    reports = container("reports", environment={"DATABASE_URL": "postgres://u@replica1/o"})
    assert made(*replicas, DB, pooler, behind).database.service == "postgres"
    assert made(*replicas, DB, behind, beside).database.service == "postgres"
    assert made(*replicas, DB, pooler, behind, reports, beside).database.service == "postgres"
    with pytest.raises(ConfigError, match="could be the database"):
        made(*replicas, DB, behind)


def test_an_application_that_knows_the_password_is_no_database() -> None:
    declared = {"POSTGRES_PASSWORD": "x", "POSTGRES_DB": "y"}
    assert made(DB, container("web", environment=declared)).database.service == "postgres"
    own = container("store", "our/own:1", environment=declared)
    assert made(own, container("web")).database.service == "store"


@pytest.mark.parametrize("gone", [container("postgres", "postgres:17", running=False), container("web")])
def test_no_database_running(gone: Container) -> None:
    with pytest.raises(ConfigError, match="no PostgreSQL server is running"):
        made(gone)


def test_the_project() -> None:
    other = container("db", "postgres:17", project="other")
    assert project_of([DB, APP], "") == "p"
    assert project_of([DB, other], "other") == "other"
    with pytest.raises(ConfigError, match=r"(?s)which project.*- other.*- p"):
        project_of([DB, other], "")
    with pytest.raises(ConfigError, match="no container belongs"):
        project_of([DB], "nosuch")
