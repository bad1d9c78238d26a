"""The pods of deploy/kubernetes, run by this machine's engine with the rights and mounts that their manifests give.

No cluster runs here. What a kubelet would do with the manifest is done by hand: the same user, capabilities, read-only
root, tmpfs, and secrets as links into a hidden directory.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.database import LABEL, PASSWORD, PROJECT, USER, Server
from tests.support.sidecar import IMAGE
from tests.support.stack import docker

DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"


class Cluster:
    """Claims and secrets as directories; a network on which the database's service has its name."""

    def __init__(self, base: Path, network: str) -> None:
        self.base, self.network = base, network
        for claim in ("obcms-backups", "obcms-media"):
            (base / claim).mkdir()
        # As a kubelet lays a secret: ..data is a link to the current version, each key one through it.
        (base / "obcms-backup" / "..v1").mkdir(parents=True)
        (base / "obcms-backup" / "..v1" / "db-password").write_text(PASSWORD)
        (base / "obcms-backup" / "..data").symlink_to("..v1")
        (base / "obcms-backup" / "db-password").symlink_to("..data/db-password")

    def run(self, file: str, *args: str) -> str:
        """Run the pod of a manifest to its end, by its own args unless others are given; what it said."""
        documents = yaml.safe_load_all((DEPLOY / file).read_text())
        pod = next(d for d in documents if "template" in d["spec"])["spec"]["template"]["spec"]
        container = pod["containers"][0]
        words = self.words(pod, container)
        command = ["docker", "run", "--rm", *words, IMAGE, *(args or container["args"])]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def words(self, pod: dict[str, Any], container: dict[str, Any]) -> list[str]:
        context = container["securityContext"]
        words = ["--read-only", f"--user={context['runAsUser']}", "--security-opt=no-new-privileges"]
        words += [f"--cap-drop={name}" for name in context["capabilities"]["drop"]]
        words += [f"--cap-add={name}" for name in context["capabilities"]["add"]]
        words += [f"--env={entry['name']}={entry['value']}" for entry in container["env"]]
        for mount in container["volumeMounts"]:
            words.append(self.mount(mount, next(v for v in pod["volumes"] if v["name"] == mount["name"])))
        return [*words, f"--network={self.network}", f"--label={LABEL}={PROJECT}"]

    def mount(self, mount: dict[str, Any], volume: dict[str, Any]) -> str:
        if "emptyDir" in volume:
            return f"--tmpfs={mount['mountPath']}:size={volume['emptyDir']['sizeLimit'].removesuffix('i').lower()}"
        source = volume["secret"]["secretName"] if "secret" in volume else volume["persistentVolumeClaim"]["claimName"]
        return f"-v{self.base / source}:{mount['mountPath']}" + (":ro" if mount.get("readOnly") else "")


@pytest.fixture
def cluster(tmp_path: Path, servers: Callable[[int], Server]) -> Any:
    server, network = servers(17), f"obcms-k8s-{secrets.token_hex(4)}"
    docker("network", "create", "--internal", f"--label={LABEL}={PROJECT}", network)
    docker("network", "connect", "--alias=db", network, server.container.id)
    try:
        yield Cluster(tmp_path, network), server
    finally:
        docker("network", "disconnect", network, server.container.id)
        docker("network", "rm", network)


def test_a_pod_backs_up_and_a_job_restores(cluster: tuple[Cluster, Server]) -> None:
    pods, server = cluster
    server.execute("obcms_prod", "CREATE TABLE cases AS SELECT n AS id FROM generate_series(1, 500) AS n")
    media = pods.base / "obcms-media"
    (media / "uploads").mkdir()
    (media / "uploads" / "a.pdf").write_bytes(b"a file")
    (media / "uploads" / "a.pdf").chmod(0o600)
    subprocess.run(["chown", "-R", "1000:1000", str(media)], check=True)
    pods.run("backup.yaml", "create", "daily")
    assert f"as {USER}" not in pods.run("backup.yaml", "list")
    server.execute("obcms_prod", "DELETE FROM cases WHERE id > 10")
    (media / "uploads" / "a.pdf").unlink()
    pods.run("restore-job.yaml")
    assert server.value("obcms_prod", "SELECT count(*) FROM cases") == 500
    restored = (media / "uploads" / "a.pdf").stat()
    assert (restored.st_uid, restored.st_mode & 0o777) == (1000, 0o600)


def test_the_pod_of_the_service_cannot_touch_the_media(cluster: tuple[Cluster, Server]) -> None:
    pods, _ = cluster
    (pods.base / "obcms-media" / "a.pdf").write_bytes(b"a file")
    pods.run("backup.yaml", "create", "daily")
    with pytest.raises(AssertionError, match="read-only|Read-only|writable"):
        pods.run("backup.yaml", "restore", "latest", "--force", "--no-safety", "--only", "media")
    assert (pods.base / "obcms-media" / "a.pdf").read_bytes() == b"a file"
