"""S3 services for tests: Ceph's gateway in a container, moto in a process, and a plain client that is none of ours."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import boto3
import docker
from botocore.config import Config

from backup.storage.s3 import Options
from tests.support.database import LABEL

OWNER = ("OBCMSOWNER", "canary-owner-secret")
WRITER = ("OBCMSWRITER", "canary-writer-secret")
# 18 gives back an ETag and no checksum, as many stores do; 20 keeps the SHA-256 of parts, as Amazon's does.
RELEASES = (18, 20)
_PATIENCE = 120.0
_numbers = itertools.count()


@dataclass(frozen=True)
class Service:
    """An S3 service that answers at `endpoint`."""

    endpoint: str
    kind: str
    container: str = ""

    def client(self, key: tuple[str, str] = OWNER) -> Any:
        """boto3 with its own ways, to look at what is really there."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=key[0],
            aws_secret_access_key=key[1],
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def bucket(self, **options: Any) -> str:
        """A new bucket's name."""
        name = f"copies-{os.getpid()}-{next(_numbers)}"
        self.client().create_bucket(Bucket=name, **options)
        return name

    def settings(self) -> dict[str, str]:
        """What a sidecar is given to send its copies to a new bucket here."""
        return {
            "AWS_S3_BACKUP_BUCKET": self.bucket(),
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": OWNER[0],
            "AWS_SECRET_ACCESS_KEY": OWNER[1],
            "BACKUP_OFFSITE_ADDRESSING": "path",
            "BACKUP_OFFSITE_SSE": "none",
            "BACKUP_OFFSITE_STORAGE_CLASS": "STANDARD",
        }

    def options(self, bucket: str, endpoint: str = "", **changes: Any) -> Options:
        """What our client needs for a bucket here: short timeouts, and nothing that Ceph does not know."""
        values: dict[str, Any] = {
            "bucket": bucket,
            "endpoint": endpoint or self.endpoint,
            "region": "us-east-1",
            "addressing": "path",
            "access_key": OWNER[0],
            "secret_key": OWNER[1],
            "encryption": "none",
            "storage_class": "STANDARD",
            "timeout": 5.0,
            "attempts": 2,
        }
        return Options(**(values | changes))


@contextmanager
def ceph(release: int, folder: Path) -> Iterator[Service]:
    """Ceph's gateway, in memory, for all workers whose `folder` this is: the first starts it, the last removes it."""
    noted = folder / f"ceph{release}.json"
    with _locked(noted):
        users, known = json.loads(noted.read_text()) if noted.exists() else (0, None)
        service = Service(**known) if users else _started(release)
        noted.write_text(json.dumps((users + 1, asdict(service))))
    try:
        yield service
    finally:
        with _locked(noted):
            users = json.loads(noted.read_text())[0] - 1
            noted.write_text(json.dumps((users, asdict(service))))
            if not users:
                _remove(service.container)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _started(release: int) -> Service:
    """Start a gateway. Where one of its daemons was not ready for the next, it is started anew."""
    try:
        return _start(release)
    except AssertionError:
        return _start(release)


def _start(release: int) -> Service:
    container: Any = docker.from_env().containers.run(
        f"obcms-test/ceph:{release}",
        detach=True,
        labels={LABEL: ""},
        environment={
            "S3_ACCESS_KEY": OWNER[0],
            "S3_SECRET_KEY": OWNER[1],
            "S3_WRITER_KEY": WRITER[0],
            "S3_WRITER_SECRET": WRITER[1],
        },
    )
    try:
        container.reload()
        address = next(net["IPAddress"] for net in container.attrs["NetworkSettings"]["Networks"].values())
        service = Service(f"http://{address}:7480", "ceph", container.id)
        _answers(service.endpoint, lambda: container.reload() or container.status == "running", container.logs)
    except BaseException:
        _remove(container.id)
        raise
    return service


def _remove(container: str) -> None:
    docker.from_env().containers.get(container).remove(force=True, v=True)


@contextmanager
def moto() -> Iterator[Service]:
    """moto's server, which knows the headers that only Amazon's S3 has; in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", _MOTO], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        try:
            port = int(process.stdout.readline())
            yield Service(f"http://127.0.0.1:{port}", "moto")
        finally:
            process.kill()


_MOTO = """
import time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(86400)
"""


def _answers(endpoint: str, alive: Any, logs: Any) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            urllib.request.urlopen(endpoint, timeout=2).close()  # noqa: S310 - http, to a container of ours
            return
        except OSError:
            if not alive() or time.monotonic() > deadline:
                raise AssertionError(f"the gateway does not start: {logs()}") from None
            time.sleep(0.3)
