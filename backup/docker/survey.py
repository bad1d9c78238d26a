"""What Compose calls the volumes and networks of this engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from backup.docker.container import PROJECT
from backup.docker.engine import Engine
from backup.docker.errors import asking

_VOLUME: Final = "com.docker.compose.volume"
_NETWORK: Final = "com.docker.compose.network"


def names(engine: Engine, project: str) -> tuple[dict[str, str], dict[str, str]]:
    """(volumes, networks) that are the project's own: Compose's name by the engine's."""
    with asking("the volumes and networks"):
        volumes = engine.api.volumes().get("Volumes") or []
        networks = engine.api.networks()
    return _labelled(volumes, _VOLUME, project), _labelled(networks, _NETWORK, project)


def _labelled(found: Iterable[Mapping[str, Any]], label: str, project: str) -> dict[str, str]:
    labels = [(str(each["Name"]), each.get("Labels") or {}) for each in found]
    return {name: of[label] for name, of in labels if of.get(PROJECT) == project and of.get(label)}
