"""Everything is lost but the bucket: the sample stack comes back from there alone, by the shipped image and overlay."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.s3 import OWNER, Service
from tests.support.stack import STACK, Stack, docker

COUNT = "SELECT count(*) FROM documents"
FIND = "find /app/src/media -type f -not -path '*/.obcms-restore-*' -print0 | sort -z | xargs -0 sha256sum"


@pytest.fixture
def stack(gateway: Service) -> Iterator[Stack]:
    made = Stack(f"obcms-offsite-{os.getpid()}")
    with made.removed():
        yield made
        # A network with somebody else's container in it is not removed. Nobody is in one that was never made.
        words = ("network", "disconnect", "-f", f"{made.project}_obcms_network", gateway.container)
        subprocess.run(["docker", *words], capture_output=True, check=False)


def up(stack: Stack, *, seeded: bool) -> None:
    stack.compose("up", "-d", "--wait", "--wait-timeout", "300", "db", "pgbouncer")
    stack.compose("up", "-d", "web1")
    if seeded:
        stack.compose("exec", "-T", "web1", "sh", "-s", stdin=(STACK / "seed-media").read_bytes())


def bucket(stack: Stack, gateway: Service, name: str) -> tuple[str, ...]:
    """The settings of the bucket, by an address of the gateway in the stack's own network."""
    network = next(iter(docker("inspect", "-f", _NETWORKS, stack.container("db")).decode().split()))
    docker("network", "connect", network, gateway.container)
    address = docker(
        "inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}', gateway.container
    )
    values = {
        "AWS_S3_BACKUP_BUCKET": name,
        "AWS_ENDPOINT_URL_S3": f"http://{address.decode().strip()}:7480",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": OWNER[0],
        "AWS_SECRET_ACCESS_KEY": OWNER[1],
        "BACKUP_OFFSITE_ADDRESSING": "path",
        "BACKUP_OFFSITE_SSE": "none",
        "BACKUP_OFFSITE_STORAGE_CLASS": "STANDARD",
    }
    return tuple(word for key, value in values.items() for word in ("-e", f"{key}={value}"))


_NETWORKS = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"


def state(stack: Stack) -> tuple[int, str]:
    return int(stack.psql(COUNT)), stack.compose("exec", "-T", "web1", "sh", "-c", FIND).output


def test_volume_and_database_are_lost_and_come_back_from_the_bucket_alone(stack: Stack, gateway: Service) -> None:
    name = gateway.bucket()
    up(stack, seeded=True)
    place = bucket(stack, gateway, name)

    def backup(*words: str) -> str:
        return stack.compose("run", "--rm", "-T", *place, "backup", *words).output

    backup("create", "monthly")
    assert "1 set sent to" in backup("upload", "--all")
    whole = state(stack)
    network = next(iter(docker("inspect", "-f", _NETWORKS, stack.container("db")).decode().split()))
    docker("network", "disconnect", network, gateway.container)
    stack.down()
    assert stack.volume not in docker("volume", "ls", "-q").decode().split()

    up(stack, seeded=False)
    place = bucket(stack, gateway, name)
    stack.psql("DROP DATABASE obcms_prod WITH (FORCE)", database="postgres")
    assert "fetched from" in backup("offsite", "pull", "latest")
    assert "is restored" in backup("restore", "latest", "--force")
    stack.compose("restart", "web1")
    assert state(stack) == whole

    # The same without keeping the set, and proven in a throw-away server.
    assert "is proven" in backup("drill", "s3:latest")
    stack.psql("DELETE FROM documents")
    assert "is restored" in backup("restore", "s3:latest", "--force", "--no-safety")
    assert state(stack) == whole
