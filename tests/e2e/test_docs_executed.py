"""Every command that README and docs state is run, as it stands there, on a stack under the shipped overlay."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.support.documented_commands import ROOT, Stated, stated
from tests.support.documented_damage import SCENES
from tests.support.documented_runs import ASKING, Told, complaint, executed
from tests.support.documented_words import by_part, typed
from tests.support.s3 import Service

# All commands of a part are run before its first case: minutes on a machine of its own, more beside other tests.
pytestmark = pytest.mark.timeout(1500)


@dataclass(frozen=True)
class Elsewhere:
    """Commands that another test runs: which, the words by which it does so, and why not here."""

    pattern: str
    test: str
    words: tuple[str, ...]
    reason: str


EXEMPT = (
    Elsewhere(
        r"make demo(-down)?|demo/run .*", "tests/e2e/test_demo.py", ('run("up")', 'run("backup", "undo"'), "minutes"
    ),
    Elsewhere(
        r"docker (node update|stack deploy) .*|printf .* docker secret create .*|docker exec .*swarm.*",
        "tests/e2e/test_swarm.py",
        ('"node", "update", "--label-add"', '"secret", "create"', '"stack", "deploy"', '"--only", "database"'),
        "a Swarm is the whole engine's",
    ),
    Elsewhere(
        r"kubectl .*", "tests/e2e/test_kubernetes.py", ("restore-job.yaml", "backup.yaml"), "no cluster is at hand"
    ),
)


def exempt(each: Stated) -> bool:
    return any(re.fullmatch(other.pattern, each.text) for other in EXEMPT)


PARTS = by_part([line for each in stated() if not exempt(each) for line in typed(each)])


def of(part: str, *values: str) -> ParameterSet:
    """A case of a part. Each part is a group of its own, on any worker."""
    return pytest.param(part, *values, marks=pytest.mark.xdist_group(part))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, gateway: Service) -> Iterator[Callable[[str], Told]]:
    """A function from a part to all that was run of it, once, even if that failed."""
    begun: dict[str, Told | None] = {}
    with contextlib.ExitStack() as stack:

        def get(part: str) -> Told:
            if part not in begun:
                begun[part] = None
                begun[part] = stack.enter_context(
                    executed(part, PARTS[part], tmp_path_factory.mktemp("operator"), gateway)
                )
            done = begun[part]
            assert done, "its stack did not come up, as the first test of this part tells"
            return done

        yield get


TEXTS = [of(part, text) for part, lines in PARTS.items() for text in sorted({line.stated.text for line in lines})]


@pytest.mark.parametrize(("part", "text"), TEXTS)
def test_it_works(told: Callable[[str], Told], part: str, text: str) -> None:
    done = told(part)
    found = [complaint(each.words, done.ran[each.words]) for each in done.typed if each.stated.text == text]
    assert found and not any(found), "\n\n".join(filter(None, found))


@pytest.mark.parametrize("part", [of("works")])
def test_nothing_is_done_without_a_terminal(told: Callable[[str], Told], part: str) -> None:
    refused = told(part).refused()
    assert [ran.code for ran in refused] == [12] * len(ASKING), refused
    assert all("nothing was touched" in ran.output for ran in refused)


@pytest.mark.parametrize(("part", "scene"), [of(each.part, each.name) for each in SCENES])
def test_after_it_all_is_whole(told: Callable[[str], Told], part: str, scene: str) -> None:
    assert told(part).left[scene] == ""


@pytest.mark.parametrize("other", EXEMPT, ids=lambda other: Path(other.test).stem)
def test_what_is_not_run_here_is_run_elsewhere(other: Elsewhere) -> None:
    assert any(re.fullmatch(other.pattern, each.text) for each in stated()), "no page states such a command any more"
    text = (ROOT / other.test).read_text()
    assert [words for words in other.words if words not in text] == []
