"""Whoever may write to the media is stopped for a restore, and runs again after it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.breaking import application, with_application
from tests.support.database import LABEL, PROJECT, Server
from tests.support.faults import docker
from tests.support.restoring import OLD, Target


@pytest.fixture
def target(tmp_path: Path, server: Server) -> Iterator[Target]:
    yield from with_application(Target.make(tmp_path, server))


@pytest.mark.parametrize(
    ("oneoff", "below"), [("False", "volumes"), ("False", "volumes/media/uploads"), ("True", "volumes/media")]
)
def test_a_folder_above_or_below_and_compose_run(target: Target, tmp_path: Path, oneoff: str, below: str) -> None:
    """Compose names the service of what `docker compose run web1` starts, and that it is a one-off."""
    name = f"{application(target)}-more"
    labels = {LABEL: PROJECT, "com.docker.compose.project": PROJECT, "com.docker.compose.service": "worker"}
    words = [f"--label={key}={value}" for key, value in (labels | {"com.docker.compose.oneoff": oneoff}).items()]
    docker("run", "-d", f"--name={name}", *words, f"-v{tmp_path / below}:/files", "obcms-test/app:latest")
    try:
        planned = target.sidecar.run("restore", target.stored().id, "--dry-run")
        assert name in planned.output and application(target) in planned.output, planned.output
        begun = docker("inspect", "-f", "{{.State.StartedAt}}", name)
        result = target.restore("--no-safety")
        assert result.code == 0 and name in re.findall("stopping .*", result.output)[0], result.output
        assert target.live() == OLD
        assert docker("inspect", "-f", "{{.State.Running}}", name) == "true"
        assert docker("inspect", "-f", "{{.State.StartedAt}}", name) != begun
    finally:
        docker("rm", "-f", name)
