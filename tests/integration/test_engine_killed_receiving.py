"""The Docker engine is killed while WAL is received: the window is exact, or is said to be broken."""

from __future__ import annotations

import pytest

from tests.integration.test_receive_faults import load, under_load
from tests.support.engine import KILLS, Engine, well
from tests.support.faults import eventually, nothing_left, seeded
from tests.support.ledger import judged

# On the same worker, so that there is one engine for all of them.
pytestmark = pytest.mark.xdist_group("tests/integration/test_engine_killed.py")


def test_the_window_is_true_whatever_kills_the_engine(doomed: Engine) -> None:
    choices = seeded()
    # dockerd may end a new containerd once more, which it takes for dead: what comes last is to leave a whole engine.
    ways = ["containerd", *choices.sample(["engine", "power"], 2)]
    with under_load(17) as case:
        for way in ways:
            print(way, case.story.stream()["received"])
            before = doomed.processes("containerd")
            KILLS[way](doomed)
            well(doomed, case.server, way)
            # dockerd answers before its new containerd does.
            eventually(lambda: doomed.processes("containerd") not in ([], before), 60)  # noqa: B023
            eventually(lambda: doomed.docker("exec", case.server.container.id, "echo", "well", check=False), 60)
            if way != "containerd":  # of that, no container ends
                load(case.server)
            case.well()
        said = case.sidecar.run("moments", "--json").json
        assert said["live"], said["text"]
        judged(case.story, case.ledger, said, choices, 1)
        case.stop()
        nothing_left(case.sidecar, case.server)
