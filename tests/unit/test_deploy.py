"""The files for other orchestrators: accepted by their schema, and naming only settings that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from backup.config import loader

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
EXAMPLES = sorted((ROOT / "examples").glob("*/*.yml"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
# The oldest that its makers still looked after when this was written, and newer ones.
RELEASES = ("1.31", "1.34", "1.36")


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            yield f"{path.stem}-{document['kind']}", document


def containers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for name, document in documents():
        if template := document["spec"].get("template"):
            for container in template["spec"]["containers"]:
                yield name, template["spec"], container


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("name", "document"), list(documents()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_kubernetes_knows_every_field(name: str, document: dict[str, Any], release: str) -> None:
    kubernetes_validate.validate(document, release, strict=True)


@pytest.mark.parametrize(
    ("name", "pod", "container"), list(containers()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_pods_have_the_least_rights(name: str, pod: dict[str, Any], container: dict[str, Any]) -> None:
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"]["drop"] == ["ALL"]
    assert pod["automountServiceAccountToken"] is False
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert not any("hostPath" in volume for volume in pod["volumes"])


@pytest.mark.parametrize(
    ("name", "pod", "container"), list(containers()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_pods_name_settings_that_exist(name: str, pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert {entry["name"] for entry in container["env"]} <= loader.KNOWN


def test_the_stack_file_names_settings_that_exist() -> None:
    stack = yaml.safe_load((DEPLOY / "swarm" / "docker-stack.backup.yml").read_text())
    service = stack["services"]["backup"]
    assert set(service["environment"]) <= loader.KNOWN
    assert service["environment"]["BACKUP_HEALTHCHECK"] == "livez"
    assert not any("docker.sock" in str(volume) for volume in service["volumes"])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_name_settings_that_exist(path: Path) -> None:
    """And each page names its file."""
    # `!override` is Compose's own.
    services = yaml.safe_load(path.read_text().replace("!override", ""))["services"].values()
    assert {name for service in services for name in service["environment"]} <= loader.KNOWN
    assert f"examples/{path.parent.name}/{path.name}" in (path.parent / "README.md").read_text()


def test_no_image_is_named_with_a_registry() -> None:
    images = re.findall(r"^\s*image: (\S+)$", "".join(p.read_text() for p in MANIFESTS), re.MULTILINE)
    assert set(images) == {"obcms-backup:latest"}
