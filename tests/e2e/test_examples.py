"""The commands of examples/ as they stand there: a backup and a restore of each, under the shipped overlay."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from backup.storage.s3.options import iam_policy
from tests.support.database import LABEL, PASSWORD, Server
from tests.support.documented_commands import ROOT
from tests.support.last_logs import noted
from tests.support.operator_shell import Operator
from tests.support.s3 import WRITER, Service
from tests.support.sidecar import IMAGE
from tests.support.stack import docker

ROWS = "CREATE TABLE app_case AS SELECT n AS id, 'case ' || n AS name FROM generate_series(1, 9) n"
CHANGE = "UPDATE app_case SET name = 'wrong' WHERE id < 5; DELETE FROM app_case WHERE id > 7"
READ = "SELECT string_agg(name, ',' ORDER BY id) FROM app_case"
WHOLE = ",".join(f"case {n}" for n in range(1, 10))
REPORTS = """services:
  reports-db:
    image: obcms-test/postgres:17
    environment: {POSTGRES_DB: reports, POSTGRES_USER: obcms_user, POSTGRES_PASSWORD: canary-reports}
    healthcheck: {test: pg_isready -h 127.0.0.1 -U obcms_user, start_interval: 1s, start_period: 60s, interval: 30s}
    tmpfs: [/var/lib/postgresql/data]
    networks: [obcms_network]
"""
# A check that warns has not failed: a test's machine is no production.
WARNS = {"docker compose exec backup backup doctor": 60}


@dataclass
class Place:
    """An operator's folder with the sample stack up in it; `store` is a bucket's service, `elsewhere` a server."""

    operator: Operator
    store: Service
    elsewhere: Server

    def write(self, secrets: dict[str, str], **settings: str) -> None:
        """What the pages say of files of mode 0600 and of `.env`."""
        for name, value in secrets.items():
            path = self.operator.folder / "secrets" / name
            path.write_text(f"{value}\n")
            path.chmod(0o600)
        with (self.operator.folder / ".env").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in settings.items())

    def media(self, change: str) -> str:
        """Run something in the folder of the live media."""
        return self.operator.must(f"docker compose exec -T -w /app/src/media web1 sh -c {shlex.quote(change)}")

    def query(self, service: str, database: str, query: str) -> str:
        """Run SQL in a container of the stack."""
        words = f"docker compose exec -T {service} psql -XqAt -v ON_ERROR_STOP=1 -U obcms_user -d {database}"
        return self.operator.must(f"{words} -c {shlex.quote(query)}")

    def type(self, exported: str, lines: list[str]) -> list[str]:
        """Type these at a terminal; what each showed. Each must end well."""
        shown = []
        for line in lines:
            ran = self.operator.type(f"{exported}\n{line}")
            assert ran.code in (0, WARNS.get(line, 0)) and "Traceback" not in ran.output, ran
            shown.append(ran.output)
        return shown


def commands(example: str) -> tuple[str, list[str], list[str], list[str]]:
    """What an example's page exports, and the commands of its three sections."""
    text, found = (ROOT / "examples" / example / "README.md").read_text(), []
    for section in ("Set up", "Back up", "Restore"):
        part = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
        found.append(
            [line for block in re.findall(r"^```sh\n(.*?)^```$", part, re.M | re.S) for line in block.splitlines()]
        )
    (exported,) = (line for line in found[0] if line.startswith("export COMPOSE_FILE="))
    found[0].remove(exported)
    assert all(found), f"{example}: a section without a command"
    return exported, found[0], found[1], found[2]


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, gateway: Service, servers: Callable[[int], Server]
) -> Iterator[Place]:
    """The stack up, with rows and a file; all is removed again."""
    folder, project = tmp_path_factory.mktemp("examples"), f"obcms-examples-{os.getpid()}"
    operator, network, server = Operator(folder, project), f"{project}-elsewhere", servers(17)
    with contextlib.ExitStack() as stack:
        docker("network", "create", f"--label={LABEL}", network)
        stack.callback(docker, "network", "rm", "-f", network)
        for alias, container in (("store", gateway.container), ("db.example.org", server.container.id)):
            docker("network", "connect", f"--alias={alias}", network, container)
            stack.callback(docker, "network", "disconnect", "-f", network, container)
        made = Place(operator, gateway, server)
        _move_in(operator, network)
        stack.callback(operator.must, f"{commands('second-database')[0]}; docker compose down -v --remove-orphans -t 2")
        stack.enter_context(noted(project))
        operator.must(f"{commands('second-database')[0]}; docker compose up -d --wait db reports-db")
        operator.must("docker compose up -d web1")
        made.media("mkdir -p uploads && echo contract > uploads/a.pdf && chown -R 1000:1000 .")
        yield made


def _move_in(operator: Operator, network: str) -> None:
    operator.move_in(network, IMAGE)
    production = operator.folder / "docker-compose.prod.yml"
    production.write_text(production.read_text().replace("services:\n", REPORTS, 1))
    for path in (ROOT / "examples").glob("*/*.yml"):
        text = path.read_text().replace("name: reports_backups", f"name: {operator.project}_reports_backups")
        copy = operator.folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True)
        copy.write_text(text)
    (operator.folder / "secrets").mkdir(mode=0o700)


@pytest.fixture
def fresh(place: Place) -> Iterator[Place]:
    """The stack with an empty backup volume; rows and files are as they were."""
    yield place
    place.operator.must("docker compose rm -sfv backup")
    place.operator.lose("obcms_backups")


def test_encrypted_copies_in_a_bucket(fresh: Place) -> None:
    place, (exported, setup, backup, restore) = fresh, commands("offsite-encrypted")
    bucket, who = place.store.bucket(), {"Principal": {"AWS": "arn:aws:iam:::user/writer"}}
    # The condition against overwriting is one that Ceph does not know.
    rights = [each | who for each in iam_policy(place.store.options(bucket))["Statement"] if each["Sid"] != "NeverOver"]
    statement = json.dumps({"Version": "2012-10-17", "Statement": rights})
    place.store.client().put_bucket_policy(Bucket=bucket, Policy=statement)
    # Of this store alone.
    store = {"ADDRESSING": "path", "SSE": "none", "STORAGE_CLASS": "STANDARD"}
    place.operator.set(**{f"BACKUP_OFFSITE_{name}": value for name, value in store.items()})
    place.query("db", "obcms_prod", ROWS)

    public = place.type("", setup[:2])[1]
    place.write(
        {"offsite_key_id": WRITER[0], "offsite_key": WRITER[1]},
        OFFSITE_BUCKET=bucket,
        OFFSITE_REGION="us-east-1",
        OFFSITE_ENDPOINT="http://store:7480",
        OFFSITE_RECIPIENTS=public,
    )
    place.type(exported, setup[2:])
    assert "is complete" in place.type(exported, backup)[0]
    sent = [each["Key"] for each in place.store.client().list_objects_v2(Bucket=bucket)["Contents"]]
    assert any(name.endswith(".sql.gz.age") for name in sent) and not any(name.endswith(".gz") for name in sent)
    place.query("db", "obcms_prod", CHANGE)
    place.media("rm -r uploads")
    place.operator.must("docker compose rm -sfv backup")
    place.operator.lose("obcms_backups")
    assert "is restored" in place.type(exported, restore)[-1]
    assert place.query("db", "obcms_prod", READ) == WHOLE
    assert place.media("cat uploads/a.pdf") == "contract"


def test_a_server_elsewhere_without_the_socket(fresh: Place) -> None:
    place, (exported, setup, backup, restore) = fresh, commands("server-elsewhere")
    server = place.elsewhere
    server.execute("postgres", f"CREATE ROLE app_owner LOGIN CREATEDB PASSWORD $${PASSWORD}$$")
    server.execute("postgres", "CREATE DATABASE elsewhere OWNER app_owner")
    server.execute("elsewhere", f"SET ROLE app_owner; {ROWS}")
    try:
        settings = {"SERVER_HOST": "db.example.org", "SERVER_DATABASE": "elsewhere", "SERVER_USER": "app_owner"}
        place.write({"db_password": PASSWORD}, **settings)
        place.type(exported, setup)
        mounts = docker("inspect", "-f", "{{json .Mounts}}", place.operator.must("docker compose ps -q backup"))
        assert b"docker.sock" not in mounts
        assert "is proven" in place.type(exported, backup)[-1]
        server.execute("elsewhere", CHANGE)
        place.media("rm -r uploads")
        assert "is restored" in place.type(exported, restore)[1]
        assert server.value("elsewhere", READ) == WHOLE
        assert place.media("cat uploads/a.pdf; stat -c %u uploads/a.pdf") == "contract\n1000"
    finally:
        for name in (name for name in server.databases() if name.startswith("elsewhere")):
            server.execute("postgres", f'DROP DATABASE "{name}" WITH (FORCE)')
        server.execute("postgres", "DROP ROLE app_owner")


def test_a_second_database(fresh: Place) -> None:
    place, (exported, setup, backup, restore) = fresh, commands("second-database")
    place.query("reports-db", "reports", ROWS)
    before = place.query("db", "obcms_prod", "SELECT oid FROM pg_database WHERE datname = 'obcms_prod'")
    place.type(exported, setup)
    assert "is complete" in place.type(exported, backup)[0]
    place.query("reports-db", "reports", CHANGE)
    assert "is restored" in place.type(exported, restore)[-1]
    assert place.query("reports-db", "reports", READ) == WHOLE
    assert place.query("db", "obcms_prod", "SELECT oid FROM pg_database WHERE datname = 'obcms_prod'") == before
