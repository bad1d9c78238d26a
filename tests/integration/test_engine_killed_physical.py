"""The Docker engine is killed in the middle of a physical exchange: the server never starts on a part of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.engine import KILLS, Engine
from tests.support.faults import eventually
from tests.support.moments import Story
from tests.support.physical import NEW, OLD, as_before, halted, live, physical, ran, received_again, telling, unfinished

# On the same worker, so that there is one engine for both.
pytestmark = pytest.mark.xdist_group("tests/integration/test_engine_killed.py")


@pytest.fixture(scope="module")
def story(doomed: Engine) -> Iterator[Story]:
    """A server that its engine starts again by itself, whoever has stopped it."""
    with telling(17, restart_policy={"Name": "always"}) as told:
        yield told


@pytest.mark.parametrize(
    ("way", "move", "command", "end"),
    [("engine", 3, "--resume", NEW), ("power", 18, "--rollback", NEW), ("power", 30, "--resume", OLD)],
)
def test_between_two_renames(
    doomed: Engine, story: Story, way: str, move: int, command: str, end: tuple[str, str]
) -> None:
    received_again(story)
    at = story.moments["then"].isoformat(" ")
    # A sidecar that lives on begins to roll back; of one that dies with its engine the restore is finished.
    dies = end == OLD
    broken: dict[str, Any] = {"BREAK_MOVE": str(move), "BREAK_PAUSE": "1"}
    with story.sidecar.start("restore", "--at", at, "--physical", "--force", **broken) as process:
        eventually(lambda: halted(story), 200)
        if dies:
            process.kill()
        KILLS[way](doomed)
        output, _ = process.communicate(timeout=200)
    assert dies or (process.returncode == 51 and "--rollback" in output), output
    assert unfinished(story)
    doomed.start()
    eventually(lambda: refused_to_start(doomed, story), 60, 0.2)
    ran(story, "restore", command)
    assert live(story) == end and not unfinished(story)
    story.level()
    if end == OLD:
        ran(story, "undo", "--force")
        ran(story, "undo", "--discard", "--force")
    as_before(story)
    story.level()
    assert physical(story, "--dry-run").code == 0


def refused_to_start(doomed: Engine, story: Story) -> bool:
    """Whether the engine has started the database, in vain."""
    said = doomed.docker("logs", "--tail=20", story.server.container.id, check=False)
    state = doomed.docker("inspect", "-f", "{{.State.Status}} {{.RestartCount}}", story.server.container.id)
    return state.split()[0] == "restarting" or int(state.split()[1]) > 0 or "not empty" in said
