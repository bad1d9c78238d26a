"""Which containers are stopped for a restore."""

from __future__ import annotations

from typing import Any, cast

import pytest

from backup.containers import Container
from backup.engine import Engine
from backup.engine.application import Application


def container(name: str, *mounts: str, writes: bool = True, image: str = "app", running: bool = True) -> Container:
    """A mount is named by its volume, or by a directory of the host."""
    where = tuple({"Type": "bind" if at[0] == "/" else "volume", "Name": at.strip("/") if at[0] != "/" else "",
                   "Source": at, "RW": writes} for at in mounts)  # fmt: skip
    return Container(name, name, "p", name, image, image, running, "", {}, {}, frozenset({name}), where)


class Listed:
    """An engine with these containers; `oneoff` are those of `docker compose run`."""

    def __init__(self, *services: Container, oneoff: tuple[Container, ...] = ()) -> None:
        self._listed = {False: list(services), True: list(oneoff)}

    def containers(self, project: str, *, oneoff: bool = False) -> list[Container]:
        assert project == "p"
        return self._listed[oneoff]


def stopped(sources: tuple[str, ...], *services: Container, oneoff: tuple[Container, ...] = ()) -> list[str]:
    engine: Any = Listed(*services, oneoff=oneoff)
    own = container("backup", "/data/media", image="own")
    return [c.name for c in Application(cast(Engine, engine), "p", own, ("db",)).running((), sources)]


@pytest.mark.parametrize(
    ("mount", "found"),
    [
        ("/data/media", True),
        ("/data", True),
        ("/data/media/uploads", True),
        ("/data/medial", False),
        ("/data/other", False),
        ("media", False),
    ],
)
def test_whoever_can_write_there_by_a_folder_above_or_below(mount: str, found: bool) -> None:
    assert stopped(("/data/media",), container("web1", mount)) == (["web1"] if found else [])
    assert stopped(("/data/media",), container("web1", mount, writes=False)) == []
    assert stopped(("/data/media",), container("web1", mount, running=False)) == []


def test_volumes_are_told_by_their_names() -> None:
    assert stopped(("p_media",), container("web1", "p_media"), container("web2", "p_medial"), container("web3", "p")) \
        == ["web1"]  # fmt: skip


def test_those_of_compose_run_too_but_not_our_own_nor_the_database() -> None:
    there = container("web1", "/data"), container("db", "/data"), container("backup2", "/data", image="own")
    assert stopped(("/data/media",), *there, oneoff=(container("run", "/data"),)) == ["web1", "run"]


def test_of_named_services_those_of_compose_come_first() -> None:
    engine: Any = Listed(container("web1"), oneoff=(container("run"),))
    application = Application(cast(Engine, engine), "p", None)
    assert [c.name for c in application.running(("run", "web1"), ())] == ["web1", "run"]
