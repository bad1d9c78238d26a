"""Commands that pages state are run on a stack, and judged."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.documented_damage import SCENES, Scene, World
from tests.support.documented_words import Typed, filled, in_order
from tests.support.operator_shell import Ran
from tests.support.s3 import Service
from tests.support.stack_services import facts, world

# How the product's words end, where that is not 0, and why.
CODES = (
    (r"doctor --offsite", 60),  # the key may delete: a warning
    (r"(base( --full)?|receive|ship( --once)?)$", 10),  # BACKUP_PITR is off
    (r"drill --moments", 44),
    (r"moments --lost \S+ -", 44),  # BACKUP_PITR is off but in the scene, which has the plain form
    (r"prune --(forget-volume|ahead) \S+", 44),  # no volume has left the stack, and no set is dated ahead
)
# What has happened before a command that is in no scene.
BEFORE = (
    (r"offsite pull \S+( --from \S+)?", World.newer_set_lost),
    (r"drill s3:.*", World.copied),
    (r"import - < set.tar", World.exported),
    (r".* < app_case.sql", World.extracted),
)
# What must be told by those that change or prove something.
SAYS = (
    (r"drill --moments", "there is no moment"),
    (r"create\b", "is complete"),
    (r"drill\b|verify .*--test-restore", "is proven"),
    (r"(.* )?restore (?!.*(--dry-run|--path|--r))", "is restored"),
    (r"(.* )?restore .*--resume", "is finished"),
    (r"(.* )?restore .*--rollback", "is rolled back"),
    (r"offsite setup(?!.*--dry-run)", "blocked"),
    (r"doctor --offsite", "delete: allowed"),
)
# "`restore` and `undo` ask for `yes`; without a terminal they need `--force`" (else they refuse with exit code 12).
ASKING = ("docker compose run --rm backup restore latest", "docker compose run --rm backup undo")


@dataclass
class Told:
    """All that was run on one stack, by what the pages state. `values`: what is typed for the pages' {names}."""

    world: World
    typed: list[Typed]
    values: dict[str, str]
    ran: dict[str, Ran] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def run(self, row: list[Typed]) -> None:
        """Run these, one after the other."""
        for each in row:
            self._run(each)

    def _run(self, each: Typed) -> None:
        for pattern, happens in BEFORE:
            if not each.scene and re.fullmatch(pattern, each.words):
                happens(self.world)
        ran = self.world.operator.type(filled(each.text, self.values))
        self.ran[each.words] = self._worse(each.words, ran)
        if " up -d" in each.text:
            self.world.settled()

    def _worse(self, words: str, ran: Ran) -> Ran:
        before = self.ran.get(words)
        return before if before and complaint(words, before) else ran

    def play(self, scene: Scene) -> None:
        """The commands of a section after what it is about; what is not as it was in the end."""
        for number, each in enumerate(each for each in self.typed if each.scene is scene):
            for happens in scene.happening(number, each.stated.text):
                happens(self.world)
            if each.stated.form == "shell" or each.words not in self.ran:
                self._run(each)
        self.left[scene.name] = self.world.whole()

    def refused(self) -> list[Ran]:
        """What would ask, with nobody there to answer."""
        return [self.world.operator.type(f"{command} < /dev/null | cat") for command in ASKING]


def complaint(words: str, ran: Ran) -> str:
    """What is wrong with how it ended; empty if nothing is."""
    code = next((code for pattern, code in CODES if re.match(pattern, words)), 0)
    told = next((says for pattern, says in SAYS if re.match(pattern, words)), "")
    if ran.code != code or "Traceback" in ran.output or told not in ran.output:
        return f"$ {ran.command}\n{ran.output}\n(ended with {ran.code} instead of {code}, to say {told!r})"
    return ""


@contextlib.contextmanager
def executed(part: str, lines: list[Typed], folder: Path, gateway: Service) -> Iterator[Told]:
    """All of a part, run on a stack of its own: what is in no scene first, then the scenes."""
    with world(folder, f"obcms-docs-{part}-{os.getpid()}", gateway) as made:
        told = Told(made, lines, facts(made))
        for rows in in_order(lines):
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(told.run, rows))
        for scene in SCENES:
            if scene.part == part:
                told.play(scene)
        yield told
