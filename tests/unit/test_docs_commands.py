"""Every command that README, docs and deployment files state is one that the product understands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from backup.cli import app
from tests.support import reference

ROOT = Path(__file__).resolve().parents[2]
BELOW = [
    path
    for folder, kind in (("docs", "*.md"), ("examples", "*.md"), ("deploy", "*.y*ml"))
    for path in sorted((ROOT / folder).rglob(kind))
]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *BELOW]
COMPOSE = re.compile(
    r"docker(?: |-)compose\b.*?(?:run(?: --rm| -T| -[ve] ?\S+)* backup|exec(?: -T)? backup backup) (.+)"
)
EXEC = re.compile(r"(?:docker exec \S+(?: \S+)*?|kubectl exec \S+ --) backup ([a-z].+)")
# `backup create daily`, as tables and sentences name it.
INLINE = re.compile(r"`backup ([a-z][^`]*)`")
PLACEHOLDERS = re.compile(r"\b(COMMAND|SERVICE)\b|…")
COMMAND = typer.main.get_command(app)


def stated() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for line in page.read_text().splitlines():
            for pattern in (COMPOSE, EXEC, INLINE):
                for words in pattern.findall(line.split(" # ")[0].strip("` ")):
                    if not PLACEHOLDERS.search(words):
                        yield page.name, words.split("`")[0].split(" > ")[0].split(" | ")[0].strip()


@pytest.mark.parametrize(("page", "words"), sorted(set(stated())))
def test_the_command_line_understands_it(page: str, words: str) -> None:
    command = COMMAND
    arguments = [word.strip("[]").split("|")[0] for word in shlex.split(words)]
    parent = None
    while hasattr(command, "get_command"):
        assert arguments, f"{words}: which command?"
        parent = typer.Context(command, parent=parent, info_name=command.name)
        found = command.get_command(parent, arguments[0])
        assert found, f"{page}: there is no command {arguments[0]}"
        command, arguments = found, arguments[1:]
    command.make_context(command.name, list(arguments), parent=parent)


def test_pages_are_read() -> None:
    assert len(set(stated())) > 40


def test_links_lead_somewhere() -> None:
    for page in (path for path in PAGES if path.suffix == ".md"):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_anchors_are_headings() -> None:
    for page in (path for path in PAGES if path.suffix == ".md"):
        for target, anchor in re.findall(r"\]\((?!https)([^)#\s]*)#([^)]+)\)", page.read_text()):
            text = (page.parent / target if target else page).read_text()
            headings = {
                re.sub(r"[^a-z0-9_ -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", text, re.M)
            }
            assert anchor in headings, f"{page.name}: {target}#{anchor}"


def test_the_reference_is_what_the_settings_say() -> None:
    assert reference.FILE.read_text() == reference.render(), "`make docs` writes it anew"
