"""The commands that README, docs and deployment files state, read from the pages mechanically."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from backup.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "docker-compose.backup.yml",
    *sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file()),
    ROOT / "tools" / "backup.bash",
)
# What begins a command where nothing marks it as one: in a sentence, in an indented block, in a comment.
PROGRAMS = frozenset(
    (". age age-keygen backup crontab demo/run docker eval gunzip kubectl make printf psql sha256sum tar"
     " tools/build").split()
)  # fmt: skip


@dataclass(frozen=True)
class Stated:
    """One command and where it stands. `form`: `shell` (a line of a block), `inline` (in prose), `row` (of a table)."""

    page: str
    section: str
    text: str
    form: str


def stated() -> list[Stated]:
    """All of them, in the order of the pages."""
    found = []
    for page in PAGES:
        for section, kind, lines in _blocks(_text(page)):
            form = "inline" if kind == "prose" else "row" if kind == "row" else "shell"
            texts = {"prose": _spans, "row": _row, "indented": _lines, "sh": _all, "console": _typed}
            for text in texts.get(kind, _none)(lines):
                found.append(Stated(str(page.relative_to(ROOT)), section, text, form))
    return list(dict.fromkeys(found))


def _text(page: Path) -> str:
    """A page as Markdown: of other files the comments, in which commands are indented by three blanks."""
    text = re.sub(r" *\\\n\s*", " ", page.read_text())
    if page.suffix == ".md":
        return text
    lines = [line.lstrip() for line in text.splitlines()]
    comments = [line[1:] if line.startswith("#") else "" for line in lines]
    return "\n".join(re.sub(r"^ {3}(?=\S)", "    ", line) for line in comments)


def _blocks(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """(heading, kind, lines): a fence by its language, an indented block, a row of the commands' table, prose."""
    section = ""
    parts = re.split(r"^ *```(\w*)\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)
    for prose, language, fenced in itertools.zip_longest(parts[::3], parts[1::3], parts[2::3]):
        for group in re.split(r"\n\s*\n|\n(?=#)|(?<=\n)(?=\|)|(?<=\|)\n", prose):
            lines = [line for line in group.splitlines() if line.strip()]
            if lines and re.match("#+ ", lines[0]):
                section = lines.pop(0).lstrip("# ")
            if lines:
                yield section, _kind(section, lines), lines
        if fenced:
            yield section, language or "text", fenced.splitlines()


def _kind(section: str, lines: list[str]) -> str:
    if all(line.startswith("    ") for line in lines):
        return "indented"
    return "row" if section == "Commands" and re.match(r"\| `", lines[0]) else "prose"


def _none(_lines: list[str]) -> list[str]:
    return []


def _all(lines: list[str]) -> list[str]:
    return [line.strip() for line in lines if line.strip()]


def _typed(lines: list[str]) -> list[str]:
    return [line.strip()[2:] for line in lines if line.strip().startswith("$ ")]


def _lines(lines: list[str]) -> list[str]:
    """Of a block that nothing marks: what begins with a program, without the words that explain it behind a gap."""
    return [re.split(r" {3,}(?!#)", text)[0] for text in _all(lines) if text.split()[0] in PROGRAMS]


def _spans(lines: list[str]) -> list[str]:
    """Code in a sentence that is a command, or words of the product's own with an option or argument."""
    spans = re.findall(r"`([^`]+)`", " ".join(line.strip() for line in lines).replace("\\|", "|"))
    return [span for span in spans if _is_command(span)]


def _is_command(span: str) -> bool:
    """`docker stop` and `sha256sum -c` name a program in a sentence; `status` alone names a command."""
    first, _, rest = span.partition(" ")
    if first in COMMANDS or first == "backup":
        return bool(rest)
    named = re.fullmatch(r"docker [a-z]+|\S+ -\w+|[^/]+", span) and not rest.count(" ") and first != "make"
    return first in PROGRAMS and not named


def _row(lines: list[str]) -> list[str]:
    """The forms of a row's first cell, then what its other cell says."""
    first, rest = re.split(r"(?<!\\)\|", lines[0].strip("| "), maxsplit=1)
    forms = re.findall(r"`([^`]+)`", first.replace("\\|", "|"))
    return [*forms, *_spans([rest])]


def forms(row: str) -> list[str]:
    """What a row of the table stands for: each alternative and each option in brackets at least once.

    The options take turns with the alternatives before them: to restore costs seconds, and there are a dozen ways.
    """
    tokens = re.findall(r"\[(?:[^\[\]]|\[[^\]]*\])*\]|\S+", row)
    needed = [_alternatives(token) for token in tokens if not token.startswith("[")]
    bases = [" ".join(words) for words in itertools.product(*needed)]
    options = [""]
    for option in (token[1:-1] for token in tokens if token.startswith("[")):
        inner = re.fullmatch(r"(.*) \[(.*)\]", option)
        options += [inner[1], f"{inner[1]} {inner[2]}"] if inner else _alternatives(option)
    count = max(len(bases), len(options))
    turns = (f"{bases[n % len(bases)]} {options[n] if n < len(options) else ''}".strip() for n in range(count))
    return list(dict.fromkeys(turns))


def _alternatives(words: str) -> list[str]:
    """`--only database|media`: its last word is one of several."""
    before, _, last = words.rpartition(" ")
    return [f"{before} {each}".strip() for each in last.split("|")]
