"""What the doctor says, as people and programs see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from backup.formatting import plural
from backup.model.finding import Finding
from backup.operations.doctor import worst
from backup.operations.doctor.settings import DEFAULT, Setting

_WORDS: Final = {"pass": "ok", "warn": "warning", "fail": "failed"}
_STYLES: Final = {"pass": "green", "warn": "yellow", "fail": "bold red"}
_VERDICTS: Final = {
    "pass": "All is well.",
    "warn": "It works, with warnings.",
    "fail": "It does not work like this: each failed line says what to do.",
}


def doctor_page(lines: Sequence[Finding], settings: Sequence[Setting]) -> RenderableType:
    """A table of the checks, one of the settings that are not defaults, and the verdict."""
    checks = Table(Column(no_wrap=True), Column(no_wrap=True), Column(ratio=1), **_plain(header=False))
    before = ""
    for line in lines:
        style = _STYLES[line.level]
        text = Text(line.text)
        if line.hint:
            text.append(f"\n→ {line.hint}", style="bold")
        checks.add_row(Text(_WORDS[line.level], style=style), Text("" if line.topic == before else line.topic), text)
        before = line.topic
    table = Table(Column("setting", no_wrap=True), "value", "from", **_plain(header=True))
    given = _given(settings)
    for each in given:
        table.add_row(Text(each.name), Text(each.value), Text(each.source))
    level = worst(lines)
    rest = f"{plural(len(settings) - len(given), 'other setting')} as by default; --json shows all"
    return Group(checks, Text(), table, Text(rest), Text(), Text(_VERDICTS[level], style=_STYLES[level]))


def doctor_lines(lines: Sequence[Finding], settings: Sequence[Setting]) -> list[str]:
    """The same for other programs' eyes: level, topic, text and hint by tabs; then settings, then the verdict."""
    told = [f"{_WORDS[each.level]}\t{each.topic}\t{each.text}\t{each.hint}".rstrip() for each in lines]
    told += [f"setting\t{each.name}\t{each.value}\t{each.source}" for each in _given(settings)]
    return [*told, _VERDICTS[worst(lines)]]


def doctor_json(lines: Sequence[Finding], settings: Sequence[Setting]) -> dict[str, Any]:
    """As `--json` prints it."""
    return {
        "verdict": _WORDS[worst(lines)],
        "lines": [
            {"level": _WORDS[each.level], "topic": each.topic, "text": each.text, "hint": each.hint} for each in lines
        ],
        "settings": [asdict(s) for s in settings],
    }


def _given(settings: Sequence[Setting]) -> list[Setting]:
    return [each for each in settings if each.source != DEFAULT]


def _plain(*, header: bool) -> dict[str, Any]:
    return {"box": None, "pad_edge": False, "show_header": header, "header_style": "bold"}
