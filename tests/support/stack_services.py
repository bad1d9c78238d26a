"""What stands around an operator's stack: a bucket, somebody who takes messages, an image in place of Alpine's."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.database import LABEL
from tests.support.documented_damage import World
from tests.support.last_logs import noted
from tests.support.operator_shell import Operator
from tests.support.s3 import OWNER, Service
from tests.support.sidecar import IMAGE
from tests.support.stack import STACK, docker

# When the old scripts made their files.
_OLD = "2024-10-20_02-00-00"
# Takes any message.
_RECEIVER = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Taker(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
HTTPServer(("", 80), Taker).serve_forever()
"""
# Alpine's programs are busybox's, and no registry is in reach.
_ALPINE = "FROM obcms-test/app:latest\nRUN busybox --install -s /usr/local/sbin\nENTRYPOINT []\n"


@contextlib.contextmanager
def world(folder: Path, project: str, gateway: Service) -> Iterator[World]:
    """The sample stack up, with rows, files, two daily sets, a bucket and a folder for copies; all is removed again."""
    operator, network = Operator(folder, project), f"{project}-elsewhere"
    with contextlib.ExitStack() as stack:
        docker("network", "create", f"--label={LABEL}", network)
        stack.callback(docker, "network", "rm", "-f", network)
        docker("network", "connect", network, gateway.container)
        stack.callback(docker, "network", "disconnect", "-f", network, gateway.container)
        stack.enter_context(_image(f"{project}-alpine", _ALPINE))
        stack.enter_context(_receiver(network, f"{project}-receiver"))
        operator.move_in(network, IMAGE)
        stack.callback(_down, operator)
        stack.enter_context(noted(project))
        made = World(operator, gateway)
        _settings(made, network)
        _start(made)
        yield made


@contextlib.contextmanager
def _image(name: str, lines: str) -> Iterator[None]:
    docker("build", "-q", f"--tag={name}", f"--label={LABEL}=", "-", stdin=lines.encode())
    try:
        yield
    finally:
        docker("rmi", "-f", name, f"{name}-built")


@contextlib.contextmanager
def _receiver(network: str, name: str) -> Iterator[None]:
    words = ("run", "-d", f"--name={name}", f"--network={network}", "--network-alias=receiver", f"--label={LABEL}=")
    docker(*words, "--entrypoint=/app/venv/bin/python", IMAGE, "-c", _RECEIVER)
    try:
        yield
    finally:
        docker("rm", "-fv", name)


def _down(operator: Operator) -> None:
    """With all files that a page lays over each other: a network of one that is not named would stay."""
    files = ("prod", "backup", "socket-proxy")
    named = " ".join(f"-f docker-compose.{name}.yml" for name in files)
    operator.must(f"docker compose {named} down -v --remove-orphans -t 2")


def _settings(made: World, network: str) -> None:
    """As somebody would who has a bucket, a second disk and a chat."""
    format = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
    address = docker("inspect", "-f", format, made.gateway.container).decode().strip()
    made.operator.set(
        AWS_S3_BACKUP_BUCKET=made.gateway.bucket(),
        AWS_ENDPOINT_URL_S3=f"http://{address}:{urlsplit(made.gateway.endpoint).port}",
        AWS_REGION="us-east-1",
        AWS_ACCESS_KEY_ID=OWNER[0],
        AWS_SECRET_ACCESS_KEY=OWNER[1],
        BACKUP_OFFSITE_ADDRESSING="path",
        BACKUP_OFFSITE_SSE="none",
        BACKUP_OFFSITE_STORAGE_CLASS="STANDARD",
        BACKUP_COPY_DIR="/copies",
        BACKUP_NOTIFY_URLS="json://receiver/",
    )
    made.operator.mount("./copies:/copies")


def _start(made: World) -> None:
    """Up as the quick start has it; the first start takes a set, and a second one follows."""
    must = made.operator.must
    must("docker compose up -d --wait db pgbouncer")
    must("docker compose up -d web1 celery-worker1")
    made.fill()
    must("docker compose up -d --wait backup")
    must("backup create daily --wait 120")
    for name in ("an_empty_database", "look_too"):
        must(f"docker compose exec -T db createdb -U obcms_user {name}")


def facts(made: World) -> dict[str, str]:
    """What stands for the placeholders of the pages. The newer set's files lie about as the pages have them."""
    operator = made.operator
    newer, older = (line.split()[0] for line in operator.must("backup list daily").splitlines())
    made.newer = newer
    _files(operator, newer)
    query = "SELECT system_identifier FROM pg_control_system()"
    run = operator.must("docker compose exec -T backup ls /backups/state/runs").split()[0]
    return {
        "folder": str(operator.folder),
        "project": operator.project,
        "image": IMAGE,
        "alpine": f"{operator.project}-alpine",
        "newer": newer,
        "older": older,
        "old": f"obcms_backup_daily_{_OLD}.sql.gz",
        "run": run.removesuffix(".json"),
        "server": operator.psql(query),
    }


def _files(operator: Operator, newer: str) -> None:
    """A set in the folder and in one of its own, files as the old scripts left them, the password as a file."""
    operator.must(
        f"mkdir -p carried made out written old/daily old/weekly old/monthly; backup export {newer} | tar -xf -"
    )
    operator.must(f"cp obcms_* carried; cp obcms_media_{newer}.tar.gz old/daily/obcms_media_daily_{_OLD}.tar.gz")
    for tier in ("daily", "weekly", "monthly"):
        operator.must(f"cp obcms_backup_{newer}.sql.gz old/{tier}/obcms_backup_{tier}_{_OLD}.sql.gz")
    password = re.search(r"^POSTGRES_PASSWORD='(.*)'$", (STACK / ".env").read_text(), re.MULTILINE)
    assert password
    (operator.folder / "db_password").write_text(password[1])
