"""Every command that README and docs state is run, as it stands there, on a stack under the shipped overlay."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.neighbourhood import facts, world
from tests.support.operating import Ran
from tests.support.reading import Typed, in_order, typed
from tests.support.scenes import SCENES, Scene, World
from tests.support.stated import ROOT, Stated, stated

# All commands are run before the first case: minutes on a machine of its own, more beside other tests.
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
# How the product's words end, where that is not 0, and why.
CODES = (
    (r"doctor --offsite", 60),  # the key may delete: a warning
)
# What has happened before a command that is in no scene.
BEFORE = ((r"offsite pull \S+( --from \S+)?", World.newer_set_lost),)
# What must be told by those that change or prove something.
SAYS = (
    (r"create\b", "is complete"),
    (r"drill\b|verify .*--test-restore", "is proven"),
    (r"(.* )?restore (?!.*(--dry-run|--path|--r))", "is restored"),
    (r"(.* )?restore .*--resume", "is finished"),
    (r"(.* )?restore .*--rollback", "is rolled back"),
    (r"offsite setup(?!.*--dry-run)", "blocked"),
    (r"doctor --offsite", "delete: allowed"),
)

# "Without a terminal both want --force, or they refuse (exit 12)."
ASKING = ("docker compose run --rm backup restore latest", "docker compose run --rm backup undo")


@dataclass
class Told:
    """All that was run, by what the pages state."""

    typed: list[Typed]
    ran: dict[str, Ran] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    refused: list[Ran] = field(default_factory=list)

    def run(self, world: World, row: list[Typed]) -> None:
        """Run these, one after the other."""
        for each in row:
            self._run(world, each)

    def _run(self, world: World, each: Typed) -> None:
        for pattern, happens in BEFORE:
            if not each.scene and re.fullmatch(pattern, each.words):
                happens(world)
        ran = world.operator.type(each.text)
        self.ran[each.words] = self._worse(each.words, ran)
        if " up -d" in each.text:
            world.settled()

    def _worse(self, words: str, ran: Ran) -> Ran:
        before = self.ran.get(words)
        return before if before and complaint(words, before) else ran

    def play(self, world: World, scene: Scene) -> None:
        """The commands of a section after what it is about; what is not as it was in the end."""
        for number, each in enumerate(each for each in self.typed if each.scene is scene):
            for happens in scene.happening(number, each.stated.text):
                happens(world)
            if each.stated.form == "shell" or each.words not in self.ran:
                self._run(world, each)
        self.left[f"{scene.page}: {scene.section}"] = world.whole()


def exempt(each: Stated) -> bool:
    return any(re.fullmatch(other.pattern, each.text) for other in EXEMPT)


def complaint(words: str, ran: Ran) -> str:
    """What is wrong with how it ended; empty if nothing is."""
    code = next((code for pattern, code in CODES if re.match(pattern, words)), 0)
    told = next((says for pattern, says in SAYS if re.match(pattern, words)), "")
    if ran.code != code or "Traceback" in ran.output or told not in ran.output:
        return f"$ {ran.command}\n{ran.output}\n(ended with {ran.code} instead of {code}, to say {told!r})"
    return ""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    with world(tmp_path_factory.mktemp("operator"), f"obcms-docs-{os.getpid()}") as made:
        values = facts(made)
        every = Told([line for each in stated() if not exempt(each) for line in typed(each, values)])
        for rows in in_order(every.typed):
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(every.run, itertools.repeat(made), rows))
        every.refused = [made.operator.type(f"{command} < /dev/null | cat") for command in ASKING]
        for scene in SCENES:
            every.play(made, scene)
        yield every


@pytest.mark.parametrize("text", sorted({each.text for each in stated() if not exempt(each)}))
def test_it_works(told: Told, text: str) -> None:
    lines = [each for each in told.typed if each.stated.text == text]
    assert lines
    found = [complaint(each.words, told.ran[each.words]) for each in lines]
    assert not any(found), "\n\n".join(filter(None, found))


def test_nothing_is_done_without_a_terminal(told: Told) -> None:
    assert [ran.code for ran in told.refused] == [12] * len(ASKING), told.refused
    assert all("nothing was touched" in ran.output for ran in told.refused)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.section or scene.page)
def test_after_it_all_is_whole(told: Told, scene: Scene) -> None:
    assert told.left[f"{scene.page}: {scene.section}"] == ""


@pytest.mark.parametrize("other", EXEMPT, ids=lambda other: Path(other.test).stem)
def test_what_is_not_run_here_is_run_elsewhere(other: Elsewhere) -> None:
    assert any(re.fullmatch(other.pattern, each.text) for each in stated()), "no page states such a command any more"
    text = (ROOT / other.test).read_text()
    assert [words for words in other.words if words not in text] == []
